"""Budgets: a reached budget warns, or refuses new replications before anything is written."""

from decimal import Decimal

import pytest
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.errors import AccessDenied, Conflict, InvalidInput, NotFound
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.progress import ProgressEvent
from imgstore.domain.requests import VersionSource
from imgstore.domain.resources import VersionUpdate
from imgstore.domain.states import ReplicaState
from imgstore.ledger.budgets import AtLimit, BudgetUse
from imgstore.ledger.months import Month
from imgstore.operations import lookup
from imgstore.operations.billing import budgets, statements
from imgstore.operations.installation import Installation
from imgstore.operations.replication.copy import converge
from imgstore.operations.versions import create as versions_create
from imgstore.operations.versions import update as versions_update
from tests.support.revision_audit import check_revisions
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    TARGETS,
    SampleImages,
    open_home,
    publish,
    request,
    target,
)

pytest_plugins = ["tests.support.published_gallery"]


def set_budget(
    installation: Installation, amount: str, at_limit: AtLimit = AtLimit.REFUSE, **more: object
) -> BudgetUse:
    return budgets.set_budget(installation, ADMIN, amount=Decimal(amount), at_limit=at_limit, **more)  # type: ignore[arg-type]


def update(installation: Installation, *targets: str, wait: bool = True) -> None:
    versions_update.update_version(
        installation,
        ADMIN,
        group=GROUP,
        gallery=GALLERY,
        definition=DEFINITION,
        version=request().version,
        update=VersionUpdate(target_regions=[target(each) for each in targets]),
        wait=wait,
    )


def rows(installation: Installation) -> list[tuple[str, ReplicaState]]:
    with installation.catalog.reading() as transaction:
        found = transaction.replicas.list_by_version([each.uid for each in transaction.versions.list_all()])
    return sorted((str(replica.slot.key), replica.state) for each in found.values() for replica in each)


def reached_entries(installation: Installation) -> list[str | None]:
    with installation.catalog.reading() as transaction:
        found = transaction.activity.list(100, scope=None, since=None)
    return [each.detail for each in found if each.action == "imgstore/budgets/reached"]


def test_a_reached_budget_refuses_new_replicas_before_anything_is_written(
    published: Installation, samples: SampleImages
) -> None:
    set_budget(published, "0")
    before = rows(published)
    with pytest.raises(Conflict, match="budget") as refused:
        publish(published, samples.second, "1.0.1")
    assert refused.value.error_code == "BudgetExceeded"
    assert "a budget of 0 USD, so any replication exceeds the budget" in str(refused.value)
    with pytest.raises(Conflict, match="New replications are refused"):
        update(published, *TARGETS, "northeurope")
    with pytest.raises(Conflict, match="New replications are refused"):
        update(published, "southcentralus=3", *TARGETS[1:])
    # Invariant M30: no row changed, and the log has one entry for the month.
    assert rows(published) == before
    assert len(reached_entries(published)) == 1


def test_a_reached_budget_permits_what_starts_no_replication(published: Installation, samples: SampleImages) -> None:
    set_budget(published, "0")
    publish(published, samples.second, "1.0.1", ["southcentralus"])
    publish(published, samples.first)  # A repetition.
    update(published, "southcentralus", "eastus")


def test_a_reached_budget_refuses_a_new_version_from_bytes_of_another_region(published: Installation) -> None:
    set_budget(published, "0")
    crossing = request(
        "1.0.1",
        ["northeurope"],
        source=VersionSource(image_version=f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"),
        location="northeurope",
    )
    with pytest.raises(Conflict, match="New replications are refused"):
        versions_create.create_version(published, ADMIN, crossing)


def test_accepted_replicas_continue_after_the_budget_is_reached(published: Installation) -> None:
    update(published, *TARGETS, "northeurope", wait=False)
    set_budget(published, "0")
    update(published, *TARGETS, "northeurope", wait=False)
    with published.catalog.reading() as transaction:
        path = lookup.find_definition_path(transaction, published.subscription, GROUP, GALLERY, DEFINITION)
        (version,) = transaction.versions.list_all()
    assert not converge(published, path, version)
    assert {state for _, state in rows(published)} == {ReplicaState.COMPLETED}


def test_a_budget_that_warns_notes_each_replication_and_logs_the_month_once(
    published: Installation, samples: SampleImages
) -> None:
    events: list[ProgressEvent] = []
    with open_home(published.home, events.append) as installation:
        set_budget(installation, "0", AtLimit.WARN)
        update(installation, *TARGETS, "northeurope")
        publish(installation, samples.second, "1.0.1")
        assert len(reached_entries(installation)) == 1
        set_budget(installation, "0", AtLimit.WARN)
        update(installation, *TARGETS, "northeurope=2")
        assert len(reached_entries(installation)) == 2
    assert [each.task for each in events if "is reached" in (each.detail or "")] == ["budget"] * 3


def test_a_budget_counts_the_amount_due_of_the_month(published: Installation) -> None:
    with published.catalog.reading() as transaction:
        month = Month.of(transaction.now())
    due = statements.show_bill(published, ADMIN, month=month).totals[0].due
    use = set_budget(published, "1000", month=month)
    assert (use.used, use.remaining, use.is_reached) == (due, 1000 - due, False)
    update(published, *TARGETS, "northeurope")
    # The budget of another month does not apply, and a month's own budget applies instead of that of every month.
    set_budget(published, "0")
    set_budget(published, "0", month=month.next)
    update(published, *TARGETS, "northeurope=2")
    assert [each.month for each in budgets.list_budgets(published, ADMIN)] == [str(month), str(month.next), "every"]
    budgets.delete_budget(published, ADMIN, month)
    with pytest.raises(Conflict):
        update(published, *TARGETS, "northeurope=3")
    budgets.delete_budget(published, ADMIN)
    with pytest.raises(NotFound):
        budgets.show_budget(published, ADMIN)
    with pytest.raises(NotFound):
        budgets.delete_budget(published, ADMIN, month)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("-1", None), ("0.001", None), ("1e16", None), ("NaN", None), ("1e999999999", None), ("1", "EUR")],
)
def test_invalid_budgets_are_refused(published: Installation, amount: str, currency: str | None) -> None:
    with pytest.raises(InvalidInput):
        set_budget(published, amount, currency=currency)


@pytest.mark.parametrize("amount", ["-5", "1,000", "1_000", "1e3", "٣", "NaN", "", "9" * 5_000, "0.001"])
def test_words_that_are_no_amount_are_refused(empty: Installation, amount: str) -> None:
    result = CliRunner().invoke(main, ["--home", str(empty.home), "budget", "set", f"--amount={amount}"])
    assert "no amount" in result.output or "amount of a budget is invalid" in result.output
    assert budgets.list_budgets(empty, ADMIN) == []


def test_only_owners_set_budgets_and_readers_see_budgets(published: Installation) -> None:
    scope = f"/subscriptions/{published.subscription}"
    contributor = Principal(name="c", grants=(Grant(role=Role.CONTRIBUTOR, scope=scope),))
    owner = Principal(name="o", grants=(Grant(role=Role.OWNER, scope=scope),))
    with pytest.raises(AccessDenied):
        budgets.set_budget(published, contributor, amount=Decimal(1), at_limit=AtLimit.WARN)
    budgets.set_budget(published, owner, amount=Decimal(1), at_limit=AtLimit.WARN)
    assert budgets.show_budget(published, contributor).budget.amount == Decimal("1.00")
    with pytest.raises(AccessDenied):
        budgets.delete_budget(published, contributor)
    # Invariant B18: a rebuild finds the budget in the buckets.
    check_revisions(published)
