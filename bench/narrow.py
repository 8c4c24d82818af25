"""Engines behind narrow links: each in a network namespace of its own, whose link `tc tbf` limits (man tc-tbf).

Root, iproute2 and the kernel's tbf are needed. netem, which also delays, is missing in many kernels. A namespace and its
link are removed at the end.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from imgstore.testing.engines import S3Engine, start_minio

_NETWORK = "10.213"
"""Addresses of the links: four for each, inside this machine only."""
_PORT = 9000
_BURST_BYTES = 64 << 10
_LATENCY_MS = 300


class NarrowMissing(RuntimeError):
    """This machine can't limit links; the message says what is missing."""


def check_narrow() -> None:
    """See that links can be made.

    Raises:
        NarrowMissing: no root, or a program or part of the kernel is missing.
    """
    if os.geteuid() != 0:
        raise NarrowMissing("network namespaces need root")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise NarrowMissing(f"no {program}: apt install iproute2")
    try:
        with _link(0, 10**6):
            pass
    except subprocess.CalledProcessError as error:
        raise NarrowMissing(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error


@contextmanager
def start_narrow_engines(folder: Path, count: int, bytes_per_second: int) -> Iterator[tuple[S3Engine, ...]]:
    """Runs `count` MinIO processes, each behind a link with a limit for what it sends.

    Raises:
        NarrowMissing: this machine can't limit links.
    """
    check_narrow()
    with ExitStack() as stack:
        engines = list[S3Engine]()
        for number in range(1, count + 1):
            name, address = stack.enter_context(_link(number, bytes_per_second))
            launcher = ("ip", "netns", "exec", name)
            engine = start_minio(folder / f"minio-{number}", port=_PORT, host=address, launcher=launcher)
            engines.append(stack.enter_context(engine))
        yield tuple(engines)


@contextmanager
def _link(number: int, bytes_per_second: int) -> Iterator[tuple[str, str]]:
    """A namespace with a limited link to this machine; gives its name and its address."""
    name, outside = f"imgbench-{os.getpid()}-{number}", f"ib{os.getpid() % 10**6}-{number}"
    first = number * 4
    here, there = (f"{_NETWORK}.{first // 256}.{first % 256 + host}" for host in (1, 2))
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "addr", "add", f"{here}/30", "dev", outside)
        _run("ip", "link", "set", outside, "up")
        _run("ip", "-n", name, "addr", "add", f"{there}/30", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        limit = ("rate", f"{bytes_per_second}bps", "burst", str(_BURST_BYTES), "latency", f"{_LATENCY_MS}ms")
        _run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
        yield name, there
    finally:
        # A namespace is removed with its links when its last process has ended.
        subprocess.run(["ip", "link", "del", outside], check=False, capture_output=True)
        _run("ip", "netns", "del", name)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
