"""What a caller from elsewhere is not told: where on the server's machine things lie, and how it reaches its database.

The command line tells paths, since they help whoever sits there. To others they are of no use, unless to an attacker.
The log has them.
"""

import logging
import os
import re
from typing import Final

from imgstore.domain.errors import ImgstoreError, StoreError
from imgstore.operations.installation import Installation
from imgstore.wire.errors import error_json
from imgstore.wire.json_text import Json

_log: Final = logging.getLogger("imgstore.api")


class InternalError(ImgstoreError):
    """What nobody foresaw. The log has more."""


def error_body(installation: Installation, error: Exception) -> Json:
    """ARM's envelope of an error, for who is elsewhere: of what nobody foresaw, and of a database's words, nothing."""
    if not isinstance(error, ImgstoreError):
        return error_json(InternalError("The server failed in a way that was not foreseen.", hint="look into its log"))
    if isinstance(error, StoreError) and error.target == installation.catalog.place:
        _log.warning("%s", error)
        plain = type(error)("The server's catalog could not do it.", hint="send the same request again in a moment")
        return error_json(plain)
    if error.public is not None:
        _log.warning("%s", error)
        error = error.public
    body = error_json(error)
    shown = redact(installation, body)
    if shown != body:
        _log.warning("%s", error)
    return shown


def redact(installation: Installation, body: Json) -> Json:
    """The same JSON, or text, with places of this machine called by what lies there."""
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
    """Places and what they are called; those inside others first."""
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
