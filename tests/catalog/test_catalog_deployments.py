"""Deployments on both engines: the latest deployment of a name is kept, and names are compared without case."""

from dataclasses import replace

import pytest
from catalog_values import group, uid

from imgstore.catalog import Catalog
from imgstore.domain.deployments import Deployment, DeploymentState

pytest_plugins = ["catalog_fixtures"]


def test_latest_deployment_of_a_name_is_kept(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        above, other = group(), group("other")
        for each in (above, other):
            transaction.groups.add(each)
        first = Deployment(
            uid=uid(),
            group_uid=above.uid,
            name="Deploy",
            state=DeploymentState.RUNNING,
            parameters={"a": {"type": "int", "value": 1}},
            started_at=transaction.now(),
        )
        transaction.deployments.put(first)
        transaction.deployments.put(replace(first, uid=uid(), group_uid=other.uid))
        assert transaction.deployments.get(above.uid, "dEPLOY") == first
        last = replace(
            first,
            uid=uid(),
            name="deploy",
            state=DeploymentState.FAILED,
            resources=("/a", "/b"),
            outputs={"o": {"value": [1]}},
            error={"code": "X"},
            finished_at=transaction.now(),
        )
        transaction.deployments.put(last)
        assert transaction.deployments.list(above.uid) == [last]
        assert transaction.deployments.remove(above.uid, "DEPLOY") == 1
        assert transaction.deployments.get(above.uid, "deploy") is None
        assert transaction.deployments.remove(other.uid) == 1
        assert transaction.deployments.list(other.uid) == []


@pytest.mark.parametrize("name", ["deploy", "other"])
def test_missing_deployment_is_none(catalog: Catalog, name: str) -> None:
    with catalog.reading() as transaction:
        assert transaction.deployments.get(uid(), name) is None
        assert transaction.deployments.list(uid()) == []
