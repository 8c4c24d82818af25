"""Errors in ARM's envelope: ``{"error": {"code", "message", "target"}}`` (common-types/v1/common.json, CloudError)."""

from imgstore.domain.errors import ImgstoreError
from imgstore.wire.text import Json


def error_json(error: ImgstoreError) -> Json:
    """The body that tells of `error`.

    Clients print code and message alone, so what was found, expected and what to do stand in the message too.
    """
    return {"error": {"code": error.error_code, "message": str(error)} | _target(error)}


def _target(error: ImgstoreError) -> dict[str, str]:
    return {} if error.target is None else {"target": error.target}
