"""The generic updates of az: ``--set path=value``, ``--add path key=value``, ``--remove path [index]``.

A path consists of names with dots between. For each list on the way, an index follows the name: ``[0]``, ``[-1]`` or
``[name=value]``. Double quotes enclose a name with a dot. Names are case-insensitive, as in ARM. A first name that no
ARM resource has at the top is looked up in ``properties``, because users of az leave ``properties`` out.
"""

import copy
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.text.strict_json import read_json
from imgstore.wire.json_text import Json

_STEP: Final = re.compile(r'(?:^|\.)(?:"(?P<quoted>[^"]+)"|(?P<name>[^.\[\]"=]+))|\[(?P<index>[^\]]+)\]')
_TOP: Final = frozenset({"id", "name", "type", "location", "tags", "properties", "sku", "identity", "replica"})
"""The names of an ARM resource outside its ``properties``."""


class Verb(StrEnum):
    """The change at a path."""

    SET = "set"
    ADD = "add"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One option of the command line with its arguments."""

    verb: Verb
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Index:
    """A step into a list."""

    text: str


_Step: TypeAlias = str | _Index


def apply_edits(resource: Json, edits: Iterable[Edit], *, force_string: bool = False) -> Json:
    """Return a copy of a resource with all edits, in order.

    A value is JSON if it parses as JSON, else text, as in az: ``max=8`` is a number, ``name=uksouth`` is text.

    Args:
        resource: The resource in ARM's format.
        edits: The edits.
        force_string: True to keep each value as text.

    Raises:
        InvalidInput: An argument is malformed, or a path leads nowhere. The target is the path.
    """
    changed = copy.deepcopy(resource)
    for edit in edits:
        if edit.verb is Verb.SET:
            for word in edit.words or ("",):
                path, value = _split_assignment(word)
                _apply_set(changed, path, _parse_value(value, force_string=force_string))
        elif edit.verb is Verb.ADD:
            _apply_add(changed, edit.words, force_string=force_string)
        else:
            _apply_remove(changed, edit.words)
    return changed


def changed_paths(before: Json, after: Json, path: str = "") -> dict[str, tuple[Json, Json]]:
    """Return the paths at which two documents differ, with the value before and after. A missing value is None.

    Objects are compared by name, and lists as a whole. An empty object equals a missing object, as in Azure.
    """
    one, two = (side if isinstance(side, Mapping) else None for side in (before, after))
    if (one is None and before is not None) or (two is None and after is not None) or (one is None and two is None):
        return {} if before == after and type(before) is type(after) else {path: (before, after)}
    here, there = one or {}, two or {}
    found: dict[str, tuple[Json, Json]] = {}
    for name in dict.fromkeys([*here, *there]):
        found |= changed_paths(here.get(name), there.get(name), f"{path}.{name}" if path else name)
    return found


def check_changes(before: Json, after: Json, may_change: Collection[str]) -> None:
    """Refuse a difference that is not at or below a path of `may_change`.

    Raises:
        PropertyChangeNotAllowed: Such a difference exists. The error names the first.
    """
    for path, (old, new) in changed_paths(before, after).items():
        if not any(path == allowed or path.startswith(f"{allowed}.") for allowed in may_change):
            raise PropertyChangeNotAllowed(
                path,
                found=_format_value(new),
                expected=_format_value(old),
                hint=f"properties that may change: {', '.join(sorted(may_change))}",
            )


def _split_assignment(word: str) -> tuple[str, str]:
    """Split an argument at the first ``=`` outside brackets and quotes."""
    match = re.match(r'((?:\[[^\]]*\]|"[^"]*"|[^=\["])+)=(.*)', word, re.DOTALL)
    if match is None:
        raise InvalidInput(
            f"'{word}' is not an assignment.",
            found=repr(word),
            expected="path=value",
            hint="for example: --set description=hi recommended.memory.max=8",
            target=word,
        )
    return match[1], match[2]


def _parse_value(word: str, *, force_string: bool) -> Json:
    if force_string:
        return word
    try:
        value = read_json(word)
    except ValueError:
        return word
    # 1e5 and 007 may be names. A number counts as a number only in its normal spelling.
    return word if isinstance(value, int | float) and json.dumps(value) != word else value


def _parse_path(path: str, resource: Json) -> list[_Step]:
    """Return the steps of a path from the top of a resource."""
    steps: list[_Step] = []
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or (not steps and match["index"]):
            raise InvalidInput(
                f"'{path}' is not a path.",
                found=repr(path),
                expected="names with dots between, and [0] or [name=value] after the name of a list",
                hint="for example: publishingProfile.targetRegions[name=eastus].regionalReplicaCount",
                target=path,
            )
        steps.append(_Index(match["index"]) if match["index"] else match["quoted"] or match["name"])
        at = match.end()
    if not steps:
        raise InvalidInput(
            "A path is missing.", found="no argument", expected="the path of a property", hint="for example: tags.team"
        )
    first = steps[0]
    below = isinstance(resource, Mapping) and "properties" in resource
    if below and isinstance(first, str) and first.lower() not in _TOP:
        steps.insert(0, "properties")
    return steps


def _apply_set(resource: Json, path: str, value: Json) -> None:
    *above, last = _parse_path(path, resource)
    holder = _follow(resource, above, path, make=True)
    if isinstance(last, _Index):
        holder[_find_index(holder, last, path)] = value
    else:
        _check_object(holder, path)[_find_key(holder, last)] = value


def _apply_add(resource: Json, words: Sequence[str], *, force_string: bool) -> None:
    """Append to a list, or create the list.

    The arguments ``key=value`` become one object; each other argument is an element.
    """
    path, *values = words or ("",)
    *above, last = _parse_path(path, resource)
    if not values:
        raise InvalidInput(
            f"The values to add to '{path}' are missing.",
            found="only a path",
            expected="key=value arguments, or values",
            hint=f"for example: --add {path} name=value",
            target=path,
        )
    pairs, plain = dict[str, Json](), list[Json]()
    for word in values:
        read = _parse_value(word, force_string=force_string)
        if isinstance(read, str) and re.match(r'[^={}"]+=', word):
            name, _, text = word.partition("=")
            pairs[name] = _parse_value(text, force_string=force_string)
        else:
            plain.append(read)
    holder = _follow(resource, above, path, make=True)
    found = _check_list(_find_step(holder, last, path), path)
    found += [*plain, *([pairs] if pairs else [])]
    if isinstance(last, str):
        holder[_find_key(holder, last)] = found


def _apply_remove(resource: Json, words: Sequence[str]) -> None:
    """Remove a property, or an element of a list."""
    path, *index = words or ("",)
    *above, last = _parse_path(path, resource)
    holder = _follow(resource, above, path, make=False)
    if len(index) > 1:
        raise InvalidInput(
            f"'{' '.join(words)}' is not a path with an optional index.",
            found=f"{len(words)} arguments",
            expected="a path, or a path and an index",
            hint=f"for example: --remove {path} 0",
            target=path,
        )
    if index:
        found = _check_list(_find_step(holder, last, path), path)
        del found[_find_index(found, _Index(index[0]), path)]
    elif isinstance(last, _Index):
        del holder[_find_index(holder, last, path)]
    elif _find_step(holder, last, path) is None:
        raise _not_found(path, last, holder)
    else:
        del holder[_find_key(holder, last)]


def _follow(here: Json, steps: Sequence[_Step], path: str, *, make: bool) -> Json:
    """Follow the steps from an object. With `make`, missing objects are created."""
    for step in steps:
        found = _find_step(here, step, path)
        if found is None:
            if not make or isinstance(step, _Index):
                raise _not_found(path, step, here)
            found = here[_find_key(here, step)] = {}
        here = found
    return here


def _find_step(here: Json, step: _Step, path: str) -> Json:
    if isinstance(step, _Index):
        return here[_find_index(here, step, path)]
    return _check_object(here, path).get(_find_key(here, step))


def _find_key(here: Mapping[str, Json], name: str) -> str:
    """Return the name in the spelling of the object. The lookup is case-insensitive."""
    return next((key for key in here if key.lower() == name.lower()), name)


def _find_index(here: Json, index: _Index, path: str) -> int:
    found = _check_list(here, path)
    name, equals, value = index.text.partition("=")
    if equals:
        fits = [at for at, each in enumerate(found) if _matches(each, name, value)]
        if len(fits) == 1:
            return fits[0]
        found_text = f"{len(fits)} elements with {index.text}"
    else:
        found_text = f"{len(found)} elements"
        number = int(name) if re.fullmatch(r"-?\d{1,9}", name) else None
        if number is not None and -len(found) <= number < len(found):
            return number % len(found)
    raise InvalidInput(
        f"Couldn't find [{index.text}] in '{path}'.",
        found=found_text,
        expected="an index of the list, or [name=value] of exactly one element",
        hint="`show` prints the current list",
        target=path,
    )


def _matches(element: Json, name: str, value: str) -> bool:
    held = element.get(_find_key(element, name)) if isinstance(element, Mapping) else None
    # A region's name is the same with and without its spaces.
    return held is not None and "".join(str(held).split()).lower() == "".join(value.split()).lower()


def _check_object(here: Json, path: str) -> dict[str, Json]:
    if not isinstance(here, dict):
        raise InvalidInput(
            f"'{path}' leads through a value without properties.",
            found=_format_value(here),
            expected="an object",
            hint="`show` prints the current resource",
            target=path,
        )
    return here


def _check_list(here: Json, path: str) -> list[Json]:
    if here is None:
        return []
    if not isinstance(here, list):
        raise InvalidInput(
            f"'{path}' is not a list.",
            found=_format_value(here),
            expected="a list",
            hint="use --set to replace the value",
            target=path,
        )
    return here


def _not_found(path: str, step: _Step, here: Json) -> InvalidInput:
    name = f"[{step.text}]" if isinstance(step, _Index) else step
    there = ", ".join(here) if isinstance(here, Mapping) else _format_value(here)
    return InvalidInput(
        f"Couldn't find '{name}' in '{path}'.",
        found=there or "nothing",
        expected="an existing property",
        hint="`show` prints the current resource",
        target=path,
    )


def _format_value(value: Json) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
