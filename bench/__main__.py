"""`python -m bench`: names the cases; with a case's name runs it, with a tool's name uses that.

Cases run side by side with their peers, and write figures and charts to `bench/results`.
"""

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import compare, disks, plots, readme
from bench.cases import CASES
from bench.engines import started
from bench.measuring import World
from bench.peers import PEERS, call_roll
from bench.results import RESULTS_FOLDER, Result, read_results, show, write_result
from bench.synthetic import make_stand_ins


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        return _list()
    name, *rest = words
    if name not in TOOLS:
        return _run(_runner().parse_args(words))
    add, use, said = TOOLS[name]
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=said)
    add(parser)
    return use(parser.parse_args(rest))


def _list() -> int:
    print("cases: python -m bench CASE ..., or `all` (--help says more)")
    for case in CASES.values():
        print(f"  {case.name:14}{case.title}")
    print("tools: python -m bench TOOL")
    for name, (_, _, said) in TOOLS.items():
        print(f"  {name:14}{said}")
    roll = call_roll(list(PEERS))
    print("peers that are here: " + ", ".join(f"{name} {found}" for name, found in roll.present.items()))
    for name, why in roll.missing.items():
        print(f"  not here: {name}: {why}")
    return 0


# -- the tools ---------------------------------------------------------------------------------------------------------


def _make_disks(given: argparse.Namespace) -> int:
    try:
        disks.make_apart(given.folder, codename=given.codename, vhd=given.vhd, family=given.family)
    except subprocess.CalledProcessError as failed:  # what was missing has been said
        return failed.returncode
    return 0


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS_FOLDER, help="where the results are")


def _plot(given: argparse.Namespace) -> int:
    for result in read_results(given.results).values():
        for path in plots.draw(given.results, result):
            print(path.name)
    return 0


Tool = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]
TOOLS: Mapping[str, Tool] = {
    "disks": (disks.add_arguments, _make_disks, "make the real disks, as root; minutes"),
    "plot": (_add_plot, _plot, "draw the results' charts again"),
    "readme": (readme.add_arguments, readme.use, "check that README.md and bench/README.md quote the results"),
    "micro": (compare.add_micro_arguments, compare.run_micro, "run the micro-cases of tests/bench with clocks"),
    "compare": (compare.add_arguments, compare.use, "compare a run's ratios with bench/baseline.json"),
}


# -- the cases ---------------------------------------------------------------------------------------------------------


def _runner() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="+", choices=[*CASES, "all"], metavar="CASE", help="which, or `all`")
    parser.add_argument(
        "--peers", type=_peers, help=f"against whom, of {','.join(PEERS)}; the default is the case's own"
    )
    parser.add_argument("--rounds", type=int, default=3, help="medians are over so many")
    parser.add_argument("--quick", action="store_true", help="small stand-ins, one round, nothing kept: does it run?")
    parser.add_argument("--folder", type=Path, default=disks.default_folder(), help="where the disks are kept")
    parser.add_argument("--results", type=Path, help=f"where results go (default: bench/{RESULTS_FOLDER.name})")
    parser.add_argument("--scratch", type=Path, help="where engines and new files lie (default: temporary folder)")
    return parser


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is no peer; there are {', '.join(PEERS)}")
    return names


def _run(given: argparse.Namespace) -> int:
    # A polite kill takes the way of Ctrl-C: engines ended, gigabytes of scratch removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = list(CASES) if "all" in given.cases else given.cases
    with tempfile.TemporaryDirectory(prefix="imgstore-bench-", dir=given.scratch) as temporary:
        folder = Path(temporary)
        real = given.folder
        if given.quick:
            real = folder / "disks"
            make_stand_ins(real)
        elif not all(disks.raw_path(real, disk).exists() for disk in disks.DiskName):
            disks.make_apart(real)
        missed = 0
        for name in names:
            result = _run_case(folder / name, name, real, given)
            missed += sum(not goal.met for goal in result.goals)
            if results := given.results or (None if given.quick else RESULTS_FOLDER):
                _keep(results, result)
        return 1 if missed and not given.quick else 0


def _keep(folder: Path, result: Result) -> None:
    write_result(folder, result)
    try:
        plots.draw(folder, result)
    except ImportError:
        print("  no charts: matplotlib is not installed: pip install 'imgstore-gallery[bench]'")


def _run_case(folder: Path, name: str, real: Path, given: argparse.Namespace) -> Result:
    """One case on fresh engines and a fresh home; both are gone afterwards."""
    case = CASES[name]
    print(f"{name}: {case.title}", flush=True)
    roll = call_roll(given.peers or case.peers, make=True)
    for peer, why in roll.missing.items():
        print(f"  without {peer}: {why}", flush=True)
    (folder / "scratch").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        site = stack.enter_context(started(folder / "engines", case.regions))
        world = World(
            site=site,
            disks=real,
            scratch=folder / "scratch",
            rounds=1 if given.quick else given.rounds,
            quick=given.quick,
            roll=roll,
            say=lambda text: print(f"  {text}", flush=True),
        )
        result = case.run(world)
    _tell(result)
    return result


def _tell(result: Result) -> None:
    """The medians with their spread, then the goals and the notes."""
    for name, figure in result.figures.items():
        spread = f"{min(figure.samples):,.4g} to {max(figure.samples):,.4g}" if len(figure.samples) > 1 else ""
        print(f"  {name:44}{show(figure):>14}  {figure.door:8}{spread}")
    for goal in () if result.quick else result.goals:
        wanted = f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:,g}"
        print(f"  goal {goal.figure} {wanted}: {'met' if goal.met else 'MISSED'}")
    for note in result.notes:
        print(f"  {note}")


if __name__ == "__main__":
    sys.exit(main())
