"""Sharing profiles: members, limits, and valid combinations."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import Conflict, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.identity.sharing import (
    SUBSCRIPTIONS_MAX,
    TENANTS_MAX,
    CommunityInfo,
    SharingPermission,
    SharingProfile,
    add_members,
    change_profile,
    publish_profile,
    remove_members,
)

INFO = CommunityInfo(publisher_uri="u", publisher_contact="c", eula="e", public_name_prefix="contoso")
ids = st.lists(st.sampled_from([str(uuid.UUID(int=number)) for number in range(8)]), max_size=5)


def several(count: int) -> list[str]:
    return [str(uuid.UUID(int=number)) for number in range(count)]


@given(ids, ids, ids)
def test_profile_includes_added_and_not_removed_subscriptions(
    first: list[str], second: list[str], gone: list[str]
) -> None:
    profile: SharingProfile | None = None
    for more in (first, second):
        if more:
            profile = add_members(profile, subscriptions=[each.upper() for each in more], tenants=())
    if gone:
        profile = remove_members(profile, subscriptions=gone, tenants=())
    reached = {each for each in several(8) if profile is not None and profile.includes(each, None)}
    assert reached == ({*first, *second} - set(gone))
    if profile is not None:
        assert len(profile.subscriptions) == len(reached)


def test_tenant_includes_the_subscriptions_of_the_tenant() -> None:
    tenant = several(1)[0]
    profile = add_members(None, subscriptions=(), tenants=[tenant])
    assert profile.permission is SharingPermission.GROUPS
    assert profile.includes("any", tenant.upper())
    assert not profile.includes(tenant, None)
    assert not profile.includes("any", None)


def test_limits_are_thirty_subscriptions_and_five_tenants() -> None:
    full = add_members(None, subscriptions=several(SUBSCRIPTIONS_MAX), tenants=several(TENANTS_MAX))
    assert (SUBSCRIPTIONS_MAX, TENANTS_MAX) == (30, 5)
    assert add_members(full, subscriptions=several(SUBSCRIPTIONS_MAX), tenants=()) == full
    for more in ({"subscriptions": several(31), "tenants": ()}, {"subscriptions": (), "tenants": several(6)}):
        with pytest.raises(Conflict) as caught:
            add_members(full, **more)
        assert caught.value.error_code == "QuotaExceeded"


@pytest.mark.parametrize("bad", ["", "me", "/", several(1)[0] + "0", "\n" + several(1)[0], several(1)[0] + "\n"])
def test_malformed_or_missing_ids_are_refused(bad: str) -> None:
    for change in (add_members, remove_members):
        with pytest.raises(InvalidInput):
            change(None, subscriptions=[bad], tenants=())
        with pytest.raises(InvalidInput):
            change(None, subscriptions=(), tenants=[bad])
        with pytest.raises(InvalidInput, match="names no subscription and no tenant"):
            change(None, subscriptions=(), tenants=())


def test_community_gallery_is_enabled_once() -> None:
    profile = change_profile(None, SharingPermission.COMMUNITY, INFO)
    assert profile.community is not None
    assert profile.community.public_name is None
    public = publish_profile(profile, "1")
    assert public.community is not None
    assert public.community.public_name == "contoso-1"
    assert publish_profile(public, "2") == public
    assert change_profile(public, SharingPermission.COMMUNITY, INFO) == public
    assert not public.includes("any", "any")
    for change in (add_members, remove_members):
        with pytest.raises(Conflict, match="everybody"):
            change(public, subscriptions=several(1), tenants=())
    for standing in (None, SharingProfile(), add_members(None, subscriptions=several(1), tenants=())):
        with pytest.raises(Conflict, match="not a community gallery"):
            publish_profile(standing, "1")


def test_other_sharing_requires_a_reset() -> None:
    groups = add_members(None, subscriptions=several(1), tenants=())
    community = change_profile(SharingProfile(), SharingPermission.COMMUNITY, INFO)
    other = CommunityInfo(publisher_uri="x", publisher_contact="c", eula="e", public_name_prefix="contoso")
    for standing, permission, info in (
        (groups, SharingPermission.COMMUNITY, INFO),
        (groups, SharingPermission.PRIVATE, None),
        (community, SharingPermission.GROUPS, None),
        (community, SharingPermission.COMMUNITY, other),
    ):
        with pytest.raises(PropertyChangeNotAllowed):
            change_profile(standing, permission, info)
    assert change_profile(groups, SharingPermission.GROUPS, None) == groups


@pytest.mark.parametrize(
    ("permission", "info"),
    [
        (SharingPermission.COMMUNITY, None),
        (SharingPermission.GROUPS, INFO),
        (SharingPermission.PRIVATE, INFO),
        *(
            (
                SharingPermission.COMMUNITY,
                CommunityInfo(publisher_uri=uri, publisher_contact=contact, eula=eula, public_name_prefix=prefix),
            )
            for uri, contact, eula, prefix in (
                ("", "c", "e", "contoso"),
                ("u", " ", "e", "contoso"),
                ("u", "c", "", "contoso"),
                ("u", "c", "e" * 2000, "contoso"),
                ("u", "c", "e", "four"),
                ("u", "c", "e", "a/b/c/d"),
                ("u", "c", "e", "x" * 17),
            )
        ),
    ],
)
def test_wrong_public_information_is_refused(permission: SharingPermission, info: CommunityInfo | None) -> None:
    with pytest.raises(InvalidInput):
        change_profile(None, permission, info)
