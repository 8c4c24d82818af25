"""Sections of a YAML document, with text values, paths for errors, and one shared list of faults.

YAML does not convert scalars to numbers, dates or booleans here. YAML's conversions ("no" is false, 1:30 is 90, "1" and
1 are two keys) are not the intention of authors. The reader of a value states the expected type.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, TypeVar

import yaml

from imgstore.domain.errors import InvalidRegions
from imgstore.domain.host.environment import strip_value
from imgstore.domain.text.text_encodings import find_encoding_fault

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^{}]*))?\}")
_SECRET: Final = re.compile(r"secret|password|token|credential|access_?key", re.IGNORECASE)

_T = TypeVar("_T")


def read_document(content: bytes, path: str) -> tuple[Any, list[str]]:
    """Parse the document into mappings, lists and texts, and return its duplicate keys as faults.

    The document is UTF-8, or UTF-16 with a byte order mark (YAML 1.2, section 5.2).

    Raises:
        InvalidRegions: the document is not YAML.
    """
    try:
        loader = _TextLoader(content)
        loader.name = path
        return loader.get_single_data(), loader.duplicates
    except (yaml.YAMLError, RecursionError) as error:
        text = find_encoding_fault(content) or " ".join(str(error).split())
        raise InvalidRegions(path, [f"the document is not YAML: {text}"]) from error


def list_variables(content: bytes) -> frozenset[str]:
    """Return the names of the variables in the texts of a document that `read_document` accepts."""
    texts = [event.value for event in yaml.parse(content, yaml.BaseLoader) if isinstance(event, yaml.ScalarEvent)]
    return frozenset(found[1] for text in texts for found in _VARIABLE.finditer(text))


class _Mapping(dict[Any, Any]):
    """A mapping of the document with the lines of its keys, for faults."""

    line: int
    lines: Mapping[str, int]


class _TextLoader(yaml.BaseLoader):
    """A loader that keeps scalars as text, reads a plain null as "", and notes duplicate keys (YAML keeps the last)."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.duplicates: list[str] = []

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        plain = node.style is None
        return "" if plain and node.value in {"~", "null"} else str(super().construct_scalar(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 -- PyYAML's signature
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                self.duplicates.append(f"line {line}: key '{key.value}' already exists in line {lines[key.value]}")
            lines.setdefault(key.value, line)
        found = _Mapping(super().construct_mapping(node, deep))
        found.line, found.lines = node.start_mark.line + 1, lines
        return found


class Section:
    """A mapping of the document, with its path and the list for its faults."""

    def __init__(
        self,
        value: Any,
        where: str,
        faults: list[str],
        environ: Mapping[str, str],
        *,
        known: Collection[str] = (),
        line: int = 0,
    ) -> None:
        self.where = where
        self._faults = faults
        self._environ = environ
        self._entries: dict[str, Any] = {}
        self._line: int = line
        self._lines: Mapping[str, int] = {}
        if isinstance(value, _Mapping):
            self._entries, self._line, self._lines = value, value.line, value.lines
        elif value:
            self.add_fault(f"must contain keys and values, not {_describe_value(value)}")
        for key in self._entries if known else ():
            if key not in known:
                self._add_unknown_key(key, known)

    def _add_unknown_key(self, key: str, known: Collection[str]) -> None:
        if _SECRET.search(key):
            self.add_fault(
                f"'{key}': no secrets in this file; put them in the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY) or in an AWS profile that the zone names as 'profile'"
            )
        else:
            self.add_fault(f"unknown key '{key}' (known are {', '.join(known)})")

    def add_fault(self, text: str, key: str = "") -> None:
        """Add a fault of the section, or of the entry `key`, with the line in the document."""
        where = self.at(key) if key else self.where
        line = self._lines.get(key, self._line)
        place = f" (line {line})" if line else ""
        self._faults.append(f"{where}: {text}{place}" if where else f"{text}{place}")

    def at(self, key: str) -> str:
        """Return the path of the entry `key`, for errors."""
        return f"{self.where}.{key}" if self.where else key

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def section(self, key: str, *, known: Collection[str] = ()) -> "Section":
        """Return the mapping at `key`, or an empty section."""
        line = self._lines.get(key, self._line)
        return Section(self._entries.get(key), self.at(key), self._faults, self._environ, known=known, line=line)

    def sections(self, key: str, *, known: Collection[str] = ()) -> "list[Section]":
        """Return the mappings of the list at `key`, or the single mapping at `key` as a list of one."""
        value = self._entries.get(key)
        if not isinstance(value, list):
            return [self.section(key, known=known)]
        line = self._lines.get(key, self._line)
        return [
            Section(each, f"{self.at(key)}[{at}]", self._faults, self._environ, known=known, line=line)
            for at, each in enumerate(value)
        ]

    def is_list(self, key: str) -> bool:
        """Return whether the value at `key` is a list."""
        return isinstance(self._entries.get(key), list)

    def require_section(self, key: str, *, known: Collection[str] = ()) -> "Section":
        """Return the mapping at `key`. An absent or empty mapping is a fault."""
        before = len(self._faults)
        section = self.section(key, known=known)
        if not section and len(self._faults) == before:
            self.add_fault("is missing or empty", key)
        return section

    def read_list(self, key: str) -> list[str]:
        """Return the list of texts at `key`. An absent list is a fault."""
        value = self._entries.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.add_fault("is missing" if not value else f"must be a list of names, not {_describe_value(value)}", key)
            return []
        return [text for item in value if (text := self._expand(item, key)) is not None]

    def read_text(self, key: str) -> str | None:
        """Return the text at `key` with its variables expanded; None if the text is absent, empty or at fault."""
        value = self._entries.get(key)
        if value is None or isinstance(value, str):
            return self._expand(value or "", key) or None
        self.add_fault(f"must be a single value, not {_describe_value(value)}", key)
        return None

    def read_matching(self, key: str, pattern: re.Pattern[str], meaning: str) -> str | None:
        """Return the text at `key`, which must match `pattern`; None after a fault."""
        before = len(self._faults)
        text = self.read_text(key)
        if len(self._faults) > before:
            return None
        if text is None:
            self.add_fault(f"is missing; the value must be {meaning}", key)
        elif not pattern.fullmatch(text):
            self.add_fault(f"'{text}' is not {meaning}", key)
        else:
            return text
        return None

    def read_choice(self, key: str, choices: Mapping[str, _T], *, default: str | None = None) -> _T | None:
        """Return the choice that the text at `key` names; None after a fault."""
        before = len(self._faults)
        text = self.read_text(key) or default
        if len(self._faults) > before:
            return None
        if text is None or text not in choices:
            self.add_fault(
                f"{'is missing' if text is None else repr(text)}; the value must be {_join_choices(choices)}", key
            )
            return None
        return choices[text]

    def _expand(self, text: str, key: str) -> str | None:
        """Expand variables as a shell does: `${X}` must be set, and `${X:-y}` is y if X is unset or empty."""
        missing = [
            name for name, fallback, _ in _VARIABLE.findall(text) if not fallback and not self._environ.get(name)
        ]
        for name in missing:
            self.add_fault(
                f"${{{name}}} is not set; set the variable, or write ${{{name}:-}} if the value may be empty", key
            )
        if "${" in _VARIABLE.sub("", text):
            self.add_fault(f"'{text}': only ${{NAME}}, ${{NAME:-}} and ${{NAME:-default}} are supported", key)
            return None
        return (
            None
            if missing
            else _VARIABLE.sub(lambda found: strip_value(self._environ.get(found[1], "")) or found[3] or "", text)
        )


def _describe_value(value: Any) -> str:
    return "a list" if isinstance(value, list) else "keys and values" if isinstance(value, dict) else f"'{value}'"


def _join_choices(choices: Collection[str]) -> str:
    return " or ".join(choices)
