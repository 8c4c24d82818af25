"""Print the fields of Azure's models as JSON, by resource type: run by a test in the clients' own environment.

The argument is the package: ``compute`` or ``network``. A leaf is a path with ``[]`` behind a list; ``*`` is a name of a dictionary.
"""

import enum
import importlib
import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeAlias

PACKAGE = sys.argv[1]
ROOTS: dict[str, dict[str, tuple[str, ...]]] = {
    "compute": {
        "galleries": ("Gallery", "GalleryUpdate"),
        "galleries/images": ("GalleryImage", "GalleryImageUpdate"),
        "galleries/images/versions": ("GalleryImageVersion", "GalleryImageVersionUpdate"),
        "disks": ("Disk", "DiskUpdate"),
        "snapshots": ("Snapshot", "SnapshotUpdate"),
        "images": ("Image", "ImageUpdate"),
        "virtualMachines": ("VirtualMachine", "VirtualMachineUpdate"),
        "virtualMachineScaleSets": ("VirtualMachineScaleSet", "VirtualMachineScaleSetUpdate"),
    },
    "network": {
        "virtualNetworks": ("VirtualNetwork",),
        "virtualNetworks/subnets": ("Subnet",),
        "networkSecurityGroups": ("NetworkSecurityGroup",),
        "networkSecurityGroups/securityRules": ("SecurityRule",),
        "publicIPAddresses": ("PublicIPAddress",),
        "loadBalancers": ("LoadBalancer",),
        "loadBalancers/inboundNatRules": ("InboundNatRule",),
        "networkInterfaces": ("NetworkInterface",),
    },
}
"""By package and type the models of PUT and PATCH. The network's PATCH changes tags alone."""
models: Any = importlib.import_module(f"azure.mgmt.{PACKAGE}.models")
Leaves: TypeAlias = tuple[Any, ...]
NAMESPACE: dict[str, Any] = {**vars(models), **vars(models._models), "_models": models, **vars(typing)}
WRITTEN = {"create", "update"}


def type_of(model: Any, name: str) -> Any:
    """The annotation of a field, resolved, without Optional."""
    for owner in model.__mro__:
        if name in getattr(owner, "__annotations__", {}):
            said = owner.__annotations__[name]
            scope = {**NAMESPACE, **vars(__import__(owner.__module__, fromlist=["x"]))}
            return bare(eval(said, scope) if isinstance(said, str) else said, scope)
    raise LookupError((model, name))


def bare(said: Any, scope: dict[str, Any]) -> Any:
    """Without Optional, a union's alternatives that are no models, and forward references."""
    if isinstance(said, typing.ForwardRef):
        said = said.__forward_arg__
    if isinstance(said, str):
        said = eval(said, scope)
    if typing.get_origin(said) in (typing.Union, types.UnionType):
        left = [bare(each, scope) for each in typing.get_args(said) if each is not type(None)]
        enums = [each for each in left if isinstance(each, type) and issubclass(each, enum.Enum)]
        return (enums or left)[0]
    return said


def leaves(model: Any, path: str, seen: Leaves, *, read_only: bool) -> Iterator[tuple[str, Any]]:
    """Each leaf of a model with its kind, its words if it is an enumeration, and whether only Azure writes it."""
    model()  # the first one fills in what is asked next
    for attribute, field in model._attr_to_rest_field.items():
        name = f"{path}.{field._rest_name}" if path else field._rest_name
        fixed = read_only or (field._visibility is not None and not WRITTEN & set(field._visibility))
        yield from leaf(type_of(model, attribute), name, seen, read_only=fixed)


def leaf(kind: Any, path: str, seen: Leaves, *, read_only: bool) -> Iterator[tuple[str, Any]]:
    """The leaves of a field."""
    origin = typing.get_origin(kind)
    if origin in (list, list):
        yield from leaf(bare(typing.get_args(kind)[0], NAMESPACE), f"{path}[]", seen, read_only=read_only)
    elif origin in (dict, dict):
        yield from leaf(bare(typing.get_args(kind)[1], NAMESPACE), f"{path}.*", seen, read_only=read_only)
    elif isinstance(kind, type) and issubclass(kind, models._models._Model):
        if kind in seen:
            yield path, {"kind": "object", "readOnly": read_only}
            return
        yield from leaves(kind, path, (*seen, kind), read_only=read_only)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield path, {"kind": "str", "words": [each.value for each in kind], "readOnly": read_only}
    else:
        yield path, {"kind": getattr(kind, "__name__", str(kind)), "readOnly": read_only}


print(
    json.dumps(
        {
            kind: {
                verb: dict(leaves(getattr(models, name), "", (), read_only=False))
                for verb, name in zip(("PUT", "PATCH"), names, strict=False)
            }
            for kind, names in ROOTS[PACKAGE].items()
        },
        indent=1,
    )
)
