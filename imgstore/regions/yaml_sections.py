"""A YAML document as sections of text, each with its place in the document and one list that all faults go to.

No scalar is turned into a number, a date or a truth by YAML, since YAML's opinions ("no" is false, 1:30 is ninety, "1"
and 1 are two keys) are not what the writer meant: what a value has to be is said where it is used.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, TypeVar

import yaml

from imgstore.domain.errors import InvalidRegions

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^{}]*))?\}")
_SECRET: Final = re.compile(r"secret|password|token|credential|access_?key", re.IGNORECASE)

_T = TypeVar("_T")


def read_document(content: bytes, path: str) -> tuple[Any, list[str]]:
    """The document as mappings, lists and texts, and the faults of its form."""
    try:
        loader = _TextLoader(content)
        loader.name = path
        return loader.get_single_data(), loader.duplicates
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidRegions(path, [f"it is not YAML: {' '.join(str(error).split())}"]) from error


class _TextLoader(yaml.BaseLoader):
    """Scalars as text, a plain null as none, and a note of each key that stands twice (YAML would keep the last)."""

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
                self.duplicates.append(f"line {line}: key '{key.value}' is there already, in line {lines[key.value]}")
            lines.setdefault(key.value, line)
        return super().construct_mapping(node, deep)


class Section:
    """One mapping of the document, with its place in it and the list that its faults go to."""

    def __init__(
        self, value: Any, where: str, faults: list[str], environ: Mapping[str, str], *, known: Collection[str] = ()
    ) -> None:
        self.where = where
        self._faults = faults
        self._environ = environ
        self._entries: dict[str, Any] = {}
        if isinstance(value, dict):
            self._entries = value
        elif value:
            self.fault(f"is to hold keys and values, not {_shown(value)}")
        for key in self._entries if known else ():
            if key not in known:
                self._unknown(key, known)

    def _unknown(self, key: str, known: Collection[str]) -> None:
        if _SECRET.search(key):
            self.fault(
                f"'{key}': no secrets in this file; put them in the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY) or in an AWS profile that the zone names as 'profile'"
            )
        else:
            self.fault(f"unknown key '{key}' (known are {', '.join(known)})")

    def fault(self, text: str, key: str = "") -> None:
        """Note a fault of the section, or of its entry `key`."""
        where = self.at(key) if key else self.where
        self._faults.append(f"{where}: {text}" if where else text)

    def at(self, key: str) -> str:
        """The place of entry `key`, for people."""
        return f"{self.where}.{key}" if self.where else key

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def section(self, key: str, *, known: Collection[str] = ()) -> "Section":
        """The mapping at `key`; an empty one where there is none."""
        return Section(self._entries.get(key), self.at(key), self._faults, self._environ, known=known)

    def required(self, key: str, *, known: Collection[str] = ()) -> "Section":
        """The mapping at `key`, which has to be there and to hold something."""
        before = len(self._faults)
        section = self.section(key, known=known)
        if not section and len(self._faults) == before:
            self.fault("is missing or empty", key)
        return section

    def items(self, key: str) -> list[str]:
        """The list of texts at `key`, which has to be there."""
        value = self._entries.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.fault("is missing" if not value else f"is to be a list of names, not {_shown(value)}", key)
            return []
        return [text for item in value if (text := self._expanded(item, key)) is not None]

    def text(self, key: str) -> str | None:
        """The text at `key`, its variables put in; None where there is none, or it is empty or at fault."""
        value = self._entries.get(key)
        if value is None or isinstance(value, str):
            return self._expanded(value or "", key) or None
        self.fault(f"is to be one value, not {_shown(value)}", key)
        return None

    def checked(self, key: str, pattern: re.Pattern[str], meaning: str) -> str | None:
        """The text at `key`, which has to be there and to match; None with a fault noted."""
        before = len(self._faults)
        text = self.text(key)
        if len(self._faults) > before:
            return None
        if text is None:
            self.fault(f"is missing; it is to be {meaning}", key)
        elif not pattern.fullmatch(text):
            self.fault(f"'{text}' is not {meaning}", key)
        else:
            return text
        return None

    def chosen(self, key: str, choices: Mapping[str, _T], *, default: str | None = None) -> _T | None:
        """What the text at `key` stands for; None with a fault noted where it stands for nothing."""
        before = len(self._faults)
        text = self.text(key) or default
        if len(self._faults) > before:
            return None
        if text is None or text not in choices:
            self.fault(f"{'is missing' if text is None else repr(text)}; it is to be {_listed(choices)}", key)
            return None
        return choices[text]

    def _expanded(self, text: str, key: str) -> str | None:
        """`text` with its variables put in, as a shell would: `${X}` must be set, `${X:-y}` is y where it is not."""
        missing = [
            name for name, fallback, _ in _VARIABLE.findall(text) if not fallback and not self._environ.get(name)
        ]
        for name in missing:
            self.fault(f"${{{name}}} is not set; set it, or write ${{{name}:-}} if it may be none", key)
        if "${" in _VARIABLE.sub("", text):
            self.fault(f"'{text}': only ${{NAME}}, ${{NAME:-}} and ${{NAME:-default}} are understood", key)
            return None
        return None if missing else _VARIABLE.sub(lambda found: self._environ.get(found[1]) or found[3] or "", text)


def _shown(value: Any) -> str:
    return "a list" if isinstance(value, list) else "keys and values" if isinstance(value, dict) else f"'{value}'"


def _listed(choices: Collection[str]) -> str:
    return " or ".join(choices)
