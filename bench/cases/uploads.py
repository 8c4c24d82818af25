"""In: a disk that is new, one that was there before, four versions in a row, data that nothing makes smaller."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.disks import GIB, MIB, DiskName, Family, family_path, raw_path
from bench.engines import SOURCE_REGION
from bench.measuring import (
    Case,
    Found,
    Samples,
    World,
    bars,
    best,
    in_turn,
    new_file,
    same_content,
    timed,
    timed_write,
    warm,
    weighed,
)
from bench.peers import PEERS, S5CMD, WHOLE, Peer
from bench.processes import Finished
from bench.results import Chart, Door, Figure, Goal, Unit, ratio
from bench.synthetic import make_dense

IMGSTORE = "imgstore"
VERSIONS = {DiskName.V1: "1.0.0", DiskName.V2: "2.0.0", DiskName.V3: "3.0.0", DiskName.R2: "4.0.0"}


def measure_upload(world: World) -> Found:
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    for number in range(world.rounds):
        for name in in_turn([*(peer.name for peer in world.roll.peers()), IMGSTORE], number):
            warm(disk)
            if name == IMGSTORE:
                _upload_ours(world, samples, disk, number)
                continue
            peer = PEERS[name]
            place = world.place(peer)
            stored, label = partial(peer.stored_bytes, place), f"{peer.label}_upload"
            weighed(world, samples, label, Door.PEER, stored, peer.upload, disk, place, "v2")
            place.forget()
    figures = samples.figures()
    goals = _compared(figures, "upload", goal=8)
    return Found(figures=figures, goals=goals, charts=_charts(figures, "upload"), notes=_NOTES)


_NOTES = (
    "the best peer is the quickest of those that keep a file as one object; restic and borg have a ratio of their own",
    "borg has no way to S3: its repository is a folder on the same disk, so it moves nothing through the engine",
)


def _upload_ours(world: World, samples: Samples, disk: Path, number: int) -> None:
    galleries = world.galleries(f"upload{number}", f"inside{number}")
    stored, publish = world.site.source.stored_bytes, galleries[0].publish
    weighed(world, samples, "imgstore_upload", Door.PUBLIC, stored, publish, "1.0.0", disk)
    samples.settle()
    timing = galleries[1].publish_inside("1.0.0", disk)
    samples.add("imgstore_upload_inside_seconds", timing.seconds, Unit.SECONDS, Door.INSIDE)


def _compared(figures: dict[str, Figure], verb: str, *, goal: float | None = None) -> list[Goal]:
    """Adds the ratios to the best of either kind of peer; the goal is for the whole-object ones."""
    ours, ending = figures[f"imgstore_{verb}_seconds"], f"_{verb}_seconds"
    kinds = {f"{verb}_ratio": WHOLE, f"{verb}_repository_ratio": [name for name in PEERS if name not in WHOLE]}
    for ratio_name, names in kinds.items():
        theirs = best(figures, ending, names)
        if theirs is not None:
            figures[ratio_name] = ratio(theirs, ours, "the best peer's seconds / imgstore's")
    met = f"{verb}_ratio" in figures and goal is not None
    return [Goal.of(f"{verb}_ratio", figures, at_least=goal)] if met else []


def _charts(figures: dict[str, Figure], verb: str) -> list[Chart]:
    titles = {
        "seconds": "seconds, until the command returned",
        "cpu_seconds": "processor seconds of the program",
        "moved_bytes": "bytes moved",
        "peak_bytes": "greatest resident memory",
    }
    return [bars(kind, f"{verb}: {title}", figures, f"_{verb}_{kind}") for kind, title in titles.items()]


def measure_reupload(world: World) -> Found:
    """v3 where v2 is: once more the whole object for some, a version of the same image for others."""
    samples = world.samples()
    before, after = raw_path(world.disks, DiskName.V2), raw_path(world.disks, DiskName.V3)
    for number in range(world.rounds):
        for name in in_turn([*(peer.name for peer in world.roll.peers()), IMGSTORE], number):
            if name == IMGSTORE:
                (gallery,) = world.galleries(f"reupload{number}")
                gallery.publish("1.0.0", before)
                warm(after)
                stored = world.site.source.stored_bytes
                weighed(world, samples, "imgstore_reupload", Door.PUBLIC, stored, gallery.publish, "1.0.1", after)
                continue
            peer = PEERS[name]
            place = world.place(peer)
            peer.upload(before, place, "disk")
            warm(after)
            stored, label = partial(peer.stored_bytes, place), f"{peer.label}_reupload"
            key = "disk" if peer.whole else "disk2"
            weighed(world, samples, label, Door.PEER, stored, peer.upload, after, place, key)
            place.forget()
    figures = samples.figures()
    goals = _compared(figures, "reupload")
    return Found(figures=figures, goals=goals, charts=_charts(figures, "reupload"), notes=_NOTES)


def measure_repositories(world: World) -> Found:
    """v1, v2, v3 and r2 one after another into one repository, against those that keep each chunk once, too."""
    samples = world.samples()
    for number in range(world.rounds):
        for name in in_turn([*(peer.name for peer in world.roll.peers(whole=False)), IMGSTORE], number):
            if name == IMGSTORE:
                _four_of_ours(world, samples, number)
            else:
                _four_of(world, samples, PEERS[name])
    figures, goals = samples.figures(), []
    theirs = best(figures, "_four_seconds")
    if theirs is not None:
        figures["four_ratio"] = ratio(
            theirs, figures["imgstore_four_seconds"], "the quicker one's seconds / imgstore's"
        )
        totals = [
            figure for name, figure in figures.items() if name.endswith("_r2_total_bytes") and "imgstore" not in name
        ]
        fewest = min(totals, key=lambda figure: figure.value)
        figures["four_fewer_bytes"] = ratio(fewest, figures["imgstore_r2_total_bytes"], "the fewest kept / imgstore's")
        goals = [Goal.of("four_ratio", figures, at_least=8), Goal.of("four_fewer_bytes", figures, at_least=1)]
    lines = {
        name: {disk.value: f"{name}_{disk}_total_bytes" for disk in VERSIONS}
        for name in [*(peer.label for peer in world.roll.peers(whole=False)), IMGSTORE]
    }
    chart = Chart(name="total", title="bytes kept in all, after each version", lines=lines)
    return Found(figures=figures, goals=goals, charts=[chart], notes=_NOTES[1:])


def _four_of(world: World, samples: Samples, peer: Peer) -> None:
    place = world.place(peer)
    stored = partial(peer.stored_bytes, place)
    _four(world, samples, peer.label, Door.PEER, stored, lambda path, disk: peer.upload(path, place, disk))
    place.forget()


def _four_of_ours(world: World, samples: Samples, number: int) -> None:
    (gallery,) = world.galleries(f"four{number}")
    before = world.site.source.stored_bytes()

    def stored_bytes() -> int:
        return world.site.source.stored_bytes() - before

    def publish(path: Path, disk: DiskName) -> Finished:
        return gallery.publish(VERSIONS[disk], path)

    _four(world, samples, IMGSTORE, Door.PUBLIC, stored_bytes, publish)


def _four(
    world: World,
    samples: Samples,
    label: str,
    door: Door,
    stored_bytes: Callable[[], int],
    take_in: Callable[[Path, DiskName], Finished],
) -> None:
    """All four into a repository that has nothing at first."""
    seconds = cpu_seconds = 0.0
    for disk in VERSIONS:
        path, engine_cpu = raw_path(world.disks, disk), world.site.source.engine_cpu_seconds()
        warm(path)
        finished = timed(samples, f"{label}_{disk}_ingest_seconds", door, take_in, path, disk)
        seconds += finished.seconds
        cpu_seconds += finished.cpu_seconds + world.site.source.engine_cpu_seconds() - engine_cpu
        samples.add(f"{label}_{disk}_total_bytes", stored_bytes(), Unit.BYTES, Door.STORE)
    samples.add(f"{label}_four_seconds", seconds, Unit.SECONDS, door, "all four ingests")
    said = "processor time of all four ingests, the engine's in it"
    samples.add(f"{label}_four_cpu_seconds", cpu_seconds, Unit.SECONDS, door, said)


def measure_families(world: World) -> Found:
    """The same four disks on other file systems, as far as they have been made."""
    samples = world.samples()
    made = [each for each in Family if all(family_path(world.disks, each, disk).exists() for disk in DiskName)]
    for number in range(world.rounds):
        for family in in_turn(made, number):
            (gallery,) = world.galleries(f"{family}{number}")
            for disk, version in VERSIONS.items():
                path, before = family_path(world.disks, family, disk), world.site.source.stored_bytes()
                warm(path)
                timed(samples, f"{family}_{disk}_ingest_seconds", Door.PUBLIC, gallery.publish, version, path)
                grown = world.site.source.stored_bytes() - before
                samples.add(f"{family}_{disk}_stored_bytes", grown, Unit.BYTES, Door.STORE)
    lines = {family.value: {disk.value: f"{family}_{disk}_stored_bytes" for disk in VERSIONS} for family in made}
    chart = Chart(name="stored", title="bytes that each version added, by file system", lines=lines)
    absent = [f"{each} is not in it: `python -m bench disks --family {each}`" for each in Family if each not in made]
    return Found(figures=samples.figures(), charts=[chart], notes=absent)


def measure_dense(world: World, length: int) -> Found:
    """There and back; what either keeps is removed after its turn, so that all find the same room on the disk."""
    samples = world.samples()
    with new_file(world, "dense.raw") as disk:
        make_dense(disk, world.sized(length, 64 * MIB))

        def theirs() -> None:
            place = world.place(S5CMD)
            warm(disk)
            timed(samples, "s5cmd_upload_seconds", Door.PEER, S5CMD.upload, disk, place, "disk")
            with new_file(world, "s5cmd.raw") as file:
                timed_write(samples, "s5cmd_download", Door.PEER, S5CMD.download, place, "disk", file)
            place.forget()

        def ours() -> None:
            (gallery,) = world.galleries(f"dense{number}")
            warm(disk)
            timed(samples, "imgstore_upload_seconds", Door.PUBLIC, gallery.publish, "1.0.0", disk)
            with new_file(world, "imgstore.raw") as file:
                timed_write(samples, "imgstore_export", Door.PUBLIC, gallery.export, "1.0.0", SOURCE_REGION, file)
                same_content(disk, file)
            world.site.source.forget("pools/")

        for number in range(world.rounds):
            # Whoever comes second finds the engine's disk busy with what the first one left: so they take turns.
            for job in in_turn([theirs, ours], number):
                job()
    figures = samples.figures()
    pairs = {"upload": "upload", "download": "export"}
    for way, our_way in pairs.items():
        figures[f"{way}_ratio"] = ratio(
            figures[f"s5cmd_{way}_seconds"], figures[f"imgstore_{our_way}_seconds"], "s5cmd's seconds / imgstore's"
        )
    return Found(figures=figures, goals=[Goal.of(f"{way}_ratio", figures, at_least=0.9) for way in pairs])


CASES = (
    Case(
        name="upload",
        title="upload of a real 8 GiB OS disk (v2)",
        measure=measure_upload,
        peers=tuple(PEERS),
    ),
    Case(
        name="reupload",
        title="upload of a patched disk (v3) where the one before it (v2) is",
        measure=measure_reupload,
        peers=tuple(PEERS),
    ),
    Case(
        name="repositories",
        title="ingest of v1, v2, v3 and r2, and bytes kept in all",
        measure=measure_repositories,
        peers=tuple(name for name in PEERS if name not in WHOLE),
    ),
    Case(name="families", title="the four disks on ext4, XFS, btrfs and NTFS", measure=measure_families),
    Case(
        name="dense",
        title="8 GiB of random data, a disk's size, there and back",
        measure=partial(measure_dense, length=8 * GIB),
        peers=("s5cmd",),
    ),
    Case(
        name="dense-short",
        title="2 GiB of random data, there and back: less than the page cache puts off",
        measure=partial(measure_dense, length=2 * GIB),
        peers=("s5cmd",),
    ),
)
