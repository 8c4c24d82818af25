"""Hostile templates of under 1 kB. Each ends within the budget, with an error that names the limit."""

import json
from typing import Any

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.work_budget import WorkBudget
from imgstore.templates import scope
from imgstore.templates.plan import plan_template
from imgstore.templates.resources import TargetScope
from imgstore.templates.scope import ELEMENTS_MAX, EvaluationBudget, Scope

_BYTES_MAX = 1_000
_LONG = "padLeft('',1048576,'a')"
_ITEMS = "range(0,10000)"
_NAMES = "json(concat('{\"',replace(join(range(0,9999),','),',','\":0,\"'),'\":0}'))"


def _turns(expression: str, **variables: Any) -> dict[str, Any]:
    """Return a template with 800 iterations of an expression."""
    loop = {"count": 800, "input": f"[{expression}]"}
    return {"variables": variables, "outputs": {"o": {"type": "array", "copy": loop}}}


def _value(expression: str, **variables: Any) -> dict[str, Any]:
    return {"variables": variables, "outputs": {"o": {"type": "array", "value": f"[{expression}]"}}}


def _doubled(first: str, again: str, times: int) -> dict[str, Any]:
    """Return variables that contain the previous variable twice."""
    names = {"v0": first} | {f"v{n}": again.replace("@", f"variables('v{n - 1}')") for n in range(1, times + 1)}
    return {"variables": names, "outputs": {"o": {"type": "array", "value": f"[variables('v{times}')]"}}}


def _looped(name: str, value: Any) -> dict[str, Any]:
    """Return an object with a loop of 800 iterations. An output shows the outermost loop as a variable."""
    loop = {"copy": [{"name": name, "count": 800, "input": value}]}
    return loop if name != "x" else _value("array(variables('x'))", x=loop)


NASTY: dict[str, dict[str, Any]] = {
    "union of lists": _turns("union(range(0,5000),range(1,5000))"),
    "union of objects": _turns("union(variables('n'),createObject(),createObject(),createObject())", n=f"[{_NAMES}]"),
    "nested union": _turns("union(createObject('a',variables('n')),createObject('a',createObject()))", n=f"[{_NAMES}]"),
    "intersection": _turns("intersection(variables('r')" + ",variables('r')" * 20 + ")", r=f"[{_ITEMS}]"),
    "equal lists": _turns("equals(variables('r'),variables('s'))", r=f"[{_ITEMS}]", s=f"[{_ITEMS}]"),
    "contained item": _turns("contains(variables('r'),-1)", r=f"[{_ITEMS}]"),
    "index of an item": _turns("indexOf(variables('r'),-1)", r=f"[{_ITEMS}]"),
    "last index of an item": _turns("lastIndexOf(variables('r'),-1)", r=f"[{_ITEMS}]"),
    "search in a text": _turns("contains(variables('t'),concat('b',padLeft('',60,'a')))", t=f"[{_LONG}]"),
    "last index of a text": _turns("lastIndexOf(variables('t'),concat(padLeft('',500000,'a'),'b'))", t=f"[{_LONG}]"),
    "replace": _turns("length(replace(variables('t'),'a','a'))", t="[padLeft('',500000,'a')]"),
    "split by many words": _turns(
        "split(variables('t'),variables('w'))",
        t=f"[{_LONG}]",
        w="[split(replace(padLeft('',9000,'b'),'b','aab,'),',')]",
    ),
    "format of a list": _value(f"createArray(format(replace(padLeft('',40000,'a'),'a','{{0}}'),{_ITEMS}))"),
    "string of a list": _turns("length(string(variables('r')))", r=f"[{_ITEMS}]"),
    "parsed JSON": _turns(
        "length(json(variables('t')))", t="[concat('[',replace(padLeft('',300000,'a'),'a','0,'),'0]')]"
    ),
    "unique text": _turns("uniqueString(variables('t'))", t=f"[{_LONG}]"),
    "base64": _turns("length(base64(variables('t')))", t=f"[{_LONG}]"),
    "encoded text": _turns("length(uriComponent(variables('t')))", t=f"[{_LONG}]"),
    "decoded text": _turns(
        "length(uriComponentToString(variables('t')))", t="[replace(padLeft('',250000,'a'),'a','%41')]"
    ),
    "joined address": _turns("length(uri('http://x',variables('t')))", t="[replace(padLeft('',250000,'a'),'a','../')]"),
    "pattern of a time": _turns(
        "length(dateTimeAdd('2020-01-01','P1D',variables('t')))", t="[padLeft('',1048576,'s')]"
    ),
    "lower case": _turns("length(toLower(variables('t')))", t=f"[{_LONG}]"),
    "members of an object": _turns("length(createArray(variables('n')['9998']))", n=f"[{_NAMES}]"),
    "tryGet": _turns("tryGet(variables('n'),'x')", n=f"[{_NAMES}]"),
    "sorted items": _turns("length(items(variables('n')))", n=f"[{_NAMES}]"),
    "doubled lists": _doubled("[range(0,9999)]", "[createArray(@,@)]", 12),
    "doubled objects": _doubled("[range(0,9999)]", "[createObject('a',@,'b',@)]", 12),
    "doubled texts": _doubled("[padLeft('',65536,'a')]", "[createArray(@,@)]", 12),
    "loops in loops": _looped("x", _looped("y", _looped("z", 0))),
    "own functions": {
        "functions": [
            {
                "namespace": "n",
                "members": {
                    f"f{n}": {"output": {"type": "int", "value": f"[add(n.f{n + 1}(),n.f{n + 1}())]" if n < 10 else 1}}
                    for n in range(11)
                },
            }
        ]
    }
    | _turns("n.f0()"),
    "dependencies": {
        "resources": [
            {
                "type": "Microsoft.Compute/disks",
                "apiVersion": "2023-04-02",
                "name": "[concat('d',copyIndex())]",
                "copy": {"name": "l", "count": 800},
                "dependsOn": "[split(replace(padLeft('',9999,'a'),'a','l,'),',')]",
            }
        ]
    },
    "many names of a loop": {
        "resources": [
            {
                "type": "Microsoft.Compute/disks",
                "apiVersion": "2023-04-02",
                "name": "[concat('d',copyIndex())]",
                "copy": {"name": "l", "count": 800},
                "dependsOn": "[split(concat(join(range(0,9000),',/'),',l'),',')]",
            }
        ]
    },
    "conditions that are false": {
        "resources": [
            {
                "type": "Microsoft.Compute/disks",
                "apiVersion": "2023-04-02",
                "name": f"[string(union({_ITEMS},{_ITEMS}))]",
                "copy": {"name": "l", "count": 800},
                "condition": False,
            }
        ]
    },
    "allowed values": {
        "parameters": {
            "p": {
                "type": "array",
                "allowedValues": [*[1] * 400, "a"],
                "defaultValue": "[split(replace(padLeft('',9998,'b'),'b','a,'),',')]",
            }
        }
    },
}


def _around() -> TargetScope:
    return TargetScope(is_supported=lambda _kind: True, location=lambda _group: "eastus", group="g")


def _scope(effort: EvaluationBudget) -> Scope:
    return Scope(subscription="s", group="g", location="eastus", deployment="d", budget=effort)


@pytest.mark.parametrize("name", NASTY)
def test_hostile_template_ends_with_an_error_about_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # An eighth of the budget takes an eighth of the time.
    monkeypatch.setattr(scope, "ELEMENTS_MAX", ELEMENTS_MAX // 8)
    template = NASTY[name]
    assert len(json.dumps(template, separators=(",", ":"))) < _BYTES_MAX
    with pytest.raises(InvalidInput) as caught:
        plan_template({"template": template}, _scope(EvaluationBudget()), _around())
    assert caught.value.error_code == "InvalidTemplate"
    # A busy machine reaches the limit in seconds first.
    # Invariant H6.
    assert caught.value.expected in (
        f"at most {ELEMENTS_MAX // 8:,} elements read or made",
        "at most 5 s of evaluation",
    )


def test_an_evaluation_ends_at_its_deadline() -> None:
    seconds = iter(range(1_000))
    with pytest.raises(InvalidInput) as caught:
        plan_template(
            {"template": NASTY["union of lists"]}, _scope(EvaluationBudget(lambda: float(next(seconds)))), _around()
        )
    assert caught.value.expected == "at most 5 s of evaluation"


def test_a_suppressed_deadline_is_raised_at_the_next_step() -> None:
    now = 0.0
    budget = WorkBudget(elements_max=10**9, seconds_max=1, monotonic=lambda: now, exceeded=ValueError)
    with budget.run():
        now = 2.0
        for _ in range(3):
            with pytest.raises(ValueError, match="at most 1 s"):
                budget.spend(100_000)
        with pytest.raises(ValueError, match="at most 1 s"):
            budget.spend(1)


def test_time_in_a_pause_does_not_count() -> None:
    now = 0.0
    budget = WorkBudget(elements_max=10**9, seconds_max=1, monotonic=lambda: now, exceeded=ValueError)
    with budget.run():
        with budget.pause():
            now = 100.0
        budget.spend(100_000)
