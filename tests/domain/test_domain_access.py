"""Access is denied by default. A grant covers the scope and all scopes below, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import AccessDenied, NotFound
from imgstore.domain.identity.access import (
    ROLE_ASSIGNMENTS,
    VERSIONS,
    Action,
    Grant,
    Principal,
    Role,
    administrator,
    authorize,
    authorize_list,
    check_scope,
    filter_readable,
    has_related_role,
    is_allowed,
    operation_name,
)
from imgstore.domain.names import definition_id, disk_id, gallery_id, group_id, version_id

VERSION = version_id("sub", "rg", "gal", "deb", "1.0.0")
ABOVE = [
    "/subscriptions/sub",
    group_id("sub", "rg"),
    gallery_id("sub", "rg", "gal"),
    VERSION.rsplit("/", 2)[0],
    VERSION,
]


def allowed(principal: Principal, action: Action, scope: str, of: str | None = None) -> bool:
    """Return whether `authorize` and `is_allowed` agree to permit the action."""
    try:
        authorize(principal, action, scope, of)
    except (AccessDenied, NotFound):
        assert not is_allowed(principal, action, scope, of)
        return False
    assert is_allowed(principal, action, scope, of)
    return True


def one(role: Role, scope: str) -> Principal:
    return Principal(name="ann", grants=(Grant(role=role, scope=scope),))


@pytest.mark.parametrize("action", list(Action))
def test_principal_without_roles_is_denied_each_action(action: Action) -> None:
    with pytest.raises(NotFound, match="The subscription 'Sub' could not be found") as caught:
        authorize(Principal(name="ann"), action, version_id("Sub", "rg", "gal", "deb", "1.0.0"))
    assert (caught.value.status, caught.value.error_code) == (404, "SubscriptionNotFound")
    with pytest.raises(AccessDenied) as denied:
        authorize(Principal(name="ann"), action, "/")
    assert (denied.value.status, denied.value.found) == (403, "no roles")


def test_denial_names_action_and_scope_in_azures_words() -> None:
    """The text does not depend on the existence of the resource."""
    ann = Principal(name="ann", uid="7", grants=(Grant(role=Role.READER, scope=group_id("sub", "other")),))
    with pytest.raises(AccessDenied) as caught:
        authorize(ann, Action.WRITE, VERSION)
    assert caught.value.message == (
        "The client 'ann' with object id '7' does not have authorization to perform action "
        f"'Microsoft.Compute/galleries/images/versions/write' over scope '{VERSION}' or the scope is invalid. If access "
        "was recently granted, please refresh your credentials."
    )
    assert (caught.value.error_code, caught.value.target) == ("AuthorizationFailed", VERSION)


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("scope", ["/", *ABOVE])
def test_administrator_is_allowed_each_action(action: Action, scope: str) -> None:
    assert allowed(administrator("root"), action, scope)


GALLERY, DEFINITION = gallery_id("sub", "rg", "gal"), definition_id("sub", "rg", "gal", "deb")
GROUP, DISK = group_id("sub", "rg"), disk_id("sub", "rg", "d1")
PLACES = {
    "Microsoft.Resources/subscriptions": "/subscriptions/sub",
    "Microsoft.Resources/subscriptions/resourceGroups": GROUP,
    "Microsoft.Compute/galleries": GALLERY,
    "Microsoft.Compute/galleries/images": DEFINITION,
    "Microsoft.Compute/galleries/images/versions": VERSION,
    "Microsoft.Compute/disks": DISK,
    "Microsoft.Compute/images": f"{GROUP}/providers/Microsoft.Compute/images/i1",
    "Microsoft.Compute/snapshots": f"{GROUP}/providers/Microsoft.Compute/snapshots/s1",
    "Microsoft.Compute/virtualMachines": f"{GROUP}/providers/Microsoft.Compute/virtualMachines/m1",
    "Microsoft.Network/virtualNetworks": f"{GROUP}/providers/Microsoft.Network/virtualNetworks/n1",
    "Microsoft.Network/virtualNetworks/subnets": f"{GROUP}/providers/Microsoft.Network/virtualNetworks/n2/subnets/s1",
    "Microsoft.Consumption/usageDetails": f"{GROUP}/providers/Microsoft.Consumption/usageDetails/u1",
    "Microsoft.Consumption/budgets": f"{GROUP}/providers/Microsoft.Consumption/budgets/b1",
    "Microsoft.Compute/locations/sharedGalleries": (
        "/subscriptions/sub/providers/Microsoft.Compute/locations/eastus/sharedGalleries/u"
    ),
}
"""A resource of each type. All resources but the first two are below the group or the subscription."""

EVERY = frozenset(Action)
NONE: frozenset[Action] = frozenset()
TABLE: dict[Role, dict[str, frozenset[Action]]] = {
    Role.OWNER: dict.fromkeys(PLACES, EVERY),
    Role.CONTRIBUTOR: dict.fromkeys(PLACES, EVERY) | {"Microsoft.Compute/galleries": EVERY - {Action.SHARE}},
    Role.READER: dict.fromkeys(PLACES, frozenset({Action.READ})),
    Role.IMAGE_READER: {
        "Microsoft.Compute/galleries/images": frozenset({Action.READ}),
        "Microsoft.Compute/galleries/images/versions": frozenset({Action.READ}),
    },
    Role.ARTIFACTS_PUBLISHER: {
        "Microsoft.Resources/subscriptions/resourceGroups": frozenset({Action.READ}),
        "Microsoft.Compute/galleries": EVERY - {Action.SHARE},
        "Microsoft.Compute/galleries/images": EVERY,
        "Microsoft.Compute/galleries/images/versions": EVERY,
        "Microsoft.Compute/images": EVERY,
        "Microsoft.Compute/disks": frozenset({Action.WRITE}),
        "Microsoft.Compute/virtualMachines": frozenset({Action.WRITE}),
        "Microsoft.Compute/locations/sharedGalleries": EVERY,
    },
    Role.SHARING_ADMIN: {"Microsoft.Compute/galleries": frozenset({Action.SHARE})},
    Role.BILLING_READER: {
        "Microsoft.Consumption/usageDetails": frozenset({Action.READ}),
        "Microsoft.Consumption/budgets": frozenset({Action.READ}),
    },
}
"""Azure's built-in roles: the permitted actions by resource type. A missing type permits nothing."""


@pytest.mark.parametrize("granted", ["/", "/subscriptions/sub", *PLACES.values()])
@pytest.mark.parametrize("role", list(Role))
def test_each_role_on_each_scope_permits_exactly_the_actions_of_the_table(role: Role, granted: str) -> None:
    for kind, asked in PLACES.items():
        reaches = granted in ("/", asked) or asked.startswith(granted + "/")
        wanted = TABLE[role].get(kind, NONE) if reaches else NONE
        assert {action for action in Action if allowed(one(role, granted), action, asked)} == wanted, (kind, asked)


@pytest.mark.parametrize("kind", list(PLACES))
def test_operation_has_the_name_of_azure(kind: str) -> None:
    assert operation_name(Action.WRITE, PLACES[kind].upper().replace("/SUB/", "/sub/")) == f"{kind}/write"
    assert operation_name(Action.SHARE, GALLERY) == "Microsoft.Compute/galleries/share/action"


@pytest.mark.parametrize("role", list(Role))
def test_only_an_owner_assigns_roles_and_administers(role: Role) -> None:
    owner = role is Role.OWNER
    for action in (Action.WRITE, Action.DELETE):
        assert allowed(one(role, GROUP), action, GALLERY, ROLE_ASSIGNMENTS) == owner
    assert allowed(one(role, "/"), Action.ADMINISTER, "/") == owner
    sees = role not in (Role.IMAGE_READER, Role.SHARING_ADMIN)
    assert allowed(one(role, GROUP), Action.READ, GALLERY, ROLE_ASSIGNMENTS) == sees


@pytest.mark.parametrize("name", ["providers", "resourceGroups", "subscriptions", "images", "Microsoft.Compute"])
def test_resource_may_be_named_like_a_path_keyword(name: str) -> None:
    """A gallery with the name `providers` is a gallery, and forbidden actions of a role stay forbidden."""
    for scope in (gallery_id("sub", name, name), gallery_id("sub", "rg", name), gallery_id(name, name, "g")):
        assert operation_name(Action.SHARE, scope) == "Microsoft.Compute/galleries/share/action"
        assert not allowed(one(Role.CONTRIBUTOR, "/"), Action.SHARE, scope)
    assert operation_name(Action.READ, group_id(name, name)) == "Microsoft.Resources/subscriptions/resourceGroups/read"


def test_latest_version_requires_read_on_versions_of_the_definition() -> None:
    assert allowed(one(Role.IMAGE_READER, GALLERY), Action.READ, DEFINITION, VERSIONS)
    assert not allowed(one(Role.IMAGE_READER, VERSION), Action.READ, DEFINITION, VERSIONS)


def test_lists_contain_readable_items_only() -> None:
    reader = one(Role.READER, gallery_id("sub", "rg", "a"))
    there = ["a", "b", "ab", "A"]
    assert filter_readable(reader, there, lambda name: gallery_id("sub", "rg", name)) == ["a", "A"]
    for scope in ("/subscriptions/sub", GROUP, gallery_id("sub", "rg", "a"), "/"):
        authorize_list(reader, scope)
    with pytest.raises(AccessDenied):
        authorize_list(reader, gallery_id("sub", "rg", "b"))
    with pytest.raises(NotFound):
        authorize_list(reader, "/subscriptions/other")
    assert has_related_role(one(Role.SHARING_ADMIN, VERSION), GALLERY)


BAD = [
    "",
    "//",
    "subscriptions/sub",
    "/subscriptions//resourceGroups/rg",
    "/subscriptions/sub/../other",
    "/subscriptions/sub/./resourceGroups/rg",
    "/subscriptions/sub/resourceGroups/%72g",
    "/subscriptions/sub/resourceGroups/rg%2f..",
    "/subscriptions/sub\\resourceGroups/rg",
    "/subscriptions/sub/resourceGroups/rg?x",
    "/subscriptions/sub/resourceGroups/rg#x",
    "/subscriptions/sub/resourceGroups/r g",
    "/subscriptions/sub/resourceGroups/rg\n",
    "/subscriptions/sub/resourceGroups/rg\0",
    "/subscriptions/sub/resourceGroups/" + "x" * 2100,
]


@pytest.mark.parametrize("scope", BAD)
def test_malformed_scope_grants_and_permits_nothing(scope: str) -> None:
    """The administrator is refused too.

    The scope names no resource, and a repaired scope might name another resource.
    """
    for principal in (administrator("root"), one(Role.OWNER, "/subscriptions/sub"), one(Role.OWNER, scope)):
        assert not is_allowed(principal, Action.READ, scope)
        assert not has_related_role(principal, scope)
    assert not is_allowed(one(Role.OWNER, scope), Action.READ, VERSION)
    with pytest.raises(NotFound):
        check_scope(scope)


@pytest.mark.parametrize("scope", ["/subscriptions", "/providers/x", "/a"])
def test_scope_of_a_role_is_the_installation_or_in_a_subscription(scope: str) -> None:
    with pytest.raises(NotFound):
        check_scope(scope)
    assert check_scope(GROUP + "/") == GROUP
    assert check_scope("/") == "/"


words = (
    st.sampled_from(["sub", "SUB", "\u017fub", "s%75b", "..", ".", "", "sub ", "sub\\", "\uff53ub", "sub\0", "sub/"])
    | st.text()
)


@given(st.lists(words, min_size=1, max_size=5))
def test_no_spelling_of_a_path_leaves_the_scope_of_a_grant(spelt: list[str]) -> None:
    """An Owner of a group may only act below the group, for any parts of a path."""
    path = "/subscriptions/sub/resourceGroups/" + "/".join(spelt)
    if is_allowed(one(Role.OWNER, GROUP), Action.WRITE, path):
        assert path.casefold().removesuffix("/").split("/")[:5] == GROUP.casefold().split("/")
        assert ".." not in path.split("/")


@pytest.mark.parametrize("scope", ABOVE[1:])
def test_role_does_not_apply_to_parent_scopes(scope: str) -> None:
    above = scope.rsplit("/", 2)[0]
    assert not allowed(one(Role.OWNER, scope), Action.READ, above)
    assert not allowed(one(Role.OWNER, scope), Action.READ, "/")


def test_common_prefix_of_names_grants_nothing() -> None:
    assert not allowed(one(Role.OWNER, gallery_id("sub", "rg", "gal")), Action.READ, gallery_id("sub", "rg", "gal2"))
    assert not allowed(one(Role.OWNER, group_id("sub", "rg")), Action.READ, group_id("sub", "rg2"))
    assert not allowed(one(Role.OWNER, "/subscriptions/sub"), Action.READ, "/subscriptions/sub2")


def test_scopes_are_compared_without_case() -> None:
    assert allowed(one(Role.READER, gallery_id("SUB", "Rg", "GAL") + "/"), Action.READ, VERSION)


@pytest.mark.parametrize("scope", ["", "//", "///"])
def test_an_empty_scope_grants_nothing(scope: str) -> None:
    """A lost scope must not become the whole installation."""
    assert not allowed(one(Role.OWNER, scope), Action.READ, VERSION)
    assert not allowed(one(Role.OWNER, scope), Action.READ, "/")


def test_one_of_several_grants_suffices() -> None:
    both = Principal(
        name="ann",
        grants=(
            Grant(role=Role.READER, scope="/subscriptions/sub"),
            Grant(role=Role.CONTRIBUTOR, scope=definition_id("sub", "rg", "gal", "deb")),
        ),
    )
    assert allowed(both, Action.WRITE, VERSION)
    assert not allowed(both, Action.WRITE, group_id("sub", "rg"))


names = st.sampled_from(["a", "b", "ab"])
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(paths, paths)
def test_grant_covers_exactly_the_scopes_with_its_parts_as_prefix(granted: str, asked: str) -> None:
    begins = asked.split("/")[: len(granted.split("/"))] == granted.split("/")
    assert allowed(one(Role.READER, granted), Action.READ, asked) == begins
