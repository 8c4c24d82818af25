"""Print the fields of Azure's models of each api-version as JSON: run by a test in an environment of its own.

The package is the last one that has the models of every gallery api-version from 2018-06-01 on. A leaf is a path with
``[]`` behind a list; ``*`` is a name of a dictionary.
"""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import azure.mgmt.compute  # type: ignore[import-not-found]

ROOTS = {
    "galleries": ("Gallery", "GalleryUpdate"),
    "galleries/images": ("GalleryImage", "GalleryImageUpdate"),
    "galleries/images/versions": ("GalleryImageVersion", "GalleryImageVersionUpdate"),
    "disks": ("Disk", "DiskUpdate"),
    "snapshots": ("Snapshot", "SnapshotUpdate"),
    "images": ("Image", "ImageUpdate"),
    "virtualMachines": ("VirtualMachine", "VirtualMachineUpdate"),
    "virtualMachineScaleSets": ("VirtualMachineScaleSet", "VirtualMachineScaleSetUpdate"),
}
"""By type the models of PUT and PATCH."""


def leaves(models: Any, kind: str, path: str, seen: tuple[str, ...]) -> Iterator[str]:
    """The leaves of a type that msrest names: ``str``, ``[Disk]``, ``{str}``, ``Disk``.

    Fields that Azure alone writes are left out.
    """
    if kind[0] in "[{":
        yield from leaves(models, kind[1:-1], f"{path}[]" if kind[0] == "[" else f"{path}.*", seen)
        return
    model: Any = getattr(models, kind, None)
    if not hasattr(model, "_attribute_map") or kind in seen:
        yield path
        return
    for attribute, how in model._attribute_map.items():
        if not model._validation.get(attribute, {}).get("readonly"):
            name = how["key"].replace("\\.", ".")
            yield from leaves(models, how["type"], f"{path}.{name}".lstrip("."), (*seen, kind))


found: dict[str, dict[str, dict[str, list[str]]]] = {kind: {} for kind in ROOTS}
for module in pkgutil.iter_modules(azure.mgmt.compute.__path__):
    if match := re.fullmatch(r"v(\d{4})_(\d{2})_(\d{2})", module.name):
        models = importlib.import_module(f"azure.mgmt.compute.{module.name}.models")
        for kind, names in ROOTS.items():
            verbs = {verb: name for verb, name in zip(("PUT", "PATCH"), names, strict=True) if hasattr(models, name)}
            if verbs:
                found[kind]["-".join(match.groups())] = {
                    verb: sorted(leaves(models, name, "", ())) for verb, name in verbs.items()
                }
print(json.dumps(found))
