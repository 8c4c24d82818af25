"""Read regions.yaml into `Regions`. All faults of a document are reported together."""

import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from imgstore.domain.errors import InvalidRegions
from imgstore.domain.host.os_errors import describe
from imgstore.domain.names import region_key
from imgstore.domain.resources import StorageAccountType
from imgstore.regions.model import ALL_ZONES, ZRS_ZONES, Bandwidth, Policy, Region, Regions, Zone
from imgstore.regions.price_section import PRICE_KEYS, read_pairs, read_prices
from imgstore.regions.yaml_sections import Section, list_variables, read_document

SHARED_ENDPOINT: Final = "IMGSTORE_S3_ENDPOINT"
"""The variable with the endpoint of all zones that name no endpoint."""

_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_BANDWIDTH: Final = re.compile(r"[1-9][0-9]{4,14}")
"""At least 10,000 bytes per second: a segment of 4 MiB arrives within seven minutes."""
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ZONE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?")
_BUCKET: Final = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""S3's rule, which also makes a folder name that every file system accepts."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

KEYS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "document": ("currency", "regions", "prices", "bandwidth_bytes_per_second"),
        "region": ("display_name", "zone_group", "bucket", "policy", "storage_account_types", "zones"),
        "zone": ("endpoint", "profile", "signing_region", "path_style"),
        **PRICE_KEYS,
        "bandwidth_bytes_per_second": ("default", "pairs"),
    }
)
"""The known keys of each section."""


def load_regions(path: Path | None, environ: Mapping[str, str]) -> Regions:
    """Load the regions from a file.

    Args:
        path: the document; None is the document in the package.
        environ: the values of `${VARIABLES}` in the document, and `IMGSTORE_S3_ENDPOINT`.

    Raises:
        InvalidRegions: the document is invalid; the error lists every fault.
    """
    source = importlib.resources.files("imgstore").joinpath("regions.yaml") if path is None else path
    try:
        content = source.read_bytes()
    except OSError as error:
        raise InvalidRegions(str(source), [f"the file cannot be read: {describe(error)}"]) from error
    return parse_regions(content, environ, path=str(source))


def read_regions_document(regions: Regions, environ: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Read the document of regions again, with the values of the variables that the document refers to.

    The variables contain no credentials: the document has no key for credentials, and names of AWS variables are left
    out.

    Args:
        regions: the regions of the document.
        environ: the values of the variables.

    Raises:
        InvalidRegions: the document cannot be read, or is no longer YAML.
    """
    try:
        content = Path(regions.path).read_bytes()
    except OSError as error:
        raise InvalidRegions(regions.path, [f"the file cannot be read: {describe(error)}"]) from error
    read_document(content, regions.path)
    names = {SHARED_ENDPOINT, *list_variables(content)}
    return content, {name: environ[name] for name in sorted(names) if environ.get(name) and not name.startswith("AWS_")}


def parse_regions(content: bytes, environ: Mapping[str, str], *, path: str) -> Regions:
    """Parse the regions in `content`; `path` names the document in errors.

    Raises:
        InvalidRegions: the document is invalid; the error lists every fault.
    """
    tree, faults = read_document(content, path)
    document = Section(tree, "", faults, environ, known=KEYS["document"])
    currency = document.read_matching("currency", _CURRENCY, "three capital letters, for example USD")
    regions = _regions(document, faults, environ)
    prices = read_prices(document, currency or "", regions)
    bandwidth = _bandwidth(document, regions)
    faults += _find_conflicts([region for region in regions.values() if region])
    if faults:
        raise InvalidRegions(path, faults)
    return Regions(
        currency=prices.currency,
        regions=MappingProxyType({name: region for name, region in regions.items() if region}),
        prices=prices,
        path=path,
        bandwidth=bandwidth,
    )


def _regions(document: Section, faults: list[str], environ: Mapping[str, str]) -> dict[str, Region | None]:
    """Read the regions by key. None marks a region with faults, so that no other entry is blamed for its absence."""
    shared = environ.get(SHARED_ENDPOINT) or None
    shared_fault = _find_endpoint_fault(shared) if shared else None
    if shared_fault is not None:
        faults.append(f"{SHARED_ENDPOINT} in the environment: {shared_fault}")
    section = document.require_section("regions")
    regions: dict[str, Region | None] = {}
    for spelling in section:
        name = region_key(spelling)
        if name in regions:
            section.add_fault(f"is the same region as an entry above: both are '{name}'", spelling)
        elif not _REGION.fullmatch(name) or name == ALL_ZONES:
            section.add_fault("a region's name has letters, digits and dashes, for example westus2", spelling)
        else:
            regions[name] = _region(name, section.section(spelling, known=KEYS["region"]), faults, shared)
    return regions if shared_fault is None else dict.fromkeys(regions)


def _region(name: str, section: Section, faults: list[str], shared: str | None) -> Region | None:
    before = len(faults)
    bucket = section.read_matching("bucket", _BUCKET, "3 to 63 small letters, digits, '-' and '.'")
    policy = section.read_choice("policy", {policy.value: policy for policy in Policy})
    types = _storage_account_types(section, policy)
    zones_section = section.require_section("zones")
    zones = [
        _zone(zone, zones_section.section(zone, known=KEYS["zone"]), bucket or "", shared) for zone in zones_section
    ]
    if zones and len({zone.endpoint is None for zone in zones}) > 1:
        section.add_fault(
            "some zones have an endpoint and some have none: give an endpoint to all zones or none", "zones"
        )
    if zones and policy is Policy.ZRS and len(zones) != ZRS_ZONES:
        section.add_fault(f"policy ZRS needs exactly {ZRS_ZONES} zones, not {len(zones)}", "zones")
    display_name = section.read_text("display_name") or name
    group = (
        section.read_matching("zone_group", _REGION, "letters, digits and dashes") if "zone_group" in section else None
    )
    if len(faults) > before or bucket is None or policy is None:
        return None
    return Region(
        name=name,
        display_name=display_name,
        bucket=bucket,
        policy=policy,
        storage_account_types=types,
        zone_group=group,
        zones=tuple(zones),
    )


def _storage_account_types(section: Section, policy: Policy | None) -> tuple[StorageAccountType, ...]:
    key = "storage_account_types"
    known = {kind.value: kind for kind in StorageAccountType}
    names = section.read_list(key)
    for name in dict.fromkeys(names):
        if name not in known:
            section.add_fault(f"unknown storage account type '{name}'; known are {', '.join(known)}", key)
        if names.count(name) > 1:
            section.add_fault(f"'{name}' is listed {names.count(name)} times", key)
    if StorageAccountType.STANDARD_ZRS in names and policy is Policy.LRS:
        section.add_fault("Standard_ZRS needs policy ZRS and three zones; this region's policy is LRS", key)
    return tuple(known[name] for name in names if name in known)


def _zone(name: str, section: Section, bucket: str, shared: str | None) -> Zone:
    if not _ZONE.fullmatch(name) or name == ALL_ZONES:
        section.add_fault(f"'{name}' can't be a zone's name: small letters, digits and dashes, not '{ALL_ZONES}'")
    own = section.read_text("endpoint")
    on_shared = own is None and shared is not None
    endpoint = own or shared
    endpoint_fault = _find_endpoint_fault(endpoint) if endpoint else None
    if own and endpoint_fault:
        section.add_fault(endpoint_fault, "endpoint")
    zone_bucket = f"{bucket}-z{name}" if on_shared else bucket
    if on_shared and bucket and not _BUCKET.fullmatch(zone_bucket):
        section.add_fault(f"the bucket's name '{zone_bucket}' on {SHARED_ENDPOINT} is longer than 63 characters")
    path_style = section.read_choice("path_style", {"true": True, "false": False}, default="true")
    if path_style is False and endpoint and endpoint_fault is None:
        host_name_fault = _find_host_name_fault(endpoint, zone_bucket)
        if host_name_fault is not None:
            section.add_fault(host_name_fault, "path_style")
    return Zone(
        name=name,
        endpoint=endpoint.rstrip("/") if endpoint else None,
        bucket=zone_bucket,
        profile=section.read_text("profile"),
        signing_region=section.read_text("signing_region"),
        path_style=path_style is not False,
    )


def _find_endpoint_fault(endpoint: str) -> str | None:
    """Describe the fault of an endpoint. The text never quotes an endpoint with credentials."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as error:
        return f"'{endpoint}' is not an address: {error}"
    if parts.username is not None or parts.password is not None:
        return "no secrets in an address; put them in the environment or in an AWS profile"
    plain = parts.path in {"", "/"} and not parts.query and not parts.fragment and port != 0
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not plain:
        return f"'{endpoint}' is not http://host:port or https://host:port"
    return None


def _find_host_name_fault(endpoint: str, bucket: str) -> str | None:
    """Describe why the bucket cannot be a part of the host name of a valid endpoint."""
    parts = urlsplit(endpoint)
    with suppress(ValueError):
        ip_address(parts.hostname or "")
        return (
            f"false puts the bucket into the host name, and {parts.hostname} is an address; name the host, or use true"
        )
    if parts.scheme == "https" and "." in bucket:
        return f"false needs a bucket without dots on https: no certificate covers {bucket}.{parts.hostname}"
    return None


def _bandwidth(document: Section, regions: Mapping[str, Region | None]) -> Bandwidth:
    section = document.section("bandwidth_bytes_per_second", known=KEYS["bandwidth_bytes_per_second"])
    return Bandwidth(
        default_bytes_per_second=_rate(section, "default") if "default" in section else None,
        pairs=MappingProxyType(read_pairs(section.section("pairs"), regions, "limited", _rate)),
    )


def _rate(section: Section, key: str) -> int:
    meaning = "a whole number of bytes per second, 10000 or more; omit the key for no limit"
    return int(section.read_matching(key, _BANDWIDTH, meaning) or 0)


def _find_conflicts(regions: list[Region]) -> Iterator[str]:
    """Find regions with the same display name, and zones with the same place for objects."""
    meant = {region.name: region for region in regions}
    for region in regions:
        other = meant.setdefault(region_key(region.display_name), region)
        if other is not region:
            yield f"regions.{region.name}.display_name: '{region.display_name}' is the name of {other.name}"
    places: dict[tuple[str, str], str] = {}
    for region in regions:
        for zone in region.zones:
            mine = f"regions.{region.name}.zones.{zone.name}"
            place = _locate_objects(zone)
            first = places.setdefault(place, mine)
            if first != mine:
                yield f"{mine}: bucket '{zone.bucket}' on {zone.endpoint or 'this machine'} is already used by {first}"


def _locate_objects(zone: Zone) -> tuple[str, str]:
    """Return the place of a zone's objects, the same for two spellings of one address."""
    if zone.endpoint is None:
        return f"zone-{zone.name}", zone.bucket
    parts = urlsplit(zone.endpoint)
    return f"{parts.hostname}:{parts.port or _DEFAULT_PORTS.get(parts.scheme)}", zone.bucket
