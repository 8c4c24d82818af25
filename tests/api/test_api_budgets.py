"""A reached budget answers requests for new replicas with 409, and stores no operation and no version."""

from decimal import Decimal

from api_server import Api, version_body

from imgstore.ledger.budgets import AtLimit
from imgstore.operations.billing import budgets
from tests.support.http_server import WebServer
from tests.support.sample_gallery import ADMIN

pytest_plugins = ["api_fixtures"]

HERE = "southcentralus"


def test_a_reached_budget_refuses_requests_for_new_replicas(api: Api, web: WebServer) -> None:
    api.found()
    budgets.set_budget(api.installation, ADMIN, amount=Decimal(0), at_limit=AtLimit.REFUSE)
    body = version_body(web.url("/one.raw"), {"name": HERE}, {"name": "westus2"})
    refused = api.ask("PUT", api.version(), body)
    assert (refused.status, refused.code) == (409, "BudgetExceeded"), refused
    assert api.ask("GET", api.version()).status == 404
    # Invariant M30: the first replica arrives by the ingest, and is no replication.
    single = version_body(web.url("/one.raw"), {"name": HERE})
    assert api.await_end(api.ask("PUT", api.version(), single))["status"] == "Succeeded"
    wider = api.ask(
        "PATCH", api.version(), {"properties": {"publishingProfile": body["properties"]["publishingProfile"]}}
    )
    assert (wider.status, wider.code) == (409, "BudgetExceeded"), wider
    budgets.delete_budget(api.installation, ADMIN)
    assert api.await_end(api.ask("PUT", api.version(), body))["status"] == "Succeeded"
