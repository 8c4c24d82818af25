"""``imgstore operation``: long-running operations of the API."""

import click

from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.async_operations import OperationStatus
from imgstore.operations import cancellation
from imgstore.operations.api_operations import show_operation
from imgstore.wire.json_text import Json
from imgstore.wire.responses.operations import operation_details_json

_TABLE = columns(
    Name="name",
    Status="status",
    Command="properties.command",
    Caller="properties.caller",
    Started="startTime",
    Resource="properties.resourceId",
)
_name = click.option("-n", "--name", required=True, metavar="ID", help="Id of the operation.")


@click.group(cls=Group)
def operation() -> None:
    """List and cancel long-running operations of the API."""


@operation.command("list", table=_TABLE, example="imgstore operation list --status InProgress -o table")
@click.option(
    "--status",
    type=click.Choice([each.value for each in OperationStatus], case_sensitive=False),
    metavar="|".join(OperationStatus),
    help="List operations with this status. Default: all operations of the last seven days.",
)
def list_(session: Session, status: str | None) -> Json:
    """List the operations of the subscription, the newest first."""
    wanted = None if status is None else OperationStatus(status)
    return [operation_details_json(each) for each in session.run(cancellation.list_operations, status=wanted)]


@operation.command(table=_TABLE, example="imgstore operation show -n 5f0c2b9e-8a0d-4c52-9d3e-0f4f6f5f0f11")
@_name
def show(session: Session, name: str) -> Json:
    """Show the status of an operation, and the error of a failed operation."""
    return operation_details_json(session.run(show_operation, name))


@operation.command(table=_TABLE, example="imgstore operation cancel -n 5f0c2b9e-8a0d-4c52-9d3e-0f4f6f5f0f11")
@_name
def cancel(session: Session, name: str) -> Json:
    """Cancel an operation.

    The operation stops at its next step, within about a second, and then has the status Canceled. Its results stay as after
    an interruption: the same request resumes the work, and a deletion removes the results.
    """
    return operation_details_json(session.run(cancellation.cancel_operation, name))
