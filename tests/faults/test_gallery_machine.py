"""A model test of galleries with random commands and kills, a model in memory, and an independent oracle.

Every rule is a command of a person, a worker or a collector. The command runs as a separate process
(``gallery_process.py``) that may die at any step, or that another command may interrupt. After each command, the oracle
(``gallery_oracle.py``, ``gallery_log.py``, ``gallery_decoder.py``) reads the home from outside: SQLite's rows, the
folders, the bytes. At the end lost zones recover, killed commands are repeated, and a scrub and a collection run. Then
every target is complete, every disk and version equals its source, the ledger balances, and every stored object is
named.

The test was verified by mutations of imgstore. Twelve examples, twice as many as in the default run, found each of these: a collection without a grace
period, a round robin that does not advance, egress for copies inside a region, egress for bytes that existed before, a
Completed replica without a manifest, storage that does not pass to the next owner, and the removal of a manifest that a
disk needs.
"""

import filecmp
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from unittest import mock

import pytest
from gallery_contents import FAMILIES, Content
from gallery_log import watch
from gallery_oracle import ZONES, Oracle, VersionFact
from gallery_process import Clock, Killed, Process, bury, living_stranger, running
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from imgstore.catalog.engine.database import Session
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import (
    Conflict,
    ImageNotAvailable,
    ImgstoreError,
    NotFound,
    ReplicationFailed,
    StoreError,
)
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.requests import DiskOfImageRequest, ScrubRequest, VersionRequest
from imgstore.domain.resources import OsType, VersionUpdate
from imgstore.operations.billing import statements
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.maintenance import scrub as maintenance_scrub
from imgstore.operations.maintenance import worker as replication_worker
from imgstore.operations.versions import delete as versions_delete
from imgstore.operations.versions import update as versions_update
from tests.support.sample_gallery import ADMIN, GROUP, create_version, target

GALLERIES: Final = ("g0", "g1")
DEFINITIONS: Final = ("d0", "d1")
PATCHES: Final = range(5)
DISKS: Final = ("k0", "k1", "k2", "k3")
REGIONS: Final = tuple(ZONES)
HERE: Final = ("={count}=Standard_LRS", "={count}=Standard_ZRS")
"""Each target names its type, because an existing region would otherwise keep its type."""
ELSEWHERE: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("eastus=1=Standard_LRS",),
    ("{other}=1=Standard_ZRS",),
    ("{other}=2=Standard_LRS", "eastus=3=Standard_LRS"),
    ("{other}=1=Standard_ZRS", "eastus=2=Standard_LRS"),
)

_T = TypeVar("_T")

Key: TypeAlias = tuple[str, str, int]
"""Gallery, definition and patch of a version."""

numbers = st.integers(0, 1000)
"""Choices among the items that exist at that moment."""
deaths = st.none() | st.none() | st.integers(1, 60) | st.integers(1, 250)
"""The step at which the process dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to run as a process."""

    what: str
    run: Callable[[Installation], object]
    version: Key | None = None
    """The version whose row the command changes."""
    disk: str | None = None
    content: Content | None = None
    """The content of a version that the command creates."""
    done: Callable[[VersionFact | None], bool] = lambda _row: True
    """Return whether the version's row is right after a success."""


def when(holds: Callable[["GalleryMachine"], object]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Skip the rule if the condition is false.

    A `precondition` would depend on threads, which Hypothesis reports as a flaw.
    """

    def decorated(step: Callable[..., None]) -> Callable[..., None]:
        @wraps(step)
        def guarded(machine: "GalleryMachine", *args: Any, **kwargs: Any) -> None:
            if holds(machine):
                step(machine, *args, **kwargs)

        return guarded

    return decorated


class GalleryMachine(RuleBasedStateMachine):
    """The model. The module's docstring describes it."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        shared_memory = Path("/dev/shm")
        place = str(shared_memory) if shared_memory.is_dir() else None
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        self.clock = Clock()
        self._stack.enter_context(mock.patch.object(Session, "now", self._tell))
        (self.folder / "sources").mkdir()
        self.oracle = Oracle(self.folder / "home")
        self.unfinished = False
        """Whether something was killed or failed, and was not healed since."""
        self._sound = True
        """No check has failed: after one that has there is nothing to heal."""
        with running(self.oracle.home, Process(), self.clock):
            pass
        with self.oracle.connected() as connection:
            watch(connection)

    def _tell(self, _session: Session | None = None) -> datetime:
        """Return the time of the database's clock."""
        return self.clock.now()

    def teardown(self) -> None:
        try:
            if self._sound:
                self.heal()
        finally:
            self._stack.close()

    # -- running ------------------------------------------------------------------------------------------------------

    def perform(
        self,
        command: Command,
        *,
        fatal: int | None = None,
        refused: type[ImgstoreError] | None = None,
        meanwhile: Command | None = None,
        at: int = 0,
        excused: tuple[type[ImgstoreError], ...] = (),
    ) -> bool:
        """Run a command, and check.

        Args:
            command: the command.
            fatal: the step at which the process dies; None never.
            refused: the required error.
            meanwhile: another command to run during this one, at step `at` or soon after.
            at: see `meanwhile`.
            excused: errors that the other command may cause.

        Returns:
            Whether the command succeeded.
        """
        self._sound = False
        well = self._performed(command, fatal=fatal, refused=refused, meanwhile=meanwhile, at=at, excused=excused)
        self._sound = True
        return well

    def _performed(
        self,
        command: Command,
        *,
        fatal: int | None,
        refused: type[ImgstoreError] | None,
        meanwhile: Command | None,
        at: int,
        excused: tuple[type[ImgstoreError], ...],
    ) -> bool:
        before = self._row(command)
        visitor = None if meanwhile is None else lambda: self._visit(meanwhile)
        process = Process(fatal=fatal or 0, meanwhile=visitor, at=at)
        error: ImgstoreError | None = None
        try:
            with running(self.oracle.home, process, self.clock) as installation:
                command.run(installation)
        except Killed:
            assert process.dead
        except ImgstoreError as raised:
            error = raised
        if process.dead:
            bury(self.oracle.catalog, self.clock, known=bool(process.steps % 2))
        self.oracle.check()
        row = self._learn(command)
        well = error is None and not process.dead
        if well:
            assert refused is None, f"{command.what} was not refused"
            assert command.done(row), f"{command.what} did not: {row}"
            return True
        if not process.dead and refused is not None and isinstance(error, refused):
            assert row == before, f"{command.what} was refused and changed {before} to {row}"
            return False
        assert process.dead or isinstance(error, excused) or self._is_excused(error), f"{command.what}: {error}"
        kept = before is not None and row is not None and replace(row, state=before.state) == before
        assert command.done(row) or kept or row == before or (row is not None and row.state == "Deleting"), (
            f"{command.what} left {row} of {before}"
        )
        self.unfinished = True
        return False

    def _visit(self, command: Command) -> None:
        """Run a command completely as another process, while a process is held."""
        try:
            with running(self.oracle.home, Process(), self.clock, holder=living_stranger()) as installation:
                command.run(installation)
        except (Conflict, NotFound, ImageNotAvailable):
            pass  # What the other one holds.
        except ImgstoreError as error:
            assert self._is_excused(error), f"{command.what}: {error}"  # noqa: PT017 - not of what was expected
        self.oracle.check()
        self._learn(command)

    def _row(self, command: Command) -> VersionFact | None:
        return None if command.version is None else self.oracle.versions().get(command.version)

    def _learn(self, command: Command) -> VersionFact | None:
        row = self._row(command)
        if row is not None and command.content is not None:
            self.oracle.contents.setdefault(row.uid, command.content)
        return row

    @property
    def disturbed(self) -> bool:
        """Return whether a store misses an object at present."""
        return bool(self.oracle.down or self.oracle.hurt)

    def _is_excused(self, error: ImgstoreError | None) -> bool:
        if self.disturbed:
            return isinstance(error, StoreError | Conflict | ImageNotAvailable | ReplicationFailed)
        return self.unfinished and isinstance(error, Conflict | ReplicationFailed)

    # -- what there is ------------------------------------------------------------------------------------------------

    def _definitions(self) -> list[tuple[str, str]]:
        rows = self.oracle.ask("SELECT g.name, d.name FROM definitions d JOIN galleries g ON g.uid = d.gallery_uid")
        return sorted(rows)

    def _galleries(self) -> dict[str, bool]:
        return dict(self.oracle.ask("SELECT name, soft_delete_enabled FROM galleries ORDER BY name"))

    def _versions(self, *, visible: bool = True) -> list[VersionFact]:
        return [row for _, row in sorted(self.oracle.versions().items()) if row.visible or not visible]

    # -- galleries and definitions ------------------------------------------------------------------------------------

    @initialize(soft=st.booleans(), family=st.integers(0, FAMILIES - 1), places=numbers)
    def begin(self, family: int, places: int, *, soft: bool) -> None:
        """Create two galleries, and a version with the next image of its family in the first."""
        for number in range(len(GALLERIES)):
            self.make_gallery(number, soft=soft)
            self.make_definition(number, 0, death=None)
        for patches in range(2):
            key = (GALLERIES[0], DEFINITIONS[0], patches)
            self.perform(self._publishing(key, Content(family, patches), _targets(key[0], places)))
            self._check_published(key, wait=True)

    @rule(number=numbers, soft=st.booleans())
    def make_gallery(self, number: int, *, soft: bool) -> None:
        name = GALLERIES[number % len(GALLERIES)]
        location = REGIONS[GALLERIES.index(name)]
        self.perform(
            Command(
                what=f"make gallery {name}, soft={soft}",
                run=lambda installation: galleries.create_gallery(
                    installation, ADMIN, group=GROUP, name=name, location=location, soft_delete_enabled=soft
                ),
            )
        )

    @rule(number=numbers)
    @when(lambda self: self._versions())
    def delete_gallery(self, number: int) -> None:
        name, _ = _pick(number, sorted(self._galleries().items()))
        full = any(gallery == name for gallery, _ in self._definitions())
        self.perform(
            Command(
                what=f"delete gallery {name}",
                run=lambda installation: galleries.delete_gallery(installation, ADMIN, group=GROUP, name=name),
            ),
            refused=Conflict if full else None,
        )
        if not self._galleries():
            self.make_gallery(number, soft=False)

    @rule(gallery=numbers, number=numbers, death=deaths)
    def make_definition(self, gallery: int, number: int, death: int | None) -> None:
        above, _ = _pick(gallery, sorted(self._galleries().items()))
        name = DEFINITIONS[number % len(DEFINITIONS)]
        self.perform(
            Command(
                what=f"make definition {above}/{name}",
                run=lambda installation: definitions.create_definition(
                    installation,
                    ADMIN,
                    group=GROUP,
                    gallery=above,
                    name=name,
                    publisher="p",
                    offer="o",
                    sku=name,
                    os_type=OsType.LINUX,
                ),
            ),
            fatal=death,
        )

    @rule(number=numbers)
    @when(lambda self: self._definitions())
    def delete_definition(self, number: int) -> None:
        gallery, name = _pick(number, self._definitions())
        full = any((row.gallery, row.definition) == (gallery, name) for row in self.oracle.versions().values())
        self.perform(
            Command(
                what=f"delete definition {gallery}/{name}",
                run=lambda installation: definitions.delete_definition(
                    installation, ADMIN, group=GROUP, gallery=gallery, name=name
                ),
            ),
            refused=Conflict if full else None,
        )

    # -- versions -----------------------------------------------------------------------------------------------------

    def _publishing(self, key: Key, content: Content, targets: tuple[str, ...] | None, *, wait: bool = True) -> Command:
        gallery, definition, patch = key
        location = REGIONS[GALLERIES.index(gallery)]
        source = content.file(self.folder / "sources")
        request = VersionRequest(
            group=GROUP,
            gallery=gallery,
            definition=definition,
            version=VersionName.parse(f"1.0.{patch}"),
            location=location,
            target_regions=[target(each) for each in targets or ()],
        )

        def done(row: VersionFact | None) -> bool:
            return row is not None and row.visible and (targets is None or row.targets == _as_rows(targets))

        return Command(
            what=f"publish {key} of {content} to {targets}{'' if wait else ' without waiting'}",
            run=lambda installation: create_version(
                installation, ADMIN, request, os_vhd_uri=str(source), os_vhd_format=DiskFormat.RAW, wait=wait
            ),
            version=key,
            content=content,
            done=done,
        )

    def _check_published(self, key: Key, *, wait: bool) -> None:
        row = self.oracle.versions()[key]
        if self.disturbed:
            return
        if wait:
            self.oracle.check_converged(row)
        else:
            assert self.oracle.complete_in(row.uid, row.location), f"{row} is not complete in its source region"

    def _free(self) -> list[Key]:
        taken = self.oracle.versions()
        every = ((*line, patch) for line in self._definitions() for patch in PATCHES)
        return [key for key in every if key not in taken]

    def _new_content(self, number: int, family: int) -> Content:
        """Return content: sometimes of another family, mostly the next image of a family, sometimes the same again."""
        there = [self.oracle.contents[row.uid] for row in self._versions() if row.uid in self.oracle.contents]
        if not there or family < FAMILIES:
            return Content(family % FAMILIES, 0)
        return _pick(number, there) if family == FAMILIES else _pick(number, there).patched

    @rule(
        number=numbers,
        family=st.integers(0, FAMILIES + 6),
        places=numbers,
        wait=st.sampled_from([True, True, True, False]),
        death=deaths,
    )
    @when(lambda self: self._free())
    def publish(self, number: int, family: int, places: int, *, wait: bool, death: int | None) -> None:
        key = _pick(number, self._free())
        command = self._publishing(key, self._new_content(number, family), _targets(key[0], places), wait=wait)
        if self.perform(command, fatal=death):
            self._check_published(key, wait=wait)

    @rule(number=numbers, death=deaths, wait=st.booleans())
    @when(lambda self: self._versions())
    def publish_again(self, number: int, death: int | None, *, wait: bool) -> None:
        row = _pick(number, self._versions())
        key = (row.gallery, row.definition, row.patch)
        if self.perform(self._publishing(key, self.oracle.contents[row.uid], None, wait=wait), fatal=death):
            self._check_published(key, wait=wait)

    def _changing(self, row: VersionFact, done: Callable[[VersionFact], bool], **changes: Any) -> Command:
        return Command(
            what=f"update {row}: {changes}",
            run=lambda installation: versions_update.update_version(
                installation,
                ADMIN,
                group=GROUP,
                gallery=row.gallery,
                definition=row.definition,
                version=VersionName.parse(f"1.0.{row.patch}"),
                update=VersionUpdate(**changes),
            ),
            version=(row.gallery, row.definition, row.patch),
            done=lambda after: after is not None and done(after),
        )

    @rule(number=numbers, places=numbers, death=deaths)
    @when(lambda self: self._versions())
    def retarget(self, number: int, places: int, death: int | None) -> None:
        row = _pick(number, self._versions())
        asked = _targets(row.gallery, places)
        was_complete = any(
            r.version == row.uid and r.state == "Completed" for r in self.oracle.history.replicas.values()
        )
        command = self._changing(
            row, lambda after: after.targets == _as_rows(asked), target_regions=[target(each) for each in asked]
        )
        if self.perform(command, fatal=death) and was_complete and not self.disturbed:
            self.oracle.check_converged(self.oracle.versions()[row.gallery, row.definition, row.patch])

    @rule(number=numbers, exclude=st.booleans(), block=st.sampled_from([False, False, True]))
    @when(lambda self: self._versions())
    def change_properties(self, number: int, *, exclude: bool, block: bool) -> None:
        row = _pick(number, self._versions())
        until = self.clock.now() + timedelta(days=2)
        self.perform(
            self._changing(
                row,
                lambda after: (after.excluded, after.blocked) == (exclude, block),
                exclude_from_latest=exclude,
                block_deletion_before_end_of_life=block,
                end_of_life_at=until,
            )
        )

    def _deleting(self, row: VersionFact, *, bypass: bool) -> Command:
        soft = bool(self._galleries()[row.gallery]) and not bypass and row.state != "Deleting"
        return Command(
            what=f"delete {row}, bypass={bypass}",
            run=lambda installation: versions_delete.delete_version(
                installation,
                ADMIN,
                group=GROUP,
                gallery=row.gallery,
                definition=row.definition,
                version=VersionName.parse(f"1.0.{row.patch}"),
                bypass_soft_delete=bypass,
            ),
            version=(row.gallery, row.definition, row.patch),
            done=lambda after: after is None or (soft and after.soft),
        )

    def _is_kept(self, row: VersionFact) -> bool:
        """Return whether a future end of life blocks the deletion."""
        ((until,),) = self.oracle.ask("SELECT end_of_life_at FROM versions WHERE uid = ?", row.uid)
        now = self.clock.now().replace(tzinfo=None).isoformat(" ", "microseconds")
        return row.state != "Deleting" and row.blocked and until > now

    @rule(number=numbers, bypass=st.booleans(), death=deaths)
    @when(lambda self: self._versions(visible=False))
    def delete_version(self, number: int, death: int | None, *, bypass: bool) -> None:
        row = _pick(number, self._versions(visible=False))
        if row.soft and row.state != "Deleting" and not bypass:
            self.perform(self._deleting(row, bypass=False), refused=NotFound)
        elif self._is_kept(row):
            self.perform(self._deleting(row, bypass=bypass), refused=Conflict)
        else:
            self.perform(self._deleting(row, bypass=bypass), fatal=death)

    @rule(number=numbers, death=deaths)
    @when(lambda self: any(row.soft for row in self.oracle.versions().values()))
    def undelete(self, number: int, death: int | None) -> None:
        row = _pick(number, [row for row in self._versions(visible=False) if row.soft])
        ((until,),) = self.oracle.ask("SELECT hard_deletion_at FROM versions WHERE uid = ?", row.uid)
        now = self.clock.now().replace(tzinfo=None).isoformat(" ", "microseconds")
        if row.state == "Deleting" or until <= now:
            return
        self.perform(
            Command(
                what=f"undelete {row}",
                run=lambda installation: versions_delete.undelete_version(
                    installation,
                    ADMIN,
                    group=GROUP,
                    gallery=row.gallery,
                    definition=row.definition,
                    version=VersionName.parse(f"1.0.{row.patch}"),
                ),
                version=(row.gallery, row.definition, row.patch),
                done=lambda after: after is not None and after.visible,
            ),
            fatal=death,
        )

    # -- disks and files ----------------------------------------------------------------------------------------------

    def _making_disk(self, name: str, region: str, line: tuple[str, str], patch: int | None) -> Command:
        version = "latest" if patch is None else f"1.0.{patch}"
        reference = ImageReference.parse(f"{GROUP}/{line[0]}/{line[1]}/{version}")
        return Command(
            what=f"make disk {name} of {reference} in {region}",
            run=lambda installation: disks.create_disk(
                installation, ADMIN, DiskOfImageRequest(group=GROUP, name=name, location=region, reference=reference)
            ),
            disk=name,
        )

    @rule(number=numbers, region=st.sampled_from(REGIONS), latest=st.booleans(), death=deaths)
    @when(lambda self: self._versions())
    def make_disk(self, number: int, region: str, death: int | None, *, latest: bool) -> None:
        free = [name for name in DISKS if name not in self.oracle.disks()]
        if not free:
            return
        row = _pick(number, self._versions())
        line = (row.gallery, row.definition)
        wanted = self.oracle.latest(*line, region) if latest else row
        there = wanted is not None and self.oracle.complete_in(wanted.uid, region)
        command = self._making_disk(free[0], region, line, None if latest else row.patch)
        well = self.perform(command, fatal=death if there else None, refused=None if there else ImageNotAvailable)
        made = self.oracle.disks().get(free[0])
        if well or made:
            assert wanted is not None
            assert made is not None
            assert made[:2] == (wanted.uid, region), f"{free[0]} is {made}, not of {wanted}"
            assert not well or made[2] == "Succeeded"

    @rule(number=numbers, death=deaths)
    @when(lambda self: self.oracle.disks())
    def delete_disk(self, number: int, death: int | None) -> None:
        name = _pick(number, sorted(self.oracle.disks()))
        if self.perform(self._deleting_disk(name), fatal=death):
            assert name not in self.oracle.disks()

    def _deleting_disk(self, name: str) -> Command:
        return Command(
            what=f"delete disk {name}",
            run=lambda installation: disks.delete_disk(installation, ADMIN, group=GROUP, name=name),
            disk=name,
        )

    @rule(number=numbers, death=deaths)
    @when(lambda self: self.oracle.disks())
    def export_disk(self, number: int, death: int | None) -> None:
        ready = [name for name, disk in sorted(self.oracle.disks().items()) if disk[2] == "Succeeded"]
        if ready:
            self._export_disk(_pick(number, ready), death)

    def _export_disk(self, name: str, death: int | None = None) -> None:
        path = self.folder / "exported.raw"
        command = Command(
            what=f"export disk {name}",
            run=lambda installation: disks_export.export_disk(
                installation, ADMIN, group=GROUP, name=name, path=path, format=DiskFormat.RAW, overwrite=True
            ),
        )
        if self.perform(command, fatal=death):
            self._compare(path, self.oracle.disks()[name][0], command.what)

    @rule(number=numbers, region=st.sampled_from(REGIONS), death=deaths)
    @when(lambda self: self._versions())
    def export_version(self, number: int, region: str, death: int | None) -> None:
        self._export_version(_pick(number, self._versions()), region, death)

    def _export_version(self, row: VersionFact, region: str, death: int | None = None) -> None:
        path = self.folder / "exported.raw"
        reference = ImageReference.parse(f"{GROUP}/{row.gallery}/{row.definition}/1.0.{row.patch}")
        command = Command(
            what=f"export {reference} from {region}",
            run=lambda installation: disks_export.export_image(
                installation,
                ADMIN,
                reference=reference,
                location=region,
                path=path,
                format=DiskFormat.RAW,
                overwrite=True,
            ),
        )
        there = self.oracle.complete_in(row.uid, region)
        if self.perform(command, fatal=death if there else None, refused=None if there else ImageNotAvailable):
            self._compare(path, row.uid, command.what)

    def _compare(self, path: Path, version_uid: str, what: str) -> None:
        source = self.oracle.contents[version_uid].file(self.folder / "sources")
        assert filecmp.cmp(path, source, shallow=False), f"{what}: other bytes than the source"
        path.unlink()
        assert [each.name for each in self.folder.iterdir() if "exported" in each.name] == []

    # -- what runs by itself ------------------------------------------------------------------------------------------

    def _collecting(self, hours: int) -> Command:
        def run(installation: Installation) -> None:
            self.oracle.history.grace_seconds = hours * 3600.0
            maintenance_gc.collect(installation, ADMIN, grace=timedelta(hours=hours))

        return Command(what=f"gc after {hours} h", run=run)

    @rule(hours=st.sampled_from([0, 24]), death=deaths)
    @when(lambda self: self._versions(visible=False))
    def collect(self, hours: int, death: int | None) -> None:
        self.perform(self._collecting(hours), fatal=death)

    @rule()
    @when(lambda self: self._versions())
    def plan_collection(self) -> None:
        """A dry run changes nothing."""
        before = self.oracle.everything()
        self.perform(
            Command(
                what="gc --dry-run",
                run=lambda installation: maintenance_gc.plan_collection(installation, ADMIN, grace=timedelta(0)),
            )
        )
        assert self.oracle.everything() == before

    @rule(death=deaths)
    @when(lambda self: self._versions(visible=False))
    def scrub(self, death: int | None) -> None:
        self.perform(self._scrubbing(), fatal=death)

    def _scrubbing(self) -> Command:
        return Command(
            what="scrub",
            run=lambda installation: maintenance_scrub.scrub(installation, ADMIN, ScrubRequest()),
        )

    @rule(death=deaths)
    @when(lambda self: self._versions(visible=False))
    def work(self, death: int | None) -> None:
        """A worker completes all possible works. Only damaged, lost or resting content waits afterwards."""
        self.perform(
            Command(
                what="worker", run=lambda installation: replication_worker.run_worker(installation, ADMIN, once=True)
            ),
            fatal=death,
        )

    @rule(hours=st.sampled_from([1, 25, 8 * 24]))
    @when(lambda self: self._versions(visible=False))
    def time_passes(self, hours: int) -> None:
        self.clock.advance(hours * 3600.0)

    # -- two at once --------------------------------------------------------------------------------------------------

    def _others(self, number: int) -> list[Command]:
        """Return the commands that may interrupt another one."""
        found = [self._collecting(0), self._collecting(0), self._scrubbing()]
        found += [self._deleting_disk(name) for name in self.oracle.disks()]
        for row in self._versions():
            key = (row.gallery, row.definition, row.patch)
            if not self._is_kept(row):
                found.append(self._deleting(row, bypass=True))
            if self._free():
                free = _pick(number, self._free())
                content = self.oracle.contents[row.uid]
                found += [
                    self._publishing(free, each, _targets(free[0], number)) for each in (content, content.patched)
                ]
            name = next((name for name in DISKS if name not in self.oracle.disks()), None)
            if name is not None and self.oracle.complete_in(row.uid, row.location):
                found.append(self._making_disk(name, row.location, (key[0], key[1]), row.patch))
        return found

    @rule(number=numbers, other=numbers, family=st.integers(0, FAMILIES + 6), places=numbers, at=st.integers(1, 120))
    @when(lambda self: self._free())
    def publish_beside(self, number: int, other: int, family: int, places: int, at: int) -> None:
        key = _pick(number, self._free())
        command = self._publishing(key, self._new_content(number, family), _targets(key[0], places))
        visitor = _pick(other, [each for each in self._others(number) if each.version != key])
        if self.perform(command, meanwhile=visitor, at=at):
            self._check_published(key, wait=True)

    @rule(number=numbers, other=numbers, at=st.integers(1, 120))
    @when(lambda self: self._versions())
    def delete_beside(self, number: int, other: int, at: int) -> None:
        row = _pick(number, self._versions())
        key = (row.gallery, row.definition, row.patch)
        if not self._is_kept(row):
            visitor = _pick(other, [each for each in self._others(number) if each.version != key])
            self.perform(self._deleting(row, bypass=True), meanwhile=visitor, at=at)

    @rule(number=numbers, at=st.integers(1, 30))
    @when(lambda self: self._versions() and len(self.oracle.disks()) < len(DISKS))
    def make_disk_beside(self, number: int, at: int) -> None:
        """The disk's version is deleted and collected during the creation of the disk."""
        row = _pick(number, self._versions())
        name = next(name for name in DISKS if name not in self.oracle.disks())
        if not self._is_kept(row) and self.oracle.complete_in(row.uid, row.location):
            command = self._making_disk(name, row.location, (row.gallery, row.definition), row.patch)
            visitor = self._deleting(row, bypass=True)
            self.perform(command, meanwhile=visitor, at=at, excused=(ImageNotAvailable, Conflict))

    @rule(other=numbers, at=st.integers(1, 60))
    @when(lambda self: self._versions())
    def collect_beside(self, other: int, at: int) -> None:
        self.perform(self._collecting(0), meanwhile=_pick(other, self._others(other)), at=at)

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    @rule(number=numbers, gone=st.booleans())
    def damage(self, number: int, *, gone: bool) -> None:
        paths = self.oracle.hurtable()
        if not paths or len(self.oracle.hurt) >= 2:
            return
        path = _pick(number, paths)
        self.oracle.hurt.add(path)
        if gone:
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[number % len(data)] ^= 1
            path.write_bytes(data)

    @rule(number=numbers)
    @when(lambda self: self._versions() and not self.oracle.down)
    def lose_zone(self, number: int) -> None:
        region, zone = _pick(number, [(region, zone) for region, zones in ZONES.items() for zone in zones])
        folder = self._zone(region, zone)
        folder.mkdir(parents=True, exist_ok=True)
        folder.rename(folder.with_name(f"{folder.name}-away"))
        folder.symlink_to(folder)
        self.oracle.down.add((region, zone))

    @rule()
    @when(lambda self: self.oracle.down)
    def zone_comes_back(self) -> None:
        for region, zone in self.oracle.down:
            folder = self._zone(region, zone)
            folder.unlink()
            folder.with_name(f"{folder.name}-away").rename(folder)
        self.oracle.down.clear()
        self.unfinished = True
        self.oracle.check()

    def _zone(self, region: str, zone: str) -> Path:
        return self.oracle.home / "regions" / f"imgstore-{region}" / f"zone-{zone}"

    # -- the end ------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Recover, repeat, repair and collect, then check everything."""
        self.zone_comes_back()
        self.clock.advance(3600)
        lost = self.oracle.beyond_repair()
        self.perform(self._scrubbing())
        for _ in range(2):
            well = [self.perform(command) for command in self._repeats()]
            self.perform(self._scrubbing())
            self.clock.advance(3600)
            well.append(self.perform(self._collecting(0)))
            if not lost:
                self.oracle.hurt.clear()
                self.unfinished = False
            if all(well):
                break
        lost |= self.oracle.beyond_repair()
        self.oracle.check_healed(lost)
        self.oracle.check_egress()
        self._check_bill()
        for row in self._versions():
            if row.uid not in lost:
                self._export_version(row, row.location)
        for name, (uid, _, _) in self.oracle.disks().items():
            if uid not in lost and not lost:
                self._export_disk(name)

    def _repeats(self) -> Iterator[Command]:
        """Return the commands that complete all unfinished rows."""
        for name, (uid, region, state) in self.oracle.disks().items():
            key = next((key for key, row in self.oracle.versions().items() if row.uid == uid), None)
            if state == "Deleting" or (state == "Creating" and key is None):
                yield self._deleting_disk(name)
            elif state == "Creating" and key is not None:
                standing = self.oracle.versions()[key]
                if standing.state == "Deleting":
                    yield self._deleting_disk(name)
                else:
                    yield self._making_disk(name, region, key[:2], key[2])
        for row in self._versions(visible=False):
            if row.state == "Deleting":
                yield self._deleting(row, bypass=True)
        for row in self._versions():
            key = (row.gallery, row.definition, row.patch)
            yield self._publishing(key, self.oracle.contents[row.uid], None)

    def _check_bill(self) -> None:
        """Check that the statement equals the costs of the rows."""
        told: list[Decimal] = []
        first = self.oracle.cost(self.clock.now())
        self.perform(
            Command(what="bill", run=lambda installation: told.append(statements.show_bill(installation, ADMIN).total))
        )
        last = self.oracle.cost(self.clock.now())
        assert first - Decimal("1e-9") <= told[0] <= last + Decimal("1e-9"), f"{told[0]}, not {first} to {last}"


def _pick(number: int, every: Sequence[_T]) -> _T:
    return every[number % len(every)]


def _targets(gallery: str, number: int) -> tuple[str, ...]:
    """Return target regions in the notation of the command line: the source region and others."""
    source = REGIONS[GALLERIES.index(gallery)]
    other = REGIONS[1 - GALLERIES.index(gallery)]
    number, count = divmod(number, 3)
    number, kind = divmod(number, 2)
    here = source + HERE[kind].format(count=count + 1)
    return (here, *(each.format(other=other) for each in _pick(number, ELSEWHERE)))


def _as_rows(targets: tuple[str, ...]) -> tuple[tuple[str, int, str], ...]:
    """Return the target regions as in a version's row."""
    parts = [each.split("=") for each in targets]
    return tuple(sorted((name, int(count), kind) for name, count, kind in parts))


_PROFILE: Final = settings(
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # An example takes seconds: not to be run a thousand times to shorten it.
    report_multiple_bugs=False,
    database=None,
    stateful_step_count=25,
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [6, pytest.param(12, marks=pytest.mark.long)])
def test_the_gallery_holds_its_promises(examples: int) -> None:
    # Invariants P1, P2, P3, P6 and P7.
    run_state_machine_as_test(GalleryMachine, settings=settings(_PROFILE, max_examples=examples))


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_the_gallery_holds_its_promises_for_long() -> None:
    """Each run has other examples. A failure prints its reproduction."""
    # Invariant P8.
    run_state_machine_as_test(
        GalleryMachine, settings=settings(_PROFILE, derandomize=False, max_examples=400, stateful_step_count=60)
    )
