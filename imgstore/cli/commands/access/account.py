"""``imgstore account``: subscriptions."""

import click

from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.operations.gallery import subscriptions
from imgstore.wire.json_text import Json
from imgstore.wire.responses.resources import subscription_json

_TABLE = columns(SubscriptionId="id", State="state", IsDefault="isDefault")


@click.group(cls=Group)
def account() -> None:
    """Show subscriptions."""


@account.command("list", table=_TABLE, example="imgstore account list --query '[].id' -o tsv")
def list_(session: Session) -> Json:
    """List the subscriptions.

    Every other command works in one subscription: the default, or the subscription of --subscription.
    """
    found = session.run(subscriptions.list_visible_subscriptions)
    return [subscription_json(each, default=session.installation.subscription) for each in found]
