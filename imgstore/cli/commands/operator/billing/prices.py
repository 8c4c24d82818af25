"""``imgstore prices``: the price lists of an installation."""

import click

from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.ledger.prices.price_documents import to_document
from imgstore.operations.billing import price_lists as operations
from imgstore.wire.json_text import Json, instant


@click.group(cls=Group)
def prices() -> None:
    """Show and apply the price lists of the installation."""


@prices.command(
    "list",
    table=columns(Number="number", Currency="currency", EffectiveAt="effectiveAt", InFile="inFile"),
    example="imgstore prices list -o table",
)
def list_(session: Session) -> Json:
    """List all price lists since the first start. The last list applies now.

    The first command after a change of the prices in regions.yaml adds a list. The list applies from that moment on, and
    older days keep their prices.
    """
    return [
        {
            "number": each.prices.number,
            "effectiveAt": instant(each.effective_at),
            "inFile": each.is_in_file,
            **to_document(each.prices),
        }
        for each in session.run(operations.list_prices)
    ]


@prices.command(example="imgstore prices apply")
def apply(session: Session) -> Json:
    """Make the prices of regions.yaml the newest price list, which applies from now on.

    A former list in regions.yaml, for example on a second machine with an older file, does not apply by itself. This
    command applies such a list again.
    """
    applied = session.run(operations.apply_prices)
    return {"number": applied.number, **to_document(applied)}
