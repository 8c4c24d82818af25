"""Make a disk with a real Debian: systemd, cloud-init and an SSH server, from Debian's packages (root only).

The steps: debootstrap, the packages, a whole disk with ext4, and EXTLINUX as the boot loader.
"""

import os
import shutil
import subprocess
from pathlib import Path

_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = "linux-image-cloud-amd64 systemd-sysv cloud-init openssh-server sudo udev iproute2 locales dbus"
_NETWORK = "[Match]\nType=ether\n[Network]\nDHCP=yes\n"
_BOOT = (
    "DEFAULT linux\nLABEL linux\nLINUX /vmlinuz\nINITRD /initrd.img\n"
    "APPEND root=/dev/vda rw console=ttyS0 mitigations=off net.ifnames=0\n"
)
_DISK_BYTES = 1536 << 20


def make_debian_root(folder: Path) -> None:
    """Install Debian into a folder.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    _run("debootstrap", "--variant=minbase", "bookworm", str(folder), _MIRROR)
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    for each in Path("/etc/apt/apt.conf.d").glob("*proxy*"):
        shutil.copy(each, folder / "etc/apt/apt.conf.d")
    script = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {_PACKAGES} && apt-get clean"
    _run("chroot", str(folder), "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", script)
    (folder / "etc/systemd/network/10-all.network").write_text(_NETWORK)
    (folder / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (folder / "etc/cloud/cloud.cfg.d/99-network.cfg").write_text("network: {config: disabled}\n")
    _run("chroot", str(folder), "systemctl", "enable", "systemd-networkd")
    _run("chroot", str(folder), "sh", "-c", "rm -f /etc/ssh/ssh_host_* /etc/machine-id; touch /etc/machine-id")
    for name in ("var/cache/apt", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(folder / name, ignore_errors=True)


def make_debian_disk(root: Path, disk: Path, mount: Path) -> None:
    """Write a raw disk that SeaBIOS boots from an installed folder.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    disk.touch()
    os.truncate(disk, _DISK_BYTES)
    _run("mkfs.ext4", "-q", "-O", "^64bit,^metadata_csum", "-d", str(root), str(disk))
    mount.mkdir()
    _run("mount", "-o", "loop", str(disk), str(mount))
    try:
        (mount / "boot/extlinux").mkdir()
        (mount / "boot/extlinux/extlinux.conf").write_text(_BOOT)
        _run("extlinux", "--install", str(mount / "boot/extlinux"))
    finally:
        _run("umount", str(mount))


def _run(*words: str) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    subprocess.run(words, check=True, env={**os.environ, "PATH": path, "LC_ALL": "C"}, capture_output=True)
