"""Deployments of templates: the latest deployment of each name in a group."""

import builtins
from typing import Any

from sqlalchemy import Row, delete, func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.deployments import Deployment

_deployments = schema.deployments


class Deployments(Repository):
    """The deployments of all groups."""

    def put(self, deployment: Deployment) -> None:
        """Store a deployment in place of an earlier deployment with the same name."""
        self._session.run(delete(_deployments).where(self._name_clause(deployment.group_uid, deployment.name)))
        self._session.run(_deployments.insert(), _values(deployment))

    def get(self, group_uid: str, name: str) -> Deployment | None:
        """Return the deployment with this name, or None."""
        row = self._session.first(select(_deployments).where(self._name_clause(group_uid, name)))
        return None if row is None else _deployment(row)

    def list(self, group_uid: str) -> builtins.list[Deployment]:
        """Return the deployments of a group, by name."""
        of_group = select(_deployments).where(_deployments.c.group_uid == group_uid)
        return [_deployment(row) for row in self._session.all(of_group.order_by(_deployments.c.name_key))]

    def count(self, group_uid: str) -> int:
        """Return the number of deployments of a group."""
        statement = select(func.count()).select_from(_deployments).where(_deployments.c.group_uid == group_uid)
        return int(self._session.value(statement))

    def remove(self, group_uid: str, name: str | None = None) -> int:
        """Remove the deployment with this name, or all of a group. Return the number of removed rows."""
        which = _deployments.c.group_uid == group_uid if name is None else self._name_clause(group_uid, name)
        return self._session.change(delete(_deployments).where(which))

    @staticmethod
    def _name_clause(group_uid: str, name: str) -> Any:
        return (_deployments.c.group_uid == group_uid) & (_deployments.c.name_key == fold_name(name))


def _values(deployment: Deployment) -> dict[str, Any]:
    return to_columns(
        _deployments, deployment, name_key=fold_name(deployment.name), resources=list(deployment.resources)
    )


def _deployment(row: Row[Any]) -> Deployment:
    return to_value(Deployment, row, resources=tuple(row.resources))
