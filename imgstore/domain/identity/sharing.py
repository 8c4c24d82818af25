"""Sharing of a gallery beyond roles: with subscriptions and tenants, or with everybody. The functions are pure.

Sharing permits callers to read the definitions and versions, and to create disks from the versions. Sharing permits
nothing else: https://learn.microsoft.com/azure/virtual-machines/share-gallery
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
    """The kind of sharing of a gallery."""

    PRIVATE = "Private"
    GROUPS = "Groups"
    """Direct sharing with named subscriptions and tenants."""
    COMMUNITY = "Community"
    """Sharing with everybody, after the community gallery is enabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommunityInfo:
    """The public information about a community gallery."""

    publisher_uri: str
    publisher_contact: str
    eula: str
    public_name_prefix: str
    public_name: str | None = None
    """The public name of the gallery. None until the community gallery is enabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingProfile:
    """The kind of sharing, and the subscriptions and tenants with access."""

    permission: SharingPermission = SharingPermission.PRIVATE
    subscriptions: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    community: CommunityInfo | None = None

    def includes(self, subscription: str, tenant: str | None) -> bool:
        """Return whether the gallery is shared directly with a subscription, or with the tenant of the subscription.

        Sharing with the community does not count.
        """
        return _contains_id(subscription, self.subscriptions) or (
            tenant is not None and _contains_id(tenant, self.tenants)
        )


def change_profile(
    current: SharingProfile | None, permission: SharingPermission, community: CommunityInfo | None
) -> SharingProfile:
    """Return the profile of a gallery after a create or update request.

    Args:
        current: the present profile. None if no request ever set a profile.
        permission: the requested kind of sharing.
        community: the public information. Required for Community, and forbidden for other kinds.

    Raises:
        InvalidInput: the public information is missing, wrong or forbidden.
        PropertyChangeNotAllowed: the gallery has other sharing, which a reset must end first.
    """
    if (permission is SharingPermission.COMMUNITY) != (community is not None):
        raise InvalidInput(
            "The public information does not fit the sharing permission.",
            found=f"permission {permission}, {'with' if community else 'without'} public information",
            expected="publisher URI, publisher contact, EULA and public name prefix with Community only",
            hint="--permissions community --publisher-uri URI --publisher-email MAIL --eula TEXT "
            "--public-name-prefix NAME",
            target=f"{_TARGET}.communityGalleryInfo",
        )
    if community is not None:
        _check_community(community)
    if current is None or current == SharingProfile():
        return SharingProfile(permission=permission, community=community)
    if permission is not current.permission:
        raise PropertyChangeNotAllowed(
            f"{_TARGET}.permissions",
            found=permission,
            expected=current.permission,
            hint="end the sharing first: imgstore sig share reset",
        )
    known = None if current.community is None else replace(current.community, public_name=None)
    if known != community:
        raise PropertyChangeNotAllowed(
            f"{_TARGET}.communityGalleryInfo",
            found=str(community),
            expected=str(known),
            hint="end the sharing first: imgstore sig share reset",
        )
    return current


def add_members(
    current: SharingProfile | None, *, subscriptions: Iterable[str], tenants: Iterable[str]
) -> SharingProfile:
    """Return the profile with additional subscriptions and tenants.

    Raises:
        InvalidInput: an id is malformed, or no id is given.
        Conflict: the gallery is a community gallery, or the profile would have too many members.
    """
    profile = _direct_profile(current)
    added = _check_ids(subscriptions, "subscription"), _check_ids(tenants, "tenant")
    _check_any_id(*added)
    changed = replace(
        profile,
        permission=SharingPermission.GROUPS,
        subscriptions=_merge_ids(profile.subscriptions, added[0]),
        tenants=_merge_ids(profile.tenants, added[1]),
    )
    for members, most, what in (
        (changed.subscriptions, SUBSCRIPTIONS_MAX, "subscriptions"),
        (changed.tenants, TENANTS_MAX, "tenants"),
    ):
        if len(members) > most:
            raise Conflict(
                f"A gallery can be shared with at most {most} {what}.",
                found=f"{len(members)} {what}",
                expected=f"at most {most}",
                hint="remove some first, or share with the tenant instead: imgstore sig share remove",
                target=f"{_TARGET}.groups",
                code="QuotaExceeded",
            )
    return changed


def remove_members(
    current: SharingProfile | None, *, subscriptions: Iterable[str], tenants: Iterable[str]
) -> SharingProfile:
    """Return the profile without the given subscriptions and tenants. Ids that are not members have no effect.

    Raises:
        InvalidInput: an id is malformed, or no id is given.
        Conflict: the gallery is a community gallery.
    """
    profile = _direct_profile(current)
    removed = _check_ids(subscriptions, "subscription"), _check_ids(tenants, "tenant")
    _check_any_id(*removed)
    return replace(
        profile,
        subscriptions=tuple(each for each in profile.subscriptions if not _contains_id(each, removed[0])),
        tenants=tuple(each for each in profile.tenants if not _contains_id(each, removed[1])),
    )


def publish_profile(current: SharingProfile | None, unique: str) -> SharingProfile:
    """Return the profile of an enabled community gallery, with a public name.

    Args:
        current: the present profile.
        unique: the unique end of the public name. A profile with a public name stays unchanged.

    Raises:
        Conflict: the gallery was not created for the community.
    """
    if current is None or current.community is None:
        raise Conflict(
            "The gallery is not a community gallery.",
            found=f"permission {current.permission if current else SharingPermission.PRIVATE}",
            expected=f"permission {SharingPermission.COMMUNITY} with public information",
            hint="imgstore sig create -g RG -r GALLERY --permissions community ...",
            target=f"{_TARGET}.permissions",
        )
    if current.community.public_name is not None:
        return current
    name = f"{current.community.public_name_prefix}-{unique}"
    return replace(current, community=replace(current.community, public_name=name))


def _direct_profile(current: SharingProfile | None) -> SharingProfile:
    profile = current or SharingProfile()
    if profile.permission is SharingPermission.COMMUNITY:
        raise Conflict(
            "A community gallery is shared with everybody.",
            found=f"permission {profile.permission}",
            expected=f"permission {SharingPermission.GROUPS} or {SharingPermission.PRIVATE}",
            hint="end the sharing first: imgstore sig share reset",
            target=f"{_TARGET}.permissions",
        )
    return profile


def _check_any_id(*lists: tuple[str, ...]) -> None:
    if not any(lists):
        raise InvalidInput(
            "The request names no subscription and no tenant.",
            found="no id",
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
                f"The {name.replace('_', ' ')} of the community gallery is invalid.",
                found=repr(value[:80]),
                expected=f"1 to {_TEXT_CHARACTERS_MAX} characters",
                hint="this text helps people to decide whether to trust the images",
                target=f"{_TARGET}.communityGalleryInfo",
            )


def _check_ids(ids: Iterable[str], what: str) -> tuple[str, ...]:
    found = tuple(ids)
    for each in found:
        if not _UUID.fullmatch(each):
            raise InvalidInput(
                f"The {what} id is invalid.",
                found=repr(each[:80]),
                expected="a UUID: 8-4-4-4-12 hexadecimal digits",
                hint="imgstore auth tenant list" if what == "tenant" else "ask the users of the gallery for the id",
                target=f"{_TARGET}.groups",
            )
    return found


def _merge_ids(current: tuple[str, ...], added: tuple[str, ...]) -> tuple[str, ...]:
    by_key = {each.lower(): each for each in (*added, *current)}
    return tuple(by_key[key] for key in dict.fromkeys(each.lower() for each in (*current, *added)))


def _contains_id(one: str, several: Iterable[str]) -> bool:
    return one.lower() in {each.lower() for each in several}
