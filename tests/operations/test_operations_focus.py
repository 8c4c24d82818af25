"""The FOCUS export agrees with the statement (invariant M31), and with the rules of the specification."""

import csv
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.ledger.months import Month
from imgstore.ledger.prices.price_list import FREE, price_of
from imgstore.ledger.statements.focus import FocusVersion
from imgstore.operations.billing import focus_export, statements
from imgstore.operations.billing.corrections import correct_entry
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import ADMIN, charges, open_home

pytest_plugins = ["tests.support.published_gallery"]

MANDATORY: Final = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ServiceCategory", "ServiceName",
}  # fmt: skip
CONDITIONAL: Final = {
    "ConsumedQuantity", "ConsumedUnit", "ListUnitPrice", "SkuId", "SkuMeter", "SkuPriceId", "SkuPriceDetails", "RegionId",
    "RegionName", "ResourceId", "ResourceName", "ResourceType", "SubAccountId", "SubAccountName", "Tags",
    "AvailabilityZone", "ChargeFrequency", "ServiceSubcategory",
}  # fmt: skip
OWN: Final = ["x_Kind", "x_LedgerEntry", "x_PriceListVersion", "x_SourceRegion", "x_TargetRegion", "x_WholeCopyCost"]
NULLABLE: Final = {
    "AvailabilityZone", "BillingAccountName", "ChargeClass", "InvoiceId", "Tags", "x_SourceRegion", "x_WholeCopyCost",
}  # fmt: skip
DECIMALS: Final = (
    "BilledCost", "ConsumedQuantity", "ContractedCost", "EffectiveCost", "ListCost", "ListUnitPrice", "PricingQuantity",
)  # fmt: skip

TIERS: Final = "[{up_to_gb: 1, price: 0}, {up_to_gb: 5, price: 0.02}, {price: 0.0125}]"


def export(installation: Installation, *words: str, folder: Path) -> list[dict[str, str]]:
    """Export with the command line into a file, and return the rows of the file."""
    file = folder / "focus.csv"
    file.unlink(missing_ok=True)
    options = ["--home", str(installation.home), "--regions", installation.regions.path]
    result = CliRunner().invoke(main, [*options, "bill", "export", *words, "--file", str(file)])
    assert result.exit_code == 0, result.output
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def fill_year(installation: Installation, *, entries: int, seed: int) -> None:
    """Add transfers of all kinds and storage intervals to the ledger, over a year."""
    chance = random.Random(seed)
    year = datetime(2025, 1, 1, tzinfo=UTC)
    parties = [
        Party(
            subscription=installation.subscription, group="rg", gallery="g", definition="d", version=f"1.0.{number}",
            tags={"team": 'ä "quoted"; a, b', "n": str(number)} if number % 2 else {},
        )
        for number in range(5)
    ] + [Party(subscription=installation.subscription, group="rg", gallery=None, definition=None, version=None, disk="d1")]  # fmt: skip
    regions = ["eastus", "westus2", "northeurope", "a-removed-region"]
    with installation.catalog.transaction() as transaction:
        for number in range(entries):
            time = year + timedelta(microseconds=chance.randrange(365 * 86_400 * 10**6))
            if number % 3 == 0:
                lasting = timedelta(microseconds=chance.choice([1, 10**6, 10**10, 10**12]) * chance.randrange(1, 9))
                interval = StorageInterval(
                    uid=f"i{number}", party=chance.choice(parties), owner_uid=f"o{number}", slot_uid="s", region="eastus",
                    replica=0, storage_account_type=chance.choice(list(StorageAccountType)), stored_bytes=chance.randrange(10**11),
                    opened_at=time, closed_at=time + lasting,
                )  # fmt: skip
                transaction.ledger.open_interval(interval)
                continue
            source, target = chance.sample(regions, 2)
            kind = chance.choice(
                [each for each in ChargeKind if each not in (ChargeKind.STORAGE, ChargeKind.CORRECTION)]
            )
            moved_bytes = chance.choice([0, 1, 10**6, 3 * 10**9]) * chance.randrange(1, 5)
            is_old = number % 5 == 0
            price = FREE if kind is ChargeKind.COPY else Decimal("0.02")
            rate = None if kind is ChargeKind.COPY or is_old else "repair" if kind is ChargeKind.REPAIR else "egress"
            transaction.ledger.add(
                LedgerRow(
                    key=f"t{number}",
                    kind=kind,
                    party=chance.choice(parties),
                    source=source,
                    target=target,
                    replica=0,
                    delivered_bytes=moved_bytes,
                    unit_price=price,
                    amount=price_of(moved_bytes, price),
                    time=time,
                    price_list=None if is_old else 1,
                    meter=rate,
                )
            )


def check_rows(rows: Sequence[Mapping[str, str]], focus: FocusVersion) -> None:
    """Check columns, nulls, formats, and the relations between columns (specification, sections of the columns)."""
    assert rows
    header = list(rows[0])
    standard = header[: -len(OWN)]
    assert header[-len(OWN) :] == OWN
    assert set(standard) == MANDATORY | CONDITIONAL | {"InvoiceId", *focus.provider_columns}
    for row in rows:
        assert {name for name, value in row.items() if not value} <= NULLABLE
        assert all(re.fullmatch(r"-?[0-9]+\.[0-9]+", row[name]) for name in DECIMALS)
        times = [
            row[name] for name in ("BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd")
        ]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", each) for each in times)
        assert times == sorted(times)
        assert times[1] < times[2]
        assert Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) == Decimal(row["ListCost"])
        assert row["ListCost"] == row["BilledCost"] == row["EffectiveCost"] == row["ContractedCost"]
        assert row["PricingUnit"] == ("GB-Months" if row["x_Kind"] == "storage" else "GB")
        for name in ("Tags", "SkuPriceDetails"):
            assert all(isinstance(each, str | int) for each in json.loads(row[name] or "{}").values())
    parents = {row["SkuPriceId"]: row["SkuId"] for row in rows}
    assert all(parents[row["SkuPriceId"]] == row["SkuId"] for row in rows)


def check_sums(installation: Installation, rows: Sequence[Mapping[str, str]]) -> None:
    """Compare the sums of each month with its statement, by currency."""
    for month in {row["BillingPeriodStart"][:7] for row in rows}:
        parsed = Month.parse(month)
        assert parsed is not None
        for total in statements.show_bill(installation, ADMIN, parsed).totals:
            own = [
                row
                for row in rows
                if (row["BillingPeriodStart"][:7], row["BillingCurrency"]) == (month, total.currency)
            ]
            # A statement rounds rows of storage to 1e-12, and the export rounds quantities to 1e-18.
            difference = abs(sum(Decimal(row["BilledCost"]) for row in own) - total.amount)
            assert difference <= len(own) * Decimal("1e-12")


@pytest.fixture
def year(tmp_path: Path) -> Iterator[Installation]:
    """A home with tiers of prices."""
    text = (files("imgstore") / "regions.yaml").read_text()
    regions = tmp_path / "regions.yaml"
    regions.write_text(text.replace("    default: 0.02", f"    default: {TIERS}"))
    with open_home(tmp_path / "year", regions=regions) as installation:
        yield installation


@pytest.mark.parametrize("focus", FocusVersion)
def test_an_export_has_the_columns_and_the_sums_of_the_bill(
    published: Installation, focus: FocusVersion, tmp_path: Path
) -> None:
    rows = export(published, "--focus", focus, folder=tmp_path)
    check_rows(rows, focus)
    with published.catalog.reading() as transaction:
        entries = {each.key for each in transaction.ledger.rows()} | {
            each.uid for each in transaction.ledger.intervals()
        }
    assert {row["x_LedgerEntry"] for row in rows} == entries
    egress = [row for row in rows if row["x_Kind"] == "egress"]
    # The test disk has zeros, which no transfer of segments moves.
    assert all(Decimal(row["x_WholeCopyCost"]) > Decimal(row["BilledCost"]) for row in egress)
    assert {row["RegionName"] for row in egress} == {"West US 2", "East US"}


def test_a_year_of_entries_agrees_with_the_statements(year: Installation, tmp_path: Path) -> None:
    fill_year(year, entries=150, seed=1)
    rows = export(year, "--focus", "1.2", folder=tmp_path)
    check_rows(rows, FocusVersion.V1_2)
    check_sums(year, rows)
    assert len({row["ListUnitPrice"] for row in rows if row["SkuId"] == "egress/default"}) == 3
    some = export(year, "--focus", "1.2", "--from", "2025-03", "--to", "2025-04", folder=tmp_path)
    assert some == [row for row in rows if row["BillingPeriodStart"][:7] in ("2025-03", "2025-04")]
    assert export(year, "--focus", "1.2", "--month", "2025-03", folder=tmp_path) == [
        row for row in some if row["BillingPeriodStart"][:7] == "2025-03"
    ]


def test_a_correction_of_a_former_month_has_the_class_correction(
    published: Installation, tmp_path: Path, year: Installation
) -> None:
    fill_year(year, entries=30, seed=3)
    with year.catalog.reading() as transaction:
        former = max(transaction.ledger.rows(), key=lambda row: row.delivered_bytes)
    (present, *_) = [row for row in charges(published) if row.kind is ChargeKind.EGRESS]
    for installation, entry, expected in ((year, former, "Correction"), (published, present, "")):
        correct_entry(installation, ADMIN, entry.key, -1000, "ticket 17")
        rows = export(installation, "--focus", "1.4", folder=tmp_path)
        check_rows(rows, FocusVersion.V1_4)
        (row,) = [row for row in rows if row["x_Kind"] == "correction"]
        assert (row["ChargeClass"], row["PricingQuantity"]) == (expected, "-0.000001")
    check_sums(year, export(year, "--focus", "1.4", folder=tmp_path))  # Open storage of the other home grows.


def test_an_export_without_a_file_goes_to_standard_output(year: Installation) -> None:
    result = CliRunner().invoke(
        main, ["--home", str(year.home), "--regions", year.regions.path, "bill", "export", "--focus", "1.4"]
    )
    assert result.output.splitlines() == [",".join(FocusVersion.V1_4.columns)]


def test_an_export_replaces_no_file_by_itself(year: Installation, tmp_path: Path) -> None:
    """An existing file and a missing folder are named, and no partial file remains."""
    folder = tmp_path / "exports"
    folder.mkdir()
    file = folder / "focus.csv"
    file.write_text("kept")
    line = ["--home", str(year.home), "--regions", year.regions.path, "bill", "export", "--focus", "1.4", "--file"]
    refused = CliRunner().invoke(main, [*line, str(file)])
    assert (refused.exit_code, file.read_text()) == (1, "kept")
    assert "exists already" in refused.stderr
    absent = CliRunner().invoke(main, [*line, str(folder / "absent" / "focus.csv")])
    assert "make the missing folder" in absent.stderr
    assert CliRunner().invoke(main, [*line, str(file), "--overwrite"]).exit_code == 0
    assert file.read_text().splitlines() == [",".join(FocusVersion.V1_4.columns)]
    assert list(folder.iterdir()) == [file]


def test_reversed_months_are_refused(year: Installation) -> None:
    with pytest.raises(InvalidInput, match="before the first month"):
        focus_export.export_focus(year, ADMIN, focus=FocusVersion.V1_2, first=Month(2025, 2), last=Month(2025, 1))


def find_python() -> str | None:
    """Find Python 3.12, which focus-validator needs, below pyenv or on PATH. A shim of pyenv starts no other version."""
    below = sorted(Path.home().glob(".pyenv/versions/3.12*/bin/python"))
    return str(below[-1]) if below else shutil.which("python3.12")


CRITERIA: Final = (
    "AVAILABILITY_ZONE_SUPPORTED", "UNIT_PRICING_SUPPORTED", "SUB_ACCOUNT_SUPPORTED", "REGION_SUPPORTED", "TAGGING_SUPPORTED",
    "BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED", "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED",
)  # fmt: skip
"""What imgstore supports. USAGE_MEASUREMENT_SUPPORTED needs a column of commitment discounts, which imgstore has not."""
CONTRADICTION: Final = "InvoiceId-C-005-C"
"""The model demands that InvoiceId is null (004) or not null (005), and the validator counts each alone. Any rows fail one
of both, and without the column seven other rules fail."""


@pytest.mark.long
@pytest.mark.parametrize("criteria", [(), CRITERIA], ids=["plain", "criteria"])
def test_focus_validator_accepts_a_year(
    year: Installation, tmp_path: Path, focus_validator: Path, criteria: Sequence[str]
) -> None:
    fill_year(year, entries=3_000, seed=2)
    rows = export(year, "--focus", "1.2", folder=tmp_path)
    check_rows(rows, FocusVersion.V1_2)
    check_sums(year, rows)
    # The validator reads its list of currencies below the working folder.
    (packages,) = focus_validator.parent.parent.glob("lib/python3.*/site-packages")
    line = [
        str(focus_validator),
        "--data-file",
        str(tmp_path / "focus.csv"),
        "--validate-version",
        "1.2",
        "--block-download",
    ]
    line += ["--applicability-criteria", ",".join(criteria)] if criteria else []
    result = subprocess.run(line, cwd=packages, capture_output=True, text=True, check=True)
    assert "Total: 578" in result.stdout
    assert re.findall("❌ (.*?):", result.stdout) == [CONTRADICTION]
    assert "✅ InvoiceId-C-003-C" in result.stdout


@pytest.fixture(scope="session")
def focus_validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program focus-validator in an environment of its own."""
    python = find_python()
    if python is None:
        pytest.skip("no Python 3.12")
    folder = tmp_path_factory.mktemp("focus")
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    # focus-validator needs NumPy 1, and does not limit pyarrow.
    packages = ["focus-validator==2.2.1", "pyarrow<22"]
    subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *packages], check=True)
    return folder / "bin" / "focus-validator"
