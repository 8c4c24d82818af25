"""Create, show and delete managed images: an OS disk and data disks by LUN, by reference or ingested."""

from collections.abc import Callable, Sequence

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.disk_details import NO_DETAILS
from imgstore.domain.disks.version_disks import OS_DISK, disk_key, sort_disk_keys
from imgstore.domain.errors import InvalidInput, SourceNotFound
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.requests import DiskRequest, ImageRequest
from imgstore.domain.resources import NO_OS_PROPERTIES, DiskKind, ManagedDisk, OsProperties
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import ManagedImage
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.disks import disks
from imgstore.operations.disks.from_source import make_disks
from imgstore.operations.disks.sources import list_candidate_ids, source_not_found
from imgstore.operations.gallery.groups import permit_group
from imgstore.operations.installation import Installation
from imgstore.operations.machines.machines import check_generalized, find_machine
from imgstore.policy.os_compatibility import check_os_compatibility, inherit_declared


def create_image(
    installation: Installation,
    principal: Principal,
    request: ImageRequest,
    *,
    on_recorded: Callable[[ManagedImage], None] = lambda _image: None,
) -> ManagedImage:
    """Create a managed image. The same call resumes an interrupted call.

    Args:
        installation: the installation.
        principal: the caller.
        request: name, sources and properties of the image.
        on_recorded: called with the image when its rows are written, before the bytes are stored.

    Raises:
        InvalidInput: a source is missing or in another region, or has another operating system than the request.
        ImageRefused: a source file is no supported disk.
        PropertyChangeNotAllowed: the image exists, with other sources or in another region.
        Conflict: the source is a machine that is not generalized.
        StoreError: the content of a file could not be stored; the same call resumes.
    """
    names.check_disk_name(request.name, DiskKind.IMAGE.noun)
    scope = names.compute_id(installation.subscription, request.group, DiskKind.IMAGE, request.name)
    permit_group(installation, principal, request.group)
    with record_activity(installation, principal, Action.WRITE, scope):
        sources, os_properties = _sources(installation, principal, request)
        parts = [
            _part(request, part, sources[part], os_properties if part == OS_DISK else NO_OS_PROPERTIES)
            for part in sort_disk_keys(sources)
        ]
        made = make_disks(installation, principal, parts, lambda rows: on_recorded(_image_of(rows)))
        return _image_of(made)


def _image_of(rows: Sequence[ManagedDisk]) -> ManagedImage:
    return ManagedImage(os=rows[0], data=tuple(rows[1:]))


def _sources(
    installation: Installation, principal: Principal, request: ImageRequest
) -> tuple[dict[str, str], OsProperties]:
    """Return the source of each disk by key, and the declared operating system."""
    with installation.catalog.reading() as transaction:
        machine = find_machine(installation, principal, transaction, request.group, request.source)
        disks = [] if machine is None else transaction.disks.list_attached(machine.resource_id)
    if machine is None:
        data = {disk_key(lun): source for lun, source in enumerate(request.data_sources)}
        return {OS_DISK: request.source} | data, request.os_properties
    check_generalized(machine)
    if request.data_sources:
        raise InvalidInput(
            "A virtual machine as the source brings its own data disks: no others can be named.",
            found=f"the virtual machine '{machine.name}' and {len(request.data_sources)} data disks",
            expected="a virtual machine alone",
            hint="leave --data-disk-sources out",
            target="properties.storageProfile.dataDisks",
        )
    check_os_compatibility(
        machine.os_properties,
        request.os_properties,
        source_name=machine.name,
        target_name=f"managed image {request.name}",
    )
    return {disk_key(each.machine_lun): each.resource_id for each in disks}, inherit_declared(
        machine.os_properties, request.os_properties
    )


def _part(request: ImageRequest, part: str, source: str, os_properties: OsProperties) -> DiskRequest:
    return DiskRequest(
        kind=DiskKind.IMAGE,
        group=request.group,
        name=request.name,
        disk_key=part,
        source=source,
        location=request.location,
        storage_account_type=request.storage_account_type,
        os_properties=os_properties,
        source_format=request.source_format,
        tags=request.tags,
        details=request.details.get(part, NO_DETAILS),
    )


def show_image(installation: Installation, principal: Principal, *, group: str, name: str) -> ManagedImage:
    """Return a managed image."""
    found = [each for each in list_images(installation, principal, group=group) if each.os.name.lower() == name.lower()]
    if not found:
        raise lookup.disk_not_found(installation.subscription, group, name, DiskKind.IMAGE)
    return found[0]


def list_images(installation: Installation, principal: Principal, *, group: str | None = None) -> list[ManagedImage]:
    """List the managed images of a group or of the subscription that the principal may see, by name."""
    return list(page_images(installation, principal, PageRequest(), group=group).items)


def page_images(
    installation: Installation, principal: Principal, request: PageRequest, *, group: str | None = None
) -> Page[ManagedImage]:
    """List a page of managed images, each with all its disks.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    page = disks.page_disks(installation, principal, request, group=group, kind=DiskKind.IMAGE, part=OS_DISK)
    with installation.catalog.reading() as transaction:
        parts = transaction.disks.list_by_image(page.items)
    images = (image_of_disks(parts[each.resource_id.lower()]) for each in page.items)
    return Page(items=tuple(each for each in images if each is not None), next_token=page.next_token)


def image_of_disks(parts: Sequence[ManagedDisk]) -> ManagedImage | None:
    """Make a managed image from its disks. None without an OS disk."""
    by_part = {each.disk_key: each for each in parts}
    if OS_DISK not in by_part:
        return None
    os_disk, *data = (by_part[part] for part in sort_disk_keys(by_part))
    return ManagedImage(os=os_disk, data=tuple(data))


def find_image(
    installation: Installation, principal: Principal, transaction: Transaction, group: str, word: str, *, what: str
) -> ManagedImage:
    """Return the managed image that `word` names if the principal may read the image.

    Args:
        installation: the installation.
        principal: the caller.
        transaction: the open transaction.
        group: name of the group of a bare name.
        word: the text of the request.
        what: resource to create, for the error.

    Raises:
        InvalidInput: the image does not exist, or is not ready.
        AccessDenied: the principal may not read the image.
    """
    named = list_candidate_ids(installation, group, word, (DiskKind.IMAGE,))
    for each in named:
        authorize(principal, Action.READ, each.resource_id)
    parts = [
        disk
        for each in named
        for disk in transaction.disks.list(each.subscription, each.group, DiskKind.IMAGE, each.name)
    ]
    found = image_of_disks(parts)
    if found is None or found.provisioning_state is not ProvisioningState.SUCCEEDED:
        kind = InvalidInput if parts else SourceNotFound
        raise source_not_found(word, "no managed image that is ready", what=what, kind=kind)
    return found
