"""The expressions of templates: what they give, and what is refused by its name."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.wire.expressions import evaluated
from imgstore.wire.scopes import Scope

SCOPE = Scope(
    subscription="s",
    group="rg",
    location="eastus",
    deployment="d",
    parameters={"name": "x", "many": [1, 2], "o": {"K": 3}},
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("[[literal]", "[literal]"),
        ("['it''s']", "it's"),
        ("[parameters('NAME')]", "x"),
        ("[concat('a', parameters('name'), 1)]", "ax1"),
        ("[concat(parameters('many'), createArray(3))]", [1, 2, 3]),
        ("[parameters('many')[1]]", 2),
        ("[parameters('o').k]", 3),
        ("[format('{0}-{1}-{0}', 'a', 2)]", "a-2-a"),
        ("[resourceId('Microsoft.Compute/galleries/images', 'g', 'i')]",
         "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/i"),
        ("[resourceId('other', 'Microsoft.Compute/disks', 'd')]",
         "/subscriptions/s/resourceGroups/other/providers/Microsoft.Compute/disks/d"),
        ("[resourceGroup().location]", "eastus"),
        ("[subscription().subscriptionId]", "s"),
        ("[deployment().name]", "d"),
        ("[if(equals(parameters('name'), 'x'), 'yes', reference('none'))]", "yes"),
        ("[if(false(), nosuch(1), 'no')]", "no"),
        ("[toUpper(substring('abc', 1, 1))]", "B"),
        ("[add(mul(2, 3), -1)]", 5),
        ("[split('a,b', ',')]", ["a", "b"]),
        ("[join(range(1, 3), '+')]", "1+2+3"),
        ("[union(createObject('a', 1), createObject('b', 2))]", {"a": 1, "b": 2}),
        ("[contains('abc', 'b')]", True),
        ("[coalesce(null(), 'a')]", "a"),
        ("[length(uniqueString('a'))]", 13),
    ],
)  # fmt: skip
def test_what_expressions_give(text: str, value: Any) -> None:
    assert evaluated({"a": [text]}, SCOPE) == {"a": [value]}


def test_the_turn_of_a_loop() -> None:
    scope = replace(SCOPE, copies={"": 2, "loop": 2, "outer": 1})
    assert evaluated("[concat(copyIndex(), copyIndex('OUTER'), copyIndex(10))]", scope) == "2112"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[nosuch('a')]", "'nosuch'"),
        ("[parameters('none')]", "'none'"),
        ("[variables('x')]", "'variables'"),
        ("[reference('x')]", "'reference'"),
        ("[copyIndex()]", "'copyIndex'"),
        ("[concat('a']", "can't be read"),
        ("['a' 'b']", "can't be read"),
        ("[]", "can't be read"),
        ("[parameters('o').none]", "'none'"),
        ("[int('x')]", "'int'"),
        ("[resourceId('x')]", "'resourceId'"),
        ("[resourceId('a/b', 'c', 'd')]", "'resourceId'"),
        ("[range(0, 100000000)]", "'range'"),
        ("[div(1, 0)]", "'div'"),
        (f"[{'concat(' * 100}'a'{')' * 100}]", "deeply"),
    ],
)
def test_what_means_nothing_is_named(text: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        evaluated(text, SCOPE)
    assert caught.value.error_code == "InvalidTemplate"
    assert named in caught.value.message


@given(st.text(alphabet="[](),.'abc1 -", max_size=30) | st.sampled_from(["concat(", "if(true(),", "range(1,"]))
def test_no_text_is_more_than_refused(text: str) -> None:
    with suppress(InvalidInput):
        evaluated(f"[{text}]", SCOPE)
