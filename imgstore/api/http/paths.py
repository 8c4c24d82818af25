"""Paths as Azure has them, found in any case: ``/subscriptions/S/resourcegroups/RG`` is as good as any other spelling."""

import re
from typing import Final

SUBSCRIPTION: Final = "/subscriptions/{subscription}"
GROUPS: Final = f"{SUBSCRIPTION}/resourceGroups"
GROUP: Final = f"{GROUPS}/{{group}}"
COMPUTE: Final = f"{GROUP}/providers/Microsoft.Compute"
NETWORK: Final = f"{GROUP}/providers/Microsoft.Network"
GALLERIES: Final = f"{COMPUTE}/galleries"
GALLERY: Final = f"{GALLERIES}/{{gallery}}"
DEFINITIONS: Final = f"{GALLERY}/images"
DEFINITION: Final = f"{DEFINITIONS}/{{definition}}"
VERSIONS: Final = f"{DEFINITION}/versions"
VERSION: Final = f"{VERSIONS}/{{version}}"
SOFT_DELETED: Final = f"{GALLERY}/softDeletedArtifactTypes/{{artifact_type}}/artifacts/{{definition}}/versions"
PROVIDER: Final = f"{SUBSCRIPTION}/providers/{{provider}}"
OPERATIONS: Final = f"{SUBSCRIPTION}/providers/{{provider}}/locations/{{location}}/capsOperations"
OPERATION: Final = f"{OPERATIONS}/{{operation}}"

_WORDS: Final = {
    word.lower(): word
    for word in (
        "subscriptions", "tenants", "resourceGroups", "providers", "Microsoft.Compute", "Microsoft.Resources",
        "galleries", "images", "versions", "disks", "snapshots", "deployments", "validate", "locations", "capsOperations", "cancel",
        "register", "softDeletedArtifactTypes", "artifacts", "metadata", "share", "sharedGalleries",
        "communityGalleries", "Microsoft.ResourceGraph", "resources", "beginGetAccess", "endGetAccess",
        "operations", "whatIf",
        "virtualMachines", "instanceView", "generalize", "deallocate", "powerOff", "start", "restart",
        "redeploy", "reimage", "reapply",
        "Microsoft.Network", "virtualNetworks", "subnets", "networkSecurityGroups", "securityRules",
        "publicIPAddresses", "networkInterfaces", "ipConfigurations",
    )
}  # fmt: skip
_PROVIDERS: Final = "providers"
_NOTHING_ABOVE: Final = re.compile(rf"(/{_PROVIDERS}/[^/]+)//(?=[^/])", re.IGNORECASE)


def normalize_path(path: str) -> str:
    """`path` with its words in the routes' spelling; names stay as they are. Words and names alternate.

    Only behind ``providers`` two words follow each other: the provider, and a type of its. Between these Azure's generic
    client, which `az` asks whether a network is there, puts what is above the resource: nothing, and so two slashes.
    """
    path = _NOTHING_ABOVE.sub(r"\1/", path, count=1)
    parts = path.rstrip("/").split("/")
    if len(parts) < 2 or parts[1].lower() not in _WORDS:
        return path
    is_word = True
    for place in range(1, len(parts)):
        behind = parts[place - 1] == _PROVIDERS and place % 2 == 0
        if is_word or behind:
            parts[place] = _WORDS.get(parts[place].lower(), parts[place])
        is_word = behind or not is_word
    return "/".join(parts)


def type_of(path: str) -> str:
    """The type of the resource at a path that `normalize_path` has gone over: ``galleries/images``."""
    words = path.partition(f"/{_PROVIDERS}/")[2].split("/")[1:] or path.split("/")[1:]
    return "/".join(words[::2])


def resource_of(path: str) -> str:
    """The id of the resource at a path that `normalize_path` has gone over, without an action behind it (``/share``)."""
    above, provider, below = path.rpartition(f"/{_PROVIDERS}/")
    words = below.split("/")
    return f"{above}{provider}{'/'.join(words[:-1])}" if provider and len(words) % 2 == 0 else path
