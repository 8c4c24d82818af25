"""Make a small disk that boots: Debian's cloud kernel, an initrd with busybox, and SYSLINUX on a FAT file system.

The guest prints ``GUEST-READY`` to the serial console. A shell answers on TCP port 23, so a test runs commands in the guest.
"""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY: Final = "GUEST-READY"
SHELL_PORT: Final = 23

_META_PACKAGE: Final = "linux-image-cloud-amd64"
_BUSYBOX_PACKAGE: Final = "busybox-static"
_MODULES: Final = (
    "virtio_blk", "virtio_net", "virtio_pci", "virtio_scsi", "sd_mod", "isofs", "nls_cp437", "virtio_rng",
)  # fmt: skip
_DISK_BYTES: Final = 40 << 20
_INIT: Final = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod /modules/$module; done < /modules/order
ifconfig lo 127.0.0.1; ifconfig eth0 10.0.2.15 netmask 255.255.255.0; route add default gw 10.0.2.2
nc -ll -p {SHELL_PORT} -e /bin/sh &
echo {READY}
while :; do sleep 1000; done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Unpacked packages of Debian."""

    image: Path
    modules: Path
    busybox: Path


def find_kernel(cache: Path) -> Kernel:
    """Return Debian's present cloud kernel. The packages are downloaded once for each version.

    Raises:
        OSError: a package cannot be downloaded.
    """
    depends = _run("apt-cache", "depends", _META_PACKAGE)
    package = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
    known = sorted(cache.glob("debian-kernel-linux-image-*")) if package is None else []
    if package is None and not known:
        raise FileNotFoundError(f"apt knows no package {_META_PACKAGE}, and {cache} has no kernel")
    folder = known[-1] if package is None else cache / f"debian-kernel-{package[1]}"
    if not folder.exists():
        assert package is not None, "a missing folder has the name of a package"
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        for name in (package[1], _BUSYBOX_PACKAGE):
            _run("apt-get", "download", "-q", name, folder=unfinished)
        for each in unfinished.glob("*.deb"):
            _run("dpkg-deb", "-x", str(each), str(unfinished / "root"))
            each.unlink()
        try:
            unfinished.rename(folder)
        except OSError:  # Another process was faster.
            shutil.rmtree(unfinished)
    root = folder / "root"
    return Kernel(
        image=next((root / "boot").glob("vmlinuz-*")),
        modules=next((root / "lib/modules").iterdir()),
        busybox=next(root.glob("**/bin/busybox")),
    )


def make_boot_disk(kernel: Kernel, disk: Path) -> None:
    """Write a raw disk that SeaBIOS boots."""
    initrd = disk.with_suffix(".initrd")
    initrd.write_bytes(gzip.compress(b"".join(_archive(kernel)), compresslevel=1))
    settings = disk.with_suffix(".cfg")
    settings.write_text(
        "DEFAULT linux\nLABEL linux\nKERNEL linux\nINITRD initrd\nAPPEND console=ttyS0 quiet mitigations=off panic=-1\n"
    )
    disk.write_bytes(b"")
    os.truncate(disk, _DISK_BYTES)
    _run("mkfs.vfat", "-F", "16", "-h", "0", str(disk))
    for source, name in ((kernel.image, "linux"), (initrd, "initrd"), (settings, "syslinux.cfg")):
        _run("mcopy", "-i", str(disk), str(source), f"::{name}")
        if source != kernel.image:
            source.unlink()
    _run("syslinux", "--install", str(disk))


def _archive(kernel: Kernel) -> Iterator[bytes]:
    """Return the entries of the initrd, an archive in cpio's format "newc"."""
    order = list(_order_modules(kernel.modules))
    for name in ("bin", "dev", "proc", "sys", "mnt", "modules"):
        yield _entry(name, 0o040755, b"")
    yield _entry("bin/busybox", 0o100755, kernel.busybox.read_bytes())
    yield _entry("init", 0o100755, _INIT.encode())
    yield _entry("modules/order", 0o100644, "".join(f"{path.name}\n" for path in order).encode())
    for path in order:
        yield _entry(f"modules/{path.name}", 0o100644, path.read_bytes())
    yield _entry("TRAILER!!!", 0, b"")


def _order_modules(folder: Path) -> Iterator[Path]:
    """Return the modules with their dependencies, each after its dependencies."""
    paths = {path.stem.replace("-", "_"): path for path in folder.glob("**/*.ko")}
    seen: set[str] = set()

    def visit(name: str) -> Iterator[Path]:
        if name in seen or name not in paths:
            return
        seen.add(name)
        needs = re.search(rb"\0depends=([^\0]*)", b"\0" + paths[name].read_bytes())
        for each in needs[1].decode().split(",") if needs else ():
            yield from visit(each)
        yield paths[name]

    for name in _MODULES:
        yield from visit(name)


def _entry(name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _run(*words: str, folder: Path | None = None) -> str:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout
