"""Tests of regions.yaml: valid values, and the text of each fault."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgstore.domain.errors import InvalidInput, InvalidRegions
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.prices.price_list import flat
from imgstore.regions import Policy, load_regions
from imgstore.regions.regions_file import parse_regions

TODAY = datetime(2026, 11, 30, tzinfo=UTC)

GOOD = """
currency: EUR
regions:
  fra:
    display_name: Frankfurt
    bucket: images-fra
    policy: ZRS
    storage_account_types: [Standard_LRS, Standard_ZRS]
    zones:
      a: {endpoint: "http://a.fra:9000", profile: fra, signing_region: eu-1, path_style: false}
      b: {endpoint: "http://b.fra:9000/"}
      c: {endpoint: "${C:-http://c.fra:9000}"}
  ber:
    bucket: images-ber
    policy: LRS
    storage_account_types: [Standard_LRS]
    zones:
      1:
prices:
  egress_per_gb:
    default: 0.02
    pairs: {Fra: {BER: 0.005}}
  storage_per_gb_month: {Standard_LRS: 0.1, Standard_ZRS: 0.125}
"""


def faults_of(text: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidRegions) as caught:
        parse_regions(text.encode(), environ or {}, path="regions.yaml")
    assert all(fault in str(caught.value) for fault in caught.value.faults)
    return caught.value.faults


def changed(*steps: str, value: Any = None, remove: bool = False) -> str:
    """Return the valid document with the entry at the path `steps` replaced or removed."""
    document = yaml.load(GOOD, Loader=yaml.BaseLoader)
    parent = document
    for step in steps[:-1]:
        parent = parent[step]
    if remove:
        del parent[steps[-1]]
    else:
        parent[steps[-1]] = value
    return str(yaml.safe_dump(document, sort_keys=False))


def test_every_value_of_a_good_document() -> None:
    regions = parse_regions(GOOD.encode(), {}, path="here")
    fra, ber = regions.regions.values()
    assert (regions.currency, regions.path, list(regions.regions)) == ("EUR", "here", ["fra", "ber"])
    assert (fra.display_name, fra.bucket, fra.policy, fra.embedded) == ("Frankfurt", "images-fra", Policy.ZRS, False)
    assert fra.storage_account_types == (StorageAccountType.STANDARD_LRS, StorageAccountType.STANDARD_ZRS)
    assert [zone.endpoint for zone in fra.zones] == ["http://a.fra:9000", "http://b.fra:9000", "http://c.fra:9000"]
    first, second, _ = fra.zones
    assert (first.profile, first.signing_region, first.path_style) == ("fra", "eu-1", False)
    assert (second.profile, second.signing_region, second.path_style) == (None, None, True)
    assert (ber.display_name, ber.embedded, ber.zones[0].name, ber.zones[0].endpoint) == ("ber", True, "1", None)
    assert regions.prices.egress("fra", "ber", TODAY).tiers == flat(Decimal("0.005"))
    assert regions.prices.egress("ber", "fra", TODAY).tiers == flat(Decimal("0.02"))
    assert regions.prices.storage(StorageAccountType.STANDARD_ZRS, TODAY).tiers == flat(Decimal("0.125"))
    with pytest.raises(InvalidInput, match="no storage price for Premium_LRS"):
        regions.prices.storage(StorageAccountType.PREMIUM_LRS, TODAY)


def test_a_region_is_found_in_every_spelling_and_refused_by_naming_the_known_ones() -> None:
    regions = load_regions(None, {})
    assert regions.get("West US 2") is regions.get("westus2") is regions.get("WestUS2")
    assert parse_regions(GOOD.encode(), {}, path="here").get("frankfurt").name == "fra"
    with pytest.raises(InvalidInput) as caught:
        regions.get("moon", target="location")
    assert caught.value.target == "location"
    assert caught.value.expected == "one of southcentralus, westus2, eastus, northeurope"


def test_variables_as_in_a_shell() -> None:
    text = changed("regions", "ber", "bucket", value="${A}-${B:-x}${D:-}")
    assert parse_regions(text.encode(), {"A": "aa", "B": ""}, path="").regions["ber"].bucket == "aa-x"
    # Invariant E1.
    assert parse_regions(text.encode(), {"A": "aa", "B": "b", "D": "d"}, path="").regions["ber"].bucket == "aa-bd"


def test_a_plain_null_is_empty() -> None:
    text = GOOD.replace("      1:", "      1: {endpoint: null, profile: ~}")
    (zone,) = parse_regions(text.encode(), {}, path="").get("ber").zones
    assert (zone.endpoint, zone.profile) == (None, None)
    assert "'null' is not http" in faults_of(text.replace("endpoint: null", 'endpoint: "null"'))[0]


def test_the_shared_endpoint_takes_the_zones_that_name_none() -> None:
    regions = parse_regions(GOOD.encode(), {"IMGSTORE_S3_ENDPOINT": "http://one:9000"}, path="")
    (zone,) = regions.get("ber").zones
    assert (zone.endpoint, zone.bucket) == ("http://one:9000", "images-ber-z1")
    assert regions.get("ber").bucket == "images-ber"
    assert regions.get("fra").zones[0].bucket == "images-fra"
    shipped = load_regions(None, {"IMGSTORE_S3_ENDPOINT": "http://one:9000"})
    buckets = [zone.bucket for region in shipped.regions.values() for zone in region.zones]
    assert buckets[:3] == [f"imgstore-southcentralus-z{zone}" for zone in "123"]
    # Invariant E2.
    assert len(set(buckets)) == len(buckets) == 8


REGION = "regions", "ber"
PERIOD = yaml.load(GOOD, Loader=yaml.BaseLoader)["prices"]
FAULTS = {
    "a document of nothing": ("", "regions: is missing or empty"),
    "not YAML": ("regions: [", "the document is not YAML: while parsing a flow node expected the node content"),
    "two documents": ("a: 1\n---\nb: 1", "the document is not YAML: expected a single document"),
    "not a mapping": ("just words", "must contain keys and values, not 'just words'"),
    "unknown key": (
        changed("currencies", value="x"),
        "unknown key 'currencies' (known are currency, regions, prices, bandwidth_bytes_per_second)",
    ),
    "unknown key of a region": (changed(*REGION, "bukcet", value="x"), "regions.ber: unknown key 'bukcet'"),
    "unknown key of a zone": (
        changed(*REGION, "zones", "1", value={"url": "x"}),
        "regions.ber.zones.1: unknown key 'url' (known are endpoint, profile, signing_region, path_style)",
    ),
    "unknown key of prices": (changed("prices", "egress", value="x"), "prices: unknown key 'egress'"),
    "secret": (
        changed(*REGION, "zones", "1", value={"secret_access_key": "x"}),
        (
            "regions.ber.zones.1: 'secret_access_key': no secrets in this file; put them in the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in an AWS profile"
        ),
    ),
    "access key": (changed("aws_access_key_id", value="x"), "'aws_access_key_id': no secrets in this file"),
    "secret in an address": (
        changed(*REGION, "zones", "1", value={"endpoint": "http://me:word@host"}),
        "regions.ber.zones.1.endpoint: no secrets in an address",
    ),
    "not an address": (
        changed(*REGION, "zones", "1", value={"endpoint": "host:9000"}),
        "regions.ber.zones.1.endpoint: 'host:9000' is not http://host:port or https://host:port",
    ),
    "address with a path": (
        changed(*REGION, "zones", "1", value={"endpoint": "http://host/bucket"}),
        "'http://host/bucket' is not http://host:port",
    ),
    "address with a bad port": (
        changed(*REGION, "zones", "1", value={"endpoint": "http://host:99999"}),
        "'http://host:99999' is not an address: Port out of range",
    ),
    "unset variable": (
        changed(*REGION, "bucket", value="${X}"),
        "regions.ber.bucket: ${X} is not set; set the variable, or write ${X:-} if the value may be empty",
    ),
    "variable not understood": (
        changed(*REGION, "bucket", value="${X-y}"),
        "regions.ber.bucket: '${X-y}': only ${NAME}, ${NAME:-} and ${NAME:-default} are supported",
    ),
    "unset variable in a list": (
        changed(*REGION, "storage_account_types", value=["${T}"]),
        "regions.ber.storage_account_types: ${T} is not set",
    ),
    "directories and endpoints": (
        changed("regions", "fra", "zones", "b", value={}),
        "regions.fra.zones: some zones have an endpoint and some have none",
    ),
    "ZRS with two zones": (
        changed("regions", "fra", "zones", "b", remove=True),
        "regions.fra.zones: policy ZRS needs exactly 3 zones, not 2",
    ),
    "no zones": (changed(*REGION, "zones", value={}), "regions.ber.zones: is missing or empty"),
    "zones as a list": (changed(*REGION, "zones", value=["1"]), "regions.ber.zones: must contain keys and values"),
    "ZRS type where the policy is LRS": (
        changed(*REGION, "storage_account_types", value=["Standard_ZRS"]),
        "regions.ber.storage_account_types: Standard_ZRS needs policy ZRS and three zones; this region's policy is LRS",
    ),
    "unknown type": (
        changed(*REGION, "storage_account_types", value=["Ultra_LRS"]),
        (
            "regions.ber.storage_account_types: unknown storage account type 'Ultra_LRS'; known are Standard_LRS, "
            "Standard_ZRS, Premium_LRS"
        ),
    ),
    "a type twice": (
        changed(*REGION, "storage_account_types", value=["Standard_LRS", "Standard_LRS"]),
        "regions.ber.storage_account_types: 'Standard_LRS' is listed 2 times",
    ),
    "types as text": (
        changed(*REGION, "storage_account_types", value="Standard_LRS"),
        "regions.ber.storage_account_types: must be a list of names, not 'Standard_LRS'",
    ),
    "no types": (changed(*REGION, "storage_account_types", value=[]), "storage_account_types: is missing"),
    "no policy": (
        changed(*REGION, "policy", remove=True),
        "regions.ber.policy: is missing; the value must be LRS or ZRS",
    ),
    "unknown policy": (
        changed(*REGION, "policy", value="GRS"),
        "regions.ber.policy: 'GRS'; the value must be LRS or ZRS",
    ),
    "no bucket": (changed(*REGION, "bucket", remove=True), "regions.ber.bucket: is missing; the value must be 3 to 63"),
    "bad bucket": (changed(*REGION, "bucket", value="Big_Bucket"), "regions.ber.bucket: 'Big_Bucket' is not 3 to 63"),
    "bucket that climbs": (changed(*REGION, "bucket", value="a..b"), "regions.ber.bucket: 'a..b' is not"),
    "a mapping for a text": (changed(*REGION, "bucket", value={"a": "b"}), "bucket: must be a single value"),
    "bad path_style": (
        changed(*REGION, "zones", "1", value={"path_style": "yes"}),
        "regions.ber.zones.1.path_style: 'yes'; the value must be true or false",
    ),
    "the bucket before an address": (
        changed(*REGION, "zones", "1", value={"endpoint": "http://[::1]:9000", "path_style": "false"}),
        "regions.ber.zones.1.path_style: false puts the bucket into the host name, and ::1 is an address",
    ),
    "a bucket with dots before a host on https": (
        changed(
            *REGION,
            value={
                "bucket": "a.b",
                "policy": "LRS",
                "storage_account_types": ["Standard_LRS"],
                "zones": {"1": {"endpoint": "https://s3.fra", "path_style": "false"}},
            },
        ),
        "regions.ber.zones.1.path_style: false needs a bucket without dots on https",
    ),
    "bad zone": (
        changed(*REGION, "zones", value={"../x": {}}),
        "regions.ber.zones.../x: '../x' can't be a zone's name",
    ),
    "zone of the mark's name": (changed(*REGION, "zones", value={"zrs": {}}), "'zrs' can't be a zone's name"),
    "bad region name": (changed("regions", "a/b", value={}), "regions.a/b: a region's name has letters, digits"),
    "one region in two spellings": (
        changed("regions", "B er", value={}),
        "regions.B er: is the same region as an entry above: both are 'ber'",
    ),
    "a region shown as another": (
        changed(*REGION, "display_name", value="FRA"),
        "regions.ber.display_name: 'FRA' is the name of fra",
    ),
    "no regions": (changed("regions", value={}), "regions: is missing or empty"),
    "a shared folder": (
        changed("regions", "tyo", value={**yaml.safe_load(GOOD)["regions"]["ber"], "zones": {"1": {}}}),
        "regions.tyo.zones.1: bucket 'images-ber' on this machine is already used by regions.ber.zones.1",
    ),
    "a shared bucket": (
        changed(
            "regions",
            "tyo",
            value={
                **yaml.safe_load(GOOD)["regions"]["ber"],
                "bucket": "images-fra",
                "zones": {"9": {"endpoint": "http://A.fra:9000"}},
            },
        ),
        "regions.tyo.zones.9: bucket 'images-fra' on http://A.fra:9000 is already used by regions.fra.zones.a",
    ),
    "two zones in one place": (
        changed("regions", "fra", "zones", "b", "endpoint", value="http://a.fra:9000"),
        "regions.fra.zones.b: bucket 'images-fra' on http://a.fra:9000 is already used by regions.fra.zones.a",
    ),
    "a key twice": (
        GOOD.replace("    policy: LRS", "    policy: ZRS\n    policy: LRS"),
        "line 16: key 'policy' already exists in line 15",
    ),
    "a zone twice, as text and number": (GOOD.replace("      1:", '      1:\n      "1":'), "key '1' already exists"),
    "no currency": (changed("currency", remove=True), "currency: is missing; the value must be three capital letters"),
    "bad currency": (changed("currency", value="euro"), "currency: 'euro' is not three capital letters"),
    "no prices": (changed("prices", remove=True), "prices: is missing or empty"),
    "no default": (
        changed("prices", "egress_per_gb", "default", remove=True),
        "prices.egress_per_gb.default: is missing; the value must be a price such as 0.02, 0 or more",
    ),
    "negative price": (
        changed("prices", "egress_per_gb", "default", value="-1"),
        "prices.egress_per_gb.default: '-1' is not a price such as 0.02, 0 or more",
    ),
    "price of no number": (
        changed("prices", "egress_per_gb", "pairs", "Fra", "BER", value="cheap"),
        "prices.egress_per_gb.pairs.Fra.BER: 'cheap' is not a price",
    ),
    "price that is not finite": (
        changed("prices", "storage_per_gb_month", "Standard_LRS", value=".inf"),
        "prices.storage_per_gb_month.Standard_LRS: '.inf' is not a price",
    ),
    "unknown region in a pair": (
        changed("prices", "egress_per_gb", "pairs", value={"fra": {"moon": "1"}, "sun": {"ber": "1"}}),
        "prices.egress_per_gb.pairs.fra.moon: unknown region 'moon'",
    ),
    "a pair inside a region": (
        changed("prices", "egress_per_gb", "pairs", value={"fra": {"FRA": "1"}}),
        "prices.egress_per_gb.pairs.fra.FRA: inside a region nothing is charged",
    ),
    "a pair twice": (
        changed("prices", "egress_per_gb", "pairs", value={"fra": {"ber": "1", "BER": "2"}}),
        "prices.egress_per_gb.pairs.fra.BER: the pair fra, ber has an entry already",
    ),
    "a gap between periods": (
        changed("prices", value=[{**PERIOD, "valid_until": "2026-11-01"}, {**PERIOD, "valid_from": "2026-12-01"}]),
        "prices[0].valid_until: leaves a gap: the next period begins on 2026-12-01",
    ),
    "overlapping periods": (
        changed("prices", value=[{**PERIOD, "valid_until": "2026-12-02"}, {**PERIOD, "valid_from": "2026-12-01"}]),
        "prices[0].valid_until: overlaps: the next period begins on 2026-12-01",
    ),
    "a period that ends before its begin": (
        changed(
            "prices",
            value=[
                {**PERIOD, "valid_from": "2026-11-01", "valid_until": "2026-10-01"},
                {**PERIOD, "valid_from": "2026-12-01"},
            ],
        ),
        "prices[0].valid_until: is not after the begin of the period on 2026-11-01",
    ),
    "a price with a leading zero": (
        changed("prices", "repair_per_gb", value="010"),
        "prices.repair_per_gb: '010' is not a price",
    ),
    "periods in the wrong order": (
        changed("prices", value=[{**PERIOD, "valid_from": "2026-12-01"}, {**PERIOD, "valid_from": "2026-11-01"}]),
        "prices[1].valid_from: is not after the period before, which begins on 2026-12-01",
    ),
    "a later period without a begin": (
        changed("prices", value=[PERIOD, PERIOD]),
        "prices[1].valid_from: is missing; only the first period may begin before all times",
    ),
    "an end of all periods": (
        changed("prices", value=[{**PERIOD, "valid_until": "2027-01-01"}]),
        "prices[0].valid_until: later months would have no price",
    ),
    "no day of the calendar": (
        changed("prices", value=[PERIOD, {**PERIOD, "valid_from": "2026-02-30"}]),
        "prices[1].valid_from: '2026-02-30' is no day of the calendar",
    ),
    "a negative price in a tier": (
        changed("prices", "egress_per_gb", "default", value=[{"up_to_gb": "5", "price": "-1"}, {"price": "1"}]),
        "prices.egress_per_gb.default[0].price: '-1' is not a price",
    ),
    "tiers in the wrong order": (
        changed("prices", "repair_per_gb", value=[*({"up_to_gb": "5", "price": "1"},) * 2, {"price": "1"}]),
        "prices.repair_per_gb[1].up_to_gb: '5' is not a number of GB such as 10240, more than the tier before",
    ),
    "an end of all tiers": (
        changed("prices", "repair_per_gb", value=[{"up_to_gb": "5", "price": "1"}]),
        "prices.repair_per_gb[0].up_to_gb: larger sums would have no price",
    ),
    "no tiers": (changed("prices", "repair_per_gb", value=[]), "prices.repair_per_gb: is empty"),
    "an unknown zone group": (
        changed("prices", "egress_per_gb", "zone_groups", value={"asia": {}}),
        "prices.egress_per_gb.zone_groups.asia: no region has the zone_group 'asia'",
    ),
    "price of an unknown type": (
        changed("prices", "storage_per_gb_month", "Ultra_LRS", value="1"),
        "prices.storage_per_gb_month: unknown key 'Ultra_LRS'",
    ),
    "an offered type without a price": (
        changed("prices", "storage_per_gb_month", "Standard_ZRS", remove=True),
        "prices.storage_per_gb_month.Standard_ZRS: is missing; regions offer Standard_ZRS",
    ),
}


@pytest.mark.parametrize(("text", "expected"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_named(text: str, expected: str) -> None:
    assert any(expected in fault for fault in faults_of(text))


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith(("a document", "not ", "two doc"))])
def test_a_fault_causes_no_other_faults(name: str) -> None:
    """One mistake causes one line, without consequential faults."""
    text, _ = FAULTS[name]
    assert len(faults_of(text)) == (2 if name == "unknown region in a pair" else 1)


def test_faults_of_prices_have_lines() -> None:
    """The line is that of the key, also inside of pairs and lists of periods and tiers."""
    lines = GOOD.splitlines()
    for line, text in enumerate(lines, start=1):
        if re.search(r": *0\.[0-9]+ *$", text):
            broken = "\n".join([*lines[: line - 1], re.sub("0\\.[0-9]+ *$", "-1", text), *lines[line:]])
            (fault,) = faults_of(broken)
            assert fault.endswith(f"(line {line})"), fault


def test_all_faults_are_reported_at_once() -> None:
    text = GOOD.replace("EUR", "x").replace("images-fra", "A").replace("[Standard_LRS]", "[Standard_ZRS]")
    assert len(faults_of(text)) == 3


def test_a_bad_shared_endpoint_is_a_fault_of_the_environment() -> None:
    (fault,) = faults_of(GOOD, {"IMGSTORE_S3_ENDPOINT": "one:9000"})
    assert fault.startswith("IMGSTORE_S3_ENDPOINT in the environment: 'one:9000' is not http://host:port")
    long = changed("regions", "ber", "bucket", value="b" * 62)
    (fault,) = faults_of(long, {"IMGSTORE_S3_ENDPOINT": "http://one:9000"})
    assert "is longer than 63 characters" in fault


def test_a_secret_is_never_repeated() -> None:
    text = changed("regions", "ber", "zones", "1", value={"endpoint": "http://me:hunter2@host", "secret": "hunter2"})
    assert "hunter2" not in "".join(faults_of(text))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRegions, match=r"none\.yaml cannot be used: the file cannot be read: No such file"):
        load_regions(tmp_path / "none.yaml", {})
    with pytest.raises(InvalidRegions, match="the file cannot be read: Is a directory"):
        load_regions(tmp_path, {})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8regions")
    with pytest.raises(InvalidRegions, match="the document is not YAML"):
        load_regions(tmp_path / "binary.yaml", {})


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.lstrip().encode(),
        GOOD.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(),
        GOOD.encode("utf-16"),
    ],
    ids=["mark", "line ends of Windows", "both", "UTF-16"],
)
def test_the_encodings_of_windows_are_read(content: bytes) -> None:
    assert parse_regions(content, {}, path="") == parse_regions(GOOD.encode(), {}, path="")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (GOOD.encode("utf-16-le"), "the file is UTF-16 or binary; save the file as UTF-8"),
        (GOOD.encode("utf-32"), "the file is UTF-32; save the file as UTF-8"),
        ("a: 1\nb: ü\n".encode("latin-1"), "line 2 has the byte 0xfc, which is not UTF-8"),
    ],
)
def test_another_encoding_is_named(content: bytes, fault: str) -> None:
    with pytest.raises(InvalidRegions, match=fault):
        parse_regions(content, {}, path="regions.yaml")


def with_bandwidth(value: str) -> str:
    return GOOD + f"bandwidth_bytes_per_second: {value}\n"


def test_bandwidth_by_pair_and_direction() -> None:
    assert parse_regions(GOOD.encode(), {}, path="").bandwidth.of("fra", "ber") is None
    text = with_bandwidth("{default: 50000, pairs: {Fra: {BER: 12500000}}}")
    bandwidth = parse_regions(text.encode(), {}, path="").bandwidth
    assert bandwidth.of("fra", "ber") == 12_500_000
    assert bandwidth.of("ber", "fra") == 50_000
    assert bandwidth.of("ber", "ber") is None, "inside a region nothing is held back"


def test_faults_of_bandwidth_are_reported_together() -> None:
    text = with_bandwidth("{default: fast, pairs: {fra: {ber: 0, moon: 20000, fra: 20000}}, burst: 1}")
    expected = "is not a whole number of bytes per second, 10000 or more; omit the key for no limit"
    assert [fault.rpartition(" (line")[0] for fault in faults_of(text)] == [
        "bandwidth_bytes_per_second: unknown key 'burst' (known are default, pairs)",
        f"bandwidth_bytes_per_second.default: 'fast' {expected}",
        f"bandwidth_bytes_per_second.pairs.fra.ber: '0' {expected}",
        "bandwidth_bytes_per_second.pairs.fra.moon: unknown region 'moon'",
        "bandwidth_bytes_per_second.pairs.fra.fra: inside a region nothing is limited: remove this entry",
    ]


@pytest.mark.parametrize("address", ["http://one:99999", "http://[::1"])
@pytest.mark.parametrize("path_style", ["true", "false"])
def test_an_address_that_cannot_be_split_is_one_fault(address: str, path_style: str) -> None:
    own = changed(*REGION, "zones", "1", value={"endpoint": address, "path_style": path_style})
    (fault,) = faults_of(own)
    assert fault.startswith(f"regions.ber.zones.1.endpoint: '{address}' is not an address")
    shared = changed(*REGION, "zones", "1", value={"path_style": path_style})
    (fault,) = faults_of(shared, {"IMGSTORE_S3_ENDPOINT": address})
    assert fault.startswith(f"IMGSTORE_S3_ENDPOINT in the environment: '{address}' is not an address")
