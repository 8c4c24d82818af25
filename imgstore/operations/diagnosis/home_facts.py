"""Read the rights, certificates, space and uploads of a home."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from imgstore.domain.diagnosis import CertificateFacts, FileFacts, HomeFacts, SpaceFacts, UploadFacts
from imgstore.domain.host.os_errors import describe
from imgstore.domain.settings.disk_space import DiskSpace, allocated_bytes
from imgstore.operations.diagnosis.segment_cache import read_cache_facts
from imgstore.operations.installation import Installation
from imgstore.transfer.spool import uploads_folder

_PRIVATE: Final = ("", "regions", "scratch", "tls", "uploads", "catalog.sqlite", "catalog.sqlite-wal")
_KEYS: Final = ("tls/server-key.pem", "tls/ca-key.pem")
_CERTIFICATES: Final = ("tls/server.pem", "tls/ca.pem")


def read_home_facts(installation: Installation, certificates: Sequence[Path]) -> HomeFacts:
    """Read the facts of the home.

    Args:
        installation: the installation.
        certificates: further certificate files to read, such as the file of `serve --tls-cert`.
    """
    home = installation.home
    own = [path for name in _CERTIFICATES if (path := home / name).exists()]
    return HomeFacts(
        now=installation.effects.now(),
        files=[*_read_files(home, _PRIVATE, is_key=False), *_read_files(home, _KEYS, is_key=True)],
        certificates=[
            *(_read_certificate(path, is_own=True) for path in own),
            *(_read_certificate(path, is_own=False) for path in certificates),
        ],
        spaces=list(_read_spaces(home, installation.space)),
        uploads=list(_read_uploads(uploads_folder(home))),
        cache=read_cache_facts(installation),
    )


def _read_files(home: Path, names: Iterable[str], *, is_key: bool) -> Iterator[FileFacts]:
    for name in names:
        path = home / name
        try:
            found = path.stat()
        except OSError:
            continue  # Most files are optional. A home that cannot be read is not opened at all.
        mode = stat.S_IMODE(found.st_mode)
        yield FileFacts(path=path, mode=mode, is_own=found.st_uid == os.geteuid(), is_key=is_key)


def _read_certificate(path: Path, *, is_own: bool) -> CertificateFacts:
    from cryptography import x509  # noqa: PLC0415 - most homes have no certificate, and the import takes time

    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        return CertificateFacts(path=path, ends_at=None, problem=describe(error, path), is_own=is_own)
    except ValueError:
        return CertificateFacts(path=path, ends_at=None, problem="no certificate as PEM", is_own=is_own)
    return CertificateFacts(path=path, ends_at=min(each.not_valid_after_utc for each in chain), is_own=is_own)


def _read_spaces(home: Path, limits: DiskSpace) -> Iterator[SpaceFacts]:
    """Measure each file system of the home once. The folders of a home may be mount points."""
    seen = set[int]()
    for place in (home, home / "scratch", uploads_folder(home), *sorted((home / "regions").glob("*/zone-*"))):
        try:
            device = place.stat().st_dev
        except OSError:
            continue
        if device in seen:
            continue
        seen.add(device)
        free_bytes, reserve_bytes = limits.measure(place)
        if free_bytes is not None:
            yield SpaceFacts(place=place, free_bytes=free_bytes, reserve_bytes=reserve_bytes)


def _read_uploads(folder: Path) -> Iterator[UploadFacts]:
    """Read the unfinished uploads without their locks, so that no server waits."""
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            used_at = max(file.stat().st_mtime for file in (each, *each.iterdir()))
        except OSError:
            continue  # A server removed the upload.
        used = datetime.fromtimestamp(used_at, UTC)
        yield UploadFacts(disk_uid=each.name, stored_bytes=allocated_bytes(each), used_at=used)
