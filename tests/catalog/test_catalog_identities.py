"""Tenants, principals, issuers, keys and sharing on both engines."""

from dataclasses import replace
from datetime import timedelta

import pytest
from catalog_values import settle

from imgstore.catalog import Catalog, Transaction
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.identity.access import Role
from imgstore.domain.identity.principals import (
    Issuer,
    PrincipalKind,
    PrincipalRecord,
    RoleAssignment,
    Secret,
    SigningKey,
    Tenant,
)
from imgstore.domain.identity.sharing import CommunityInfo, SharingPermission, SharingProfile

pytest_plugins = ["catalog_fixtures"]


def tenant(transaction: Transaction, uid: str = "t1", name: str = "Ours") -> Tenant:
    made = Tenant(uid=uid, name=name, created_at=transaction.now())
    transaction.tenants.add(made)
    return made


def service_principal(
    transaction: Transaction, uid: str, tenant_uid: str = "t1", client_id: str = "c1"
) -> PrincipalRecord:
    made = PrincipalRecord(
        uid=uid,
        kind=PrincipalKind.SERVICE_PRINCIPAL,
        tenant_uid=tenant_uid,
        name="builder",
        client_id=client_id,
        created_at=transaction.now(),
    )
    transaction.principals.add(made)
    return made


def test_tenants_own_subscriptions(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        ours = tenant(transaction)
        theirs = tenant(transaction, "t2", "Theirs")
        transaction.tenants.assign_subscription("Sub", "t1")
        transaction.tenants.assign_subscription("SUB", "t2")
    with catalog.reading() as transaction:
        assert transaction.tenants.list() == [ours, theirs]
        assert transaction.tenants.find("OURS") == transaction.tenants.find("T1") == ours
        assert transaction.tenants.find("nobody") is None
        assert (transaction.tenants.owner_uid("sub"), transaction.tenants.owner_uid("other")) == ("t1", None)
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        tenant(transaction, "t3", "ours")


def test_principals_are_unique(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        tenant(transaction)
        tenant(transaction, "t2", "Theirs")
        here = service_principal(transaction, "p1")
        there = service_principal(transaction, "p2", "t2")
        ann = PrincipalRecord(
            uid="p3",
            kind=PrincipalKind.USER,
            tenant_uid="t1",
            name="ann",
            issuer="https://i",
            subject="42",
            created_at=transaction.now(),
        )
        transaction.principals.add(ann)
    with catalog.reading() as transaction:
        assert transaction.principals.find_by_client("t1", "c1") == here
        assert transaction.principals.find_by_client("t2", "c1") == there
        assert transaction.principals.find_by_client("t1", "C1") is None
        assert transaction.principals.find_by_subject("https://i", "42") == transaction.principals.get("p3") == ann
        assert transaction.principals.find_by_subject("https://i", "43") is None
        assert transaction.principals.list() == [here, there, ann]
    for again in (replace(here, uid="p4"), replace(ann, uid="p4", tenant_uid="t2")):
        with pytest.raises(Conflict), catalog.transaction() as transaction:
            transaction.principals.add(again)


def test_roles_are_removed_with_their_principal(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        tenant(transaction)
        service_principal(transaction, "p1")
        now = transaction.now()
        secrets = [
            Secret(
                uid=f"s{number}",
                client_id="c1",
                hint=f"im{number}",
                hashed="$h",
                created_at=now + timedelta(seconds=number),
                expires_at=now + timedelta(days=1),
            )
            for number in range(2)
        ]
        for each in secrets:
            transaction.secrets.add(each)
        role = RoleAssignment(uid="r1", principal_uid="p1", role=Role.READER, scope="/subscriptions/S", created_at=now)
        transaction.assignments.add(role)
    with catalog.reading() as transaction:
        assert transaction.secrets.list("c1") == secrets
        assert transaction.secrets.find("c1", "im1") == secrets[1]
        assert transaction.secrets.find("c2", "im1") is None
        assert transaction.assignments.list_of_principal("p1") == transaction.assignments.list() == [role]
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.assignments.add(replace(role, uid="r2", scope="/SUBSCRIPTIONS/s"))
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.assignments.add(replace(role, uid="r2", principal_uid="nobody"))
    with catalog.transaction() as transaction:
        transaction.principals.delete("p1")
        transaction.secrets.delete_all("c1")
        assert transaction.assignments.list() == []
        assert transaction.secrets.list("c1") == []
        with pytest.raises(NotFound):
            transaction.principals.delete("p1")
        with pytest.raises(NotFound):
            transaction.assignments.delete("r1")


def test_issuers_are_found_by_their_exact_url(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        tenant(transaction)
        made = Issuer(
            uid="i1", tenant_uid="t1", url="https://i/A", audience="a", jwks="/keys.json", created_at=transaction.now()
        )
        transaction.issuers.add(made)
    with catalog.reading() as transaction:
        assert transaction.issuers.get("https://i/A") == made
        assert transaction.issuers.get("https://i/a") is None
        assert transaction.issuers.list() == [made]
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.issuers.add(replace(made, uid="i2"))
    with catalog.transaction() as transaction:
        transaction.issuers.delete("i1")
        with pytest.raises(NotFound):
            transaction.issuers.delete("i1")


def test_retired_key_keeps_its_public_half_until_its_removal(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        now = transaction.now()
        for number, kid in enumerate(("old", "new")):
            made = SigningKey(kid=kid, pem=b"private " + kid.encode(), created_at=now + timedelta(seconds=number))
            transaction.signing_keys.add(made)
        until = now + timedelta(hours=1)
        transaction.signing_keys.retire("old", b"public", retired_at=now, trusted_until=until)
        transaction.signing_keys.retire("old", b"other", retired_at=until, trusted_until=until)
    with catalog.reading() as transaction:
        new, old = transaction.signing_keys.list()
        assert (new.kid, new.pem, new.retired_at) == ("new", b"private new", None)
        assert (old.kid, old.pem, old.retired_at, old.trusted_until) == ("old", b"public", now, until)
    with catalog.transaction() as transaction:
        transaction.signing_keys.remove_expired(until)
        assert len(transaction.signing_keys.list()) == 2
        transaction.signing_keys.remove_expired(until + timedelta(seconds=1))
        assert [each.kid for each in transaction.signing_keys.list()] == ["new"]


def test_sharing_of_a_gallery_is_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        gallery = settle(transaction).gallery
        assert gallery.sharing is None
        info = CommunityInfo(publisher_uri="u", publisher_contact="c", eula="e", public_name_prefix="contoso")
        groups = SharingProfile(permission=SharingPermission.GROUPS, subscriptions=("a", "b"), tenants=("t",))
        community = SharingProfile(permission=SharingPermission.COMMUNITY, community=info)
        public = replace(community, community=replace(info, public_name="contoso-1"))
        for profile in (None, SharingProfile(), groups, community, public):
            transaction.galleries.update(replace(gallery, sharing=profile))
            found = transaction.galleries.by_uid(gallery.uid)
            assert found.sharing == profile
            assert (found in transaction.galleries.list_shared()) == (profile == groups)
            assert (found in transaction.galleries.list_community()) == (profile == public)
