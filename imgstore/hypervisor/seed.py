"""Write the seed of cloud-init (NoCloud): a small ISO 9660 image with the label ``cidata``.

Source: https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from email.encoders import encode_base64
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.mime.text import MIMEText
from typing import Any, Final

from imgstore.domain.errors import ToolMissing
from imgstore.domain.extras import install_hint

_LABEL: Final = "cidata"
_BOUNDARY: Final = "==imgstore-seed=="


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """The first settings of a guest from a generalized image."""

    instance_id: str
    """The uid of the machine. cloud-init applies the settings once for each id."""
    host_name: str
    user: str
    ssh_keys: Sequence[str] = ()
    password_hash: str | None = None
    """A hash in the format of crypt(3). A plain password is never stored."""
    custom_data: bytes | None = None
    """A script or a document for cloud-init, as the user gave it."""


def make_documents(seed: Seed) -> dict[str, bytes]:
    """Return the files of the seed by name. JSON is valid YAML, so no word of a person changes the structure."""
    meta = {"instance-id": seed.instance_id, "local-hostname": seed.host_name}
    user: dict[str, Any] = {
        "name": seed.user,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": seed.password_hash is None,
        "ssh_authorized_keys": list(seed.ssh_keys),
    }
    if seed.password_hash is not None:
        user["passwd"] = seed.password_hash
    config = {"users": [user], "ssh_pwauth": seed.password_hash is not None, "hostname": seed.host_name}
    first = "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
    return {
        "meta-data": json.dumps(meta).encode(),
        "user-data": first.encode() if seed.custom_data is None else _join(first, seed.custom_data),
    }


def write_seed(seed: Seed) -> bytes:
    """Return the ISO image of a seed.

    Raises:
        ToolMissing: the library pycdlib is not installed.
    """
    try:
        import pycdlib  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "The first start of a machine from a generalized image needs an optional package.",
            found=str(error),
            expected="the packages of the extra `machines`",
            hint=install_hint("machines"),
            target=error.name,
        ) from error
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=_LABEL, joliet=3, rock_ridge="1.09")
    for number, (name, content) in enumerate(make_documents(seed).items()):
        image.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()


def _join(first: str, custom_data: bytes) -> bytes:
    """Join our document and the custom data into one MIME message. cloud-init finds the type of each part itself."""
    message = MIMEMultipart(boundary=_BOUNDARY)
    message.attach(MIMEText(first, "cloud-config"))
    second = MIMENonMultipart("text", "plain")
    second.set_payload(custom_data)
    encode_base64(second)
    message.attach(second)
    return message.as_bytes()
