"""Test the limits of tags: a value just inside is accepted, and a value just outside is refused."""

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.tags import NO_TAGS, apply_tags

MANY = {f"k{number}": "v" for number in range(51)}
ACCEPTED = [
    dict.fromkeys([*MANY][:50], "v"),
    {"n" * 512: "v"},
    {"k": "v" * 256},
    {"a b.c:d_e-f;g=h#i": "<>%&\\?/"},
    {"Env": "a", "Environment": "b"},
    {"naïve ünïcode 镜像": ""},
    {"hidden-link:/subscriptions/x": "Resource", "link:/x": "y"},
    {"os-windows": "2022", "my.azure": "a"},
    {},
]
REFUSED = [
    (MANY, "InvalidTags", "Requested tag count - '51'. Maximum number of tags allowed - '50'"),
    ({"n" * 513: "v"}, "InvalidTagName", "Maximum allowed length for tag name - '512' characters"),
    ({"": "v"}, "InvalidTagName", "empty"),
    ({" ": "v"}, "InvalidTagName", "empty"),
    ({"k": "v" * 257}, "InvalidTagValueLength", "Maximum allowed length for tag value - '256' characters"),
    *(({f"a{each}b": "v"}, "InvalidTagNameCharacters", "have reserved characters") for each in "<>%&\\?/\0\n\x7f"),
    ({"Env": "a", "env": "b"}, "InvalidRequestContent", "already been added"),
    *(({f"{each}-x": "v"}, "InvalidTagName", "reserved prefixes") for each in ("azure", "Microsoft", "WINDOWS")),
]


@pytest.mark.parametrize("tags", ACCEPTED)
def test_tags_inside_the_limits_are_kept(tags: dict[str, str]) -> None:
    assert apply_tags(tags) == tags


@pytest.mark.parametrize(("tags", "code", "text"), REFUSED)
def test_tags_outside_the_limits_are_refused(tags: dict[str, str], code: str, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        apply_tags(tags)
    assert caught.value.error_code == code
    assert text in caught.value.message
    assert len(str(caught.value)) < 700


def test_a_request_replaces_all_tags_or_keeps_them() -> None:
    assert apply_tags(None, {"Env": "a"}) == {"Env": "a"}
    assert apply_tags({"env": "b"}, {"Env": "a"}) == {"env": "b"}
    assert apply_tags({}, {"Env": "a"}) == NO_TAGS
    assert apply_tags(MANY, dict(MANY)) == MANY, "tags of an older installation stay usable"
