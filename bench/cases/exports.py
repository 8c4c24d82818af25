"""Out: a disk as a file, by format, and twenty at once."""

from functools import partial

from bench.disks import DiskName, raw_path
from bench.engines import SOURCE_REGION
from bench.measuring import (
    Case,
    Found,
    World,
    at_once,
    bars,
    in_turn,
    new_file,
    same_content,
    timed,
    timed_write,
)
from bench.peers import PEERS, WHOLE
from bench.results import Chart, Door, Goal, Unit, ratio


def measure_export(world: World) -> Found:
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    places = {peer: world.place(peer) for peer in world.roll.peers()}
    (gallery,) = world.galleries("export")
    gallery.publish("1.0.0", disk)
    for peer, place in places.items():
        peer.upload(disk, place, "v2")
    for number in range(world.rounds):
        for name in in_turn([*(peer.name for peer in places), "imgstore"], number):
            with new_file(world, f"{name}.raw") as file:
                if name != "imgstore":
                    peer = PEERS[name]
                    label = f"{peer.label}_download"
                    timed_write(samples, label, Door.PEER, peer.download, places[peer], "v2", file)
                    continue
                timed_write(samples, "imgstore_export", Door.PUBLIC, gallery.export, "1.0.0", SOURCE_REGION, file)
                if number == 0:
                    same_content(disk, file)
        with new_file(world, "inside.raw") as file:
            samples.settle()
            timing = gallery.export_inside("1.0.0", SOURCE_REGION, file)
            samples.add("imgstore_export_inside_seconds", timing.seconds, Unit.SECONDS, Door.INSIDE)
    figures, goals = samples.figures(), []
    if "s5cmd" in world.roll.present:
        for kind in ("", "durable_"):
            figures[f"export_{kind}ratio"] = ratio(
                figures[f"s5cmd_download_{kind}seconds"],
                figures[f"imgstore_export_{kind}seconds"],
                "s5cmd's seconds / imgstore's",
            )
        goals = [Goal.of("export_ratio", figures, at_least=5)]
    theirs = bars("seconds", "seconds, until the command returned", figures, "_download_seconds").lines[""]
    lines = {"": {**theirs, "imgstore": "imgstore_export_seconds"}}
    chart = Chart(name="seconds", title="a disk as a file: seconds, until the command returned", lines=lines)
    return Found(figures=figures, goals=goals, charts=[chart])


FORMATS = {"raw": "raw", "vhd": "vhd", "vhd-dynamic": "vhd", "qcow2": "qcow2"}
"""As `--format` spells them, and the suffix of such a file."""


def measure_formats(world: World) -> Found:
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    (gallery,) = world.galleries("formats")
    gallery.publish("1.0.0", disk)
    for number in range(world.rounds):
        for form in in_turn(list(FORMATS), number):
            label = form.replace("-", "_")
            with new_file(world, f"exported.{FORMATS[form]}") as file:
                timed_write(samples, f"{label}_export", Door.PUBLIC, gallery.export, "1.0.0", SOURCE_REGION, file, form)
                allocated = file.stat().st_blocks * 512
            samples.add(
                f"{label}_allocated_bytes", allocated, Unit.BYTES, Door.STORE, "what the file takes on the disk"
            )
    figures = samples.figures()
    return Found(figures=figures, charts=[bars("seconds", "export by format: seconds", figures, "_export_seconds")])


DISKS_AT_ONCE = 20
REPLICA_COUNTS = (1, 2, 5, 10)


def measure_twenty(world: World) -> Found:
    """Twenty commands beside each other, each writing the version's disk, from one, two, five and ten replicas."""
    samples, disk = world.samples(), raw_path(world.disks, DiskName.V2)
    (gallery,) = world.galleries("twenty")
    gallery.publish("1.0.0", disk, [f"{SOURCE_REGION}={REPLICA_COUNTS[-1]}"])
    disks = world.sized(DISKS_AT_ONCE, 3)
    for number in range(world.rounds):
        for count in in_turn(REPLICA_COUNTS, number):
            gallery.retarget("1.0.0", [f"{SOURCE_REGION}={count}"])
            files = [world.scratch / f"twenty-{each}.raw" for each in range(disks)]
            runs = [partial(gallery.export, "1.0.0", SOURCE_REGION, file) for file in files]
            timed(samples, f"imgstore_{count}_seconds", Door.PUBLIC, at_once, runs)
            for file in files:
                file.unlink()
    lines = {"imgstore": {str(count): f"imgstore_{count}_seconds" for count in REPLICA_COUNTS}}
    title = f"{disks} disks at once: seconds until the last"
    chart = Chart(name="seconds", title=title, lines=lines, below="replicas in the region, all on one engine")
    return Found(figures=samples.figures(), charts=[chart], notes=(f"{disks} disks at once",))


CASES = (
    Case(name="export", title="write a disk (v2, raw) from a replica", measure=measure_export, peers=WHOLE),
    Case(name="formats", title="write a disk (v2) as raw, VHD, dynamic VHD and qcow2", measure=measure_formats),
    Case(name="twenty", title="twenty disks at once, by replica count", measure=measure_twenty, regions=1),
)
