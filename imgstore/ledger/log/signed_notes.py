"""Checkpoints of the ledger's log as signed notes, in the text forms of C2SP.

https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature (for the time) and
https://c2sp.org/tlog-proof define the texts. Callers pass the functions that sign and verify.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

Sign = Callable[[bytes], bytes]
"""Returns the Ed25519 signature of a message: 64 bytes."""
CheckSignature = Callable[[bytes, bytes, bytes], bool]
"""Returns whether a public key (32 bytes) made a signature of a message: (public key, signature, message)."""

_DASH: Final = "\N{EM DASH} "
_ED25519: Final = b"\x01"
_TIMED: Final = b"\x04"
_TIME_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_PROOF: Final = "c2sp.org/tlog-proof@v1"
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_NOTE_CHARACTERS_MAX: Final = 64 * 1024
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


class UnknownKeyError(ValueError):
    """A note without a signature of a known key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The content of a verified checkpoint."""

    size: int
    """The number of entries."""
    root: bytes
    signed_at: datetime
    """The earliest time of the signatures, in whole seconds."""
    signed_by: Sequence[bytes]
    """The known public keys that have signed, in the order of the signatures."""
    extension: Sequence[str] = ()
    """The further lines of the text."""


def make_origin(installation_uid: str) -> str:
    """Return the name of an installation's log, which is the name of its keys, too."""
    return f"imgstore/{installation_uid}/ledger"


def format_verifier_key(origin: str, public_key: bytes) -> str:
    """Return the public key in the form that verifiers of C2SP read: `name+hash+base64`."""
    encoded = base64.b64encode(_ED25519 + public_key).decode("ascii")
    return f"{origin}+{make_key_id(origin, public_key)}+{encoded}"


def make_key_id(origin: str, public_key: bytes) -> str:
    """Return the id of a key: 8 hexadecimal digits."""
    return _key_hash(origin, _ED25519, public_key).hex()


def sign_checkpoint(
    origin: str,
    size: int,
    root: bytes,
    public_key: bytes,
    sign: Sign,
    *,
    signed_at: datetime,
    extension: Sequence[str] = (),
) -> str:
    """Return a signed checkpoint.

    Args:
        origin: see `make_origin`.
        size: the number of entries.
        root: the root hash of the tree of these entries.
        public_key: 32 bytes.
        sign: signs with the private key.
        signed_at: the time of the checkpoint. The text contains whole seconds.
        extension: further lines, which other programs ignore.
    """
    text = "".join(f"{line}\n" for line in (origin, size, base64.b64encode(root).decode("ascii"), *extension))
    return f"{text}\n{_sign_lines(origin, text, public_key, sign, signed_at=signed_at)}"


def add_signature(note: str, origin: str, public_key: bytes, sign: Sign, *, signed_at: datetime) -> str:
    """Return a checkpoint with the signatures of a further key."""
    text = note.rpartition("\n\n")[0] + "\n"
    return note + _sign_lines(origin, text, public_key, sign, signed_at=signed_at)


def endorse_key(origin: str, successor: bytes, public_key: bytes, sign: Sign) -> str:
    """Return a note in which a key names the next key.

    Args:
        origin: see `make_origin`.
        successor: the public key that follows.
        public_key: the public key that signs.
        sign: signs with the private key of `public_key`.
    """
    text = _endorsement(origin, successor)
    return f"{text}\n{_sign_line(origin, _ED25519, public_key, sign(text.encode()))}"


def check_endorsement(note: str, origin: str, successor: bytes, public_key: bytes, check: CheckSignature) -> None:
    """Check that a key names the next key.

    Raises:
        ValueError: the note has another text, or no valid signature of `public_key`.
    """
    text, lines = _split(note)
    if text != _endorsement(origin, successor):
        raise ValueError("the text names another key")
    _check_lines(text, lines, origin, [public_key], check)


def read_checkpoint(
    note: str, origin: str, public_keys: Sequence[bytes], check: CheckSignature, *, is_own: bool = False
) -> Checkpoint:
    """Verify and read a checkpoint.

    Args:
        note: the signed text.
        origin: see `make_origin`.
        public_keys: the known keys.
        check: verifies a signature.
        is_own: refuse signatures of unknown keys, because only this installation has written the text. Otherwise such
            signatures are ignored: a witness may have signed, too.

    Raises:
        UnknownKeyError: no known key has signed.
        ValueError: the text is no checkpoint of this log, or a signature of a known key is wrong.
    """
    text, lines = _split(note)
    head = text.split("\n")[:-1]
    if len(head) < 3:
        raise ValueError("the text has fewer than three lines")
    if head[0] != origin:
        raise ValueError(f"the text belongs to the log {head[0]!r}, not {origin!r}")
    if not _SIZE.fullmatch(head[1]):
        raise ValueError(f"the size {head[1]!r} is no number")
    root = _decode(head[2])
    if len(root) != hashlib.sha256().digest_size:
        raise ValueError("the root hash has a wrong length")
    signers, times = _check_lines(text, lines, origin, public_keys, check)
    if is_own and (len(signers) + len(times) != len(lines) or len(signers) != len(times)):
        raise ValueError("a signature is missing, or belongs to an unknown key")
    return Checkpoint(
        size=int(head[1]),
        root=root,
        signed_at=min(times, default=_EARLIEST),
        signed_by=signers,
        extension=head[3:],
    )


def format_proof(index: int, path: Sequence[bytes], checkpoint: str) -> str:
    """Return an inclusion proof with its checkpoint as one text (https://c2sp.org/tlog-proof)."""
    hashes = "".join(f"{base64.b64encode(each).decode('ascii')}\n" for each in path)
    return f"{_PROOF}\nindex {index}\n{hashes}\n{checkpoint}"


def _endorsement(origin: str, successor: bytes) -> str:
    return f"{origin}\nnext key\n{format_verifier_key(origin, successor)}\n"


def _sign_lines(origin: str, text: str, public_key: bytes, sign: Sign, *, signed_at: datetime) -> str:
    seconds = int(signed_at.timestamp())
    timed = seconds.to_bytes(_TIME_BYTES, "big") + sign(_timed_message(seconds, text))
    return _sign_line(origin, _ED25519, public_key, sign(text.encode())) + _sign_line(origin, _TIMED, public_key, timed)


def _sign_line(origin: str, kind: bytes, public_key: bytes, signature: bytes) -> str:
    encoded = base64.b64encode(_key_hash(origin, kind, public_key) + signature).decode("ascii")
    return f"{_DASH}{origin} {encoded}\n"


def _timed_message(seconds: int, text: str) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _key_hash(origin: str, kind: bytes, public_key: bytes) -> bytes:
    return hashlib.sha256(origin.encode() + b"\n" + kind + public_key).digest()[:4]


def _split(note: str) -> tuple[str, list[str]]:
    """Return the text of a note, and the lines with signatures."""
    text, blank, signatures = note.rpartition("\n\n")
    if not blank or not signatures.endswith("\n") or len(note) > _NOTE_CHARACTERS_MAX:
        raise ValueError("the text is no signed note")
    return text + "\n", signatures.split("\n")[:-1]


def _check_lines(
    text: str, lines: Sequence[str], origin: str, public_keys: Sequence[bytes], check: CheckSignature
) -> tuple[list[bytes], list[datetime]]:
    """Verify all signatures of known keys, and return these keys and the times.

    Raises:
        ValueError: a signature is wrong, or no plain signature of a known key is present.
    """
    plain = {_key_hash(origin, _ED25519, each): each for each in public_keys}
    timed = {_key_hash(origin, _TIMED, each): each for each in public_keys}
    signers: list[bytes] = []
    times: list[datetime] = []
    for line in lines:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH):
            raise ValueError(f"the line {line!r} is no signature")
        data = _decode(encoded)
        key_hash, signature = data[:4], data[4:]
        if name != origin:
            continue
        if key_hash in plain:
            if len(signature) != _SIGNATURE_BYTES or not check(plain[key_hash], signature, text.encode()):
                raise ValueError(f"the signature of the key {key_hash.hex()} is wrong")
            signers.append(plain[key_hash])
        elif key_hash in timed:
            seconds = int.from_bytes(signature[:_TIME_BYTES], "big")
            if len(signature) != _TIME_BYTES + _SIGNATURE_BYTES or not check(
                timed[key_hash], signature[_TIME_BYTES:], _timed_message(seconds, text)
            ):
                raise ValueError(f"the signature with a time of the key {key_hash.hex()} is wrong")
            times.append(datetime.fromtimestamp(seconds, UTC))
    if not signers:
        raise UnknownKeyError("no signature of a known key")
    return signers, times


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text[:80]!r} is not base64") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError(f"{text[:80]!r} is not canonical base64")
    return data
