"""Share galleries with subscriptions, tenants or every caller, and find shared images.

The catalog records the tenant of a subscription. A caller acts in the subscription of the open installation, and needs a
role there with the right to read. Sharing grants the right to read, and does not change the roles of the gallery's owner.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import NotFound
from imgstore.domain.identity.access import (
    DEFINITIONS,
    VERSIONS,
    Action,
    Principal,
    authorize,
    authorize_list,
    is_allowed,
)
from imgstore.domain.identity.sharing import SharingProfile, add_members, publish_profile, remove_members
from imgstore.domain.names import ImageReference, SharedReference, VersionName
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import Gallery
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, record_activity
from imgstore.operations.gallery.versions import combine_view, view_of
from imgstore.operations.installation import Installation

COMMUNITY: Final = "Microsoft.Compute/locations/communityGalleries"
SHARED: Final = "Microsoft.Compute/locations/sharedGalleries"
_EXPECTED: Final = "a gallery that is shared with this subscription or its tenant"


def share_add(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    subscriptions: Sequence[str] = (),
    tenants: Sequence[str] = (),
) -> Gallery:
    """Share a gallery with subscriptions and tenants.

    Raises:
        NotFound: the gallery does not exist.
        InvalidInput, Conflict: the errors of `sharing.add_members`.
    """
    return _change_sharing(
        installation,
        principal,
        group,
        name,
        lambda standing: add_members(standing, subscriptions=subscriptions, tenants=tenants),
    )


def share_remove(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    subscriptions: Sequence[str] = (),
    tenants: Sequence[str] = (),
) -> Gallery:
    """Stop sharing a gallery with subscriptions and tenants. Existing disks stay. Raises the errors of `share_add`."""
    return _change_sharing(
        installation,
        principal,
        group,
        name,
        lambda standing: remove_members(standing, subscriptions=subscriptions, tenants=tenants),
    )


def share_reset(installation: Installation, principal: Principal, *, group: str, name: str) -> Gallery:
    """End every sharing of a gallery, of any kind.

    Raises:
        NotFound: the gallery does not exist.
    """
    return _change_sharing(installation, principal, group, name, lambda _: SharingProfile())


def enable_community(installation: Installation, principal: Principal, *, group: str, name: str) -> Gallery:
    """Let every caller of the installation find and read a community gallery.

    Raises:
        NotFound: the gallery does not exist.
        Conflict: the gallery was not created with the permission for the community.
    """
    unique = installation.effects.new_uid()
    return _change_sharing(installation, principal, group, name, lambda standing: publish_profile(standing, unique))


def list_shared(
    installation: Installation, principal: Principal, *, location: str, to_tenant: bool = False
) -> list[Gallery]:
    """List the galleries in a region that are shared with this subscription.

    A gallery of this subscription is listed if the caller may read the gallery.

    Args:
        installation: the installation, opened for the subscription.
        principal: the caller.
        location: name of the region.
        to_tenant: list the galleries that are shared with the tenant of the subscription instead.

    Raises:
        InvalidInput: the region does not exist.
    """
    request = PageRequest()
    return list(page_shared(installation, principal, request, location=location, to_tenant=to_tenant).items)


def page_shared(
    installation: Installation, principal: Principal, request: PageRequest, *, location: str, to_tenant: bool = False
) -> Page[Gallery]:
    """List a page of shared galleries by name.

    Raises:
        InvalidInput: the region does not exist, or the token belongs to another list.
    """
    region = installation.regions.get(location, target="location").name
    permit(installation, principal, Action.READ, installation.scope, SHARED)
    with installation.catalog.reading() as transaction:
        mine, tenant = installation.subscription, transaction.tenants.owner_uid(installation.subscription)
        found = [
            each
            for each in transaction.galleries.list_shared()
            if each.location == region
            and (each.subscription.lower() != mine.lower() or is_allowed(principal, Action.READ, _gallery_scope(each)))
            and each.sharing is not None
            and (each.sharing.includes("", tenant) if to_tenant else each.sharing.includes(mine, None))
        ]
    of = f"{mine}/{region}/shared/{to_tenant}"
    return Page.from_all(found, request, of=of, key=lambda gallery: f"{gallery.name.lower()}/{gallery.uid}")


def show_shared(installation: Installation, principal: Principal, *, unique_name: str) -> Gallery:
    """Return a gallery that is shared with this subscription or its tenant, by the unique name.

    Raises:
        NotFound: the gallery does not exist, or is not shared with the subscription or the tenant.
    """
    permit(installation, principal, Action.READ, installation.scope, SHARED)
    with installation.catalog.reading() as transaction:
        gallery = _by_unique_name(installation, transaction, unique_name)
    reference = SharedReference(gallery=unique_name, community=False, definition="any")
    _check_own(installation, principal, gallery, reference, _gallery_scope(gallery))
    return gallery


def show_community(installation: Installation, principal: Principal, *, public_name: str) -> Gallery:
    """Return a community gallery by the public name.

    Raises:
        NotFound: the resource does not exist.
    """
    permit(installation, principal, Action.READ, installation.scope, COMMUNITY)
    with installation.catalog.reading() as transaction:
        return _by_public_name(transaction, public_name)


def list_community(installation: Installation, principal: Principal) -> list[Gallery]:
    """List the community galleries for a principal with the right to read such galleries in some subscription.

    Raises:
        ScopeNotFound, AccessDenied: the principal has no such right.
    """
    subscriptions = {"/".join(grant.scope.split("/")[:3]) for grant in principal.grants}
    if not any(is_allowed(principal, Action.READ, each, COMMUNITY) for each in subscriptions):
        permit(installation, principal, Action.READ, installation.scope, COMMUNITY)
    with installation.catalog.reading() as transaction:
        return transaction.galleries.list_community()


def list_definitions_shared(
    installation: Installation, principal: Principal, reference: SharedReference, *, only: str | None = None
) -> list[DefinitionPath]:
    """List the definitions of a shared or community gallery by name.

    Args:
        installation: the installation, opened for the subscription.
        principal: the caller.
        reference: a reference to the gallery; its definition and version are ignored.
        only: name of the only definition to list.

    Raises:
        NotFound: the gallery or the definition does not exist.
    """
    if only is None:
        return list(page_definitions_shared(installation, principal, PageRequest(), reference).items)
    _permit(installation, principal, reference, "/images")
    with installation.catalog.reading() as transaction:
        gallery = _gallery(installation, transaction, reference)
        scope = f"{_gallery_scope(gallery)}/images/{only}"
        _check_own(installation, principal, gallery, reference, scope)
        return [_lineage(transaction, gallery, replace(reference, definition=only))]


def page_definitions_shared(
    installation: Installation, principal: Principal, request: PageRequest, reference: SharedReference
) -> Page[DefinitionPath]:
    """List a page of the definitions of a shared or community gallery by name.

    Raises:
        NotFound: the gallery does not exist.
        InvalidInput: the token belongs to another list.
    """
    _permit(installation, principal, reference, "/images")
    with installation.catalog.reading() as transaction:
        gallery = _gallery(installation, transaction, reference)
        _check_own(installation, principal, gallery, reference, _gallery_scope(gallery), DEFINITIONS)
        of = f"{gallery.uid}/shared"
        found = transaction.definitions.list(gallery.uid, after=request.start_key(of), limit=request.limit)
        lines = [DefinitionPath(gallery=gallery, definition=each) for each in found]
        return Page.from_rows(lines, request, of=of, key=lambda definition_path: definition_path.definition.name)


def list_versions_shared(
    installation: Installation, principal: Principal, reference: SharedReference
) -> list[VersionView]:
    """List the versions of a definition of a shared or community gallery, lowest first: all versions, or the version of `reference`.

    Raises:
        NotFound: the gallery, the definition or the version does not exist.
    """
    if reference.version is None:
        return list(page_versions_shared(installation, principal, PageRequest(), reference).items)
    _permit(installation, principal, reference, "/images/versions")
    with installation.catalog.reading() as transaction:
        definition_path = _line(installation, principal, transaction, reference)
        found = transaction.versions.get(definition_path.definition.uid, reference.version)
        if found is None or not found.is_visible:
            raise lookup.shared_image_not_found(reference)
        return [view_of(transaction, definition_path, found)]


def page_versions_shared(
    installation: Installation, principal: Principal, request: PageRequest, reference: SharedReference
) -> Page[VersionView]:
    """List a page of the versions of a definition of a shared or community gallery, lowest first.

    Raises:
        NotFound: the gallery or the definition does not exist.
        InvalidInput: the token belongs to another list.
    """
    _permit(installation, principal, reference, "/images/versions")
    with installation.catalog.reading() as transaction:
        definition_path = _line(installation, principal, transaction, reference)
        of = f"{definition_path.definition.uid}/shared"
        after = request.start_key(of)
        found = transaction.versions.list(
            definition_path.definition.uid,
            after=None if after is None else VersionName.parse(after),
            limit=request.limit,
            visible=True,
        )
        page = Page.from_rows(found, request, of=of, key=lambda version: str(version.name))
        replicas = transaction.replicas.list_by_version([version.uid for version in page.items])
        views = tuple(combine_view(definition_path, version, replicas[version.uid]) for version in page.items)
        return Page(items=views, next_token=page.next_token)


def _line(
    installation: Installation, principal: Principal, transaction: Transaction, reference: SharedReference
) -> DefinitionPath:
    gallery = _gallery(installation, transaction, reference)
    scope = f"{_gallery_scope(gallery)}/images/{reference.definition}"
    if reference.version is not None:
        scope = f"{scope}/versions/{reference.version}"
    _check_own(installation, principal, gallery, reference, scope, VERSIONS)
    return _lineage(transaction, gallery, reference)


def _lineage(transaction: Transaction, gallery: Gallery, reference: SharedReference) -> DefinitionPath:
    found = transaction.references.find(gallery.subscription, gallery.group, gallery.name, reference.definition)
    if found is None:
        raise lookup.shared_image_not_found(reference)
    return DefinitionPath(gallery=found[0], definition=found[1])


def admit_reader(
    installation: Installation, principal: Principal, reference: ImageReference | SharedReference
) -> ImageReference:
    """Find the image of a reference if the principal may read the image, by a role or by sharing.

    Raises:
        AccessDenied: the principal may not read the image.
        NotFound: the gallery does not exist, or the principal may not learn that the gallery exists.
    """
    if isinstance(reference, ImageReference):
        authorize(principal, Action.READ, image_scope(installation, reference), VERSIONS)
        return reference
    # Any role in the subscription: what is made of the image needs a right of its own, where it is made.
    authorize_list(principal, installation.scope)
    with installation.catalog.reading() as transaction:
        gallery = _gallery(installation, transaction, reference)
    meant = ImageReference(
        subscription=gallery.subscription,
        group=gallery.group,
        gallery=gallery.name,
        definition=reference.definition,
        version=reference.version,
        shared=None if gallery.subscription.casefold() == installation.subscription.casefold() else reference,
    )
    _check_own(installation, principal, gallery, reference, image_scope(installation, meant), VERSIONS)
    return meant


def _check_own(
    installation: Installation,
    principal: Principal,
    gallery: Gallery,
    reference: SharedReference,
    scope: str,
    of: str | None = None,
) -> None:
    """Check the right to read a gallery of the subscription itself, where sharing grants nothing.

    Every caller may read a community gallery. The error is the error for a missing gallery.

    Raises:
        NotFound: the gallery is of this subscription, and the principal may not read the scope in it.
    """
    is_own = gallery.subscription.casefold() == installation.subscription.casefold()
    if is_own and not reference.community and not is_allowed(principal, Action.READ, scope, of):
        raise _not_shared(reference.gallery, _EXPECTED)


def image_scope(installation: Installation, reference: ImageReference) -> str:
    """Return the scope for the right to read versions: the named version, or the definition."""
    subscription = reference.subscription or installation.subscription
    above = (subscription, reference.group, reference.gallery, reference.definition)
    return names.definition_id(*above) if reference.version is None else names.version_id(*above, reference.version)


def _change_sharing(
    installation: Installation,
    principal: Principal,
    group: str,
    name: str,
    change: Callable[[SharingProfile | None], SharingProfile],
) -> Gallery:
    scope = names.gallery_id(installation.subscription, group, name)
    with (
        record_activity(installation, principal, Action.SHARE, scope),
        installation.catalog.transaction() as transaction,
    ):
        standing = transaction.galleries.get_for_update(
            lookup.find_gallery(transaction, installation.subscription, group, name).uid
        )
        wanted = replace(standing, sharing=change(standing.sharing))
        transaction.galleries.update(wanted)
        return wanted


def _permit(installation: Installation, principal: Principal, reference: SharedReference, inside: str) -> None:
    above = COMMUNITY if reference.community else SHARED
    permit(installation, principal, Action.READ, installation.scope, f"{above}{inside}")


def _gallery_scope(gallery: Gallery) -> str:
    return names.gallery_id(gallery.subscription, gallery.group, gallery.name)


def _gallery(installation: Installation, transaction: Transaction, reference: SharedReference) -> Gallery:
    if reference.community:
        return _by_public_name(transaction, reference.gallery)
    return _by_unique_name(installation, transaction, reference.gallery)


def _by_unique_name(installation: Installation, transaction: Transaction, unique_name: str) -> Gallery:
    """Find a gallery by its unique name. A missing gallery and a gallery without sharing give the same error."""
    mine = installation.subscription
    for each in transaction.galleries.list_shared():
        name = f"{each.subscription}-{each.name}"
        if name.casefold() == unique_name.casefold() and each.sharing is not None:
            own = each.subscription.lower() == mine.lower()
            if own or each.sharing.includes(mine, transaction.tenants.owner_uid(mine)):
                return each
    raise _not_shared(unique_name, _EXPECTED)


def _by_public_name(transaction: Transaction, public_name: str) -> Gallery:
    for each in transaction.galleries.list_community():
        info = each.sharing.community if each.sharing else None
        if info is not None and info.public_name is not None and info.public_name.casefold() == public_name.casefold():
            return each
    raise _not_shared(public_name, "a community gallery")


def _not_shared(name: str, expected: str) -> NotFound:
    return NotFound(
        f"The gallery '{name[:200]}' was not found.",
        found="no gallery with this name, or no gallery that is shared with the subscription",
        expected=expected,
        hint="`imgstore sig list-shared -l REGION` lists the galleries that are shared with a subscription",
        target=name[:200],
        code="GalleryNotFound",
    )
