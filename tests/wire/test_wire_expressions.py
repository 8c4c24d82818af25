"""Template expressions: results, and refused expressions."""

import uuid
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.templates.expressions import evaluate
from imgstore.templates.scope import Scope

SCOPE = Scope(
    subscription="s",
    group="rg",
    location="eastus",
    deployment="d",
    tenant="t",
    functions={
        "my.twice": {"parameters": [{"name": "s"}], "output": {"value": "[concat(parameters('S'), parameters('s'))]"}},
        "my.peek": {"output": {"value": "[variables('x')]"}},
        "my.self": {"output": {"value": "[my.self()]"}},
    },
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
        ("[uniqueString('hello', 'world')]", "a7wkljktk6wne"),
        ("[uniqueString('/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/my-rg')]", "bmg7c6xu4tw46"),
        ("[guid('a', 'b')]", str(uuid.uuid5(uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830"), "a-b"))),
        ("[base64ToString(base64('ü'))]", "ü"),
        ("[dataUriToString(dataUri('a,b'))]", "a,b"),
        ("[base64ToJson(base64('[1]'))]", [1]),
        ("[json('{\"a\": [1, null]}').a]", [1, None]),
        ("[union(createObject('a', createObject('b', 1)), createObject('a', createObject('c', 2)))]",
         {"a": {"b": 1, "c": 2}}),
        ("[union(createArray(1, 2), createArray(2, true()))]", [1, 2, True]),
        ("[intersection(createArray(1, 2, 3), createArray(3, 2))]", [2, 3]),
        ("[intersection(createObject('a', 1, 'b', 2), createObject('a', 1, 'b', 3))]", {"a": 1}),
        ("[take(skip('abcdef', 2), 3)]", "cde"),
        ("[skip(createArray(1, 2), 5)]", []),
        ("[items(createObject('b', 1, 'a', 2))[0].key]", "a"),
        ("[objectKeys(createObject('b', 1, 'a', 2))]", ["a", "b"]),
        ("[flatten(createArray(createArray(1), createArray(2, 3)))]", [1, 2, 3]),
        ("[shallowMerge(createArray(createObject('a', 1), createObject('a', 2)))]", {"a": 2}),
        ("[tryGet(parameters('o'), 'k', 'z', 1)]", None),
        ("[tryGet(parameters('many'), 1)]", 2),
        ("[indexOf('abcB', 'B')]", 1),
        ("[lastIndexOf('abcB', 'b')]", 3),
        ("[indexOf(createArray(1, 2), 2)]", 1),
        ("[indexFromEnd(createArray(1, 2), 1)]", 2),
        ("[padLeft(7, 3, '0')]", "007"),
        ("[format('{0:D3} {0:000} {{1}}', 7)]", "007 007 {1}"),
        ("[div(-7, 2)]", -3),
        ("[mod(-7, 2)]", -1),
        ("[max(createArray(1, 3, 2))]", 3),
        ("[and(true(), not(false()), or(false(), true()))]", True),
        ("[less('a', 'b')]", True),
        ("[contains(createArray(1), true())]", False),
        ("[uriComponentToString(uriComponent('a b/ü'))]", "a b/ü"),
        ("[uri('https://h/a/', 'b')]", "https://h/a/b"),
        ("[dateTimeAdd('2024-01-31 00:00:00Z', 'P1M')]", "2024-02-29 00:00:00Z"),
        ("[dateTimeAdd('2024-01-31T10:00:00+02:00', '-PT1H', 'yyyyMMddTHHmmssZ')]", "20240131T070000Z"),
        ("[dateTimeToEpoch(dateTimeFromEpoch(86400))]", 86400),
        ("[extensionResourceId(resourceGroup().id, 'Microsoft.X/locks', 'l')]",
         "/subscriptions/s/resourceGroups/rg/providers/Microsoft.X/locks/l"),
        ("[subscriptionResourceId('Microsoft.X/roles', 'r')]", "/subscriptions/s/providers/Microsoft.X/roles/r"),
        ("[tenantResourceId('Microsoft.X/roles', 'r')]", "/providers/Microsoft.X/roles/r"),
        ("[tenant().tenantId]", "t"),
        ("[environment().suffixes.storage]", "storage.imgstore.invalid"),
        ("[my.twice('a')]", "aa"),
    ],
)  # fmt: skip
def test_expression_results(text: str, value: Any) -> None:
    assert evaluate({"a": [text]}, SCOPE) == {"a": [value]}


def test_copy_index_of_a_loop() -> None:
    scope = replace(SCOPE, copies={"": 2, "loop": 2, "outer": 1})
    assert evaluate("[concat(copyIndex(), copyIndex('OUTER'), copyIndex(10))]", scope) == "2112"


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
        ("[mul(9223372036854775807, 2)]", "'mul'"),
        ("[add(true(), 1)]", "'add'"),
        ("[and(1, true())]", "'and'"),
        ("[less(1, 'a')]", "'less'"),
        ("[substring('abc', 2, 2)]", "'substring'"),
        ("[padLeft('a', 100000000000)]", "'padLeft'"),
        ("[format('{1}', 'a')]", "'format'"),
        ("[json('NaN')]", "'json'"),
        ("[json('1e999')]", "'json'"),
        ("[uriComponentToString('%00')]", "U+0000"),
        ("[dateTimeAdd('2024-01-01', 'P99999Y')]", "'dateTimeAdd'"),
        ("[dateTimeFromEpoch(99999999999999999)]", "'dateTimeFromEpoch'"),
        ("[utcNow()]", "'utcNow'"),
        ("[newGuid()]", "'newGuid'"),
        ("[map(parameters('many'), lambda('x', lambdaVariables('x')))]", "'lambdaVariables'"),
        ("[my.none()]", "'my.none'"),
        ("[my.twice()]", "'my.twice'"),
        ("[my.peek()]", "'variables'"),
        ("[my.self()]", "'my.self' are nested too deeply"),
        ("[listKeys('x', '2024-01-01')]", "'listKeys'"),
        (f"[{'concat(' * 100}'a'{')' * 100}]", "deeply"),
    ],
)
def test_invalid_expression_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        evaluate(text, SCOPE)
    assert caught.value.error_code == "InvalidTemplate"
    assert named in caught.value.message


def test_property_loop_inside_a_resource_loop() -> None:
    scope = replace(SCOPE, copies={"": 7, "outer": 7})
    value = {"a": 1, "copy": [{"name": "b", "count": 2, "input": "[add(copyIndex('b'), copyIndex())]"}]}
    assert evaluate(value, scope) == {"a": 1, "b": [7, 8]}
    assert evaluate({"copy": {"source": "data"}}, scope) == {"copy": {"source": "data"}}, (
        "no loop: a property so called"
    )


def test_error_does_not_contain_arguments() -> None:
    for text in ("[int(parameters('name'))]", "[bool(parameters('name'))]", "[if(parameters('name'), 1, 2)]"):
        with pytest.raises(InvalidInput) as caught:
            evaluate(text, replace(SCOPE, parameters={"name": "hush"}))
        assert "hush" not in str(vars(caught.value)) + str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_plain_values_stay_and_json_inverts_string(value: Any) -> None:
    scope = replace(SCOPE, parameters={"v": value})
    with suppress(InvalidInput):  # A text of U+0000.
        assert evaluate("[parameters('v')]", scope) == value
        if isinstance(value, list | dict):
            assert evaluate("[json(string(parameters('v')))]", scope) == value


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)), st.integers(-2, 8))
def test_laws_of_collections(one: list[int], other: list[int], count: int) -> None:
    scope = replace(SCOPE, parameters={"a": one, "b": other, "n": count})
    a, b = "parameters('a')", "parameters('b')"
    said = evaluate(
        [f"[concat(take({a}, parameters('n')), skip({a}, parameters('n')))]", f"[union({a}, {b})]",
         f"[intersection({a}, {b})]"], scope
    )  # fmt: skip
    assert said[0] == one
    assert (set(said[1]), set(said[2])) == (set(one) | set(other), set(one) & set(other))
    assert all(len(each) == len(set(each)) for each in said[1:])


@given(st.integers(-100, 100), st.integers(-100, 100).filter(bool))
def test_division_truncates_and_remainder_has_the_sign_of_the_dividend(one: int, other: int) -> None:
    quotient, rest = evaluate([f"[div({one}, {other})]", f"[mod({one}, {other})]"], SCOPE)
    assert one == other * quotient + rest
    assert abs(rest) < abs(other)
    assert rest * one >= 0


@given(st.text(alphabet="[](),.'abc1 -", max_size=30) | st.sampled_from(["concat(", "if(true(),", "range(1,"]))
def test_any_text_is_evaluated_or_refused(text: str) -> None:
    with suppress(InvalidInput):
        evaluate(f"[{text}]", SCOPE)
