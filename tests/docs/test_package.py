"""The release: the built distribution is valid, and its wheel runs in an empty environment."""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import imgstore
from imgstore.domain.extras import DISTRIBUTION, install_hint

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_hints_name_the_distribution_and_its_extras() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    hinted = {
        extra
        for path in (ROOT / "imgstore").rglob("*.py")
        for extra in re.findall(r'install_hint\("(\w+)"\)', path.read_text())
    }
    assert hinted
    assert hinted <= set(PROJECT["optional-dependencies"])
    assert install_hint("server") == f"pip install '{PROJECT['name']}[server]'"


def test_no_text_advises_to_install_the_other_project() -> None:
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "imgstore").rglob("*.py")]
    assert [
        path.name for path in texts if re.search(r"pip install [^`\n]*['\" ]imgstore(\[|['\"`\s])", path.read_text())
    ] == []


def test_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "bench/")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", source, cwd=tmp_path)
    built = sorted((tmp_path / "dist").iterdir())
    assert [path.suffix for path in built] == [".whl", ".gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=tmp_path)
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", built[0], cwd=tmp_path)
    assert run(programs / "imgstore", "--version", cwd=tmp_path).split()[-1] == imgstore.__version__
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}
    shown = subprocess.run(
        [programs / "imgstore", "regions", "list", "-o", "tsv"],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "southcentralus" in shown.stdout
