"""The error tree. Each error contains the value found, the value expected and a hint.

::

    ImgstoreError
    ├── InvalidInput                  400  a value that is invalid in every state of the gallery
    │   ├── SourceNotFound                 a missing file, disk, image or machine to read
    │   └── InvalidRegions            400  an unusable regions.yaml, with all faults together
    ├── ImageRefused                  400  an image with damaged, unsafe or unsupported bytes
    │   ├── ImageTruncated                 a source with fewer bytes than the header requires
    │   └── SafetyCheckFailed              a failed safety check
    ├── NotFound                      404  a missing resource
    │   ├── ScopeNotFound                  a resource that the caller may not know of
    │   ├── ParentNotFound                 a missing parent resource
    │   └── ImageNotAvailable              a version that is not complete in the requested region
    ├── Unauthenticated               401  a request without a valid token
    │   └── ClientRefused                  an application without valid credentials
    ├── AccessDenied                  403  an action that the principal is not allowed to perform
    ├── Conflict                      409  an action that the present state does not permit
    │   ├── PropertyChangeNotAllowed       a change of a fixed property
    │   ├── LostRace                       a row that another process changed at the same time
    │   ├── CatalogOutdated                a catalog that is older than the buckets
    │   ├── WorkHeld                       a work that another process performs now
    │   │   └── WorkLeased                 a work with a lease of another process
    │   ├── LeaseLost                      a lease that expired, and another process took the work over
    │   └── ReplicationFailed              one or more failed target regions
    ├── SourceChanged                 409  a source that changed during the read
    ├── StoreError                    503  a failed request to a store
    │   ├── ObjectNotFound (KeyError)      a missing object
    │   ├── StoreUnreachable               no answer, or an answer that a retry may change
    │   │   ├── StoreSilent                no connection, or no answer in time
    │   │   ├── CircuitOpen                a request that was not sent, because the store does not answer
    │   │   └── ExistenceUnknown           zones that disagree about an object
    │   ├── StoreDenied                    refused credentials
    │   ├── StoreFull                 507  no space left
    │   ├── StoreMismatch                  a bucket or folder of something else
    │   └── ObjectCorrupt                  bytes that do not match the name or checksum
    │       └── ReadBackMismatch           a new object that reads back with other bytes
    ├── HostFault                     503  an error of this machine that is no fault of a store
    ├── OutputError                   400  an output file that cannot be written
    └── ToolMissing                   400  a missing program or optional package
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """One of several failures of an operation: an entry of Azure's `error.details`."""

    code: str
    target: str
    message: str


class ImgstoreError(Exception):
    """The root of all foreseen errors. The message, `found`, `expected` and `hint` help to correct the cause."""

    code: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
        target: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.found = found
        """The value that was found."""
        self.expected = expected
        """The value that is required."""
        self.hint = hint
        """The steps to correct the cause."""
        self.target = target
        """The property, file or resource with the problem, as Azure's `error.target`."""
        self.error_code = code or type(self).code
        """Azure's `error.code`."""
        self.details: tuple[ErrorDetail, ...] = ()
        """The failures of the parts, as Azure's `error.details`."""
        self.public: ImgstoreError | None = None
        """The error for callers over the network, if this error describes the network of the server."""

    def __str__(self) -> str:
        parts = [self.message]
        if self.found is not None:
            parts.append(f"found: {self.found}")
        if self.expected is not None:
            parts.append(f"expected: {self.expected}")
        if self.hint is not None:
            parts.append(f"what to do: {self.hint}")
        return "\n  ".join(parts)


def public_text(error: Exception) -> str:
    """Return the text of an error for callers over the network."""
    return str(error.public if isinstance(error, ImgstoreError) and error.public is not None else error)


def error_to_json(error: BaseException) -> dict[str, Any]:
    """Return the parts of an error for another process, without the network of this process.

    An unexpected error has no details, because the other process may answer a caller over the network.
    """
    if not isinstance(error, ImgstoreError):
        error = ImgstoreError(
            "The process that did this work failed with an unexpected error.",
            hint="look into the log or the output of that process, then run the same command again",
        )
    shown = error.public or error
    return {
        "status": shown.status,
        "code": shown.error_code,
        "message": shown.message,
        "found": shown.found,
        "expected": shown.expected,
        "hint": shown.hint,
        "target": shown.target,
    }


def error_from_json(parts: Mapping[str, Any]) -> "ImgstoreError":
    """Return an error of another process: with all parts, of a class with the same exit code and the same retries."""
    kinds: dict[int, type[ImgstoreError]] = {404: NotFound, 500: ImgstoreError, 503: StoreError, 507: StoreError}
    kind = kinds.get(parts["status"], Conflict)
    named = {name: parts.get(name) for name in ("found", "expected", "hint", "target", "code")}
    return kind(parts["message"], **named)


class InvalidInput(ImgstoreError):
    """A value that is invalid in every state of the gallery."""

    code = "InvalidParameter"
    status = 400


class SourceNotFound(InvalidInput):
    """A missing file, disk, snapshot, image or machine that an operation must read."""


class InvalidRegions(InvalidInput):
    """An unusable regions.yaml. The error lists all faults of the document together."""

    code = "InvalidRegions"

    def __init__(self, path: str, faults: Sequence[str]) -> None:
        text = "; ".join(faults)
        super().__init__(
            f"{path} cannot be used: {text}",
            expected="a valid regions document, as described in docs/regions-and-stores.md",
            hint=f"correct {path} and run `imgstore regions check`",
            target=path,
        )
        self.faults = tuple(faults)


class ImageRefused(ImgstoreError):
    """An image with damaged, unsafe or unsupported bytes."""

    code = "InvalidImage"
    status = 400


class ImageTruncated(ImageRefused):
    """A source with fewer bytes than the header of the image requires."""

    code = "ImageTruncated"


class SafetyCheckFailed(ImageRefused):
    """A failed safety check: a backing file, a data file, an extent outside of the image, or a header bomb."""

    code = "SafetyCheckFailed"

    def __init__(self, check: str, message: str, *, found: str, expected: str, hint: str, target: str) -> None:
        super().__init__(message, found=found, expected=expected, hint=hint, target=target)
        self.check = check


class NotFound(ImgstoreError):
    """A missing resource."""

    code = "ResourceNotFound"
    status = 404


class ScopeNotFound(NotFound):
    """A resource that the caller may not know of, or a malformed id."""


class ParentNotFound(NotFound):
    """A missing parent of the requested resource."""

    code = "ParentResourceNotFound"


class ImageNotAvailable(NotFound):
    """A version that is missing, or is not complete in the requested region."""

    code = "GalleryImageNotFound"


class Unauthenticated(ImgstoreError):
    """A request without a token, or with an invalid token."""

    code = "InvalidAuthenticationToken"
    status = 401


class ClientRefused(Unauthenticated):
    """An application without valid credentials that requests a token. The code is OAuth's (RFC 6749, section 5.2)."""

    code = "invalid_client"


class AccessDenied(ImgstoreError):
    """An action that the principal is not allowed to perform."""

    code = "AuthorizationFailed"
    status = 403


class Conflict(ImgstoreError):
    """An action that the present state of the gallery does not permit."""

    code = "Conflict"
    status = 409


class PropertyChangeNotAllowed(Conflict):
    """A change of a property that is fixed after creation."""

    code = "PropertyChangeNotAllowed"

    def __init__(
        self, path: str, *, found: str, expected: str, hint: str | None = None, message: str | None = None
    ) -> None:
        super().__init__(
            message or f"Changing property '{path}' is not allowed.",
            found=found,
            expected=expected,
            hint=hint or "publish a new version, or keep the present value",
            target=path,
        )


class WorkHeld(Conflict):
    """A work that another live process performs now."""

    code = "OperationInProgress"


class WorkLeased(WorkHeld):
    """A work with a valid lease of another process. `target` is the uid of the work."""


class LostRace(Conflict):
    """A row that another process has added, closed or moved since this process read the catalog. A retry sees the row."""


class CatalogOutdated(Conflict):
    """A catalog that is older than the buckets, or belongs to other buckets.

    Nothing may be deleted on the basis of the catalog.
    """

    code = "CatalogOutdated"


class LeaseLost(Conflict):
    """The lease of a work expired, and another process has taken the work over."""

    code = "LeaseLost"


class SourceChanged(ImgstoreError):
    """The length, the time stamp or the ETag of a source changed during the read."""

    code = "SourceChanged"
    status = 409


class StoreError(ImgstoreError):
    """A failed request to a store. `retryable` is true if a retry can help, according to the store's answer."""

    code = "StoreError"
    status = 503
    retryable: ClassVar[bool] = False


class ObjectNotFound(StoreError, KeyError):
    """A missing object."""

    code = "ObjectNotFound"
    __str__ = StoreError.__str__  # KeyError.__str__ returns the repr.


class StoreUnreachable(StoreError):
    """No answer from a store, or an answer that a retry may change."""

    code = "StoreUnreachable"
    retryable = True


class ExistenceUnknown(StoreUnreachable):
    """An object that may or may not exist (invariant Z10).

    The zones with an answer disagree, and another zone does not answer.
    """

    code = "ExistenceUnknown"


class StoreSilent(StoreUnreachable):
    """No connection to a store, or no answer in time. A store that refuses a request is not silent."""


class CircuitOpen(StoreUnreachable):
    """A request that was not sent, because the store has not answered for some time. A short wait does not help."""


class StoreDenied(StoreError):
    """Credentials that the store refused, or a permission that the file system refused."""

    code = "StoreDenied"


class StoreFull(StoreError):
    """No space left in the store, or no space left outside of the reserve."""

    code = "StoreFull"
    status = 507


class StoreMismatch(StoreError):
    """A bucket or folder of another installation, region or zone, or with an unsupported layout."""

    code = "StoreMismatch"


class ObjectCorrupt(StoreError):
    """An object that does not match the name, the checksum or the format. Such bytes are never served."""

    code = "ObjectCorrupt"


class ReadBackMismatch(ObjectCorrupt):
    """A new object that reads back with other bytes. `target` is the key below the slot.

    The object has the right length, so a repeated command would accept the object. The caller therefore deletes the
    object.
    """


class HostFault(ImgstoreError):
    """An error of this machine: no file descriptor, no memory, or a file of the installation that cannot be used."""

    code = "HostFault"
    status = 503


class OutputError(ImgstoreError):
    """An output file that cannot be written: no space, no permission, or an existing file."""

    code = "OutputError"
    status = 400


class ToolMissing(ImgstoreError):
    """A required program or optional package that is not installed."""

    code = "ToolMissing"
    status = 400


class ReplicationFailed(Conflict):
    """One or more failed target regions. The completed regions are usable."""

    code = "ReplicationJobsFailed"


def error_parts(error: ImgstoreError) -> dict[str, str | None]:
    """Return the parts of an error that another process of the host raises again."""
    return {name: getattr(error, name) for name in ("message", "found", "expected", "hint", "target")}
