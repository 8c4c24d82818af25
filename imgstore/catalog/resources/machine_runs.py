"""The last start of each machine, and the secrets for the first start."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import MutableRows, Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.machine_runs import MachineRun, PortForward, PowerState
from imgstore.domain.machines import MachineSecrets

_runs = schema.machine_runs
_secrets = schema.machine_secrets
_machines = schema.machines
_set_secrets = schema.scale_set_secrets


class MachineRuns(MutableRows[MachineRun], table=_runs, noun="run of a machine", value=MachineRun):
    """The last start of each machine. The lock of the machine's row orders all starts and stops."""

    def find(self, machine_uid: str) -> MachineRun | None:
        """Return the last start of a machine. None for a machine that never started."""
        return self._find(_runs.c.uid == machine_uid)

    def put(self, run: MachineRun) -> None:
        """Add a run, or replace the earlier run of the machine."""
        self._session.run(delete(_runs).where(_runs.c.uid == run.uid))
        self.add(run)

    def list_of_host(self, host_name: str) -> list[MachineRun]:
        """Return the runs of a host in any state, also from before the last boot."""
        return self._list(select(_runs).where(_runs.c.host.startswith(f"{host_name}/", autoescape=True)))

    def renew(self, run: MachineRun, lease_seconds: float) -> bool:
        """Renew the lease of a run. Return False if a later start has replaced the run, or a stop has ended it."""
        ended = [each for each in PowerState if not each.is_active]
        mine = (_runs.c.uid == run.uid) & (_runs.c.run_uid == run.run_uid) & _runs.c.state.not_in(ended)
        until = self._session.now() + timedelta(seconds=lease_seconds)
        return bool(self._session.change(update(_runs).where(mine).values(lease_expires_at=until)))

    def _columns(self, value: MachineRun) -> dict[str, Any]:
        return to_columns(_runs, value, servers=list(value.servers), forwards=[asdict(each) for each in value.forwards])

    @classmethod
    def from_row(cls, row: Any) -> MachineRun:
        """Return the run in the columns of a row."""
        return to_value(
            MachineRun,
            row,
            servers=tuple(row.servers),
            forwards=tuple(PortForward(**each) for each in row.forwards),
        )


class SecretsOfMachines(Repository):
    """Password hashes and custom data of machines. No command shows the values, and no bucket has the values."""

    def put(self, machine_uid: str, secrets: MachineSecrets) -> None:
        """Store the secrets of a new machine."""
        self._session.run(_secrets.insert(), {"uid": machine_uid, **asdict(secrets)})

    def find(self, machine_uid: str) -> MachineSecrets:
        """Return the secrets of a machine, or of the scale set of an instance.

        A machine without secrets has empty secrets.
        """
        row = self._session.first(select(_secrets).where(_secrets.c.uid == machine_uid))
        if row is None:
            of_set = select(_machines.c.scale_set_uid).where(_machines.c.uid == machine_uid).scalar_subquery()
            row = self._session.first(select(_set_secrets).where(_set_secrets.c.uid == of_set))
        return MachineSecrets() if row is None else to_value(MachineSecrets, row)
