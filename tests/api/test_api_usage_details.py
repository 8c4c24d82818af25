"""Test the usage details of Microsoft.Consumption: the sums, pages and filters, and the rights of each role."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from api_server import Answer, Api, bearer, start_api

from imgstore.domain.errors import AccessDenied, ImgstoreError, NotFound
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.paging import PageRequest
from imgstore.ledger.entries import Party
from imgstore.ledger.months import Month
from imgstore.ledger.statements.usage_details import UsageFilter
from imgstore.operations.billing import statements
from imgstore.operations.billing.budgets import list_budgets
from imgstore.operations.billing.explanations import explain_entry
from imgstore.operations.billing.usage_details import page_usage_details
from imgstore.operations.gallery.groups import create_group
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.proofs import prove_entry
from imgstore.operations.ledger_log.seal import seal_entries
from tests.support.sample_gallery import ADMIN, GROUP
from tests.support.sealed_ledger import add_entries, make_charge, make_interval

VERSION = "2023-05-01"
MARCH = "properties/usageStart ge '2026-03-01' and properties/usageEnd le '2026-03-31'"
OTHER = "22222222-2222-2222-2222-222222222222"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Serve charges of two groups in March, storage since March, and charges of another subscription."""
    with start_api(tmp_path_factory.mktemp("usage") / "home") as server:
        here = server.installation
        add_entries(here, range(1, 6), closed=range(1, 3), opened=range(3, 5))
        near = Party(
            subscription=here.subscription, group="near", gallery=None, definition=None, version=None, disk="d 1",
            tags={"team": "web"},
        )  # fmt: skip
        away = replace(near, subscription=OTHER, disk="secret-disk")
        with here.catalog.transaction() as transaction:
            transaction.ledger.add(make_charge(here, 7, party=near))
            transaction.ledger.add(make_charge(here, 8, party=away, key="foreign"))
            transaction.ledger.open_interval(make_interval(here, 8, party=away))
        create_group(here, ADMIN, name="near", location="southcentralus")
        create_group(replace(here, subscription=OTHER), ADMIN, name="near", location="southcentralus")
        seal_entries(here)
        yield server


def ask(api: Api, query: str = "", *, group: str | None = None, **more: Any) -> Answer:
    above = api.top if group is None else f"{api.top}/resourceGroups/{group}"
    return api.ask("GET", f"{above}/providers/Microsoft.Consumption/usageDetails", version=VERSION, query=query, **more)


def march(api: Api, query: str = "", **more: Any) -> Any:
    return ask(api, f"$filter={quote(MARCH)}{query}", **more)


def read_exact(api: Api, path: str) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{api.port}{path}", headers=api.headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read(), parse_float=Decimal, parse_int=Decimal)


def test_costs_are_exact_numbers_and_add_up_to_the_bill_of_the_month(api: Api) -> None:
    path = f"{api.top}/providers/microsoft.consumption/usagedetails?api-version={VERSION}&$filter={quote(MARCH)}"
    items: list[Any] = []
    pages = 0
    while path:
        body = read_exact(api, f"{path}&$top=10" if not pages else path)
        items += body["value"]
        assert len(body["value"]) <= 10
        pages += 1
        path = api.path_of(body["nextLink"]) if "nextLink" in body else ""
    assert pages > 2
    assert len({each["name"] for each in items}) == len(items)
    for by in ("region", "day"):
        bill = statements.group_bill(api.installation, ADMIN, by=by, month=Month(2026, 3))
        sums = {row.name: row.amount for row in bill.rows}
        for name, amount in sums.items():
            own = [
                each["properties"]["cost"]
                for each in items
                if name in (each["properties"]["resourceLocation"], each["properties"]["date"][:10])
            ]
            assert abs(sum(own) - amount) <= Decimal("1e-12") * len(items), name
    storage = [each for each in items if each["properties"]["meterId"] and "storage" in each["properties"]["product"]]
    assert {each["properties"]["date"][:10] for each in storage} == {f"2026-03-{day:02}" for day in range(1, 32)}


def test_item_has_the_form_of_azure(api: Api) -> None:
    query = f"&$expand={quote('properties/meterDetails,properties/additionalInfo')}"
    (item,) = march(api, query, group="NEAR").body["value"]
    assert (item["kind"], item["type"], item["tags"]) == (
        "legacy",
        "Microsoft.Consumption/usageDetails",
        {"team": "web"},
    )
    assert item["id"].endswith(f"/billingPeriods/202603/providers/Microsoft.Consumption/usageDetails/{item['name']}")
    found = item["properties"]
    assert found["cost"] == found["pretaxCost"] == 0.00014000042
    assert (found["quantity"], found["unitPrice"], found["effectivePrice"]) == (0.007000021, 0.02, 0.02)
    expected = {
        "billingPeriodStartDate": "2026-03-01T00:00:00.0000000Z",
        "billingPeriodEndDate": "2026-03-31T00:00:00.0000000Z",
        "date": "2026-03-01T00:00:00.0000000Z",
        "usageEnd": "2026-03-01T23:59:59.0000000Z",
        "billingCurrency": "USD",
        "resourceLocation": "eastus",
        "consumedService": "Microsoft.Compute",
        "resourceGroup": "near",
        "resourceName": "d 1",
        "chargeType": "Usage",
        "product": "Compute Gallery egress - southcentralus to eastus",
    }
    assert {name: found[name] for name in expected} == expected
    assert found["meterDetails"]["unitOfMeasure"] == "1 GB"
    assert json.loads(found["additionalInfo"])["sourceRegion"] == "southcentralus"
    assert "meterDetails" not in march(api, group="near").body["value"][0]["properties"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("properties/date eq '2026-03-01' and properties/resourceGroup eq 'Near'", 1),
        (
            "properties/usageEnd ge '2026-03-01T00:00:00Z' AND properties/usageEnd lt '2026-03-02' and tags eq 'TEAM:web'",
            1,
        ),
        (
            "properties/usageStart gt '2026-02-28' and properties/date le '2026-03-01' and properties/resourceName eq 'd 1'",
            1,
        ),
        ("properties/usageEnd le '2026-02-28'", 0),
        ("properties/usageStart ge '2999-01-01'", 0),
        ("properties/chargeType eq 'Purchase'", 0),
    ],
)
def test_filters(api: Api, text: str, count: int) -> None:
    assert len(ask(api, f"$filter={quote(text)}").body["value"]) == count


def test_default_is_the_current_month(api: Api) -> None:
    with api.installation.catalog.reading() as transaction:
        month = str(Month.of(transaction.now()))
    days = {each["properties"]["date"][:7] for each in ask(api).body["value"]}
    assert days == {month}


@pytest.mark.parametrize(
    "query",
    [
        "$filter=" + quote(text)
        for text in (
            "date", "properties/usageStart ge 2026-03-01", "properties/date ge 'yesterday'", "tags eq 'a'",
            "properties/cost ge '1'", "properties/date ge '2026-03-01' or properties/date le '2026-03-02'",
            "properties/resourceGroup ge 'a'", "properties/date gt '9999-12-31'",
            "properties/date ge '2026-03-01' properties/date le '2026-03-02'", "x" * 5_000,
        )
    ]
    + ["$top=0", "$top=1001", "$top=x", "$skiptoken=abc"],
)  # fmt: skip
def test_invalid_query_is_refused(api: Api, query: str) -> None:
    answer = ask(api, query)
    assert (answer.status, answer.code) == (400, "InvalidParameter"), answer


READERS = (Role.OWNER, Role.CONTRIBUTOR, Role.READER, Role.BILLING_READER)
MONTH = Month(2026, 3)
BILL: dict[str, Callable[[Installation, Principal], Any]] = {
    "show": lambda here, who: statements.show_bill(here, who, MONTH),
    "group": lambda here, who: statements.group_bill(here, who, by="region", month=MONTH),
    "details": lambda here, who: page_usage_details(here, who, PageRequest(), wanted=UsageFilter()),
    "costs": lambda here, who: statements.list_daily_costs(here, who, MONTH),
    "budgets": list_budgets,
    "explain": lambda here, who: explain_entry(here, who, "charge-00003"),
    "prove": lambda here, who: prove_entry(here, who, "charge-00003"),
}


@pytest.mark.parametrize("command", BILL)
@pytest.mark.parametrize("role", Role)
def test_each_role_reads_the_bill_of_its_subscription_or_nothing(api: Api, role: Role, command: str) -> None:
    here, run = api.installation, BILL[command]

    def outcome(scope: str) -> str:
        try:
            run(here, Principal(name="ann", uid="7", grants=(Grant(role=role, scope=scope),)))
        except ImgstoreError as error:
            return error.error_code
        return "read"

    wanted = "read" if role in READERS else "AuthorizationFailed"
    assert outcome(api.top) == outcome("/") == wanted
    assert outcome(f"{api.top}/resourceGroups/{GROUP}") == "AuthorizationFailed"
    assert outcome(f"/subscriptions/{OTHER}") in ("SubscriptionNotFound", "ResourceNotFound")


def test_bill_of_all_subscriptions_needs_a_role_on_the_installation(api: Api) -> None:
    def read(scope: str) -> set[str]:
        caller = Principal(name="ann", uid="7", grants=(Grant(role=Role.BILLING_READER, scope=scope),))
        found = statements.group_bill(api.installation, caller, by="subscription", month=MONTH, all_subscriptions=True)
        return {row.name for row in found.rows}

    assert read("/") == {api.installation.subscription, OTHER}
    with pytest.raises(AccessDenied):
        read(api.top)


def test_billing_reader_of_a_group_sees_the_charges_of_the_group_only(api: Api) -> None:
    reader = bearer(api, Role.BILLING_READER, "near")
    assert march(api, group="near", headers=reader).body["value"]
    assert b"secret" not in json.dumps(march(api, group="near", headers=reader).body).encode()
    for answer in (
        march(api, headers=reader),
        march(api, group=GROUP, headers=reader),
        api.ask("GET", f"{api.top}/resourceGroups/near", headers=reader),
    ):
        assert (answer.status, answer.code) == (403, "AuthorizationFailed")
    assert api.ask("GET", f"{api.top}/providers/Microsoft.Compute/galleries", headers=reader).body["value"] == []


def test_foreign_subscription_is_refused_like_a_missing_one(api: Api) -> None:
    reader = bearer(api, Role.OWNER, "near", "owner")
    texts = []
    for subscription in (OTHER, OTHER.replace("2", "3")):
        for above in ("", "/resourceGroups/near"):
            path = f"/subscriptions/{subscription}{above}/providers/Microsoft.Consumption/usageDetails"
            answer = api.ask("GET", path, headers=reader)
            assert (answer.status, answer.code) == (404, "SubscriptionNotFound")
            texts.append(json.dumps(answer.body).replace(subscription, "ID"))
    assert len(set(texts)) == 1
    # Invariant H20.
    assert "secret-disk" not in json.dumps(ask(api, f"$filter={quote(MARCH)}&$top=1000").body)
    caller = Principal(name="x", grants=(Grant(role=Role.BILLING_READER, scope=api.top),))
    for read in (prove_entry, explain_entry):
        refusals = []
        for name in ("foreign", "missing"):
            with pytest.raises(NotFound, match="could not be found") as caught:
                read(api.installation, caller, name)
            refusals.append(str(caught.value).replace(name, "NAME"))
        assert refusals[0] == refusals[1]
