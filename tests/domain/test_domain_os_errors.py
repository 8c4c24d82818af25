"""Descriptions of errors of the operating system (invariant E9)."""

import errno
import os
import resource
from pathlib import Path

import pytest

from imgstore.domain.errors import HostFault, StoreFull, public_text
from imgstore.domain.host.file_systems import AbilityMissing
from imgstore.domain.host.os_errors import advise, advise_failed_io, describe, host_fault, translate_host_faults

WORDS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "quota",
    errno.EFBIG: "large file",
    errno.EROFS: "writable",
    errno.EACCES: "owner",
    errno.EPERM: "owner",
    errno.ENOENT: "spelling",
    errno.ENOTDIR: "spelling",
    errno.EISDIR: "is a folder",
    errno.ELOOP: "symbolic link",
    errno.ENAMETOOLONG: "shorter path",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "fs.file-max",
    errno.ENOMEM: "memory",
    errno.EBUSY: "end the program",
    errno.ETXTBSY: "end the program",
    errno.EXDEV: "one file system",
    errno.ESTALE: "mount the network file system",
    errno.EIO: "health of the disk",
}


@pytest.mark.parametrize("number", WORDS, ids=errno.errorcode.get)
def test_each_error_has_its_own_advice(number: int) -> None:
    error = OSError(number, os.strerror(number), "/data/file")
    assert WORDS[number] in advise(error, "/data/file")
    assert errno.errorcode[number] in describe(error)


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=errno.errorcode.get)
def test_every_error_is_a_fault_of_the_machine_without_paths_for_strangers(number: int) -> None:
    fault = host_fault(OSError(number, os.strerror(number), "/data/secret"))
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    assert type(fault) is (StoreFull if full else HostFault)
    of_the_process = number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    assert ("/data/secret" in fault.message) is not of_the_process
    assert all((fault.found, fault.expected, fault.hint))
    assert "/data" not in public_text(fault)
    assert fault.public is not None
    assert fault.public.status == (507 if full else 503)


@pytest.mark.parametrize(
    ("error", "number"), [(MemoryError(), errno.ENOMEM), (RuntimeError("can't start new thread"), errno.EAGAIN)]
)
def test_errors_that_python_reports_as_other_classes(error: Exception, number: int) -> None:
    with pytest.raises(HostFault, match="refused an operation") as caught, translate_host_faults():
        raise error
    assert errno.errorcode[number] in (caught.value.found or "")
    assert "memory" in (caught.value.hint or "")
    with pytest.raises(RuntimeError, match="another"), translate_host_faults():
        raise RuntimeError("another")


def test_a_deleted_current_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    error = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert "`cd`" not in advise(error, "disk.raw")
    (tmp_path / "gone").rmdir()
    assert "`cd`" in (host_fault(error).hint or "")
    assert "`cd`" not in advise(error, "/data/disk.raw")


def test_a_limit_of_file_sizes_is_named() -> None:
    error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, hard))
    try:
        assert "ulimit -f" in advise(error, "/data/file")
        assert "ulimit -f" in advise_failed_io("/data/file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ulimit -f" not in advise_failed_io("/data/file")


def test_an_error_without_a_name_and_number_is_described() -> None:
    fault = host_fault(OSError("the library says so"))
    assert fault.message == "The operating system refused an operation."
    assert fault.found == "the library says so"


def test_a_missing_ability_names_the_ability() -> None:
    error = AbilityMissing("file locks", "/")
    assert describe(error).endswith("has no file locks")
    assert "ext4" in advise(error, "/")
