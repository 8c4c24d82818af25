"""Deny by default: what no grant covers is refused, and a grant covers its scope and what is below it, no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.access import Action, Grant, Principal, Role, administrator, authorize
from imgstore.domain.errors import AccessDenied
from imgstore.domain.names import definition_id, gallery_id, group_id, version_id

VERSION = version_id("sub", "rg", "gal", "deb", "1.0.0")
ABOVE = [
    "/subscriptions/sub",
    group_id("sub", "rg"),
    gallery_id("sub", "rg", "gal"),
    VERSION.rsplit("/", 2)[0],
    VERSION,
]


def allowed(principal: Principal, action: Action, scope: str) -> bool:
    try:
        authorize(principal, action, scope)
    except AccessDenied:
        return False
    return True


def one(role: Role, scope: str) -> Principal:
    return Principal(name="ann", grants=(Grant(role=role, scope=scope),))


@pytest.mark.parametrize("action", list(Action))
def test_nobody_may_do_anything(action: Action) -> None:
    with pytest.raises(AccessDenied, match="'ann' may not") as caught:
        authorize(Principal(name="ann"), action, VERSION)
    assert (caught.value.status, caught.value.found, caught.value.target) == (403, "no roles", VERSION)


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("scope", ["/", *ABOVE])
def test_the_administrator_may_do_everything(action: Action, scope: str) -> None:
    assert allowed(administrator("root"), action, scope)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.OWNER, set(Action)),
        (Role.CONTRIBUTOR, {Action.READ, Action.WRITE, Action.DELETE}),
        (Role.READER, {Action.READ}),
    ],
)
@pytest.mark.parametrize("scope", ABOVE)
def test_a_role_reaches_down_and_no_further_than_it_says(role: Role, may: set[Action], scope: str) -> None:
    assert {action for action in Action if allowed(one(role, scope), action, VERSION)} == may


@pytest.mark.parametrize("scope", ABOVE[1:])
def test_a_role_never_reaches_up(scope: str) -> None:
    above = scope.rsplit("/", 2)[0]
    assert not allowed(one(Role.OWNER, scope), Action.READ, above)
    assert not allowed(one(Role.OWNER, scope), Action.READ, "/")


def test_a_name_that_begins_alike_is_another() -> None:
    assert not allowed(one(Role.OWNER, gallery_id("sub", "rg", "gal")), Action.READ, gallery_id("sub", "rg", "gal2"))
    assert not allowed(one(Role.OWNER, group_id("sub", "rg")), Action.READ, group_id("sub", "rg2"))
    assert not allowed(one(Role.OWNER, "/subscriptions/sub"), Action.READ, "/subscriptions/sub2")


def test_scopes_are_compared_as_azure_does() -> None:
    assert allowed(one(Role.READER, gallery_id("SUB", "Rg", "GAL") + "/"), Action.READ, VERSION)


@pytest.mark.parametrize("scope", ["", "//", "///"])
def test_an_empty_scope_grants_nothing(scope: str) -> None:
    """A scope that was lost on the way must not become the whole installation."""
    assert not allowed(one(Role.OWNER, scope), Action.READ, VERSION)
    assert not allowed(one(Role.OWNER, scope), Action.READ, "/")


def test_any_one_of_several_grants_suffices() -> None:
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
def test_a_grant_covers_a_scope_exactly_when_its_parts_begin_it(granted: str, asked: str) -> None:
    begins = asked.split("/")[: len(granted.split("/"))] == granted.split("/")
    assert allowed(one(Role.READER, granted), Action.READ, asked) == begins
