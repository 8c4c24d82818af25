"""Open sources by path, ``file://``, ``s3://`` or ``https://``, and find source disks by name or id."""

import os
from pathlib import Path
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.source_urls import WebLocation, parse_location, redact_location
from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.disks.upload_tags import describe_waiting_disk, is_for_version
from imgstore.domain.errors import InvalidInput, SourceNotFound
from imgstore.domain.identity.access import Action, Principal, authorize, is_allowed
from imgstore.domain.names import ComputeId
from imgstore.domain.resources import DiskKind, ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.formats import LocalFile
from imgstore.operations.disks.web_sources import WebSource
from imgstore.operations.installation import Installation

_S3_ENDPOINTS: Final = ("IMGSTORE_SOURCE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""The variables with the endpoint for ``s3://`` sources. The first set variable counts. The default is AWS."""


def open_source(installation: Installation, uri: str) -> ByteSource:
    """Open the source at a path or URI.

    Raises:
        SourceNotFound: there is no such file.
        InvalidInput: the text is neither a path nor a URL of a supported scheme.
        StoreError: the server does not answer, or there is no such object.
    """
    location = parse_location(uri)
    if isinstance(location, Path):
        return LocalFile(location)
    if isinstance(location, WebLocation):
        from imgstore.stores.http.http_source import HttpSource  # noqa: PLC0415 - urllib3 costs start-up time

        private = installation.environ.get("IMGSTORE_ALLOW_PRIVATE_SOURCES") == "1"
        deadlines, stop = installation.limits.source_deadlines, installation.keeper.stop
        return WebSource(
            resolve_location(uri), lambda: HttpSource(uri, allow_private=private, deadlines=deadlines, stop=stop)
        )
    from imgstore.stores.s3.source import open_s3_object  # noqa: PLC0415 - boto3 costs start-up time

    endpoint = next(filter(None, (installation.environ.get(name) for name in _S3_ENDPOINTS)), None)
    return open_s3_object(location, endpoint)


def resolve_location(uri: str) -> str:
    """Return the location of the source at a path or URI (`SourceIdentity.location`). The source need not exist."""
    location = parse_location(uri)
    if isinstance(location, WebLocation):
        return redact_location(location.url)
    return os.path.realpath(location) if isinstance(location, Path) else str(location)


COPYABLE_KINDS: Final = (DiskKind.SNAPSHOT, DiskKind.DISK)
"""The kinds of resources that a bare name may name, in the order of the search, as in az."""


def find_original(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    group: str,
    word: str,
    *,
    what: str,
    takes_uploads: bool = False,
) -> ManagedDisk | None:
    """Find the disk or snapshot that `word` names, if the principal may read the bytes. Return None for a file.

    Args:
        installation: the installation.
        principal: the caller.
        transaction: the open transaction.
        group: the resource group for bare names.
        word: a name, a resource id, a path or a URL from a person.
        what: the noun of the new resource, for errors.
        takes_uploads: whether a disk is accepted that has a finished upload in the upload spool.

    Raises:
        SourceNotFound: a full id names no resource, or a bare name names neither a resource nor a file.
        InvalidInput: the resource is not ready.
        AccessDenied: the principal may not read the bytes of any resource that `word` may name.
    """
    candidates = list_candidate_ids(installation, group, word, COPYABLE_KINDS)
    readable = [each for each in candidates if is_allowed(principal, Action.EXPORT, each.resource_id)]
    named = [transaction.disks.get(each.subscription, each.group, each.name, DiskKind(each.kind)) for each in readable]
    there = [each for each in named if each is not None]
    ready = [each for each in there if each.provisioning_state is ProvisioningState.SUCCEEDED]
    if takes_uploads:
        # A revoked URL ends an upload. An expired URL does not: ranges may be missing.
        ready += [each for each in there if each.awaits_upload and each.grant is None]
    if ready:
        return ready[0]
    if is_resource_id(word) or ("/" not in word and not os.path.exists(word)):
        if not readable:
            authorize(principal, Action.EXPORT, candidates[-1].resource_id)
        if there:
            raise source_not_found(word, _describe_unready(there[0], takes_uploads=takes_uploads), what=what)
        raise source_not_found(word, "no resource of that name", what=what, kind=SourceNotFound)
    return None


def authorize_source(installation: Installation, principal: Principal, group: str, word: str) -> None:
    """Check the right to read a resource that `word` may name. The resource need not exist, and files need no right.

    Raises:
        InvalidInput: the full id has another kind or another subscription.
        AccessDenied: the principal may not read the bytes of any resource that `word` may name.
    """
    candidates = list_candidate_ids(installation, group, word, COPYABLE_KINDS)
    if candidates and not any(is_allowed(principal, Action.EXPORT, each.resource_id) for each in candidates):
        authorize(principal, Action.EXPORT, candidates[-1].resource_id)


def _describe_unready(disk: ManagedDisk, *, takes_uploads: bool) -> str:
    if disk.awaits_upload and is_for_version(disk.tags) and not takes_uploads:
        return ": ".join(describe_waiting_disk(disk.tags))
    if disk.awaits_upload:
        return f"a {disk.kind.noun} that waits for an upload: `imgstore disk revoke-access` ends the upload"
    return f"a {disk.kind.noun} in state {disk.provisioning_state}"


def may_refer_to(installation: Installation, group: str, word: str, reference: str) -> bool:
    """Return whether `word` may name the resource with the id `reference`. The resource need not exist."""
    return reference.lower() in {
        each.resource_id.lower() for each in list_candidate_ids(installation, group, word, COPYABLE_KINDS)
    }


def list_candidate_ids(
    installation: Installation, group: str, word: str, kinds: tuple[str, ...]
) -> tuple[ComputeId, ...]:
    """List the ids of the resources that `word` may name.

    A full id names one resource. A bare name may name a resource of each kind. A path or URL names none.

    Raises:
        InvalidInput: the full id has another kind or another subscription.
    """
    subscription = installation.subscription
    if not is_resource_id(word):
        bare = () if "/" in word else kinds
        return tuple(ComputeId(subscription=subscription, group=group, kind=kind, name=word) for kind in bare)
    found = ComputeId.parse(word)
    if found is None or found.kind not in kinds or found.subscription.lower() != subscription.lower():
        raise InvalidInput(
            f"The resource '{word}' can't be a source.",
            found="a resource id of another kind or of another subscription",
            expected=f"an id from {' or '.join(kinds)} in subscription {subscription}",
            hint="use --gallery-image-reference for a disk from an image version",
            target="source",
        )
    return (found,)


def source_not_found(
    word: str, found: str, *, what: str, region: str | None = None, kind: type[InvalidInput] = InvalidInput
) -> InvalidInput:
    """Return the error for a source that is missing, not ready or in another region, with the message of Azure.

    `kind` is the class of the error.
    """
    return kind(
        f"Source {word} is not found. Please check source exists, and is in the same region as {what} being created",
        found=found,
        expected="a source that is ready" + (f", in {region}" if region else ""),
        hint="list the sources with `imgstore disk list`, or with the list command of snapshot, image, vm or sig "
        "image-version",
        target="source",
    )


def is_resource_id(word: str) -> bool:
    """Return whether a word is a full resource id."""
    return word.lower().startswith("/subscriptions/")
