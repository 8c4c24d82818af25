"""az's generic updates: ``--set path=value``, ``--add path key=value``, ``--remove path [index]`` on a JSON document.

A path is names with dots between, each followed by as many ``[0]``, ``[-1]`` or ``[name=value]`` as there are lists to go
through; a name with a dot in it stands in double quotes. Names are found in any case, as ARM finds them. The top of
a resource is asked first, then its ``properties``, which az's users leave out.
"""

import copy
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.strict_json import read_json
from imgstore.wire.json_text import Json

_STEP: Final = re.compile(r'(?:^|\.)(?:"(?P<quoted>[^"]+)"|(?P<name>[^.\[\]"=]+))|\[(?P<index>[^\]]+)\]')
_TOP: Final = frozenset({"id", "name", "type", "location", "tags", "properties", "sku", "identity", "replica"})
"""The names of an ARM resource that do not stand below its properties."""


class Verb(StrEnum):
    """What is done at a path."""

    SET = "set"
    ADD = "add"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One option of the line with its words."""

    verb: Verb
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Index:
    """A step into a list."""

    text: str


_Step: TypeAlias = str | _Index


def apply_edits(resource: Json, edits: Iterable[Edit], *, force_string: bool = False) -> Json:
    """A copy of `resource` with each edit done, in their order.

    Values are JSON where they are JSON, else text, as in az: ``max=8`` is a number, ``name=uksouth`` is text.

    Args:
        resource: in ARM's shape; stays as it is.
        edits: what to do.
        force_string: every value is text.

    Raises:
        InvalidInput: a word is no path or no assignment, or the path leads nowhere; its target is the path.
    """
    changed = copy.deepcopy(resource)
    for edit in edits:
        if edit.verb is Verb.SET:
            for word in edit.words or ("",):
                path, value = _split_assignment(word)
                _set(changed, path, _parse_value(value, force_string=force_string))
        elif edit.verb is Verb.ADD:
            _add(changed, edit.words, force_string=force_string)
        else:
            _remove(changed, edit.words)
    return changed


def changed_paths(before: Json, after: Json, path: str = "") -> dict[str, tuple[Json, Json]]:
    """Of each path at which two documents differ, the value before and after; None where there is none.

    Objects are gone into, lists are compared whole. An empty object and none are the same, as to Azure.
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
    """Refuse any difference that does not lie at or below a path of `may_change`.

    Raises:
        PropertyChangeNotAllowed: there is one; the first.
    """
    for path, (old, new) in changed_paths(before, after).items():
        if not any(path == allowed or path.startswith(f"{allowed}.") for allowed in may_change):
            raise PropertyChangeNotAllowed(
                path,
                found=_format_value(new),
                expected=_format_value(old),
                hint=f"what may change: {', '.join(sorted(may_change))}",
            )


def _split_assignment(word: str) -> tuple[str, str]:
    """A word at its first ``=`` outside brackets and quotes."""
    match = re.match(r'((?:\[[^\]]*\]|"[^"]*"|[^=\["])+)=(.*)', word, re.DOTALL)
    if match is None:
        raise InvalidInput(
            f"'{word}' sets nothing.",
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
    # 1e5 and 007 are names to somebody: a number is what would be written so again.
    return word if isinstance(value, int | float) and json.dumps(value) != word else value


def _parse_path(path: str, resource: Json) -> list[_Step]:
    """The steps of a path from the resource's top."""
    steps: list[_Step] = []
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or (not steps and match["index"]):
            raise InvalidInput(
                f"'{path}' is no path.",
                found=repr(path),
                expected="names with dots between, [0] or [name=value] behind a list's name",
                hint="for example: publishingProfile.targetRegions[name=eastus].regionalReplicaCount",
                target=path,
            )
        steps.append(_Index(match["index"]) if match["index"] else match["quoted"] or match["name"])
        at = match.end()
    if not steps:
        raise InvalidInput(
            "A path is missing.", found="no word", expected="the path of a property", hint="for example: tags.team"
        )
    first = steps[0]
    below = isinstance(resource, Mapping) and "properties" in resource
    if below and isinstance(first, str) and first.lower() not in _TOP:
        steps.insert(0, "properties")
    return steps


def _set(resource: Json, path: str, value: Json) -> None:
    *above, last = _parse_path(path, resource)
    holder = _walk(resource, above, path, make=True)
    if isinstance(last, _Index):
        holder[_find_index(holder, last, path)] = value
    else:
        _check_object(holder, path)[_find_key(holder, last)] = value


def _add(resource: Json, words: Sequence[str], *, force_string: bool) -> None:
    """Append to a list, which is made where it is missing: one object of all ``key=value``, or each plain value."""
    path, *values = words or ("",)
    *above, last = _parse_path(path, resource)
    if not values:
        raise InvalidInput(
            f"Nothing is said to be added to '{path}'.",
            found="a path alone",
            expected="key=value words, or values",
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
    holder = _walk(resource, above, path, make=True)
    found = _check_list(_find_step(holder, last, path), path)
    found += [*plain, *([pairs] if pairs else [])]
    if isinstance(last, str):
        holder[_find_key(holder, last)] = found


def _remove(resource: Json, words: Sequence[str]) -> None:
    """Take away a property, or an element of a list."""
    path, *index = words or ("",)
    *above, last = _parse_path(path, resource)
    holder = _walk(resource, above, path, make=False)
    if len(index) > 1:
        raise InvalidInput(
            f"'{' '.join(words)}' removes nothing.",
            found=f"{len(words)} words",
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


def _walk(here: Json, steps: Sequence[_Step], path: str, *, make: bool) -> Json:
    """Where the steps lead. With `make`, objects that are missing on the way are made."""
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
    """The name as the object has it, in whatever case it is asked for."""
    return next((key for key in here if key.lower() == name.lower()), name)


def _find_index(here: Json, index: _Index, path: str) -> int:
    found = _check_list(here, path)
    name, equals, value = index.text.partition("=")
    if equals:
        fits = [at for at, each in enumerate(found) if _matches(each, name, value)]
        if len(fits) == 1:
            return fits[0]
        told = f"{len(fits)} elements with {index.text}"
    else:
        told = f"{len(found)} elements"
        number = int(name) if re.fullmatch(r"-?\d{1,9}", name) else None
        if number is not None and -len(found) <= number < len(found):
            return number % len(found)
    raise InvalidInput(
        f"Couldn't find [{index.text}] in '{path}'.",
        found=told,
        expected="an index that the list has, or [name=value] of exactly one element",
        hint="`show` prints the list as it is",
        target=path,
    )


def _matches(element: Json, name: str, value: str) -> bool:
    held = element.get(_find_key(element, name)) if isinstance(element, Mapping) else None
    # A region's name is the same with and without its spaces.
    return held is not None and "".join(str(held).split()).lower() == "".join(value.split()).lower()


def _check_object(here: Json, path: str) -> dict[str, Json]:
    if not isinstance(here, dict):
        raise InvalidInput(
            f"'{path}' leads through something that has no properties.",
            found=_format_value(here),
            expected="an object",
            hint="`show` prints the resource as it is",
            target=path,
        )
    return here


def _check_list(here: Json, path: str) -> list[Json]:
    if here is None:
        return []
    if not isinstance(here, list):
        raise InvalidInput(
            f"'{path}' is no list.",
            found=_format_value(here),
            expected="a list",
            hint="set it with --set",
            target=path,
        )
    return here


def _not_found(path: str, step: _Step, here: Json) -> InvalidInput:
    told = f"[{step.text}]" if isinstance(step, _Index) else step
    there = ", ".join(here) if isinstance(here, Mapping) else _format_value(here)
    return InvalidInput(
        f"Couldn't find '{told}' in '{path}'.",
        found=there or "nothing",
        expected="a property that is there",
        hint="`show` prints the resource as it is",
        target=path,
    )


def _format_value(value: Json) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
