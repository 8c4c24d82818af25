"""Commands for long-running operations through a server, with the options and output of a home."""

from imgstore.cli.framework.server_dispatch import ServerCommand
from imgstore.domain.errors import NotFound
from imgstore.wire.json_text import Json


def list_operations(asking: ServerCommand, *, status: str | None) -> Json:
    """`imgstore operation list`."""
    query = {} if status is None else {"status": status}
    return asking.server.show(_above(asking), **query)["value"]


def show_operation(asking: ServerCommand, *, name: str) -> Json:
    """`imgstore operation show`."""
    for each in list_operations(asking, status=None):
        if each["name"] == name:
            return each
    raise NotFound(
        f"The operation '{name}' was not found.",
        found="no operation with this id, or no right to see the operation",
        expected="the id from the answer to a request",
        hint="`imgstore operation list` shows the operations",
        target=name,
    )


def cancel_operation(asking: ServerCommand, *, name: str) -> Json:
    """`imgstore operation cancel`."""
    return asking.server.post_action(f"{_above(asking)}/{name}", "cancel")


def _above(asking: ServerCommand) -> str:
    """Return the path of the list. Operations have no region, so any word serves as the region."""
    return f"/subscriptions/{asking.server.subscription}/providers/Microsoft.Compute/locations/any/capsOperations"
