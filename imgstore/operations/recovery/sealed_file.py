"""Encrypt a recovery file with a passphrase (invariant K2).

::

    offset  bytes  field
         0      8  magic "IMGSTRCV"
         8      2  format version, 1
        10      2  derivation of the key: 1 scrypt
        12      4  binary logarithm of scrypt's cost N
        16      4  scrypt's block size r
        20      4  scrypt's parallelization p
        24     16  salt of scrypt
        40     12  nonce of AES-256-GCM
        52      4  zero
        56         AES-256-GCM of the JSON text, with the 56 bytes above as associated data; the tag is the last 16 bytes
    end-32     32  BLAKE3 of all previous bytes

All numbers are little-endian. The passphrase is UTF-8 in Unicode's form NFC (RFC 8265, section 4.2). scrypt is RFC 7914,
and GCM is NIST SP 800-38D. The last digest distinguishes a damaged file from a wrong passphrase.
"""

import struct
import unicodedata
from typing import Final

from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.digests import DIGEST_BYTES, digest_of

MAGIC: Final = b"IMGSTRCV"
VERSION: Final = 1
PASSPHRASE_CHARACTERS_MIN: Final = 12
"""A recovery file may be stored for years at places that others can read."""
FILE_BYTES_MAX: Final = 64 << 20

_SCRYPT: Final = 1
LOG2_COST: Final = 17
_BLOCK_SIZE: Final = 8
_PARALLELIZATION: Final = 1
"""128 MiB of memory and about 0.4 s of a core for each guess."""
_MEMORY_BYTES_MAX: Final = 1 << 30
_PARALLELIZATION_MAX: Final = 16
"""Limits for a file from outside."""
_KEY_BYTES: Final = 32
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEADER: Final = struct.Struct("<8sHHIII16s12sI")


def seal(content: bytes, passphrase: str, effects: Effects, *, log2_cost: int = LOG2_COST) -> bytes:
    """Encrypt the content of a recovery file.

    Args:
        content: the content.
        passphrase: the passphrase.
        effects: the source of salt and nonce.
        log2_cost: the binary logarithm of scrypt's cost. Tests use a smaller cost.

    Raises:
        InvalidInput: the passphrase is too short or no text.
    """
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise InvalidInput(
            "The passphrase of a recovery file is too short.",
            found=f"{len(passphrase)} characters",
            expected=f"at least {PASSPHRASE_CHARACTERS_MIN} characters",
            hint="choose several random words, and store the passphrase apart from the file",
            target="passphrase",
        )
    salt, nonce = effects.random_bytes(_SALT_BYTES), effects.random_bytes(_NONCE_BYTES)
    header = _HEADER.pack(MAGIC, VERSION, _SCRYPT, log2_cost, _BLOCK_SIZE, _PARALLELIZATION, salt, nonce, 0)
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - start-up time

    key = _derive_key(passphrase, salt, log2_cost, _BLOCK_SIZE, _PARALLELIZATION)
    body = header + AESGCM(key).encrypt(nonce, content, header)
    return body + digest_of(body)


def unseal(data: bytes, passphrase: str, place: str) -> bytes:
    """Return the content of a recovery file.

    Args:
        data: the bytes of the file.
        passphrase: the passphrase.
        place: the path of the file, for errors.

    Raises:
        InvalidInput: the bytes are no recovery file or are damaged, the format is newer, or the passphrase is wrong.
    """
    if not data.startswith(MAGIC):
        # The bytes themselves may be the passphrase, if two paths were exchanged.
        raise _file_error(f"{place} is no recovery file.", f"{len(data)} bytes of another kind", place)
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if len(body) < _HEADER.size + _TAG_BYTES or digest_of(body) != digest:
        raise damaged_error(place, f"{len(data)} bytes that differ from their digest")
    _, version, derivation, log2_cost, block_size, parallelization, salt, nonce, _ = _HEADER.unpack_from(body)
    if (version, derivation) != (VERSION, _SCRYPT):
        found = f"format version {version} with derivation {derivation}"
        raise _file_error(f"{place} has a format that this imgstore does not know.", found, place)
    if not _is_affordable(log2_cost, block_size, parallelization):
        found = f"scrypt with N = 2^{log2_cost}, r = {block_size}, p = {parallelization}"
        raise _file_error(f"{place} needs too much memory or time.", found, place)
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - start-up time
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    key = _derive_key(passphrase, salt, log2_cost, block_size, parallelization)
    try:
        return AESGCM(key).decrypt(nonce, body[_HEADER.size :], body[: _HEADER.size])
    except InvalidTag:
        raise InvalidInput(
            f"The passphrase does not open {place}.",
            found="another passphrase",
            expected="the passphrase with which the file was written",
            hint="compare the passphrase with the stored copy: case, spaces and line ends count",
            target="passphrase",
            code="WrongPassphrase",
        ) from None


def _is_affordable(log2_cost: int, block_size: int, parallelization: int) -> bool:
    """Return whether scrypt accepts the parameters (RFC 7914, section 2), and needs little enough memory and time."""
    # The logarithm is checked before the shift, because a shift by billions would need the memory that is refused.
    return (
        1 <= log2_cost < min(16 * block_size, _MEMORY_BYTES_MAX.bit_length())
        and 1 <= parallelization <= _PARALLELIZATION_MAX
        and (block_size << 7) * ((1 << log2_cost) + parallelization) <= _MEMORY_BYTES_MAX
    )


def damaged_error(place: str, found: str) -> InvalidInput:
    """Return the error for a damaged recovery file."""
    return _file_error(f"The recovery file {place} is damaged.", found, place)


def _file_error(message: str, found: str, place: str) -> InvalidInput:
    return InvalidInput(
        message,
        found=found,
        expected=f"a file of `imgstore catalog recovery-file` in format version {VERSION}",
        hint="name another copy of the recovery file",
        target=place,
        code="RecoveryFileUnusable",
    )


def _derive_key(passphrase: str, salt: bytes, log2_cost: int, block_size: int, parallelization: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt  # noqa: PLC0415 - start-up time

    try:
        text = unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "The passphrase of a recovery file has bytes that are no text.",
            found=f"no UTF-8 at character {error.start + 1}",
            expected="a passphrase in UTF-8",
            hint="set the locale to UTF-8, or store the passphrase as UTF-8 and name the file with --passphrase-file",
            target="passphrase",
        ) from None
    derivation = Scrypt(salt=salt, length=_KEY_BYTES, n=1 << log2_cost, r=block_size, p=parallelization)
    return derivation.derive(text)
