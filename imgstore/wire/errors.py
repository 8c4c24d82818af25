"""Errors in ARM's envelope: ``{"error": {"code", "message", "target", "details"}}`` (common-types/v1, CloudError)."""

from imgstore.domain.errors import ImgstoreError
from imgstore.wire.text import Json


def error_json(error: ImgstoreError) -> Json:
    """The body that tells of `error`.

    Clients print code and message alone, so what was found, expected and what to do stand in the message too.
    """
    told: dict[str, Json] = {"code": error.error_code, "message": str(error)}
    if error.target is not None:
        told["target"] = error.target
    if error.details:
        told["details"] = [{"code": d.code, "target": d.target, "message": d.message} for d in error.details]
    return {"error": told}
