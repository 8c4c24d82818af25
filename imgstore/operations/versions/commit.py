"""Make an image version of a stored disk and the overlay of its writes."""

from pathlib import Path

from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.names import version_id
from imgstore.domain.requests import VersionRequest
from imgstore.domain.views import VersionView
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit
from imgstore.operations.disks.commit import open_overlaid_disk, read_base
from imgstore.operations.installation import Installation
from imgstore.operations.versions.create import publish_readers
from imgstore.policy.os_compatibility import check_os_compatibility


def commit_version(
    installation: Installation, principal: Principal, request: VersionRequest, overlay: Path, *, wait: bool = True
) -> VersionView:
    """Create an image version whose OS disk is the overlay at a path with its base. See `commit_disk`.

    Data disks of the base are not part of the new version.

    Raises:
        InvalidInput: the base is a data disk, or declares another operating system than the definition.
        NotFound, WorkHeld, StoreError: see `open_overlaid_disk`. Other errors: see `publish_readers`.
    """
    above = (request.group, request.gallery, request.definition)
    permit(installation, principal, Action.WRITE, version_id(installation.subscription, *above, request.version))
    base = read_base(overlay)
    if base.disk_key != OS_DISK:
        raise InvalidInput(
            "The base of the overlay is a data disk, and an image version needs an OS disk.",
            found=f"{base.disk_key} of {base.location}",
            expected="an overlay over an OS disk",
            hint="make a managed disk: `imgstore disk commit --overlay FOLDER -g GROUP -n NAME`",
            target="overlay",
        )
    with open_overlaid_disk(installation, principal, overlay) as opened:
        with installation.catalog.reading() as transaction:
            path = lookup.find_parent_definition(transaction, installation.subscription, *above)
        check_os_compatibility(
            opened.os_properties,
            path.definition.os_properties,
            source_name=base.location,
            target_name=path.definition.name,
        )
        return publish_readers(installation, principal, request, {OS_DISK: opened.reader}, wait=wait)
