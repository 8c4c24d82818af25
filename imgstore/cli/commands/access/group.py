"""``imgstore group``: resource groups."""

from collections.abc import Mapping

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.paging import PageRequest
from imgstore.operations.gallery import groups
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_tag
from imgstore.wire.responses.resources import group_json

_TABLE = columns(Name="name", Location="location", Status="properties.provisioningState")
_name = click.option(
    "-n", "-g", "--name", "--resource-group", "name", required=True, metavar="NAME", help="Name of the resource group."
)


@click.group(cls=Group)
def group() -> None:
    """Manage resource groups."""


@group.command(table=_TABLE, example="imgstore group create -n rg -l southcentralus --tags team=images")
@_name
@options.location(help="The region that the group is filed under.", required=True)
@options.tags
def create(session: Session, name: str, location: str, tags: Mapping[str, str] | None) -> Json:
    """Create a resource group, or change its tags."""
    return group_json(session.run(groups.create_group, name=name, location=location, tags=tags))


@group.command(table=_TABLE, example="imgstore group show -n rg")
@_name
def show(session: Session, name: str) -> Json:
    """Show a resource group."""
    return group_json(session.run(groups.show_group, name=name))


@group.command("list", table=_TABLE, example="imgstore group list --tag team=images --query '[].name' -o tsv")
@click.option("--tag", type=parse_tag, metavar="KEY[=VALUE]", help="List groups with this tag only.")
@options.together(*options.pages)
def list_(session: Session, tag: tuple[str, str | None] | None, page: PageRequest) -> Json:
    """List the resource groups."""
    return [group_json(each) for each in session.page(groups.page_groups, page, tag=tag)]


@group.command(example="imgstore group delete -n rg --yes", question="Delete the resource group '{name}'?")
@_name
@options.yes
def delete(session: Session, name: str) -> None:
    """Delete an empty resource group."""
    session.run(groups.delete_group, name=name)
