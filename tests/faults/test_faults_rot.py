"""Rot: each kind of object, damaged in each way. No reader serves wrong bytes, scrub finds the object, and repairs it.

The objects of a small home are listed, so a kind of object that nobody declared in `PLACES` fails the first test.
"""

import filecmp
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from imgstore.domain.errors import ImgstoreError
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.storage.works import WorkKind
from imgstore.operations.disks.reader import open_disk_reader
from imgstore.operations.disks.verify import verify_file
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.slots.works import acquire_work, hold_work
from imgstore.operations.stores.regions import check_regions, init_regions
from imgstore.segments.reference import MAGIC as REFERENCE_MAGIC
from imgstore.testing.engines import S3Engine
from imgstore.transfer.segment_cache import SegmentCache
from tests.support.crash_scenes import create_minio_scene
from tests.support.revision_audit import check_revisions
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    all_slots,
    audit,
    collect,
    create_sample_gallery,
    export,
    export_disk,
    make_disk,
    open_home,
    publish,
    reference,
    retarget,
)

SEGMENT, MANIFEST, REFERENCE, FINGERPRINTS = "segment", "manifest", "reference", "fingerprints"
MARKER, FORMAT, UID, CHECKPOINT, NOTE = "start marker", "FORMAT", "zone uid", "checkpoint", "repair note"
OWNER, INSTALLATION = "owner revision", "installation revision"
LRS, ZRS = "lrs", "zrs"
"""The store: one zone in southcentralus, where two replicas share the region, or one zone of three in westus2."""
PLACES: Final = {
    *(
        (kind, store)
        for kind in (SEGMENT, MANIFEST, REFERENCE, FINGERPRINTS, FORMAT, UID, CHECKPOINT, OWNER, INSTALLATION)
        for store in (LRS, ZRS)
    ),
    (MARKER, LRS),
    (NOTE, ZRS),
}
TARGETS: Final = {
    "1.0.0": ["southcentralus=2", "westus2=1=Standard_ZRS"],
    "1.0.1": ["westus2=1=Standard_ZRS", "southcentralus"],
}
Case: TypeAlias = tuple[str, str, str]
"""A kind, a store, and a damage."""
SLOT_KINDS: Final = (SEGMENT, MANIFEST, REFERENCE, FINGERPRINTS)
"""The kinds that scrub reads and repairs."""
ZONE_KINDS: Final = (FORMAT, UID)
"""The kinds without which a zone is refused. `regions check` finds, and `regions init --zone` repairs the object."""
EMPTY_KINDS: Final = (MARKER, UID, CHECKPOINT)
"""Empty objects: only their key counts, so bytes behind the key are harmless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A home that tests copy."""

    folder: Path
    first: Path
    second: Path

    @property
    def sources(self) -> dict[str, Path]:
        """The file of each version."""
        return {"1.0.0": self.first, "1.0.1": self.second}


def kind_of(key: str, body: bytes) -> str:
    """The kind of an object in a zone. An unknown kind has the name of its folder."""
    parts = key.split("/")
    if parts[0] == "pools":
        folder = parts[4]
        if folder == "manifests":
            return REFERENCE if body.startswith(REFERENCE_MAGIC) else MANIFEST
        kinds = {"segments": SEGMENT, "fingerprints": FINGERPRINTS, "works": MARKER, "owners": OWNER}
        return kinds.get(folder, folder)
    if parts[0] == "zone":
        return {"uid": UID, "checkpoints": CHECKPOINT}.get(parts[1], parts[1])
    return {"FORMAT": FORMAT, "repairs": NOTE, "installation": INSTALLATION}.get(parts[0], parts[0])


def store_of(path: Path) -> str:
    return ZRS if "imgstore-westus2" in path.parts else LRS


def objects(home: Path) -> dict[tuple[str, str], list[Path]]:
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted((home / "regions").rglob("*")):
        if path.is_file():
            kind = kind_of(str(path.relative_to(zone_of(path))), path.read_bytes())
            found.setdefault((kind, store_of(path)), []).append(path)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two versions with segments of equal size, a disk of each, an unfinished work, and repair notes of a zone."""
    folder = tmp_path_factory.mktemp("rot")
    disks = []
    for seed in (1, 2):
        path = folder / f"{seed}.raw"
        path.write_bytes(random.Random(seed).randbytes(MIB) + bytes(MIB))
        disks.append(path)
    made = Home(folder=folder / "home", first=disks[0], second=disks[1])
    with open_home(made.folder) as installation:
        create_sample_gallery(installation)
        publish(installation, made.first, "1.0.0", TARGETS["1.0.0"])
    bucket = made.folder / "regions" / "imgstore-westus2"
    (bucket / "zone-3").rename(folder / "away")
    (bucket / "zone-3").write_bytes(b"")
    with open_home(made.folder) as installation:
        publish(installation, made.second, "1.0.1", TARGETS["1.0.1"], location="westus2")
    (bucket / "zone-3").unlink()
    (folder / "away").rename(bucket / "zone-3")
    with open_home(made.folder) as installation:
        make_disk(installation, "d1", "southcentralus", "1.0.0")
        make_disk(installation, "d2", "southcentralus", "1.0.1")
        make_disk(installation, "d3", "westus2", "1.0.0")
        make_disk(installation, "d4", "westus2", "1.0.1")
        slot = next(each for each in all_slots(installation) if str(each.key) == "southcentralus/Standard_LRS/0")
        with installation.catalog.transaction() as transaction:
            _, lease = acquire_work(
                installation, transaction, kind=WorkKind.INGEST, slot=slot, owner_uid="somebody", plan={}
            )
        with pytest.raises(KeyboardInterrupt), hold_work(installation, slot, lease):
            raise KeyboardInterrupt
    return made


def flip(at: float) -> Callable[[Path, Path | None], None]:
    def apply(path: Path, _other: Path | None) -> None:
        data = bytearray(path.read_bytes())
        data[round(at * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return apply


def swap(path: Path, other: Path | None) -> None:
    assert other is not None
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


DAMAGES: Final[dict[str, Callable[[Path, Path | None], object]]] = {
    "flip-first": flip(0),
    "flip-middle": flip(0.5),
    "flip-last": flip(1),
    "empty": lambda path, _other: path.write_bytes(b""),
    "shorter": lambda path, _other: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path, _other: path.write_bytes(path.read_bytes() + b"\0"),
    "swap": swap,
    "delete": lambda path, _other: path.unlink(),
}


def applies(kind: str, damage: str) -> bool:
    return kind not in EMPTY_KINDS or damage in {"longer", "delete"}


HARMLESS: Final = {(UID, "longer"), (FORMAT, "shorter")}
"""Bytes behind an empty object, and a line without its end."""

CASES: Final = [
    (kind, store, damage)
    for kind, store in sorted(PLACES)
    for damage in DAMAGES
    if applies(kind, damage) and not (damage == "swap" and kind == FORMAT)
]


def test_each_kind_of_object_is_declared(home: Home) -> None:
    assert set(objects(home.folder)) == PLACES


@contextmanager
def errors_help() -> Iterator[None]:
    """Accept an error of imgstore that says what to do."""
    caught = None
    try:
        yield
    except ImgstoreError as error:
        caught = error
    assert caught is None or caught.hint, f"no hint: {caught}"


class Readers:
    """Every way to the bytes. Each gives the right bytes or an error that says what to do."""

    def __init__(self, installation: Installation, home: Home, folder: Path) -> None:
        self.installation, self.home, self.folder = installation, home, folder
        self.sources = home.sources

    def export(self) -> None:
        for version, source in self.sources.items():
            for region in ("southcentralus", "westus2"):
                with errors_help():
                    export(self.installation, self.folder / "o.raw", region, version)
                    assert filecmp.cmp(self.folder / "o.raw", source, shallow=False), f"{version} from {region}"

    def export_disks(self) -> None:
        for name, source in (("d1", "1.0.0"), ("d2", "1.0.1"), ("d3", "1.0.0"), ("d4", "1.0.1")):
            with errors_help():
                export_disk(self.installation, self.folder / "o.raw", name)
                assert filecmp.cmp(self.folder / "o.raw", self.sources[source], shallow=False), name

    def make_disks(self) -> None:
        for region in ("southcentralus", "westus2"):
            with errors_help():
                make_disk(self.installation, f"new-{region}", region, "1.0.0")
                export_disk(self.installation, self.folder / "o.raw", f"new-{region}")
                assert filecmp.cmp(self.folder / "o.raw", self.home.first, shallow=False)

    def page_blobs(self) -> None:
        with self.installation.catalog.reading() as transaction:
            disks = [
                each
                for each in (transaction.disks.get(self.installation.subscription, GROUP, f"d{n}") for n in range(1, 5))
                if each
            ]
        for disk in disks:
            source = self.sources[disk.source_reference.rsplit("/", 1)[-1]].read_bytes()
            with errors_help(), closing(SegmentCache(self.installation.scratch)) as cache:
                opened = open_disk_reader(self.installation, disk, cache)
                for offset in (0, 4096 * 100 + 7, MIB - 512):
                    assert opened.read_at(offset, 1024) == source[offset : offset + 1024]

    def verify(self) -> None:
        for version, source in self.sources.items():
            with errors_help():
                assert verify_file(self.installation, ADMIN, path=source, reference=reference(version)).matches

    def replicate(self) -> None:
        for version in self.sources:
            with errors_help():
                retarget(self.installation, ["southcentralus=2", "westus2=1=Standard_ZRS", "eastus"], version)
                export(self.installation, self.folder / "o.raw", "eastus", version)
                assert filecmp.cmp(self.folder / "o.raw", self.sources[version], shallow=False)

    def publish(self) -> None:
        path = self.folder / "next.raw"
        data = bytearray(self.home.first.read_bytes())
        data[: 4096 * 3] = random.Random(9).randbytes(4096 * 3)
        path.write_bytes(data)
        with errors_help():
            publish(self.installation, path, "1.0.9", ["southcentralus"])
            export(self.installation, self.folder / "o.raw", "southcentralus", "1.0.9")
            assert filecmp.cmp(self.folder / "o.raw", path, shallow=False)

    def gc(self) -> None:
        with errors_help():
            collect(self.installation)

    def scrub_sample(self) -> None:
        with errors_help():
            scrub(self.installation, ADMIN, ScrubRequest(percent=10.0, dry_run=True))

    def check(self) -> None:
        check_regions(self.installation, ADMIN)

    def all(self) -> list[Callable[[], None]]:
        return [
            self.export, self.export_disks, self.make_disks, self.page_blobs, self.verify, self.replicate, self.publish,
            self.gc, self.scrub_sample, self.check,
        ]  # fmt: skip


def damage_object(home: Path, case: Case, turn: int) -> dict[Path, bytes]:
    """Damage one object of a kind, or exchange two. Return the former bytes of the changed objects."""
    kind, store, damage = case
    mine = objects(home)[kind, store]
    path = mine[turn % len(mine)]
    others = [each for each in mine if each.read_bytes() != path.read_bytes()]
    others.sort(key=lambda each: each.stat().st_size != path.stat().st_size)  # Of the same size, if there is one.
    before = {each: each.read_bytes() for each in (path, *others[:1])}
    if damage != "swap" or others:
        DAMAGES[damage](path, next(iter(others), None))
    return {each: body for each, body in before.items() if not each.exists() or each.read_bytes() != body}


def check_case(home: Home, tmp_path: Path, cases: Sequence[Case], turn: int, readers: int | None = None) -> None:
    """Damage objects, find the damage, read with the readers from `turn` on, repair, and compare all bytes."""
    shutil.copytree(home.folder, tmp_path / "home")
    changed = {case: damage_object(tmp_path / "home", case, turn) for case in cases}
    with open_home(tmp_path / "home") as installation:
        check_found(installation, changed)
        every = Readers(installation, home, tmp_path).all()
        for reader in [*every[turn % len(every) :], *every[: turn % len(every)]][:readers]:
            reader()
        init_zones(installation, changed)
    with open_home(tmp_path / "home") as installation:
        scrub(installation, ADMIN, ScrubRequest())
        for version, targets in TARGETS.items():  # Finish work that the damage has interrupted.
            retarget(installation, targets, version)
        for (kind, _, _), bodies in changed.items():
            for path, body in bodies.items() if kind in SLOT_KINDS else ():
                assert (kind == FINGERPRINTS and not path.exists()) or path.read_bytes() == body, (
                    f"{path} is not repaired"
                )
        assert [each.problem for each in check_regions(installation, ADMIN) if each.problem] == []
        assert not [*(tmp_path / "home" / "regions").glob("*/*/repairs/*/*")], "a note stays"
        for found in scrub(installation, ADMIN, ScrubRequest()):
            assert (found.damaged, found.unrestored, found.problem) == (set(), (), None)
        for version, region in (("1.0.0", "southcentralus"), ("1.0.1", "westus2")):
            export(installation, tmp_path / "o.raw", region, version)
            assert filecmp.cmp(tmp_path / "o.raw", home.sources[version], shallow=False)
        collect(installation)  # Removes damaged older revisions.
        check_revisions(installation)


def check_found(installation: Installation, changed: Mapping[Case, Mapping[Path, bytes]]) -> None:
    """Check that scrub, or `regions check` for the marks of a zone, finds each damage before any other reader."""
    problems = " ".join(each.problem for each in check_regions(installation, ADMIN) if each.problem)
    scrubbed = scrub(installation, ADMIN, ScrubRequest(dry_run=True))
    damaged = {each.slot.prefix + key for each in scrubbed for key in each.damaged}
    for (kind, _, damage), bodies in changed.items():
        for path in bodies:
            if kind in ZONE_KINDS and (kind, damage) not in HARMLESS:
                assert str(zone_of(path)) in problems, f"{path} is not found"
            if kind in SLOT_KINDS and (kind, damage) != (FINGERPRINTS, "delete"):
                assert str(path.relative_to(zone_of(path))) in damaged, f"{path} is not found"


def init_zones(installation: Installation, changed: Mapping[Case, Mapping[Path, bytes]]) -> None:
    """Run the commands that the errors about the marks of zones name."""
    for case, bodies in changed.items():
        for path in bodies if case[0] in ZONE_KINDS else ():
            zone = zone_of(path)
            asked = f"{zone.parent.name.removeprefix('imgstore-')}/{zone.name.removeprefix('zone-')}"
            problems = [each.problem for each in init_regions(installation, ADMIN, zone=asked) if each.problem]
            if problems:
                assert f"regions init --zone {asked} --replaced" in problems[0]
                init_regions(installation, ADMIN, zone=asked, replaced=True)


def zone_of(path: Path) -> Path:
    return next(each for each in path.parents if each.name.startswith("zone-"))


@pytest.mark.parametrize(("turn", "damage"), [*enumerate(["flip-middle", "empty", "swap", "delete"])])
def test_rot_in_a_slot_is_found_and_repaired_and_never_served(
    home: Home, tmp_path: Path, turn: int, damage: str
) -> None:
    """One object of each kind in each store, at once."""
    cases = [case for case in CASES if case[0] in SLOT_KINDS and case[2] == damage]
    assert {case[0] for case in cases} == set(SLOT_KINDS)
    check_case(home, tmp_path, cases, turn, readers=3)


@pytest.mark.parametrize(("kind", "damage"), [(FORMAT, "flip-middle"), (UID, "delete")])
def test_damaged_mark_of_a_zone_is_found_and_repaired(home: Home, tmp_path: Path, kind: str, damage: str) -> None:
    check_case(home, tmp_path, [case for case in CASES if (case[0], case[2]) == (kind, damage)], 12, readers=1)


@pytest.mark.parametrize("damage", ["longer", "delete"])
def test_damaged_notes_markers_and_revisions_change_nothing(home: Home, tmp_path: Path, damage: str) -> None:
    rest = {kind for kind, _ in PLACES} - {*SLOT_KINDS, *ZONE_KINDS}
    check_case(home, tmp_path, [case for case in CASES if case[0] in rest and case[2] == damage], 7, readers=2)


def test_rot_on_minio(home: Home, tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]]) -> None:
    """One flipped object of each kind in a bucket of one zone, and in the second of three zones."""
    engines = minio_cluster(3)
    scene = create_minio_scene(tmp_path, engines, "rot")
    scene.prepare()
    with scene.open() as installation:
        publish(installation, home.first, "1.0.0", ["southcentralus=2", "westus2=1=Standard_ZRS"])
        make_disk(installation, "d1", "southcentralus", "1.0.0")
        make_disk(installation, "d2", "westus2", "1.0.0")
        right: dict[tuple[int, str, str], bytes] = {}
        for number, bucket in ((0, "southcentralus-rot"), (1, "westus2-rot")):
            client, kinds = engines[number].client(), set[str]()
            for listed in client.list_objects_v2(Bucket=bucket)["Contents"]:
                body = client.get_object(Bucket=bucket, Key=listed["Key"])["Body"].read()
                kind = kind_of(listed["Key"], body)
                if kind in SLOT_KINDS and kind not in kinds:
                    kinds.add(kind)
                    right[number, bucket, listed["Key"]] = body
                    client.put_object(Bucket=bucket, Key=listed["Key"], Body=body[:-1] + bytes([body[-1] ^ 1]))
            assert kinds >= {SEGMENT, MANIFEST, REFERENCE}
        for region, name in (("southcentralus", "d1"), ("westus2", "d2")):
            with errors_help():
                export(installation, tmp_path / "o.raw", region)
                assert filecmp.cmp(tmp_path / "o.raw", home.first, shallow=False)
            with errors_help():
                export_disk(installation, tmp_path / "o.raw", name)
                assert filecmp.cmp(tmp_path / "o.raw", home.first, shallow=False)
        found = scrub(installation, ADMIN, ScrubRequest())
        assert sum(len(each.damaged) for each in found) == len(right)
        assert [(each.unrepaired, each.unrestored, each.problem) for each in found] == [([], (), None)] * len(found)
        for (number, bucket, key), body in right.items():
            client = engines[number].client()
            if kind_of(key, body) != FINGERPRINTS:
                assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        audit(installation)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_rot_of_each_kind_in_each_way(home: Home, tmp_path: Path, case: Case) -> None:
    check_case(home, tmp_path, [case], CASES.index(case))


def test_notes_without_readable_content_are_removed(home: Home, tmp_path: Path) -> None:
    """All copies of all notes are damaged, so only the keys of the notes tell what a zone has missed."""
    shutil.copytree(home.folder, tmp_path / "home")
    notes = objects(tmp_path / "home")[NOTE, ZRS]
    for path in notes:
        path.write_bytes(path.read_bytes().replace(b"segments/", b"segmentz/").replace(b"manifests/", b"{"))
    with open_home(tmp_path / "home") as installation:
        scrub(installation, ADMIN, ScrubRequest())
        assert [path for path in notes if path.exists()] == []
        for found in scrub(installation, ADMIN, ScrubRequest()):
            assert (found.damaged, found.problem) == (set(), None)
        copies = [{str(each.relative_to(zone)) for each in zone.glob("pools/**/*") if each.is_file()}
            for zone in (tmp_path / "home/regions/imgstore-westus2").iterdir()]  # fmt: skip
        assert copies[0] == copies[1] == copies[2]
