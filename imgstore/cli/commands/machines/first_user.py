"""Read the options for the first user of machines and of instances."""

import re
from collections.abc import Sequence
from pathlib import Path

from imgstore.domain.errors import InvalidInput
from imgstore.domain.requests import OsProfile

_KEY = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-\S+ [A-Za-z0-9+/=]+(?: .*)?")


def read_word(word: str) -> bytes:
    """Return the content of a file with this path, otherwise the word itself, as az does."""
    try:
        return Path(word).read_bytes()
    except (OSError, ValueError):
        return word.encode()


def read_public_keys(words: Sequence[str], profile: OsProfile) -> list[dict[str, str]]:
    """Return public SSH keys in the form of Azure's API, from files or from the line."""
    keys = []
    for word in words:
        key = read_word(word).decode(errors="replace").strip()
        if _KEY.fullmatch(key) is None:
            raise InvalidInput(
                "The SSH key is no public key.",
                found=repr(word[:60]),
                expected="a file with one public key, or the key itself, such as 'ssh-ed25519 AAAA...'",
                hint="name the file that ends with .pub",
                target="ssh-key-values",
            )
        keys.append({"path": f"/home/{profile.admin_username}/.ssh/authorized_keys", "keyData": key})
    return keys
