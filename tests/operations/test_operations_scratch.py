"""The scratch folder of a process during a concurrent search for leftovers."""

import tempfile
from pathlib import Path

import pytest

from tests.support.sample_gallery import open_home


def test_scratch_folder_removed_by_another_process_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = tempfile.mkdtemp, list[str]()

    def mkdtemp(*, dir: Path) -> str:  # noqa: A002 - the library's word
        made = str(real(dir=dir))
        if not taken:
            taken.append(made)
            Path(made).rmdir()
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with open_home(tmp_path / "home") as installation:
        assert installation.scratch.is_dir()
        assert str(installation.scratch) not in taken
    assert len(taken) == 1
