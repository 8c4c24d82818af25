"""A server's resources: shown, listed, made, deleted, and what takes long waited for."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from imgstore.domain.errors import InvalidInput, NotFound
from imgstore.domain.names import compute_id, gallery_id, group_id, region_key
from imgstore.domain.paging import PageRequest, invalid_token
from imgstore.domain.progress import Subscriber, ignore_event
from imgstore.domain.strict_json import read_json
from imgstore.remote.connection import Connection, Response, retry_after_seconds
from imgstore.wire.api_versions import NEWEST
from imgstore.wire.errors import read_error
from imgstore.wire.json_text import Json

_SEGMENT_SAFE: Final = "/:@!$&'()*+,;=-._~"
_LOOK_SECONDS_MIN: Final = 0.05
"""To the second look at what goes on. Each is as long again as the one before, until it is what the server asks for: most
is done at once."""
_GROUP_MISSING: Final = "ResourceGroupNotFound"


@dataclass(slots=True, kw_only=True)
class Server:
    """A server, in a caller's name."""

    connection: Connection
    subscriber: Subscriber = ignore_event
    _subscription: str = field(default="", init=False)

    @property
    def subscription(self) -> str:
        """The one that was named, else the only one that the caller sees.

        Raises:
            InvalidInput: there are several, or none.
        """
        self._subscription = self._subscription or self.connection.address.subscription or self._only_subscription()
        return self._subscription

    # -- resources ----------------------------------------------------------------------------------------------------

    def show(self, resource_id: str, **query: str) -> Json:
        """A resource.

        Raises:
            NotFound: it is not there.
        """
        return self.connection.request("GET", _target(resource_id, query)).json

    def find(self, resource_id: str, **query: str) -> Json:
        """The same; None where it is not there."""
        try:
            return self.show(resource_id, **query)
        except NotFound:
            return None

    def page(self, above: str, request: PageRequest) -> tuple[list[Json], str | None]:
        """A part of a list, and the token of the next part; None at the end.

        Args:
            above: the path of the list.
            request: which part. A token names a page of the server's and how much of it was shown.

        Raises:
            InvalidInput: the token is none of such a list, or the page is to have no items.
        """
        link, skip = _read_token(request)
        items: list[Json] = []
        while True:
            told = self.show(above, **({"$skiptoken": link} if link else {}))
            found, room = told["value"][skip:], len(told["value"])
            if request.items_max is not None:
                room = request.items_max - len(items)
            items += found[:room]
            if len(found) > room:
                return items, _token(link, skip + room)
            link, skip = _next(told), 0
            if not link:
                return items, None
            if request.items_max is not None and len(items) == request.items_max:
                return items, _token(link, 0)

    def put(self, resource_id: str, body: Json) -> Json:
        """Make a resource, or replace it, and wait until that is done; how it is then."""
        return self._finish_and_show(self.begin("PUT", resource_id, body), resource_id)

    def patch(self, resource_id: str, body: Json) -> Json:
        """Change it, likewise."""
        return self._finish_and_show(self.begin("PATCH", resource_id, body), resource_id)

    def create_or_update(self, resource_id: str, body: Json) -> Json:
        """Make a resource, or change what the body speaks of where it stands: what it leaves out stays."""
        return self.put(resource_id, body) if self.find(resource_id) is None else self.patch(resource_id, body)

    def delete(self, resource_id: str, **query: str) -> None:
        """Delete it, and wait until it is gone.

        Raises:
            NotFound: it is not there.
        """
        answer = self.connection.request("DELETE", _target(resource_id, query))
        if answer.status == 204:
            self.show(resource_id)  # Tells that it is not there, in the server's words.
        self.finish(answer)

    def post_action(self, resource_id: str, action: str, body: Json = None) -> Json:
        """A POST, and what it came to."""
        answer = self.connection.request("POST", _target(f"{resource_id}/{action}", {}), body)
        self.finish(answer)
        return answer.json

    def begin(self, method: str, resource_id: str, body: Json) -> Response:
        """Have something done that may take long: `finish` waits for it."""
        return self.connection.request(method, _target(resource_id, {}), body)

    def finish(self, answer: Response, on_poll: Callable[[], bool] = lambda: False) -> bool:
        """Wait until what was begun has ended.

        Args:
            answer: to the request that began it.
            on_poll: called between two looks; True ends the waiting.

        Returns:
            Whether it has ended.

        Raises:
            ImgstoreError: it failed, as it failed there.
        """
        url = urlsplit(answer.headers.get("Azure-AsyncOperation") or "")
        if not url.path:
            return True
        pause_seconds = _LOOK_SECONDS_MIN
        while True:
            told = self.connection.request("GET", f"{url.path}?{url.query}")
            if told.json["status"] != "InProgress":
                break
            if on_poll():
                return False
            self.connection.pause(pause_seconds)
            pause_seconds = max(
                _LOOK_SECONDS_MIN, min(2 * pause_seconds, retry_after_seconds(told.headers.get("Retry-After")))
            )
        if told.json["status"] != "Succeeded":
            raise read_error(told.json, 0)
        return True

    def _finish_and_show(self, answer: Response, resource_id: str) -> Json:
        """As it was answered where that was the end of it, else as it is now."""
        if "Azure-AsyncOperation" not in answer.headers:
            return answer.json
        self.finish(answer)
        return self.show(resource_id)

    # -- where --------------------------------------------------------------------------------------------------------

    def location(self, resource_id: str, named: str | None) -> str:
        """A region's name: the one that is named, else that of a resource."""
        return named or str(self.show(resource_id)["location"])

    def group(self, group: str) -> str:
        """A resource group's id."""
        return group_id(self.subscription, group)

    def gallery(self, group: str, gallery: str) -> str:
        """A gallery's."""
        return gallery_id(self.subscription, group, gallery)

    def disk(self, group: str, name: str) -> str:
        """A managed disk's."""
        return compute_id(self.subscription, group, "disks", name)

    def create_in_group(self, group: str, location: str, make: Callable[[], Json]) -> Json:
        """What `create_or_update` makes, in a group that is made where it is missing, as a home here does it."""
        try:
            return make()
        except NotFound as error:
            if error.error_code != _GROUP_MISSING:
                raise
        self.put(self.group(group), {"location": region_key(location)})
        return make()

    def _only_subscription(self) -> str:
        seen = [str(each["subscriptionId"]) for each in self.show("/subscriptions")["value"]]
        if len(seen) != 1:
            raise InvalidInput(
                "The server has not one subscription for you.",
                found=", ".join(seen) or "none",
                expected="one, or the name of one",
                hint="name it with --subscription or IMGSTORE_SUBSCRIPTION; without any, ask for a role there",
                target="subscription",
                code="SubscriptionNotFound",
            )
        return seen[0]


def _target(resource_id: str, query: Mapping[str, str]) -> str:
    """Path and query of a resource; its names are a person's, and are quoted."""
    return f"{quote(resource_id, safe=_SEGMENT_SAFE)}?{urlencode({'api-version': NEWEST, **query})}"


def _next(told: Json) -> str:
    link = parse_qs(urlsplit(told.get("nextLink") or "").query)
    return next(iter(link.get("$skiptoken", [])), "")


def _token(link: str, skip: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([link, skip]).encode()).decode().rstrip("=")


def _read_token(request: PageRequest) -> tuple[str, int]:
    if request.items_max is not None and request.items_max < 1:
        request.start_key("")  # Says what is wrong.
    if request.token is None:
        return "", 0
    told: Any = None
    try:
        told = read_json(base64.urlsafe_b64decode(request.token + "=" * (-len(request.token) % 4)).decode())
    except ValueError:
        told = None
    match told:
        case [str(link), int(skip)] if skip >= 0:
            return link, skip
    raise invalid_token(request.token)
