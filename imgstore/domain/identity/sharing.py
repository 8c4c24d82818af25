"""Whom a gallery is shared with besides those who have a role in it: subscriptions and tenants, or everybody. Pure.

Who a gallery is shared with reads its definitions and versions and makes disks of them, and nothing else:
https://learn.microsoft.com/azure/virtual-machines/share-gallery
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from imgstore.domain.errors import Conflict, InvalidInput, PropertyChangeNotAllowed

SUBSCRIPTIONS_MAX: Final = 30
TENANTS_MAX: Final = 5

_PREFIX: Final = re.compile(r"[A-Za-z0-9]{5,16}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TEXT_CHARACTERS_MAX: Final = 1_024
_TARGET: Final = "properties.sharingProfile"


class SharingPermission(StrEnum):
    """How a gallery is shared."""

    PRIVATE = "Private"
    GROUPS = "Groups"
    """With subscriptions and tenants that are named: direct sharing."""
    COMMUNITY = "Community"
    """With everybody, once that is enabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommunityInfo:
    """What everybody is told of a community gallery."""

    publisher_uri: str
    publisher_contact: str
    eula: str
    public_name_prefix: str
    public_name: str | None = None
    """By which everybody finds it; None until the community is enabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingProfile:
    """How a gallery is shared, and with whom."""

    permission: SharingPermission = SharingPermission.PRIVATE
    subscriptions: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    community: CommunityInfo | None = None

    def includes(self, subscription: str, tenant: str | None) -> bool:
        """Whether it is shared directly with a subscription, or with the tenant that the subscription belongs to."""
        return _among(subscription, self.subscriptions) or (tenant is not None and _among(tenant, self.tenants))


def change_profile(
    standing: SharingProfile | None, permission: SharingPermission, community: CommunityInfo | None
) -> SharingProfile:
    """The profile that a gallery gets when it is made or put again.

    Args:
        standing: that of the gallery; None where it was never said.
        permission: the wanted one.
        community: what the community is told; needed for it, and for it alone.

    Raises:
        InvalidInput: the community's details are missing or wrong, or there is no community.
        PropertyChangeNotAllowed: the gallery is shared in another way; `reset` comes first.
    """
    if (permission is SharingPermission.COMMUNITY) != (community is not None):
        raise InvalidInput(
            "The community's details and the permission do not fit together.",
            found=f"permission {permission}, {'with' if community else 'without'} details",
            expected="publisher URI, publisher contact, EULA and public name prefix with Community, and with it alone",
            hint="--permissions community --publisher-uri URI --publisher-email MAIL --eula TEXT "
            "--public-name-prefix NAME",
            target=f"{_TARGET}.communityGalleryInfo",
        )
    if community is not None:
        _check_community(community)
    if standing is None or standing == SharingProfile():
        return SharingProfile(permission=permission, community=community)
    if permission is not standing.permission:
        raise PropertyChangeNotAllowed(
            f"{_TARGET}.permissions",
            found=permission,
            expected=standing.permission,
            hint="end the sharing first: imgstore sig share reset",
        )
    told = None if standing.community is None else replace(standing.community, public_name=None)
    if told != community:
        raise PropertyChangeNotAllowed(
            f"{_TARGET}.communityGalleryInfo",
            found=str(community),
            expected=str(told),
            hint="end the sharing first: imgstore sig share reset",
        )
    return standing


def add_members(
    standing: SharingProfile | None, *, subscriptions: Iterable[str], tenants: Iterable[str]
) -> SharingProfile:
    """The profile, shared with these too.

    Raises:
        InvalidInput: an id is none, or nobody is named.
        Conflict: it is a community's, or too many are named.
    """
    profile = _groups(standing)
    more = _checked(subscriptions, "subscription"), _checked(tenants, "tenant")
    _check_some(*more)
    wanted = replace(
        profile,
        permission=SharingPermission.GROUPS,
        subscriptions=_joined(profile.subscriptions, more[0]),
        tenants=_joined(profile.tenants, more[1]),
    )
    for members, most, what in (
        (wanted.subscriptions, SUBSCRIPTIONS_MAX, "subscriptions"),
        (wanted.tenants, TENANTS_MAX, "tenants"),
    ):
        if len(members) > most:
            raise Conflict(
                f"A gallery can be shared with at most {most} {what}.",
                found=f"{len(members)} {what}",
                expected=f"at most {most}",
                hint="remove some first, or share with their tenant: imgstore sig share remove",
                target=f"{_TARGET}.groups",
                code="QuotaExceeded",
            )
    return wanted


def remove_members(
    standing: SharingProfile | None, *, subscriptions: Iterable[str], tenants: Iterable[str]
) -> SharingProfile:
    """The profile, shared with these no more; who was none of them is none still.

    Raises:
        InvalidInput: an id is none, or nobody is named.
        Conflict: it is a community's.
    """
    profile = _groups(standing)
    less = _checked(subscriptions, "subscription"), _checked(tenants, "tenant")
    _check_some(*less)
    return replace(
        profile,
        subscriptions=tuple(each for each in profile.subscriptions if not _among(each, less[0])),
        tenants=tuple(each for each in profile.tenants if not _among(each, less[1])),
    )


def publish_profile(standing: SharingProfile | None, unique: str) -> SharingProfile:
    """The profile of a community gallery, found by everybody from now on.

    Args:
        standing: that of the gallery.
        unique: what makes its public name the only one; used at the first time.

    Raises:
        Conflict: the gallery was not made for the community.
    """
    if standing is None or standing.community is None:
        raise Conflict(
            "The gallery is no community gallery.",
            found=f"permission {standing.permission if standing else SharingPermission.PRIVATE}",
            expected=f"permission {SharingPermission.COMMUNITY} with the community's details",
            hint="imgstore sig create -g RG -r GALLERY --permissions community ...",
            target=f"{_TARGET}.permissions",
        )
    if standing.community.public_name is not None:
        return standing
    name = f"{standing.community.public_name_prefix}-{unique}"
    return replace(standing, community=replace(standing.community, public_name=name))


def _groups(standing: SharingProfile | None) -> SharingProfile:
    profile = standing or SharingProfile()
    if profile.permission is SharingPermission.COMMUNITY:
        raise Conflict(
            "A community gallery is shared with everybody.",
            found=f"permission {profile.permission}",
            expected=f"permission {SharingPermission.GROUPS} or {SharingPermission.PRIVATE}",
            hint="end that first: imgstore sig share reset",
            target=f"{_TARGET}.permissions",
        )
    return profile


def _check_some(*lists: tuple[str, ...]) -> None:
    if not any(lists):
        raise InvalidInput(
            "Nobody is named to share with.",
            found="no subscription and no tenant",
            expected="at least one id",
            hint="--subscription-ids ID ... or --tenant-ids ID ...",
            target=f"{_TARGET}.groups",
        )


def _check_community(info: CommunityInfo) -> None:
    if not _PREFIX.fullmatch(info.public_name_prefix):
        raise InvalidInput(
            "The public name prefix is invalid.",
            found=repr(info.public_name_prefix[:80]),
            expected="5 to 16 letters and digits",
            hint="for example contoso",
            target=f"{_TARGET}.communityGalleryInfo.publicNamePrefix",
        )
    for name in ("publisher_uri", "publisher_contact", "eula"):
        value = getattr(info, name)
        if not value.strip() or len(value) > _TEXT_CHARACTERS_MAX:
            raise InvalidInput(
                f"The community's {name.replace('_', ' ')} is invalid.",
                found=repr(value[:80]),
                expected=f"1 to {_TEXT_CHARACTERS_MAX} characters",
                hint="people decide by it whether to trust the images",
                target=f"{_TARGET}.communityGalleryInfo",
            )


def _checked(ids: Iterable[str], what: str) -> tuple[str, ...]:
    found = tuple(ids)
    for each in found:
        if not _UUID.fullmatch(each):
            raise InvalidInput(
                f"The {what} id is invalid.",
                found=repr(each[:80]),
                expected="a UUID: 8-4-4-4-12 hexadecimal digits",
                hint="imgstore auth tenant list" if what == "tenant" else "ask who is to read the gallery",
                target=f"{_TARGET}.groups",
            )
    return found


def _joined(standing: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    by_key = {each.lower(): each for each in (*more, *standing)}
    return tuple(by_key[key] for key in dict.fromkeys(each.lower() for each in (*standing, *more)))


def _among(one: str, several: Iterable[str]) -> bool:
    return one.lower() in {each.lower() for each in several}
