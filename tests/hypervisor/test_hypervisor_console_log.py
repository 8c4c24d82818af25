"""The console log has a bound, and keeps the last bytes."""

from pathlib import Path

from imgstore.hypervisor.console_log import ConsoleLog, clear_console, read_console


def test_the_log_keeps_the_last_bytes_within_the_bound(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path, bytes_max=1000)
    written = b"".join(b"line %d\n" % number for number in range(1000))
    for begin in range(0, len(written), 77):
        log.write(written[begin : begin + 77])
    log.write(b"x" * 5000 + b"end")
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 1000
    assert read_console(tmp_path).endswith(b"xend")
    assert len(read_console(tmp_path)) >= 500
    log.close()


def test_a_later_process_continues_the_log(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        log = ConsoleLog(tmp_path, bytes_max=1000)
        log.write(text)
        log.close()
    assert read_console(tmp_path) == b"onetwo"
    clear_console(tmp_path)
    assert read_console(tmp_path) == b""
