"""Inert resources: what clients keep beside machines and imgstore only writes down, as networks and what is in them.

Nothing is made of one: no network, no address. They are there so that a client which asks for a machine and its network
together, as `az vm create` does, finds both as it left them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from imgstore.domain import names
from imgstore.domain.resources import NO_TAGS

NETWORK: Final = "Microsoft.Network"
INTERFACES: Final = f"{NETWORK}/networkInterfaces"
"""What machines name."""
NETWORK_TYPES: Final = (
    f"{NETWORK}/virtualNetworks",
    f"{NETWORK}/networkSecurityGroups",
    f"{NETWORK}/publicIPAddresses",
    INTERFACES,
)
"""As Azure spells them."""

_ID: Final = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/(Microsoft\.Network/[^/]+)/([^/]+)((?:/[^/]+/[^/]+)*)",
    re.IGNORECASE,
)
_SPELLED: Final = {each.lower(): each for each in NETWORK_TYPES}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkContent:
    """What somebody said of one."""

    location: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    body: Mapping[str, Any] = field(default_factory=dict)
    """The rest of it, as it was sent: nothing here depends on it."""
    parts: tuple[str, ...] = ()
    """What lies below it, as the end of an id in lower case: ``subnets/default``."""
    references: tuple[str, ...] = ()
    """The ids of other inert resources that it names, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """One that stands in a group."""

    uid: str
    subscription: str
    group: str
    """The group's name."""
    type: str
    """One of `NETWORK_TYPES`."""
    name: str
    content: NetworkContent
    created_at: datetime

    @property
    def resource_id(self) -> str:
        """Its id."""
        return network_resource_id(self.subscription, self.group, self.type, self.name)


def network_resource_id(subscription: str, group: str, kind: str, name: str) -> str:
    """The resource id of one, of a type."""
    return f"{names.group_id(subscription, group)}/providers/{kind}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkResourceId:
    """The id of one, or of a part of one, taken apart."""

    subscription: str
    group: str
    type: str
    name: str
    part: str
    """``subnets/default``, in lower case; empty is the resource itself."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `text` names; None where it is no such id, or of a type that is not kept here."""
        match = _ID.fullmatch(text)
        kind = None if match is None else _SPELLED.get(match[3].lower())
        if match is None or kind is None:
            return None
        return cls(subscription=match[1], group=match[2], type=kind, name=match[4], part=match[5][1:].lower())
