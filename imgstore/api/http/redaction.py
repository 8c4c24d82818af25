"""Remove local paths and database addresses from answers to remote callers.

Local paths help a user of the command line on the server's machine. For remote callers, paths are useful only in attacks.
The log contains the complete errors.
"""

import logging
import os
import re
from typing import Final

from imgstore.domain.errors import ImgstoreError, StoreError
from imgstore.domain.host.os_errors import find_os_error, host_fault
from imgstore.operations.installation import Installation
from imgstore.wire.errors import error_json
from imgstore.wire.json_text import Json

_log: Final = logging.getLogger("imgstore.api")


class InternalError(ImgstoreError):
    """An unexpected error. The log contains the details."""


def error_body(installation: Installation, error: Exception) -> Json:
    """Return ARM's envelope of an error for a remote caller.

    The envelope contains no details of unexpected errors and no text of the database. A changed error goes to the log.
    """
    if (found := find_os_error(error)) is not None:
        error = host_fault(found)
    if not isinstance(error, ImgstoreError):
        return error_json(
            InternalError("The server failed with an unexpected error.", hint="look into the server's log")
        )
    if isinstance(error, StoreError) and error.target == installation.catalog.place:
        _log.warning("%s", error)
        plain = type(error)("The server's catalog failed.", hint="send the same request again in a moment")
        return error_json(plain)
    if error.public is not None:
        _log.warning("%s", error)
        error = error.public
    body = error_json(error)
    shown = redact(installation, body)
    if shown != body:
        _log.warning("%s", error)
    return shown


def find_public_error(error: ImgstoreError) -> ImgstoreError:
    """Return the error for the holder of a signed URL, who has no account. A replaced error goes to the log.

    An error whose cause is an error of the operating system describes files, so the answer contains its kind only.
    """
    public = error.public
    if public is None and isinstance(error, StoreError) and _is_host_error(error):
        public = type(error)("The server cannot use its files now.", hint="send the same request again in a moment")
    if public is None:
        return error
    _log.warning("%s", error)
    return public


def _is_host_error(error: BaseException | None) -> bool:
    while isinstance(error, ImgstoreError):
        error = error.__cause__
    return isinstance(error, OSError)


def redact(installation: Installation, body: Json) -> Json:
    """Return a JSON value or a text with the paths and addresses of this machine replaced by descriptions."""
    if isinstance(body, str):
        for place, name in _places(installation):
            body = re.sub(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", name, body)
        return body
    if isinstance(body, list):
        return [redact(installation, each) for each in body]
    if isinstance(body, dict):
        return {name: redact(installation, value) for name, value in body.items()}
    return body


def _places(installation: Installation) -> list[tuple[str, str]]:
    """Return the paths and addresses with descriptions, the longest first: a path may be inside another path."""
    home, regions = str(installation.home), installation.regions.path
    known = {
        installation.catalog.place: "the catalog",
        regions: "regions.yaml",
        os.path.realpath(regions): "regions.yaml",
        home: "HOME",
        os.path.abspath(home): "HOME",
        os.path.realpath(home): "HOME",
    }
    for region in installation.regions.regions.values():
        known |= {zone.endpoint: f"the store of {region.name}" for zone in region.zones if zone.endpoint}
    return sorted(known.items(), key=lambda each: -len(each[0]))
