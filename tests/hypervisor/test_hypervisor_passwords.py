"""The hash of a password is crypt(3)'s."""

import shutil
import subprocess

import pytest

from imgstore.hypervisor.passwords import hash_password


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_openssl_computes_the_same_hash() -> None:
    password = "häßlich $6$ :\\ 1"
    hashed = hash_password(password)
    _, method, *rounds, salt, _ = hashed.split("$")
    assert method == "6"
    assert hashed != hash_password(password)
    words = ["openssl", "passwd", "-6", "-salt", "$".join([*rounds, salt]), "-stdin"]
    found = subprocess.run(words, input=password.encode(), capture_output=True, check=True)
    assert found.stdout.decode().strip() == hashed
