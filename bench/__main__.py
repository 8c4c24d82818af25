"""`python -m bench`: makes the disks, runs the cases, puts their figures into README.md."""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench import disks, readme
from bench.cases import CASES, World
from bench.engines import started
from bench.results import RESULTS_FOLDER, Result, show, write_result
from bench.synthetic import make_stand_ins


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    match given.command:
        case "list":
            for case in CASES.values():
                print(f"{case.name:10}{case.title}")
            return 0
        case "disks":
            disks.make_apart(given.folder, codename=given.codename, vhd=given.vhd)
            return 0
        case "readme":
            return readme.main(write=given.write)
        case _:
            return _run(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the cases")
    disks.add_arguments(commands.add_parser("disks", help="make the four real disks (as root; minutes)"))
    one = commands.add_parser("run", help="run some cases")
    one.add_argument("cases", nargs="+", choices=CASES, metavar="CASE")
    every = commands.add_parser("all", help="run all cases")
    every.set_defaults(cases=[name for name in CASES if name != "peers"])
    for runner in (one, every):
        runner.add_argument("--rounds", type=int, default=3, help="medians are over so many")
        runner.add_argument(
            "--quick", action="store_true", help="small stand-ins, one round, nothing kept: does it run?"
        )
        runner.add_argument("--folder", type=Path, default=disks.default_folder(), help="where the disks are kept")
        runner.add_argument("--results", type=Path, help=f"where results go (default: bench/{RESULTS_FOLDER.name})")
        runner.add_argument("--scratch", type=Path, help="where engines and new files lie (default: temporary folder)")
    written = commands.add_parser("readme", help="check that README.md quotes the results")
    written.add_argument("--write", action="store_true", help="put the results' figures there")
    return parser


def _run(given: argparse.Namespace) -> int:
    # A polite kill takes the way of Ctrl-C: engines ended, gigabytes of scratch removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="imgstore-bench-", dir=given.scratch) as temporary:
        folder = Path(temporary)
        real = given.folder
        if given.quick:
            real = folder / "disks"
            make_stand_ins(real)
        elif not all(disks.raw_path(real, disk).exists() for disk in disks.DiskName):
            disks.make_apart(real)
        missed = 0
        for name in given.cases:
            result = _run_case(folder / name, name, real, given)
            missed += sum(not goal.met for goal in result.goals)
            if results := given.results or (None if given.quick else RESULTS_FOLDER):
                write_result(results, result)
        return 1 if missed and not given.quick else 0


def _run_case(folder: Path, name: str, real: Path, given: argparse.Namespace) -> Result:
    """One case on fresh engines and a fresh home; both are gone afterwards."""
    print(f"{name}: {CASES[name].title}", flush=True)
    (folder / "scratch").mkdir(parents=True)
    with started(folder / "engines") as site:
        world = World(
            site=site,
            disks=real,
            scratch=folder / "scratch",
            rounds=1 if given.quick else given.rounds,
            quick=given.quick,
            say=lambda text: print(f"  {text}", flush=True),
        )
        result = CASES[name].run(world)
    shutil.rmtree(folder)
    for figure_name, figure in result.figures.items():
        print(f"  {figure_name:40}{show(figure):>12}  {figure.door}")
    for goal in () if given.quick else result.goals:
        wanted = f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:,g}"
        print(f"  goal {goal.figure} {wanted}: {'met' if goal.met else 'MISSED'}")
    return result


if __name__ == "__main__":
    sys.exit(main())
