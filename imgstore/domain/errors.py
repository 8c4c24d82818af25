"""The error tree. Each error says what was found, what was expected and what to do.

::

    ImgstoreError
    ├── InvalidInput                  400  a value that no state of the gallery would accept
    │   ├── SourceNotFound                     no file, disk, image or machine of the name that is to be read
    │   └── InvalidRegions              400  regions.yaml cannot be used; tells all its faults together
    ├── ImageRefused                  400  the bytes of an image are damaged, unsafe or not supported
    │   ├── ImageTruncated                 fewer bytes than the image's own header promises
    │   └── SafetyCheckFailed              one of the named safety checks failed
    ├── NotFound                      404  no such resource
    │   ├── ScopeNotFound                  the caller may not know whether it exists
    │   ├── ParentNotFound                 the resource above it is missing
    │   └── ImageNotAvailable              a version that is not complete in the asked region
    ├── Unauthenticated               401  nobody vouches for the caller
    │   └── ClientRefused                  an application that asks for a token does not prove itself
    ├── AccessDenied                  403  the principal may not
    ├── Conflict                      409  the state of the gallery does not allow it
    │   ├── PropertyChangeNotAllowed       the property can't change after creation
    │   ├── CatalogOutdated                the catalog is older than its buckets: nothing may be destroyed
    │   ├── WorkHeld                       another process does this very work now
    │   ├── LeaseLost                      this process was too slow; another has taken its work over
    │   └── ReplicationFailed              one or more target regions failed; the others serve
    ├── SourceChanged                 409  the source's bytes changed while they were read
    ├── StoreError                    503  the store could not do it
    │   ├── ObjectNotFound (KeyError)      no object of that key
    │   ├── StoreUnreachable               no answer, or an answer that trying again may mend
    │   │   ├── StoreSilent                no connection, or no answer in time
    │   │   └── CircuitOpen                not asked: it has not answered for a while
    │   │   └── ExistenceUnknown           the zones that answer disagree whether there is an object
    │   ├── StoreDenied                    the store refused the credentials
    │   ├── StoreFull                 507  no room left
    │   ├── StoreMismatch                  the bucket or folder belongs to something else
    │   └── ObjectCorrupt                  bytes that do not match their name or checksum
    │       └── ReadBackMismatch              an object that was stored just now and reads back wrong
    ├── OutputError                   400  a file to be written cannot be written
    └── ToolMissing                   400  an outside program or optional package that this needs is not installed
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """One of several things that went wrong together: an entry of Azure's `error.details`."""

    code: str
    target: str
    message: str


class ImgstoreError(Exception):
    """The root: an error that was foreseen, with enough said to act on it."""

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
        """What was there."""
        self.expected = expected
        """What should have been there."""
        self.hint = hint
        """What to do about it."""
        self.target = target
        """The property, file or resource that it is about, as Azure's `error.target`."""
        self.error_code = code or type(self).code
        """Azure's `error.code`."""
        self.details: tuple[ErrorDetail, ...] = ()
        """What went wrong part by part, as Azure's `error.details`."""
        self.public: ImgstoreError | None = None
        """What callers over the network are told instead, where the whole error tells of the server's own network."""

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
    """The text of an error that callers over the network may read."""
    return str(error.public if isinstance(error, ImgstoreError) and error.public is not None else error)


class InvalidInput(ImgstoreError):
    """A value that no state of the gallery would accept."""

    code = "InvalidParameter"
    status = 400


class SourceNotFound(InvalidInput):
    """There is no file, disk, snapshot, image or machine of the name that is to be read."""


class InvalidRegions(InvalidInput):
    """regions.yaml cannot be used. Raised once, with every fault found in the document."""

    code = "InvalidRegions"

    def __init__(self, path: str, faults: Sequence[str]) -> None:
        told = "; ".join(faults)
        super().__init__(
            f"{path} cannot be used: {told}",
            expected="a regions document as README.md describes it",
            hint=f"mend {path} and run `imgstore regions check`",
            target=path,
        )
        self.faults = tuple(faults)


class ImageRefused(ImgstoreError):
    """The bytes of an image are damaged, unsafe or of a kind that is not supported."""

    code = "InvalidImage"
    status = 400


class ImageTruncated(ImageRefused):
    """The source holds fewer bytes than the image's own header promises."""

    code = "ImageTruncated"


class SafetyCheckFailed(ImageRefused):
    """A named safety check failed: a backing file, a data file, an outside extent, a header bomb."""

    code = "SafetyCheckFailed"

    def __init__(self, check: str, message: str, *, found: str, expected: str, hint: str, target: str) -> None:
        super().__init__(message, found=found, expected=expected, hint=hint, target=target)
        self.check = check


class NotFound(ImgstoreError):
    """No such resource."""

    code = "ResourceNotFound"
    status = 404


class ScopeNotFound(NotFound):
    """The caller may not know whether the resource exists, or no resource can have such an id."""


class ParentNotFound(NotFound):
    """The resource above the one asked for is missing."""

    code = "ParentResourceNotFound"


class ImageNotAvailable(NotFound):
    """A version that does not exist, or is not complete in the asked region."""

    code = "GalleryImageNotFound"


class Unauthenticated(ImgstoreError):
    """Nobody vouches for the caller: no token, or one that is not believed."""

    code = "InvalidAuthenticationToken"
    status = 401


class ClientRefused(Unauthenticated):
    """An application that asks for a token does not prove itself. The code is OAuth's (RFC 6749, section 5.2)."""

    code = "invalid_client"


class AccessDenied(ImgstoreError):
    """The principal may not do that."""

    code = "AuthorizationFailed"
    status = 403


class Conflict(ImgstoreError):
    """The state of the gallery does not allow it."""

    code = "Conflict"
    status = 409


class PropertyChangeNotAllowed(Conflict):
    """A property that can't change after creation."""

    code = "PropertyChangeNotAllowed"

    def __init__(
        self, path: str, *, found: str, expected: str, hint: str | None = None, message: str | None = None
    ) -> None:
        super().__init__(
            message or f"Changing property '{path}' is not allowed.",
            found=found,
            expected=expected,
            hint=hint or "publish a new version, or give the value that it was made with",
            target=path,
        )


class WorkHeld(Conflict):
    """Another live process does this very work now."""

    code = "OperationInProgress"


class CatalogOutdated(Conflict):
    """The catalog is older than its buckets, or is none of theirs: nothing may be destroyed by what it says."""

    code = "CatalogOutdated"


class LeaseLost(Conflict):
    """This process was too slow to renew its lease; another has taken its work over."""

    code = "LeaseLost"


class SourceChanged(ImgstoreError):
    """The source's length, time stamp or ETag changed while it was read."""

    code = "SourceChanged"
    status = 409


class StoreError(ImgstoreError):
    """The store could not do it. `retryable` says whether trying again can help, as the store itself judged."""

    code = "StoreError"
    status = 503
    retryable: ClassVar[bool] = False


class ObjectNotFound(StoreError, KeyError):
    """No object of that key."""

    code = "ObjectNotFound"
    __str__ = StoreError.__str__  # KeyError would print the repr


class StoreUnreachable(StoreError):
    """No answer, or an answer that trying again may mend."""

    code = "StoreUnreachable"
    retryable = True


class ExistenceUnknown(StoreUnreachable):
    """Nobody can tell whether an object exists: the zones that answer disagree, and another one does not answer."""

    code = "ExistenceUnknown"


class StoreSilent(StoreUnreachable):
    """No connection, or no answer in time. A store that answers, be it with a refusal, is not silent."""


class CircuitOpen(StoreUnreachable):
    """The store was not asked: it has not answered for a while. Waiting a moment does not mend that."""


class StoreDenied(StoreError):
    """The store refused the credentials, or the file system the permission."""

    code = "StoreDenied"


class StoreFull(StoreError):
    """No room left in the store, or none beside the reserve that stays free."""

    code = "StoreFull"
    status = 507


class StoreMismatch(StoreError):
    """The bucket or folder belongs to another installation, region or zone, or to a layout that this code can't read."""

    code = "StoreMismatch"


class ObjectCorrupt(StoreError):
    """Bytes that do not match their name, checksum or format. Never served."""

    code = "ObjectCorrupt"


class ReadBackMismatch(ObjectCorrupt):
    """An object was stored and reads back as something else. `target` is its key below the slot.

    The object has the right length, so a repeated command would take it for an intact one: the caller deletes it.
    """


class OutputError(ImgstoreError):
    """A file that was to be written cannot be: no room, no permission, or it is there already."""

    code = "OutputError"
    status = 400


class ToolMissing(ImgstoreError):
    """An outside program or an optional package that this needs is not installed."""

    code = "ToolMissing"
    status = 400


class ReplicationFailed(Conflict):
    """One or more target regions failed. The regions that completed serve all the same."""

    code = "ReplicationJobsFailed"
