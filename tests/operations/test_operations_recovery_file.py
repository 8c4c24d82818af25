"""The recovery file has every key that no bucket has, opens with its passphrase only, and is never half a file (K1 to K3)."""

import json
import os
import pty
import stat
import struct
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from imgstore.api.auth.signing_keys import KeyRing
from imgstore.cli.main import main
from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput, OutputError
from imgstore.domain.host.private_files import FILE_MODE
from imgstore.domain.storage.digests import digest_of
from imgstore.operations.activity_log import list_activity
from imgstore.operations.gallery import galleries
from imgstore.operations.recovery.recovery_cover import find_recovery_cover
from imgstore.operations.recovery.recovery_file import (
    check_recovery_file,
    read_recovery_file,
    write_recovery_file,
)
from imgstore.operations.recovery.recovery_keys import decode_recovery_keys
from imgstore.operations.recovery.sealed_file import seal, unseal
from tests.support.sample_gallery import ADMIN, GROUP, create_sample_gallery, open_home

PASSPHRASE = "correct horse battery"
GOLDEN = Path(__file__).parent / "golden" / "recovery-file-1.bin"


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal(b'{"a": 1}', PASSPHRASE, Effects(), log2_cost=10)


def test_the_file_follows_new_keys_until_it_is_written_again(tmp_path: Path) -> None:
    home, path = tmp_path / "home", tmp_path / "file"
    with open_home(home) as installation:
        create_sample_gallery(installation)
        KeyRing(installation).rotate(ADMIN)
        cover = find_recovery_cover(installation, ADMIN)
        assert cover.written_at is None
        assert len(cover.missing) == 3
        report = write_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE)
        assert (report.pools, report.signing_keys, report.is_current) == (1, 1, True)
        assert stat.S_IMODE(path.stat().st_mode) == FILE_MODE
        assert not find_recovery_cover(installation, ADMIN).missing  # invariant K3
        assert check_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE).is_current
        pool = galleries.create_gallery(installation, ADMIN, group=GROUP, name="g2", location="eastus").pool_uid
        KeyRing(installation).rotate(ADMIN)
        missing = find_recovery_cover(installation, ADMIN).missing
        assert f"pool/{pool}" in missing
        assert [each.partition("/")[0] for each in missing] == ["pool", "signing-key"]
        assert check_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE).missing == missing
        with pytest.raises(OutputError, match="exists already"):
            write_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE)
        assert find_recovery_cover(installation, ADMIN).missing == missing
        write_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE, overwrite=True)
        assert not find_recovery_cover(installation, ADMIN).missing
        assert {each.name for each in tmp_path.iterdir()} == {"home", "file"}
        # Invariant K1: each key of the catalog is in the file.
        keys, _ = read_recovery_file(path, PASSPHRASE)
        with installation.catalog.reading() as transaction:
            assert list(keys.pools) == transaction.pools.list()
            assert list(keys.signing_keys) == transaction.signing_keys.list()
            assert keys.hmac_key == transaction.installation.hmac_key()
            row = transaction.installation.get()
        assert (keys.installation_uid, keys.subscription, keys.created_at) == (
            row.uid,
            row.subscription,
            row.created_at,
        )
        secrets = [
            keys.hmac_key,
            *(pool.fingerprint_key for pool in keys.pools),
            *(key.pem for key in keys.signing_keys),
        ]
        assert not [secret for secret in secrets if secret in path.read_bytes()]
        events = list_activity(installation, ADMIN, within=timedelta(days=1), events_max=9)
    assert "imgstore/recoveryFile/write" in {event.action for event in events}


def test_the_file_of_another_or_a_changed_installation_is_noticed(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "regions.yaml").read_bytes()
    regions, path = tmp_path / "regions.yaml", tmp_path / "file"
    regions.write_bytes(document)
    endpoint = {"IMGSTORE_EASTUS_ENDPOINT": "http://127.0.0.1:1", "AWS_SECRET_ACCESS_KEY": "secret-of-the-store"}
    with open_home(tmp_path / "home", regions=regions, environ=endpoint) as installation:
        report = write_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE)
    assert report.variables == ("IMGSTORE_EASTUS_ENDPOINT",)
    keys, _ = read_recovery_file(path, PASSPHRASE)
    assert keys.regions_document == document
    assert b"secret-of-the-store" not in keys.encode()
    regions.write_bytes(document + b"\n")
    with open_home(tmp_path / "home", regions=regions) as installation:
        report = check_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE)
    assert report.changed_settings == ["regions.yaml", "IMGSTORE_EASTUS_ENDPOINT"]
    with open_home(tmp_path / "other") as installation, pytest.raises(InvalidInput) as caught:
        check_recovery_file(installation, ADMIN, path, passphrase=PASSPHRASE)
    assert caught.value.error_code == "RecoveryFileMismatch"
    assert f"installation {keys.installation_uid}" in (caught.value.found or "")


@given(st.data())
def test_every_flipped_bit_and_every_cut_is_refused(sealed: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sealed) - 1))
    if data.draw(st.booleans()):
        damaged = sealed[:place]
    else:
        flipped = sealed[place] ^ (1 << data.draw(st.integers(0, 7)))
        damaged = sealed[:place] + bytes([flipped]) + sealed[place + 1 :]
    with pytest.raises(InvalidInput) as caught:
        unseal(damaged, PASSPHRASE, "file")
    assert caught.value.error_code == "RecoveryFileUnusable"


@pytest.mark.parametrize(
    ("log2_cost", "block_size", "parallelization"),
    [
        (1, 1 << 22, 16),  # 1 GiB for N, and 8 GiB for p
        (1, (1 << 22) - 1, 4),
        (17, 1, 1),  # RFC 7914: N is less than 2^(16 r).
        (0, 8, 1),
        (4, 0, 1),
        (4, 8, 0),
        (1 << 31, 8, 1),
    ],
)
def test_a_file_cannot_ask_for_much_memory(log2_cost: int, block_size: int, parallelization: int) -> None:
    header = b"IMGSTRCV" + struct.pack("<HHIII", 1, 1, log2_cost, block_size, parallelization)
    body = header.ljust(56 + 16, b"x")
    with pytest.raises(InvalidInput, match="too much memory"):
        unseal(body + digest_of(body), PASSPHRASE, "file")


def test_a_passphrase_that_is_no_text_is_named(sealed: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(sealed)
    for use in (
        lambda text: seal(b"x", text, Effects(), log2_cost=10),
        lambda text: read_recovery_file(tmp_path / "file", text),
    ):
        with pytest.raises(InvalidInput, match="no text") as caught:
            use(os.fsdecode(b"correct horse \xff"))
        assert (caught.value.target, caught.value.found) == ("passphrase", "no UTF-8 at character 15")


def test_a_passphrase_in_place_of_the_file_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "passphrase.txt").write_text(PASSPHRASE)
    with pytest.raises(InvalidInput, match="is no recovery file") as caught:
        read_recovery_file(tmp_path / "passphrase.txt", "another passphrase")
    assert caught.value.found == f"{len(PASSPHRASE)} bytes of another kind"
    assert PASSPHRASE[:4] not in str(caught.value)


def test_another_passphrase_is_named_as_such(sealed: bytes) -> None:
    assert unseal(sealed, PASSPHRASE, "file") == b'{"a": 1}'
    for other in ("correct horse batterx", PASSPHRASE + "\n", PASSPHRASE.upper()):
        with pytest.raises(InvalidInput) as caught:
            unseal(sealed, other, "file")
        assert caught.value.error_code == "WrongPassphrase"
    assert len({seal(b"", PASSPHRASE, Effects(), log2_cost=10)[24:52] for _ in range(2)}) == 2
    with pytest.raises(InvalidInput, match="too short"):
        seal(b"", "short", Effects())


def test_a_passphrase_is_the_same_in_both_unicode_forms() -> None:
    # RFC 8265: a keyboard may give one character or a letter with an accent.
    assert unseal(seal(b"x", "Schlüssel für a", Effects(), log2_cost=10), "Schlu\u0308ssel fu\u0308r a", "file") == b"x"


def test_the_golden_file_is_read() -> None:
    """Decode a file of format version 1 that was written once (invariants B17 and K2)."""
    keys, _ = read_recovery_file(GOLDEN, PASSPHRASE)
    assert keys == decode_recovery_keys(keys.encode())
    assert keys.installation_uid == "c8546f5a-8884-43d4-8de4-3a27d03f5f1d"
    assert keys.hmac_key == bytes(range(32))
    assert [pool.fingerprint_key for pool in keys.pools] == [b"p" * 32, b"q" * 32]
    assert [(key.kid, key.pem, key.retired_at is None) for key in keys.signing_keys] == [
        ("k2", b"2", True),
        ("k1", b"1", False),
    ]
    assert (keys.regions_document, dict(keys.variables), keys.home) == (b"regions: {}\n", {"A": "b"}, "/home")


def run(home: Path, *words: str, **environ: str) -> Any:
    line = ["catalog", "recovery-file", *words, "--home", str(home)]
    return CliRunner().invoke(main, line, prog_name="imgstore", env=environ)


def test_the_command_line_takes_a_file_a_variable_or_nothing(tmp_path: Path) -> None:
    home, path, secret = tmp_path / "home", tmp_path / "file", tmp_path / "secret"
    secret.write_text(f"{PASSPHRASE}\n")
    done = run(home, str(path), "--passphrase-file", str(secret))
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["storeCredentials"] is False
    assert run(home, str(path), "--check", IMGSTORE_RECOVERY_PASSPHRASE=PASSPHRASE).exit_code == 0
    for content, words in (
        (b"", "an empty file"),
        (b"a\nb", "several lines"),
        (b"\xff", "utf-8"),
        (b"x" * 5000, "more than 4096"),
        ("\u00e9".encode() * 2500, "more than 4096"),
    ):
        secret.write_bytes(content)
        done = run(home, str(path), "--check", "--passphrase-file", str(secret))
        assert done.exit_code == 1
        assert words in done.stderr
    done = run(home, str(path), "--check")
    assert "no terminal for a prompt" in done.stderr
    assert run(home, str(path), "--check", "--overwrite").exit_code == 2
    done = run(home, str(home / "file"), IMGSTORE_RECOVERY_PASSPHRASE=PASSPHRASE)
    assert "below the home" in done.stderr
    checked = CliRunner().invoke(main, ["regions", "check", "--home", str(home)], prog_name="imgstore")
    assert "recovery file" not in checked.stderr
    with open_home(home) as installation:
        create_sample_gallery(installation)
    checked = CliRunner().invoke(main, ["regions", "check", "--home", str(home)], prog_name="imgstore")
    assert "newer than the recovery file" in checked.stderr
    assert "run `imgstore catalog recovery-file PATH --overwrite`" in checked.stderr
    done = run(home, str(path), "--check", IMGSTORE_RECOVERY_PASSPHRASE=PASSPHRASE)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["missingKeys"]


def test_a_terminal_is_asked_twice_and_shows_nothing(tmp_path: Path) -> None:
    main_end, terminal = pty.openpty()
    line = [
        sys.executable,
        "-m",
        "imgstore",
        "catalog",
        "recovery-file",
        str(tmp_path / "file"),
        "--home",
        str(tmp_path / "h"),
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IMGSTORE_")}
    with subprocess.Popen(
        line, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, env=environ, start_new_session=True
    ) as process:
        os.close(terminal)
        shown = b""
        for question in (b"Passphrase of the recovery file: ", b"Repeat for confirmation: "):
            while question not in shown:
                shown += os.read(main_end, 4096)
            os.write(main_end, PASSPHRASE.encode() + b"\n")
        out, _ = process.communicate(timeout=60)
    os.close(main_end)
    assert process.returncode == 0
    assert json.loads(out)["current"] is True
    assert PASSPHRASE.encode() not in shown
    read_recovery_file(tmp_path / "file", PASSPHRASE)
