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
"""Kinds that neither a status nor the end of a code tells."""
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
"""Another time the same request may be answered better."""


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


def read_error(body: Json, status: int) -> ImgstoreError:
    """The error that an answer tells of, as it was raised where it arose: code, message, target, details.

    Args:
        body: the answer's JSON; what is no envelope of ARM's or OAuth's tells nothing but its status.
        status: of the answer; 0 where an operation tells of its own end, and the code alone says what kind it is.
    """
    told = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(told, str):  # OAuth's (RFC 6749, section 5.2)
        told = {"code": told, "message": body.get("error_description") or told}
    if not isinstance(told, Mapping) or not isinstance(told.get("code"), str):
        return _unexpected_answer(status)
    code = told["code"]
    error = _error_class(code, status)(str(told.get("message") or code), target=told.get("target"), code=code)
    details = told.get("details") or ()
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
        "The server answers as no imgstore does.",
        found=f"HTTP {status}, without a code and a message",
        expected="an answer of `imgstore serve`",
        hint="look whether the address is that of an imgstore, and what stands between",
        code="UnexpectedAnswer",
    )
