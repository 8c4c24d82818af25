"""Show, list, create, change and delete resources of a server, and wait for long-running operations."""

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
from imgstore.domain.text.strict_json import read_json
from imgstore.remote.connection import Connection, Response, retry_after_seconds
from imgstore.wire.api_versions import NEWEST
from imgstore.wire.errors import read_error
from imgstore.wire.json_text import Json

_SEGMENT_SAFE: Final = "/:@!$&'()*+,;=-._~"
_POLL_SECONDS_MIN: Final = 0.05
"""The pause before the second poll of an operation. Each pause doubles, up to the server's Retry-After, because most
operations end at once.
"""
_GROUP_MISSING: Final = "ResourceGroupNotFound"


@dataclass(slots=True, kw_only=True)
class Server:
    """A server, with the credentials of a caller."""

    connection: Connection
    subscriber: Subscriber = ignore_event
    _subscription: str = field(default="", init=False)

    @property
    def subscription(self) -> str:
        """The subscription that the user names, else the only visible subscription.

        Raises:
            InvalidInput: The caller sees no subscription, or several.
        """
        self._subscription = self._subscription or self.connection.address.subscription or self._only_subscription()
        return self._subscription

    # -- resources ----------------------------------------------------------------------------------------------------

    def show(self, resource_id: str, **query: str) -> Json:
        """Return a resource.

        Raises:
            NotFound: The resource does not exist.
        """
        return self.connection.request("GET", _request_target(resource_id, query)).json

    def find(self, resource_id: str, **query: str) -> Json:
        """Return a resource, or None if the resource does not exist."""
        try:
            return self.show(resource_id, **query)
        except NotFound:
            return None

    def page(self, above: str, request: PageRequest) -> tuple[list[Json], str | None]:
        """Return a part of a list, and the token of the next part, or None at the end.

        Args:
            above: The path of the list.
            request: The requested part. A token names a page of the server and the number of items already shown.

        Raises:
            InvalidInput: The token does not belong to such a list, or the page size is not positive.
        """
        link, skip = _read_token(request)
        items: list[Json] = []
        while True:
            answer = self.show(above, **({"$skiptoken": link} if link else {}))
            found, room = answer["value"][skip:], len(answer["value"])
            if request.items_max is not None:
                room = request.items_max - len(items)
            items += found[:room]
            if len(found) > room:
                return items, _write_token(link, skip + room)
            link, skip = _next_link(answer), 0
            if not link:
                return items, None
            if request.items_max is not None and len(items) == request.items_max:
                return items, _write_token(link, 0)

    def put(self, resource_id: str, body: Json) -> Json:
        """Create or replace a resource, wait for the end of the operation, and return the resource."""
        return self._finish_and_show(self.begin("PUT", resource_id, body), resource_id)

    def patch(self, resource_id: str, body: Json) -> Json:
        """Change a resource, wait for the end of the operation, and return the resource."""
        return self._finish_and_show(self.begin("PATCH", resource_id, body), resource_id)

    def delete(self, resource_id: str, **query: str) -> None:
        """Delete a resource, and wait for the end of the operation.

        Raises:
            NotFound: The resource does not exist.
        """
        answer = self.connection.request("DELETE", _request_target(resource_id, query))
        if answer.status == 204:
            self.show(resource_id)  # Raises the server's NotFound.
        self.finish(answer)

    def post_action(
        self,
        resource_id: str,
        action: str,
        body: Json = None,
        on_percent: Callable[[float], None] = lambda _percent: None,
        query: Mapping[str, str] | None = None,
    ) -> Json:
        """Send a POST, wait for the end of the operation, and return the answer. `on_percent`: see `finish`."""
        answer = self.connection.request("POST", _request_target(f"{resource_id}/{action}", query or {}), body)
        self.finish(answer, on_percent=on_percent)
        return answer.json

    def begin(self, method: str, resource_id: str, body: Json) -> Response:
        """Send a request that may start a long-running operation. `finish` waits for the operation."""
        return self.connection.request(method, _request_target(resource_id, {}), body)

    def finish(
        self,
        answer: Response,
        on_poll: Callable[[], bool] = lambda: False,
        on_percent: Callable[[float], None] = lambda _percent: None,
    ) -> bool:
        """Wait for the end of a long-running operation.

        Args:
            answer: The answer to the request that started the operation.
            on_poll: Called between polls. The value True ends the wait.
            on_percent: Called with the progress of the operation in percent, if the server names the progress.

        Returns:
            True if the operation has ended.

        Raises:
            ImgstoreError: The operation failed. The error is that of the server.
        """
        url = urlsplit(answer.headers.get("Azure-AsyncOperation") or "")
        if not url.path:
            return True
        pause_seconds = _POLL_SECONDS_MIN
        while True:
            poll = self.connection.request("GET", f"{url.path}?{url.query}")
            if poll.json["status"] != "InProgress":
                break
            if "percentComplete" in poll.json:
                on_percent(float(poll.json["percentComplete"]))
            if on_poll():
                return False
            self.connection.pause(pause_seconds)
            pause_seconds = max(
                _POLL_SECONDS_MIN, min(2 * pause_seconds, retry_after_seconds(poll.headers.get("Retry-After")))
            )
        if poll.json["status"] != "Succeeded":
            raise read_error(poll.json, 0)
        return True

    def _finish_and_show(self, answer: Response, resource_id: str) -> Json:
        """Return the answer of a completed request, or wait for the operation and return the resource."""
        if "Azure-AsyncOperation" not in answer.headers:
            return answer.json
        self.finish(answer)
        return self.show(resource_id)

    # -- where --------------------------------------------------------------------------------------------------------

    def location(self, resource_id: str, named: str | None) -> str:
        """Return the named region, or the region of a resource."""
        return named or str(self.show(resource_id)["location"])

    def group(self, group: str) -> str:
        """Return the id of a resource group."""
        return group_id(self.subscription, group)

    def gallery(self, group: str, gallery: str) -> str:
        """Return the id of a gallery."""
        return gallery_id(self.subscription, group, gallery)

    def disk(self, group: str, name: str) -> str:
        """Return the id of a managed disk."""
        return compute_id(self.subscription, group, "disks", name)

    def create_in_group(self, group: str, location: str, make: Callable[[], Json]) -> Json:
        """Call `make`.

        If the resource group is missing, create the group and call `make` again, as a local home does.
        """
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
                "The subscription is not unique.",
                found=", ".join(seen) or "none",
                expected="one visible subscription, or --subscription",
                hint="name the subscription with --subscription or IMGSTORE_SUBSCRIPTION; without any subscription, request a role",
                target="subscription",
                code="SubscriptionNotFound",
            )
        return seen[0]


def _request_target(resource_id: str, query: Mapping[str, str]) -> str:
    """Return the path and the query of a resource. Names come from users and are quoted."""
    return f"{quote(resource_id, safe=_SEGMENT_SAFE)}?{urlencode({'api-version': NEWEST, **query})}"


def _next_link(page: Json) -> str:
    link = parse_qs(urlsplit(page.get("nextLink") or "").query)
    return next(iter(link.get("$skiptoken", [])), "")


def _write_token(link: str, skip: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([link, skip]).encode()).decode().rstrip("=")


def _read_token(request: PageRequest) -> tuple[str, int]:
    if request.items_max is not None and request.items_max < 1:
        request.start_key("")  # Raises the error of an invalid page size.
    if request.token is None:
        return "", 0
    value: Any = None
    try:
        value = read_json(base64.urlsafe_b64decode(request.token + "=" * (-len(request.token) % 4)).decode())
    except ValueError:
        value = None
    match value:
        case [str(link), int(skip)] if skip >= 0:
            return link, skip
    raise invalid_token(request.token)
