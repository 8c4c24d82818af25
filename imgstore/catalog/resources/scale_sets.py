"""Scale sets of all subscriptions, and the lease of the process that changes a set.

Each write of a change depends on the token of the lease. A process with an outdated lease finds another token and stops.
"""

import builtins
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select, tuple_, update

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import MutableRows, Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.resources.groups import get_group_uid, is_group
from imgstore.catalog.resources.machines import attachment_from_values, attachment_values
from imgstore.domain.errors import LeaseLost, WorkLeased
from imgstore.domain.machines import NO_SECRETS, MachineSecrets
from imgstore.domain.rolling_updates import BatchSize, InstanceStep, RollingUpdate, StepState
from imgstore.domain.scale_sets import RollingPolicy, ScaleSet, ScaleSetLease
from imgstore.domain.states import ProvisioningState
from imgstore.domain.text.durations import format_time

_sets = schema.scale_sets
_groups = schema.groups
_secrets = schema.scale_set_secrets
_UNFINISHED = _sets.c.former_capacity.is_not(None) | (_sets.c.provisioning_state == ProvisioningState.DELETING)
_SELECT = select(_sets, _groups.c.subscription, _groups.c.name.label("group_name")).join(
    _groups, _sets.c.group_uid == _groups.c.uid
)
_OF_LEASE = ("holder", "token", "lease_expires_at")
"""Only `lease`, `renew` and `release` change these columns."""


class ScaleSets(MutableRows[ScaleSet], table=_sets, noun="scale set", value=ScaleSet, statement=_SELECT):
    """The scale sets of all groups."""

    def add(self, scale_set: ScaleSet) -> None:
        """Add a scale set.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the group has a scale set with this name.
        """
        above = get_group_uid(self._session, scale_set.subscription, scale_set.group)
        self._session.run(_sets.insert(), self._columns(scale_set) | {"group_uid": above})

    def get(self, subscription: str, group: str, name: str) -> ScaleSet | None:
        """Return the scale set with this name in a group, or None."""
        return self._find(is_group(subscription, group), _sets.c.name_key == fold_name(name))

    def list(
        self,
        subscription: str,
        group: str | None = None,
        *,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
        visible: bool = False,
    ) -> builtins.list[ScaleSet]:
        """Return the scale sets of a subscription, or of a group, by name and uid.

        Args:
            subscription: the subscription.
            group: only scale sets of this group.
            after: only scale sets after this name and uid.
            limit: the maximum number of scale sets.
            visible: omit scale sets in state Deleting.
        """
        mine = _groups.c.subscription_key == fold_name(subscription) if group is None else is_group(subscription, group)
        statement = _SELECT.where(mine)
        if visible:
            statement = statement.where(_sets.c.provisioning_state != ProvisioningState.DELETING)
        if after is not None:
            last, uid = after
            statement = statement.where(tuple_(_sets.c.name_key, _sets.c.uid) > tuple_(fold_name(last), uid))
        return self._list(statement.order_by(_sets.c.name_key, _sets.c.uid).limit(limit))

    def list_unfinished(self) -> builtins.list[ScaleSet]:
        """Return all scale sets whose creation, change of capacity or deletion is not finished, of any subscription."""
        return self._list(_SELECT.where(_UNFINISHED).order_by(_sets.c.uid))

    def list_abandoned(self) -> builtins.list[ScaleSet]:
        """Return the scale sets of `list_unfinished` that no process with a valid lease changes."""
        is_free = _sets.c.holder.is_(None) | (_sets.c.lease_expires_at <= self._session.now())
        return self._list(_SELECT.where(_UNFINISHED, is_free).order_by(_sets.c.uid))

    def lease(self, uid: str, *, holder: str, lease_seconds: float, steal_from: str | None = None) -> ScaleSetLease:
        """Lease a set that no process changes, or whose lease has expired. Each call increments the token.

        Args:
            uid: the set.
            holder: the process that asks (see `Work.holder`).
            lease_seconds: the length of the lease from now on, by the database's clock.
            steal_from: a holder that is known to be dead. Its lease counts as expired.

        Raises:
            NotFound: no row has this uid.
            WorkLeased: another process, or another thread of this process, changes the set.
        """
        self.lock(uid)
        row = self._lease_row(uid)
        now = self._session.now()
        if row.holder not in (None, steal_from) and row.lease_expires_at > now:
            raise WorkLeased(
                f"Another process changes the scale set '{row.name}' at the moment.",
                found=f"held by {row.holder} until {format_time(row.lease_expires_at)}",
                expected="no holder, or an expired lease",
                hint="wait for the other command, then run this command again",
                target=uid,
            )
        lease = ScaleSetLease(uid=uid, token=row.token + 1)
        until = now + timedelta(seconds=lease_seconds)
        self._set(_sets.c.uid == uid, holder=holder, token=lease.token, lease_expires_at=until)
        return lease

    def find_holder(self, uid: str) -> str | None:
        """Return the process that changes a set, or None. The process may be dead."""
        holder: str | None = self._session.value(select(_sets.c.holder).where(_sets.c.uid == uid))
        return holder

    def guard(self, lease: ScaleSetLease) -> ScaleSet:
        """Check that the lease is valid, lock the set until the end of the transaction, and return the set.

        Raises:
            LeaseLost: another process changes the set, or has deleted the set.
        """
        statement = self._session.add_row_locks(select(_sets.c.uid).where(_is_leased(lease)))
        if self._session.first(statement) is None:
            raise LeaseLost(
                "Another process has taken over the change of the scale set.",
                found=f"another token than {lease.token}",
                expected="the token of this process",
                hint="nothing is lost: wait for the other process, or run the command again",
                target=lease.uid,
            )
        return self.by_uid(lease.uid)

    def renew(self, lease: ScaleSetLease, *, lease_seconds: float) -> None:
        """Let the lease end `lease_seconds` from now.

        Raises:
            LeaseLost: another process changes the set.
        """
        self.guard(lease)
        self._set(_is_leased(lease), lease_expires_at=self._session.now() + timedelta(seconds=lease_seconds))

    def release(self, lease: ScaleSetLease) -> None:
        """End the lease. Do nothing if the lease was lost, or if the set was deleted."""
        self._set(_is_leased(lease), holder=None, lease_expires_at=None)

    def _lease_row(self, uid: str) -> Row[Any]:
        columns = select(_sets.c.name, _sets.c.holder, _sets.c.token, _sets.c.lease_expires_at)
        return self._row(columns.where(_sets.c.uid == uid), "scale set", uid)

    def _set(self, condition: ColumnElement[bool], **values: Any) -> None:
        self._session.run(update(_sets).where(condition).values(values))

    def _columns(self, scale_set: ScaleSet) -> dict[str, Any]:
        """Return the columns except the group and the lease."""
        return to_columns(
            _sets,
            scale_set,
            omit=("group_uid", *_OF_LEASE),
            name_key=fold_name(scale_set.name),
            tags=dict(scale_set.tags),
            kept={
                "said": dict(scale_set.extra_properties),
                "disks": {key: attachment_values(each) for key, each in scale_set.attachments.items()},
                "rolling": asdict(scale_set.rolling),
                "update": None if scale_set.rolling_update is None else _update_values(scale_set.rolling_update),
            },
        )

    @classmethod
    def from_row(cls, row: Any) -> ScaleSet:
        """Return the scale set in the columns of a row, with the names of its group."""
        return to_value(
            ScaleSet,
            row,
            group=row.group_name,
            attachments={key: attachment_from_values(each) for key, each in row.kept.get("disks", {}).items()},
            extra_properties=row.kept.get("said", {}),
            rolling=RollingPolicy(**row.kept.get("rolling", {})),
            rolling_update=_update_from_values(row.kept.get("update")),
        )


class SecretsOfScaleSets(Repository):
    """Password hashes and custom data of scale sets. No command shows the values, and no bucket has the values."""

    def put(self, scale_set_uid: str, secrets: MachineSecrets) -> None:
        """Store the secrets of a set, instead of earlier secrets."""
        self._session.run(delete(_secrets).where(_secrets.c.uid == scale_set_uid))
        self._session.run(_secrets.insert(), {"uid": scale_set_uid, **asdict(secrets)})

    def find(self, scale_set_uid: str) -> MachineSecrets:
        """Return the secrets of a set. A set without secrets has empty secrets."""
        row = self._session.first(select(_secrets).where(_secrets.c.uid == scale_set_uid))
        return NO_SECRETS if row is None else to_value(MachineSecrets, row)


def _update_values(update: RollingUpdate) -> dict[str, Any]:
    """Return a rolling update as JSON. A step is a list, because a set has up to 1,000 steps."""
    return {
        "source": update.source_reference,
        "batch_size": str(update.batch_size),
        "continues": update.continues_on_failure,
        "cancelled": update.is_cancelled,
        "replaces_equal": update.replaces_equal,
        "started_at": update.started_at.isoformat(),
        "changed_at": update.changed_at.isoformat(),
        "steps": [[each.instance_id, each.state, each.starts_again, each.reason] for each in update.steps],
    }


def _update_from_values(stored: dict[str, Any] | None) -> RollingUpdate | None:
    if stored is None:
        return None
    return RollingUpdate(
        source_reference=stored["source"],
        batch_size=BatchSize.parse(stored["batch_size"]),
        continues_on_failure=stored["continues"],
        is_cancelled=stored["cancelled"],
        replaces_equal=stored["replaces_equal"],
        started_at=datetime.fromisoformat(stored["started_at"]),
        changed_at=datetime.fromisoformat(stored["changed_at"]),
        steps=tuple(
            InstanceStep(instance_id=number, state=StepState(state), starts_again=starts_again, reason=reason)
            for number, state, starts_again, reason in stored["steps"]
        ),
    )


def _is_leased(lease: ScaleSetLease) -> ColumnElement[bool]:
    """The fence: each write of a change has this condition."""
    return (_sets.c.uid == lease.uid) & (_sets.c.token == lease.token) & _sets.c.holder.is_not(None)
