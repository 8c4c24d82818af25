"""``imgstore vmss update``, ``update-instances``, ``reimage`` and ``rolling-upgrade``: instances get the model of their set."""

from collections.abc import Sequence
from typing import Any, Final

import click

from imgstore.cli.commands.machines.vmss import TABLE
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Command, Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.errors import InvalidInput
from imgstore.domain.rolling_updates import BatchSize
from imgstore.domain.scale_sets import UpgradeMode
from imgstore.operations.scale_sets import rolling_update
from imgstore.operations.scale_sets.health_probes import PROBE_SECONDS, HealthProbe
from imgstore.operations.scale_sets.model import ModelChange
from imgstore.operations.scale_sets.rolling_update import RolloutRequest
from imgstore.operations.scale_sets.update import reimage_scale_set, update_instances, update_scale_set
from imgstore.wire.json_text import Json
from imgstore.wire.responses.scale_sets import rolling_update_json, scale_set_json

_ROLLING_TABLE: Final = columns(
    Status="properties.runningStatus.code",
    Succeeded="properties.progress.successfulInstanceCount",
    Failed="properties.progress.failedInstanceCount",
    InProgress="properties.progress.inProgressInstanceCount",
    Pending="properties.progress.pendingInstanceCount",
    Error="properties.error.message",
)
_UPDATE_EXAMPLE: Final = """
imgstore vmss update -g rg -n web --image rg/golden/web/1.1.0 --upgrade-policy-mode Rolling --batch-size 20%
imgstore vmss update -g rg -n web --image rg/golden/web --health-probe-port 443 --probe-timeout 300
imgstore vmss update -g rg -n web --image rg/golden/web --health-probe ./probe.sh
"""
_ALL: Final = "*"
_ID_CHARACTERS_MAX: Final = 9

_probe_options = (
    click.option(
        "--health-probe",
        "probe_command",
        metavar="COMMAND",
        help="Command for /bin/sh on this host. An instance is healthy if the exit code is 0. The variables "
        "IMGSTORE_INSTANCE_ID, IMGSTORE_INSTANCE_NAME and IMGSTORE_PORT_<guest port> describe the instance.",
    ),
    options.number(
        "--health-probe-port",
        "probe_port",
        least=1,
        most=65535,
        unit="PORT",
        text="TCP port of the guest. An instance is healthy if a process of the guest keeps a connection open.",
    ),
    options.fraction(
        "--probe-timeout",
        "probe_seconds",
        least=1.0,
        default=PROBE_SECONDS,
        unit="SECONDS",
        text="Time in which an instance becomes healthy. Default: 120.",
    ),
    click.option("--continue-on-failure", is_flag=True, help="Continue with the next batch after a failed instance."),
)
_batch_size = click.option(
    "--batch-size",
    metavar="N|P%",
    help="Instances that are updated at the same time, as a number or a percentage. Default: 20%, or all instances in the "
    "mode Automatic.",
)


def _instance_ids(*, required: bool) -> options.Decorator:
    return options.words(
        "--instance-ids", required=required, metavar="ID ...", help="Instances of the scale set. * means all instances."
    )


def _parse_id(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= _ID_CHARACTERS_MAX):
        raise click.BadParameter(f"{word!r} is no instance id. `imgstore vmss list-instances` shows the ids.")
    return int(word)


def _read_rollout(given: dict[str, Any]) -> RolloutRequest:
    """Take the options of the batches and of the probe out of `given`."""
    command, port, seconds = (given.pop(name) for name in ("probe_command", "probe_port", "probe_seconds"))
    has_probe = command is not None or port is not None
    word = given.pop("batch_size")
    return RolloutRequest(
        batch_size=None if word is None else BatchSize.parse(word),
        probe=HealthProbe(command=command, guest_port=port, timeout_seconds=seconds) if has_probe else None,
        continues_on_failure=given.pop("continue_on_failure"),
    )


def _read_update(**given: Any) -> dict[str, Any]:
    rollout = _read_rollout(given)
    change = ModelChange(
        image=given.pop("image"),
        size=given.pop("size"),
        tags=given.pop("tags"),
        upgrade_mode=given.pop("upgrade_mode"),
    )
    return given | {"change": change, "rollout": rollout}


def _read_instances(**given: Any) -> dict[str, Any]:
    rollout = _read_rollout(given)
    words = given.pop("instance_ids") or ()
    ids = None if not words or _ALL in words else [_parse_id(each) for each in words]
    return given | {"instance_ids": ids, "rollout": rollout}


@click.command(cls=Command, table=TABLE, example=_UPDATE_EXAMPLE, read_options=_read_update)
@options.resource_in_group("scale set")
@click.option(
    "--image",
    metavar="REF|NAME|ID",
    help="An image version as RG/GALLERY/DEFINITION[/VERSION] or by id, or a managed image by name or id. OS type, "
    "generation and data disks must match the present image. Default version: latest.",
)
@click.option("--vm-sku", "size", metavar="SIZE", help="Azure's name of a machine size.")
@options.choice(
    "--upgrade-policy-mode",
    "upgrade_mode",
    members=tuple(UpgradeMode),
    help="Manual changes the model only. Rolling updates the instances in batches, and Automatic updates all together.",
)
@_batch_size
@options.together(*_probe_options)
@options.tags
def update(session: Session, group: str, name: str, change: ModelChange, rollout: RolloutRequest) -> Json:
    """Change the model of a scale set, and give the instances new OS disks in batches.

    A running instance is stopped, gets an OS disk of the new image, is started again and probed. No further batch begins
    after a failed instance. The same command resumes an interrupted or failed update.
    """
    changed = session.run(update_scale_set, group=group, name=name, change=change, rollout=rollout)
    if changed.upgrade_mode is UpgradeMode.MANUAL and (rollout.batch_size or rollout.probe):
        raise InvalidInput(
            "The upgrade mode of the scale set is Manual, so no instance was updated.",
            found="--batch-size or a health probe",
            expected="the upgrade mode Rolling or Automatic",
            hint="add --upgrade-policy-mode Rolling, or name instances with `imgstore vmss update-instances`",
            target="upgrade-policy-mode",
        )
    return scale_set_json(changed)


@click.command(
    "update-instances",
    cls=Command,
    table=TABLE,
    example="imgstore vmss update-instances -g rg -n web --instance-ids 0 1\n"
    "imgstore vmss update-instances -g rg -n web --instance-ids '*' --batch-size 2",
    read_options=_read_instances,
)
@options.resource_in_group("scale set")
@_instance_ids(required=True)
@_batch_size
@options.together(*_probe_options)
def update_instances_(
    session: Session, group: str, name: str, instance_ids: Sequence[int] | None, rollout: RolloutRequest
) -> Json:
    """Give instances the model of their scale set, in any upgrade mode."""
    return scale_set_json(
        session.run(update_instances, group=group, name=name, instance_ids=instance_ids, rollout=rollout)
    )


@click.command(
    cls=Command,
    table=TABLE,
    example="imgstore vmss reimage -g rg -n web --instance-ids 3",
    read_options=_read_instances,
)
@options.resource_in_group("scale set")
@_instance_ids(required=False)
@_batch_size
@options.together(*_probe_options)
def reimage(
    session: Session, group: str, name: str, instance_ids: Sequence[int] | None, rollout: RolloutRequest
) -> Json:
    """Give instances a new OS disk of the image in the model. The changes of the guests are lost."""
    return scale_set_json(
        session.run(reimage_scale_set, group=group, name=name, instance_ids=instance_ids, rollout=rollout)
    )


@click.group("rolling-upgrade", cls=Group)
def rolling_upgrade() -> None:
    """Show and cancel the last rolling update of a scale set."""


@rolling_upgrade.command(
    "get-latest", table=_ROLLING_TABLE, example="imgstore vmss rolling-upgrade get-latest -g rg -n web -o table"
)
@options.resource_in_group("scale set")
def get_latest(session: Session, group: str, name: str) -> Json:
    """Show the last rolling update, with the failed instances and the reasons."""
    return rolling_update_json(*session.run(rolling_update.show_rolling_update, group=group, name=name))


@rolling_upgrade.command("cancel", example="imgstore vmss rolling-upgrade cancel -g rg -n web")
@options.resource_in_group("scale set")
def cancel(session: Session, group: str, name: str) -> None:
    """Begin no further batch of a rolling update. Updated instances keep their new disks."""
    session.run(rolling_update.cancel_rolling_update, group=group, name=name)
