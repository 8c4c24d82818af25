"""Where a version's bytes come from: a path, ``file://``, ``s3://`` or ``https://``."""

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from imgstore.catalog import Transaction
from imgstore.domain.disks.source_urls import redact_location, split_uri
from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.errors import InvalidInput, SourceNotFound
from imgstore.domain.identity.access import Action, Principal, authorize, is_allowed
from imgstore.domain.names import ComputeId
from imgstore.domain.resources import DiskKind, ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.formats import LocalFile
from imgstore.operations.disks.web_sources import WebSource
from imgstore.operations.installation import Installation

_S3_ENDPOINTS: Final = ("IMGSTORE_SOURCE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Where ``s3://`` is looked for, the first that is set; none is AWS itself."""


def open_source(installation: Installation, uri: str) -> ByteSource:
    """The source that `uri` names.

    Raises:
        SourceNotFound: no such file.
        InvalidInput: a scheme that is not read.
        StoreError: the server does not answer.
    """
    parts = split_uri(uri)
    scheme = parts.scheme.lower()
    if scheme == "file":
        return LocalFile(Path(unquote(parts.path)))
    if scheme in ("https", "http"):
        from imgstore.stores.http.http_source import HttpSource  # noqa: PLC0415 - urllib3 costs start-up time

        private = installation.environ.get("IMGSTORE_ALLOW_PRIVATE_SOURCES") == "1"
        deadlines, stop = installation.limits.source_deadlines, installation.keeper.stop
        return WebSource(
            resolve_location(uri), lambda: HttpSource(uri, allow_private=private, deadlines=deadlines, stop=stop)
        )
    if scheme == "s3":
        from imgstore.stores.s3.source import S3Object  # noqa: PLC0415 - boto3 costs start-up time
        from imgstore.stores.s3.store import S3Store  # noqa: PLC0415 - as above

        endpoint = next(filter(None, (installation.environ.get(name) for name in _S3_ENDPOINTS)), None)
        store = S3Store(endpoint=endpoint, bucket=parts.netloc, path_style=endpoint is not None)
        return S3Object(store, unquote(parts.path.lstrip("/")))
    if scheme and "://" in uri:
        raise InvalidInput(
            f"A source of the scheme '{scheme}' is not read.",
            found=uri,
            expected="a path, file://, s3://bucket/key or https://",
            hint="fetch the file first and give its path",
            target="osVhdUri",
        )
    return LocalFile(Path(uri))


def resolve_location(uri: str) -> str:
    """What the source that `uri` names is known by (`SourceIdentity.location`), whether or not it is there."""
    parts = split_uri(uri)
    scheme = parts.scheme.lower()
    if scheme in ("https", "http"):
        return redact_location(uri)
    if scheme == "s3":
        return f"s3://{parts.netloc}/{unquote(parts.path.lstrip('/'))}"
    return os.path.realpath(unquote(parts.path) if scheme == "file" else uri)


COPYABLE_KINDS: Final = (DiskKind.SNAPSHOT, DiskKind.DISK)
"""What a bare name means, looked for in this order, as az does."""


def find_original(
    installation: Installation, principal: Principal, transaction: Transaction, group: str, word: str, *, what: str
) -> ManagedDisk | None:
    """The disk or snapshot that `word` names, if the principal may read its bytes; None where it names a file.

    Args:
        installation: where.
        principal: who asks.
        transaction: the open transaction.
        group: where a bare name is looked for.
        word: as a person gave it.
        what: what is to be made, for the refusal.

    Raises:
        SourceNotFound: a full id, or a bare name that is no file's either, of what is not there.
        InvalidInput: likewise, of what is not ready.
        AccessDenied: the principal may read the bytes of nothing that `word` may name.
    """
    candidates = list_candidate_ids(installation, group, word, COPYABLE_KINDS)
    readable = [each for each in candidates if is_allowed(principal, Action.EXPORT, each.resource_id)]
    named = [transaction.disks.get(each.subscription, each.group, each.name, DiskKind(each.kind)) for each in readable]
    there = [each for each in named if each is not None]
    ready = next((each for each in there if each.provisioning_state is ProvisioningState.SUCCEEDED), None)
    if ready is not None:
        return ready
    if is_resource_id(word) or ("/" not in word and not os.path.exists(word)):
        if not readable:
            authorize(principal, Action.EXPORT, candidates[-1].resource_id)
        if there:
            raise source_not_found(word, _describe_unready(there[0]), what=what)
        raise source_not_found(word, "nothing of that name", what=what, kind=SourceNotFound)
    return None


def _describe_unready(disk: ManagedDisk) -> str:
    if disk.awaits_upload:
        return f"a {disk.kind.noun} that waits for its upload: `imgstore disk revoke-access` ends it"
    return f"a {disk.kind.noun} that is {disk.provisioning_state}"


def may_refer_to(installation: Installation, group: str, word: str, reference: str) -> bool:
    """Whether `word` may name the resource with the id `reference`, which may be gone by now."""
    return reference.lower() in {
        each.resource_id.lower() for each in list_candidate_ids(installation, group, word, COPYABLE_KINDS)
    }


def list_candidate_ids(
    installation: Installation, group: str, word: str, kinds: tuple[str, ...]
) -> tuple[ComputeId, ...]:
    """The resources that `word` may name: one by its full id, of each kind one by a bare name, none by a path or URL.

    Raises:
        InvalidInput: a full id of another kind, or of another subscription.
    """
    subscription = installation.subscription
    if not is_resource_id(word):
        bare = () if "/" in word else kinds
        return tuple(ComputeId(subscription=subscription, group=group, kind=kind, name=word) for kind in bare)
    found = ComputeId.parse(word)
    if found is None or found.kind not in kinds or found.subscription.lower() != subscription.lower():
        raise InvalidInput(
            f"'{word}' can't be a source here.",
            found="the id of something else, or of another subscription",
            expected=f"one of {' or '.join(kinds)} in subscription {subscription}",
            hint="a disk from an image version is made with --gallery-image-reference",
            target="source",
        )
    return (found,)


def source_not_found(
    word: str, found: str, *, what: str, region: str | None = None, kind: type[InvalidInput] = InvalidInput
) -> InvalidInput:
    """What is raised where a source is not ready, or in another region than what is made from it; `kind` where it is gone."""
    return kind(
        f"Source {word} is not found. Please check source exists, and is in the same region as {what} being created",
        found=found,
        expected="a source that is ready" + (f", in {region}" if region else ""),
        hint="`imgstore disk list` shows what there is, and so do those of snapshot, image, vm and sig image-version",
        target="source",
    )


def is_resource_id(word: str) -> bool:
    """Whether it is a full resource id."""
    return word.lower().startswith("/subscriptions/")
