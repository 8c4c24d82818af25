"""A process's folder for scratch, and others that look for leftovers at the same moment."""

import tempfile
from pathlib import Path

import pytest

from tests.support.sample_gallery import open_home


def test_a_folder_that_another_process_took_for_a_leftover_is_made_again(
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
