"""Define the paths of the routes, and normalize request paths. Azure ignores the case of the fixed words of a path."""

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
USAGE: Final = f"{SUBSCRIPTION}/providers/Microsoft.Consumption/usageDetails"
GROUP_USAGE: Final = f"{GROUP}/providers/Microsoft.Consumption/usageDetails"

_WORDS: Final = {
    word.lower(): word
    for word in (
        "subscriptions", "tenants", "resourceGroups", "providers", "Microsoft.Compute", "Microsoft.Resources",
        "galleries", "images", "versions", "disks", "snapshots", "deployments", "validate", "locations", "capsOperations", "cancel",
        "register", "softDeletedArtifactTypes", "artifacts", "metadata", "share", "sharedGalleries",
        "communityGalleries", "Microsoft.ResourceGraph", "resources", "beginGetAccess", "endGetAccess",
        "operations", "whatIf", "whatIfDelete",
        "virtualMachines", "instanceView", "generalize", "deallocate", "powerOff", "start", "restart",
        "redeploy", "reimage", "reapply", "virtualMachineScaleSets", "reimageall", "manualupgrade", "rollingUpgrades", "delete",
        "Microsoft.Network", "virtualNetworks", "subnets", "networkSecurityGroups", "securityRules",
        "publicIPAddresses", "networkInterfaces", "ipConfigurations", "loadBalancers", "inboundNatRules", "Microsoft.Consumption", "usageDetails",
    )
}  # fmt: skip
_PROVIDERS: Final = "providers"
_EMPTY_PARENT: Final = re.compile(rf"(/{_PROVIDERS}/[^/]+)//(?=[^/])", re.IGNORECASE)


def normalize_path(path: str) -> str:
    """Return `path` with the fixed words in the spelling of the routes, and the names unchanged.

    Words and names alternate. Only after ``providers`` two words follow each other: the provider and a resource type.
    Azure's generic client puts the path of a parent resource between the two words. Without a parent that path is empty,
    so the client sends two slashes. `az` uses that client to look up networks.
    """
    path = _EMPTY_PARENT.sub(r"\1/", path, count=1)
    parts = path.rstrip("/").split("/")
    if len(parts) < 2 or parts[1].lower() not in _WORDS:
        return path
    is_word = True
    for place in range(1, len(parts)):
        is_provider = parts[place - 1] == _PROVIDERS and place % 2 == 0
        if is_word or is_provider:
            parts[place] = _WORDS.get(parts[place].lower(), parts[place])
        is_word = is_provider or not is_word
    return "/".join(parts)


def parse_resource_type(path: str) -> str:
    """Return the resource type of a normalized path, such as ``galleries/images``."""
    words = path.partition(f"/{_PROVIDERS}/")[2].split("/")[1:] or path.split("/")[1:]
    return "/".join(words[::2])


def parse_resource_id(path: str) -> str:
    """Return the resource id in a normalized path, without the name of an action at the end (``/share``)."""
    above, provider, below = path.rpartition(f"/{_PROVIDERS}/")
    words = below.split("/")
    return f"{above}{provider}{'/'.join(words[:-1])}" if provider and len(words) % 2 == 0 else path
