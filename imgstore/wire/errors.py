"""Errors in ARM's envelope: ``{"error": {"code", "message", "target", "details"}}`` (common-types/v1, CloudError)."""

from collections.abc import Mapping
from typing import Final

from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    ErrorDetail,
    ExistenceUnknown,
    ImageRefused,
    ImgstoreError,
    InvalidInput,
    NotFound,
    ObjectCorrupt,
    ObjectNotFound,
    ReplicationFailed,
    SourceChanged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreUnreachable,
    Unauthenticated,
)
from imgstore.wire.json_text import Json

_BY_CODE: Final[Mapping[str, type[ImgstoreError]]] = {
    kind.code: kind
    for kind in (
        ImageRefused,
        SourceChanged,
        StoreError,
        ObjectNotFound,
        StoreUnreachable,
        ExistenceUnknown,
        StoreDenied,
        StoreFull,
        StoreMismatch,
        ObjectCorrupt,
        ReplicationFailed,
    )
}
"""Error classes that neither the status nor the end of the code determines."""
_BY_STATUS: Final[Mapping[int, type[ImgstoreError]]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    413: InvalidInput,
    416: InvalidInput,
}
_TRANSIENT_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses after which a retry of the same request may succeed."""


def error_json(error: ImgstoreError) -> Json:
    """Return an error as JSON.

    Clients print only code and message. The message therefore also contains the found value, the expected value and the
    hint.
    """
    fields: dict[str, Json] = {"code": error.error_code, "message": str(error)}
    if error.target is not None:
        fields["target"] = error.target
    if error.details:
        fields["details"] = [{"code": d.code, "target": d.target, "message": d.message} for d in error.details]
    return {"error": fields}


def read_error(body: Json, status: int) -> ImgstoreError:
    """Restore the error of an answer: class, code, message, target and details.

    Args:
        body: The JSON of the answer. Without an envelope of ARM or OAuth, only the status counts.
        status: The status of the answer. 0 for the error of a long-running operation, where the code alone determines
            the class.
    """
    envelope = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(envelope, str):  # OAuth's (RFC 6749, section 5.2)
        envelope = {"code": envelope, "message": body.get("error_description") or envelope}
    if not isinstance(envelope, Mapping) or not isinstance(envelope.get("code"), str):
        return _unexpected_answer(status)
    code = envelope["code"]
    error = _error_class(code, status)(str(envelope.get("message") or code), target=envelope.get("target"), code=code)
    details = envelope.get("details") or ()
    error.details = tuple(
        ErrorDetail(code=str(each.get("code")), target=str(each.get("target")), message=str(each.get("message")))
        for each in details
        if isinstance(each, Mapping)
    )
    return error


def _error_class(code: str, status: int) -> type[ImgstoreError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if not status:
        return NotFound if code.endswith("NotFound") else Conflict
    return StoreUnreachable if status in _TRANSIENT_STATUSES else _BY_STATUS.get(status, ImgstoreError)


def _unexpected_answer(status: int) -> ImgstoreError:
    return _error_class("", status or 500)(
        "The answer does not come from imgstore.",
        found=f"HTTP {status} without a code and a message",
        expected="an answer of `imgstore serve`",
        hint="check the address of the server, and proxies between client and server",
        code="UnexpectedAnswer",
    )
