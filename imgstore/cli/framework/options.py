"""Options that several commands share, with az's names."""

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import click
from click.core import ParameterSource

from imgstore.cli.framework.command import EditsOption, SwitchOption, WordsOption
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.names import ImageReference, VersionName, parse_image_reference
from imgstore.domain.requests import DiskRequest
from imgstore.domain.resources import DiskKind, HyperVGeneration, OsProperties, OsType, StorageAccountType
from imgstore.wire.requests.arguments import parse_storage_account_type, parse_tags

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
_E = TypeVar("_E", bound=StrEnum)
_V = TypeVar("_V")

words: Final = partial(click.option, cls=WordsOption)
"""Make an option that takes all words up to the next option."""
switch: Final = partial(click.option, cls=SwitchOption)
"""Make a flag with an optional value: ``--x``, ``--x true``, ``--x false``."""
location: Final = partial(click.option, "-l", "--location", metavar="REGION")
"""Make the option ``-l/--location``."""

EXPORT_FORMATS: Final = (DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC, DiskFormat.RAW, DiskFormat.QCOW2)


def one_of(*members: _E) -> Callable[[str], _E]:
    """Make a click type for the values of `members`, in any case."""
    by_word = {member.lower(): member for member in members}

    def convert(word: str) -> _E:
        if word.lower() not in by_word:
            raise click.BadParameter(f"'{word}' is not one of {', '.join(members)}.")
        return by_word[word.lower()]

    return convert


def choice(*names: str, members: tuple[StrEnum, ...], **attrs: Any) -> Decorator:
    """Make an option whose value is one of `members`."""
    return click.option(*names, type=one_of(*members), metavar="|".join(members), **attrs)


def number(*names: str, text: str, least: int, most: int | None = None, unit: str = "N", **attrs: Any) -> Decorator:
    """Make an option for a whole number in a range."""
    return click.option(*names, type=click.IntRange(least, most), metavar=unit, help=text, **attrs)


def segment_cache(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the place and the limit of the segment cache (`choose_cache`)."""
    place = click.option(
        "--cache-dir",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Folder of the segment cache. Default: `cache` in the home. [env: IMGSTORE_CACHE_DIR]",
    )
    limit = number(
        "--cache-bytes",
        least=0,
        unit="BYTES",
        text="Limit of the segment cache; 0 for no cache. Default: cache_bytes_max in settings.toml, or 10 GiB. "
        "[env: IMGSTORE_CACHE_BYTES]",
    )
    return place(limit(command))


def fraction(*names: str, text: str, least: float, most: float | None = None, unit: str, **attrs: Any) -> Decorator:
    """Make an option for a number in a range."""
    return click.option(*names, type=click.FloatRange(least, most), metavar=unit, help=text, **attrs)


def list_given(names: Collection[str]) -> list[str]:
    """Return the options of the present command that the line gives, such as ``--rate``.

    Args:
        names: the parameters to look for.
    """
    context = click.get_current_context()
    return [
        each.opts[0]
        for each in context.command.params
        if each.name in names and context.get_parameter_source(each.name) is ParameterSource.COMMANDLINE
    ]


def together(*decorators: Decorator) -> Decorator:
    """Combine several options into one decorator, in the given order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def resource_name(what: str) -> Decorator:
    """Make the option ``-n/--name`` for the command's resource."""
    return click.option("-n", "--name", "name", required=True, metavar="NAME", help=f"Name of the {what}.")


def resource_in_group(what: str) -> Decorator:
    """Make the options for the command's resource: the resource group and the name."""
    return together(group, resource_name(what))


group: Final = click.option(
    "-g", "--resource-group", "group", required=True, metavar="NAME", help="Name of the resource group."
)
some_group: Final = click.option(
    "-g", "--resource-group", "group", metavar="NAME", help="List this resource group only."
)
gallery: Final = click.option(
    "-r", "--gallery-name", "gallery", required=True, metavar="NAME", help="Name of the gallery."
)
definition: Final = click.option(
    "-i",
    "--gallery-image-definition",
    "definition",
    required=True,
    metavar="NAME",
    help="Name of the image definition.",
)
version: Final = click.option(
    "-e",
    "--gallery-image-version",
    "version",
    required=True,
    type=VersionName.parse,
    metavar="MAJOR.MINOR.PATCH",
    help="Name of the image version.",
)
gallery_path: Final = together(group, gallery)
definition_path: Final = together(gallery_path, definition)
version_path: Final = together(definition_path, version)
tags: Final = words("--tags", parse=parse_tags, metavar="KEY=VALUE ...", help="Tags. '' removes all tags.")
description: Final = click.option("--description", metavar="TEXT", help="Description.")
source_format: Final = choice(
    "--source-format", members=tuple(DiskFormat), help="Format of the source file. Default: probed."
)
os_type: Final = choice("--os-type", members=tuple(OsType), help="Operating system on the disk.")
hyper_v_generation: Final = choice(
    "--hyper-v-generation",
    members=tuple(HyperVGeneration),
    help="Firmware that boots the disk: V1 for BIOS, V2 for UEFI.",
)


def make_value(value_type: Callable[..., _V], given: Mapping[str, Any], **converted: Any) -> _V:
    """Make a dataclass from the options with the names of its fields. `converted` has the other fields."""
    names = signature(value_type).parameters.keys() - converted.keys()
    return value_type(**{name: given[name] for name in names & given.keys()}, **converted)


allow_remote: Final = click.option(
    "--allow-remote",
    is_flag=True,
    help="Copy content that the region does not have from the cheapest region that has it. The bytes are billed.",
)


def read_disk_request(given: Mapping[str, Any], kind: DiskKind = DiskKind.DISK) -> DiskRequest:
    """Make the request for a disk or snapshot from a source, from the values of the options."""
    return make_value(DiskRequest, given, kind=kind, os_properties=make_value(OsProperties, given))


updates: Final = (
    click.option(
        "--set",
        "--add",
        "--remove",
        "edits",
        cls=EditsOption,
        metavar="PATH...",
        help="Change properties by path, in the order of the line: --set PATH=VALUE ..., --add PATH "
        "KEY=VALUE ... or, for a list, PATH VALUE ..., --remove PATH [INDEX].",
    ),
    click.option("--force-string", is_flag=True, help="Read every value of --set and --add as text."),
)
pages: Final = (
    click.option(
        "--max-items",
        type=int,
        metavar="N",
        help="Largest number of items. Standard error shows the token of the next page.",
    ),
    click.option("--next-token", metavar="TOKEN", help="Token of the next page, from the previous page."),
)
soft_delete: Final = (
    switch("--soft-delete", help="Keep deleted versions for the retention period."),
    click.option(
        "--soft-delete-retention",
        "--soft-delete-retention-period",
        "soft_delete_retention",
        type=int,
        metavar="DAYS",
        help="Retention period in days. Default: 7.",
    ),
)
yes: Final = click.option("-y", "--yes", is_flag=True, help="Run without a confirmation.")
yes_ignored: Final = click.option("-y", "--yes", is_flag=True, expose_value=False, help="Run without a confirmation.")
"""``--yes`` of commands that never ask, as az's."""


def sku(*names: str, text: str) -> Decorator:
    """Make the option ``--sku`` for the storage type of a disk."""
    return click.option(
        *names,
        "storage_account_type",
        type=parse_storage_account_type,
        metavar="|".join(StorageAccountType),
        help=text,
    )


def reference(*names: str, required: bool, text: str, shared: bool = False) -> Decorator:
    """Make an option for an image reference. With `shared`, references to shared galleries are accepted."""
    return click.option(
        *names,
        "reference",
        required=required,
        type=parse_image_reference if shared else ImageReference.parse,
        metavar="RG/GALLERY/DEFINITION[/VERSION]",
        help=text,
    )


def lun(name: str, text: str) -> Decorator:
    """Make an option for the LUN of a data disk of an image version."""
    return click.option(name, "lun", type=int, metavar="LUN", help=text)
