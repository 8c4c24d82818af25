"""How cases measure, what is drawn and told of them, and one of them from end to end."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_bench_results import result

from bench import plots
from bench.__main__ import TOOLS, main
from bench.api import ApiSize, serving, serving_plainly
from bench.cases import CASES
from bench.catalog import PAGE_ITEMS, REPLICAS, CatalogSize, furnished, page_statements, pages, percentile
from bench.choices import CHOICES
from bench.choices import table as choices_table
from bench.database import connected, fetched, reader, timed_reads, turns_per_second
from bench.measuring import Samples, at_once, best, in_turn
from bench.peers import PEERS
from bench.processes import run_timed
from bench.readme import DOCUMENTS, faults, rewritten
from bench.results import Chart, Door, Figure, Result, Unit, power, read_result, read_results, show
from bench.rows import HEAD, NOT_MEASURED, ROWS, table
from imgstore.testing.pytest_plugin import require


def seconds(value: float, door: Door = Door.PEER) -> Figure:
    return Figure(value=value, unit=Unit.SECONDS, door=door, samples=(value,))


def test_every_contestant_is_first_in_some_round() -> None:
    assert [in_turn("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_the_best_peer_is_the_quickest_of_those_asked_for() -> None:
    figures = {
        "s5cmd_up_seconds": seconds(3),
        "boto3_crt_up_seconds": seconds(2),
        "borg_up_seconds": seconds(1),
        "s5cmd_up_cpu_seconds": seconds(0.1),
        "imgstore_up_seconds": seconds(0.5, Door.PUBLIC),
    }
    assert best(figures, "_up_seconds") == seconds(1)
    assert best(figures, "_up_seconds", ["s5cmd", "boto3-crt"]) == seconds(2)
    assert best(figures, "_up_seconds", ["mc"]) is None


def test_programs_beside_each_other_count_as_one() -> None:
    done = at_once([lambda: run_timed(["sleep", "0.4"])] * 3)
    assert 0.4 <= done.seconds < 1.2
    assert done.peak_bytes > 3 << 20


def test_growth_in_proportion_has_the_power_one() -> None:
    assert power({1: seconds(2), 2: seconds(4), 8: seconds(16)}, "").value == pytest.approx(1)
    assert power({1: seconds(2), 4: seconds(2)}, "").value == pytest.approx(0)
    assert show(power({1: seconds(1), 4: seconds(16)}, "")) == "size^2.00"


def test_samples_become_medians() -> None:
    samples = Samples(say=lambda _: None)
    for value in (3.0, 1.0, 2.0):
        samples.add("x_seconds", value, Unit.SECONDS, Door.PEER)
    assert samples.figures()["x_seconds"].value == 2.0


CHARTS = (
    Chart(name="bars", title="b", lines={"": {"peer": "peer_seconds", "imgstore": "imgstore_seconds"}}),
    Chart(name="lines", title="l", lines={"a": {"1": "peer_seconds", "2": "imgstore_seconds"}}, logarithmic=True),
)


def test_charts_come_back_and_are_drawn_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` has it")
    drawn = result(charts=CHARTS)
    paths = plots.draw(tmp_path, drawn)
    assert [path.name for path in paths] == ["upload-bars.svg", "upload-lines.svg"]
    once = [path.read_text() for path in paths]
    assert "imgstore" in once[0]
    assert [path.read_text() for path in plots.draw(tmp_path, drawn)] == once
    assert drawn.from_json(drawn.to_json()) == drawn


def test_a_chart_of_what_was_not_measured_is_refused() -> None:
    wrong = dataclasses.replace(CHARTS[0], lines={"": {"peer": "nothing"}})
    assert result(charts=(wrong,)).faults() == ["a chart names nothing, which is no figure"]


def test_no_name_is_a_case_and_a_tool() -> None:
    assert not set(CASES) & set(TOOLS)
    assert all(set(case.peers) <= set(PEERS) for case in CASES.values())


def test_without_words_it_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in (*CASES, *TOOLS))


@pytest.mark.parametrize("words", [["nonsense"], ["upload", "--peers", "s5cmd,nobody"]])
def test_what_is_no_case_or_peer_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert words[-1].split(",")[-1] in capsys.readouterr().err


@pytest.mark.long
def test_an_upload_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    words = "--quick", "--peers", "boto3", "--results", tmp_path / "results", "--scratch", tmp_path
    assert main(["upload", *map(str, words)]) == 0
    made = read_result(tmp_path / "results/upload.json")
    assert made.quick
    for who in ("boto3", "imgstore"):
        for what in ("seconds", "cpu_seconds", "engine_cpu_seconds", "peak_bytes", "moved_bytes", "stored_bytes"):
            assert made.figures[f"{who}_upload_{what}"].value > 0
    assert made.figures["boto3_upload_stored_bytes"].value == 64 << 20
    assert made.figures["imgstore_upload_stored_bytes"].value < 40 << 20
    assert "upload_ratio" in made.figures
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.long
def test_distance_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    require("toxiproxy")
    words = "--quick", "--peers", "boto3", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)
    assert main(["distance", *words]) == 0
    figures = read_result(tmp_path / "results/distance.json").figures
    jobs = "near", "into", "across", "out", "source"
    assert set(figures) == {f"imgstore_{job}_20_seconds" for job in jobs}
    assert all(figures[f"imgstore_{job}_20_seconds"].value > 0.020 for job in jobs[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("case", ["choices", "frames"])
def test_choices_from_end_to_end(tmp_path: Path, case: str) -> None:
    require("minio")
    require("toxiproxy")
    assert main([case, "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    made = read_result(tmp_path / f"results/{case}.json")
    chosen = [choice for choice in CHOICES if choice.case == case]
    measured = {name for name in made.figures if name.endswith("_rate")}
    possible = {f"{choice.name}_{way}_rate" for choice in chosen for way in choice.ways}
    assert possible - measured <= {"copy_reflink_rate"}, "which needs root and mkfs.xfs"
    assert measured <= possible
    assert all(made.figures[name].value > 0 for name in measured)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    told = choices_table({case: dataclasses.replace(made, quick=False)})
    assert told.count("\n") == 2 + len(CHOICES)
    rows = [line for line in told.splitlines() if line.split(" | ")[0] in {f"| {each.question}" for each in chosen}]
    assert len(rows) == len(chosen)
    assert show(made.figures[f"{chosen[-1].name}_{list(chosen[-1].ways)[-1]}_rate"]) in rows[-1]
    assert "not measured" not in "".join(rows).replace("a reflink: not measured", "")
    assert "not measured" in choices_table({case: made}), "a quick run proves nothing"


@pytest.mark.long
def test_the_api_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    assert main(["api", "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    made = read_result(tmp_path / "results/api.json")
    for name in ("version", "expanded", "plain"):
        assert made.figures[f"{name}_per_second"].value > 0
        assert 0 < made.figures[f"{name}_p50_seconds"].value <= made.figures[f"{name}_p99_seconds"].value
        assert made.figures[f"{name}_thousand_cpu_seconds"].value > 0
    assert made.figures["server_peak_bytes"].value > 32 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_strangers_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    assert main(["strangers", "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    made = read_result(tmp_path / "results/strangers.json")
    assert made.figures["open_connections"].value > 90
    assert made.figures["beside_strangers_p99_seconds"].value > 0
    assert made.figures["log_bytes_per_minute"].value == 0
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_the_plain_server_gives_to_all_what_imgstore_answered_for_one_version(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "home", ApiSize(versions=3, seconds=1)) as server,
        serving_plainly(server, tmp_path / "home") as plain,
    ):
        first, second, _ = server.paths(0, expand=False)
        original, given = server.answer(first), plain.answer(second)
        assert plain.pid != server.pid
        assert plain.port != server.port
    assert given.status == original.status == 200
    assert given.body == original.body
    assert json.loads(given.body)["id"] == first.partition("?")[0]
    assert [name for name, _ in given.headers] == [name for name, _ in original.headers]
    constant = {"etag", "content-length", "content-type", "cache-control"}
    assert constant & {name for name, _ in set(given.headers) & set(original.headers)} == constant


@pytest.mark.long
def test_the_blob_endpoint_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    assert main(["blob", "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    made = read_result(tmp_path / "results/blob.json")
    for name in ("direct", "door", "curl", "many"):
        assert made.figures[f"{name}_seconds"].value > 0
    assert 32 << 20 < made.figures["server_idle_bytes"].value <= made.figures["server_peak_bytes"].value
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_the_catalog_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    require("postgresql")
    assert main(["catalog", "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    figures = read_result(tmp_path / "results/catalog.json").figures
    assert set(figures) == {
        "list_page_p99_seconds",
        "bare_page_p99_seconds",
        "placements_per_second",
        "bare_placements_per_second",
        "status_seconds",
        "idle_pass_seconds",
        "planning_seconds",
        "routing_seconds",
    }
    assert all(figure.value > 0 for figure in figures.values())
    assert all(figures[name].said.startswith("limit: ") for name in figures if name.startswith("bare_"))


def test_the_driver_alone_reads_the_pages_of_the_catalog_and_leaves_nothing() -> None:
    require("postgresql")
    with furnished(CatalogSize(versions=2 * PAGE_ITEMS + 50)) as (installation, url):
        listed = [[view.version.uid for view in page.items] for page in pages(installation)]
        assert [len(page) for page in listed] == [100, 100, 50]
        asked = page_statements(installation)
        with reader(url) as connection:
            for uids, statements in zip(listed, asked, strict=True):
                _, versions, replicas = fetched(connection, statements)
                assert [row[0] for row in versions][:PAGE_ITEMS] == uids
                assert sorted(row[1] for row in replicas) == sorted(uids * REPLICAS)
        # Of the first two pages one version more each, which tells that there is a next.
        assert [rows for _, rows in timed_reads(url, asked)] == [1 + 101 + 300, 1 + 101 + 300, 1 + 50 + 150]
        assert turns_per_second(url, turns=40, threads=16) > 0
        with connected(url) as connection:
            assert connection.execute("SELECT FROM pg_tables WHERE tablename LIKE 'bare%'").fetchall() == []


def test_a_percentile_is_not_exceeded_by_so_many_of_a_hundred() -> None:
    seconds = list(range(100, -1, -1))
    assert [percentile(part, seconds) for part in (1, 50, 99)] == [1, 50, 99]


# -- the table of bench/README.md --------------------------------------------------------------------------------------


def test_both_documents_say_what_the_results_say() -> None:
    for path in DOCUMENTS:
        assert list(faults(path.read_text(), read_results())) == [], f"{path.name}: `python -m bench readme --write`"


def test_every_row_is_of_a_case_and_has_a_limit() -> None:
    for row in ROWS:
        assert row.figure.split(".")[0] in CASES, row.job
        assert isinstance(row.limit, str) or row.limit.steps, row.job
    results = read_results()
    assert NOT_MEASURED not in table(results), "a figure or a limit that a row tells is not in bench/results"


def rate(value: float, unit: Unit = Unit.BYTES_PER_SECOND) -> Figure:
    return Figure(value=value, unit=unit, door=Door.INSIDE, samples=(value,))


LIMITS = {
    "blake3_blocks_rate": rate(410_048_512),
    "segment_encode_rate": rate(10**9),
    "engine_put_rate": rate(10**9),
    "engine_delete_rate": rate(900, Unit.PER_SECOND),
    "start_seconds": seconds(0.5),
}


def line(job: str, results: dict[str, Result]) -> str:
    return next(line for line in table(results).removeprefix(HEAD).splitlines() if line.startswith(f"| {job} |"))


def test_a_row_shows_figure_limit_and_distance() -> None:
    figures = {
        "imgstore_upload_seconds": seconds(4.0, Door.PUBLIC),
        "imgstore_upload_stored_bytes": Figure(value=10**8, unit=Unit.BYTES, door=Door.STORE, samples=(1e8,)),
        "upload_ratio": result().figures["speed_ratio"],
    }
    results = {"upload": result(figures=figures, goals=()), "limits": result(case="limits", figures=LIMITS, goals=())}
    told = line("upload v2, as a command", results)
    assert told.startswith("| upload v2, as a command | 4.0 s | 10.5 x | 2.5 s | 1.6 x | "), (
        "one start, then the hashes"
    )
    del results["limits"]
    assert line("upload v2, as a command", results).count(NOT_MEASURED) == 2


def test_where_more_is_better_the_limit_is_above_the_figure() -> None:
    figures = {"gc_rate": rate(300, Unit.PER_SECOND)}
    results = {
        "gc": result(case="gc", figures=figures, goals=()),
        "limits": result(case="limits", figures=LIMITS, goals=()),
    }
    told = line("garbage collection of a deleted v2", results)
    assert told.startswith("| garbage collection of a deleted v2 | 300 a second | - | 900 a second | 3.0 x | ")


def test_a_stale_table_is_found_and_mended() -> None:
    text = "It is\n<!-- bench-table -->\nold\n<!-- /bench-table -->\n"
    assert list(faults(text, {})) == ["line 2: the table is not what the results say"]
    assert list(faults(rewritten(text, {}), {})) == []
