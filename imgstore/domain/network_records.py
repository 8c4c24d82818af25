"""Network records: resources of Microsoft.Network that imgstore only stores and shows.

No network and no address exists behind a record. A client such as `az vm create` creates a machine with a network, and
later finds both unchanged.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from imgstore.domain import names
from imgstore.domain.tags import NO_TAGS

NETWORK: Final = "Microsoft.Network"
INTERFACES: Final = f"{NETWORK}/networkInterfaces"
"""The type that machines name."""
NETWORK_TYPES: Final = (
    f"{NETWORK}/virtualNetworks",
    f"{NETWORK}/networkSecurityGroups",
    f"{NETWORK}/publicIPAddresses",
    f"{NETWORK}/loadBalancers",
    INTERFACES,
)
"""Resource types in Azure's spelling."""

_ID: Final = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/(Microsoft\.Network/[^/]+)/([^/]+)((?:/[^/]+/[^/]+)*)",
    re.IGNORECASE,
)
_TYPE_BY_LOWER_CASE: Final = {each.lower(): each for each in NETWORK_TYPES}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkContent:
    """The content of a network record from a request."""

    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    body: Mapping[str, Any] = field(default_factory=dict)
    """All other fields as sent. Nothing depends on these fields."""
    parts: tuple[str, ...] = ()
    """Sub-resources, as the end of an id in lower case: ``subnets/default``."""
    references: tuple[str, ...] = ()
    """The ids of other network records in the content, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """A network record in a group."""

    uid: str
    subscription: str
    group: str
    """The name of the group."""
    type: str
    """A type in `NETWORK_TYPES`."""
    name: str
    content: NetworkContent
    created_at: datetime

    @property
    def resource_id(self) -> str:
        """The resource id."""
        return network_resource_id(self.subscription, self.group, self.type, self.name)


def network_resource_id(subscription: str, group: str, kind: str, name: str) -> str:
    """Return the resource id of a network record."""
    return f"{names.group_id(subscription, group)}/providers/{kind}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkResourceId:
    """The parts of the id of a network record or of a sub-resource."""

    subscription: str
    group: str
    type: str
    name: str
    part: str
    """The sub-resource in lower case, such as ``subnets/default``. Empty is the record itself."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a resource id. Return None if `text` is no such id, or if imgstore does not store the type."""
        match = _ID.fullmatch(text)
        kind = None if match is None else _TYPE_BY_LOWER_CASE.get(match[3].lower())
        if match is None or kind is None:
            return None
        return cls(subscription=match[1], group=match[2], type=kind, name=match[4], part=match[5][1:].lower())
