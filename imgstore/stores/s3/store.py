"""A store in an S3 bucket, and a disk image that lies in one. The only room that knows boto3.

Body signing or checksum: one of them, not both (figures of 2026-11 on two cores, MinIO on loopback, milliseconds of our
own CPU a request, medians; the server's share did not differ beyond noise):

======================================================  =====  =====
put of                                                   1 MB   4 MB
======================================================  =====  =====
boto3 as it comes: signed body and CRC-32 by botocore     2.9    8.0
signed body (SHA-256), no checksum                        2.5    6.4
unsigned body, SHA-256 in a header                        2.5    6.3
unsigned body, CRC-32 in a header                         2.0    4.7
the same, body as a memoryview (what is done here)        1.9    3.8
unsigned body, nothing checked                            1.8    3.4
======================================================  =====  =====

The CRC-32 (zlib's here; ISA-L's, which is used, takes a millisecond less of 4 MB) wins: the store compares it with the
bytes that it received, keeps it for the whole object, and tells it to HEAD. A memoryview keeps botocore from joining
headers and body in one buffer. A body that is neither signed nor sent over TLS can be forged on the wire; whoever reads
it then sees that it does not match its name. Reading, the checksum is not verified (2.0 instead of 5.2 ms for 4 MB):
names are. `s3_short` takes half a millisecond off each.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final

import boto3
import botocore.session
from botocore import exceptions as vendor
from botocore.config import Config
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from urllib3.exceptions import HTTPError

import imgstore
from imgstore.domain.errors import (
    Conflict,
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreSilent,
    StoreUnreachable,
)
from imgstore.stores.errors import check_accepted, existing_object_error, missing_object_error
from imgstore.stores.interface import (
    Accept,
    Body,
    ObjectInfo,
    StoreProperties,
    check_key,
    crc32_checksum,
    split_batches,
)
from imgstore.stores.s3.connections import TimeLimits, use_progress_timeouts
from imgstore.stores.s3.fast_path import FastPath
from imgstore.stores.wrappers.hedging import note_answer

UNPROBED: Final = StoreProperties(verifies_checksum=False, server_side_copy=False, atomic_create=False)
"""What is promised of a store that nobody has probed."""

CONNECTIONS_MAX: Final = 64
"""Kept open for each store: more than any pipeline's worker threads."""

_CHECKSUMS: Final = ("CRC32", "CRC64NVME", "CRC32C", "SHA256", "SHA1")
"""The algorithms that S3 knows, ours first. https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html"""

_HEADERS: Final = {
    "StorageClass": "x-amz-storage-class",
    "ChecksumAlgorithm": "x-amz-sdk-checksum-algorithm",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "IfNoneMatch": "If-None-Match",
}
"""What an argument of `put_object` is on the wire."""

_DENIED: Final = frozenset(
    {
        *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
        *("TokenRefreshRequired", "RequestTimeTooSkewed", "AllAccessDisabled", "AccountProblem", "NotSignedUp"),
    }
)
_FULL: Final = frozenset(
    {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "ServiceQuotaExceeded"}
)
_DAMAGED: Final = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "InvalidChecksum"}
)
_PASSING: Final = frozenset(
    {
        *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException"),
        *("Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "OperationAborted"),
        *("ConditionalRequestConflict", "BandwidthLimitExceeded", "XMinioServerNotInitialized", "IncompleteBody"),
    }
)
_CREDENTIALS: Final = (
    vendor.NoCredentialsError,
    vendor.PartialCredentialsError,
    vendor.CredentialRetrievalError,
    vendor.ProfileNotFound,
    vendor.TokenRetrievalError,
    vendor.SSOError,
)

_UNREADABLE: Final = (ValueError, TypeError, LookupError, OverflowError, AttributeError, RuntimeError)
"""What dates, lengths, names and nesting that a store makes up raise where they are read.

botocore raises RuntimeError for a date that it cannot read, and its parser RecursionError.
"""
_LENGTH_MAX: Final = 2**63 - 1
"""What a catalog keeps, and more than any object has."""
ETAG_CHARACTERS_MAX: Final = 1_024
_SILENT: Final = (
    vendor.ConnectionError,  # no connection was made
    vendor.HTTPClientError,  # it was lost, or silent for too long
    HTTPError,  # urllib3's own, which botocore lets through where a refusal breaks off
)
_GARBLED: Final = (
    vendor.IncompleteReadError,  # it ended before the body did
    ResponseParserError,  # it was something else than S3's
)


class S3Store:
    """Objects in one bucket. boto3's own retries are off: `RetryingStore` decides."""

    def __init__(
        self,
        *,
        endpoint: str | None,
        bucket: str,
        profile: str | None = None,
        signing_region: str | None = None,
        path_style: bool = False,
        storage_class: str | None = None,
        properties: StoreProperties | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        limits: TimeLimits = TimeLimits(),  # noqa: B008 - frozen
    ) -> None:
        """Name the bucket; nothing is sent yet.

        Args:
            endpoint: the server's URL; None is AWS.
            bucket: the bucket's name.
            profile: a profile of the AWS configuration files; None takes the usual chain, environment first.
            signing_region: the region that requests are signed for; None is the profile's, else us-east-1.
            path_style: the bucket in the path, as MinIO wants it, rather than in the host's name.
            storage_class: as S3 names it; None is the bucket's default.
            properties: what was probed (`probe_properties`); None promises nothing.
            access_key: credentials given outright, with `secret_key`, instead of the chain.
            secret_key: see `access_key`.
            limits: how long a request may take.

        Raises:
            StoreDenied: there is no such profile.
            StoreError: the endpoint is no URL.
        """
        self.name = f"s3 {endpoint or 'aws'}/{bucket}"
        self.bucket = bucket
        self.properties = properties or UNPROBED
        self._region = signing_region
        self._class = {"StorageClass": storage_class} if storage_class else {}
        config = Config(
            signature_version="s3v4",
            connect_timeout=limits.connect_seconds,
            read_timeout=limits.fixed_seconds,
            max_pool_connections=CONNECTIONS_MAX,
            tcp_keepalive=True,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": "path" if path_style else "auto", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent=f"imgstore/{imgstore.__version__}",  # botocore puts its own together twice a request, for 0.2 ms
            parameter_validation=False,  # it knows no memoryview; keys and bodies are checked here
        )
        with self._translated(None):
            self._client: Any = _client(profile, endpoint, signing_region, access_key, secret_key, config)
            use_progress_timeouts(self._client, limits, self._is_alive)
        self._short = FastPath.beside(self._client, bucket) if endpoint and path_style else None
        """For whole objects, where the address follows no rules but ours: MinIO's, Ceph's and SeaweedFS's usual case."""

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        return check_accepted(self.name, key, self._get(check_key(key)), accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        if length <= 0:
            self.head(key)
            return b""
        return self._get(check_key(key), Range=range_header(offset, length))

    def _get(self, key: str, **how: str) -> bytes:
        with self._translated(key):
            try:
                answer = None if how or self._short is None else self._short.get(key)
                if answer is None:
                    answer = self._client.get_object(Bucket=self.bucket, Key=key, **how)
                note_answer()
                with closing(answer["Body"]) as stream:  # entered itself, it gives urllib3's, which checks no length
                    body: bytes = stream.read()
            except vendor.ClientError as error:
                if _code(error) == "InvalidRange":  # begins at or after the object's end
                    return b""
                raise
        return body

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return self._info(key, self._head(check_key(key)))

    def _head(self, key: str) -> Mapping[str, Any]:
        with self._translated(key):
            answer: Mapping[str, Any] = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        return answer

    def _info(self, key: str, answer: Mapping[str, Any]) -> ObjectInfo:
        time: datetime = self._told(key, answer, "LastModified")
        with self._translated(key):
            return ObjectInfo(
                key=key,
                stored_bytes=self._length(key, answer),
                last_modified=time.astimezone(UTC),
                checksum=_checksum(answer),
            )

    def _told(self, key: str, answer: Mapping[str, Any], name: str) -> Any:
        """What each S3 server tells; a proxy on the way may have left it out."""
        if name not in answer:
            raise self._failed(key, f"an answer without {name}")
        return answer[name]

    def _length(self, key: str, answer: Mapping[str, Any]) -> int:
        return _checked_length(self._told(key, answer, "ContentLength"))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        last = ""
        for info in _in_key_order(self._listed(prefix), prefix):
            if info.key <= last:
                raise self._failed(info.key, f"a listing in no order: '{info.key}' after '{last}'")
            last = info.key
            yield info

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        more: dict[str, str] = {}
        while True:
            with self._translated(None):
                page = self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **more)
                infos = [_listed_info(found) for found in page.get("Contents", ())]
                before, more = more, {}
                if page.get("IsTruncated"):
                    more = {"ContinuationToken": page["NextContinuationToken"]}
                    if more == before:
                        raise ValueError("a listing whose next page is the same page")
            yield from infos
            if not more:
                return

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`. `last_modified` is the answer's date, by the store's clock: HEAD may tell a second less."""
        return self._put(check_key(key), body, crc32_checksum(body), only_if_absent=only_if_absent)

    def _put(self, key: str, body: Body, checksum: str | None, *, only_if_absent: bool = False) -> ObjectInfo:
        how: dict[str, str] = dict(self._class)
        if checksum is not None:
            how |= {"ChecksumAlgorithm": "CRC32", "ChecksumCRC32": checksum.removeprefix("CRC32:")}
        if only_if_absent:
            how["IfNoneMatch"] = "*"
        sent = memoryview(body) if body else b""
        with self._translated(key):
            headers = {_HEADERS[name]: value for name, value in how.items()}
            answer = None if self._short is None else self._short.put(key, sent, headers)
            if answer is None:
                answer = self._client.put_object(Bucket=self.bucket, Key=key, Body=sent, **how)
        kept = _checksum(answer)
        if checksum is not None and kept is not None and kept.startswith("CRC32:") and kept != checksum:
            raise self._damaged(key, f"{kept} acknowledged for a body of {checksum}")
        date = self._told(key, answer["ResponseMetadata"]["HTTPHeaders"], "date")
        with self._translated(key):
            time = parsedate_to_datetime(date).astimezone(UTC)
        return ObjectInfo(key=key, stored_bytes=memoryview(body).nbytes, last_modified=time, checksum=kept)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Deletes.delete`. Each request is sent once.

        Raises:
            StoreError: of the kind of the first key that the store would not delete; the others are deleted.
        """
        for batch in split_batches(map(check_key, keys)):
            objects = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            with self._translated(None):
                answer = self._client.delete_objects(Bucket=self.bucket, Delete=objects)
            if errors := [each for each in answer.get("Errors", ()) if each.get("Code") != "NoSuchKey"]:
                first = errors[0]
                told = f"{first.get('Message', '')} ({len(errors)} of {len(batch)} keys)"
                raise self._refusal(first.get("Key"), first.get("Code", "InternalError"), 200, told)

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`. The store is asked for a CRC-32 of the new object."""
        return self._copy(check_key(source_key), check_key(target_key), "CRC32")

    def _copy(self, source_key: str, target_key: str, algorithm: str) -> ObjectInfo:
        source = {"Bucket": self.bucket, "Key": source_key}
        with self._translated(source_key):
            self._client.copy_object(
                Bucket=self.bucket, Key=target_key, CopySource=source, ChecksumAlgorithm=algorithm, **self._class
            )
        return self.head(target_key)

    # -- the bucket ---------------------------------------------------------------------------------------------------

    def bucket_exists(self) -> bool:
        """Whether the bucket is there, and ours to see.

        Raises:
            StoreDenied: the credentials are refused.
        """
        try:
            with self._translated(None):
                self._client.head_bucket(Bucket=self.bucket)
        except ObjectNotFound:
            return False
        return True

    def _is_alive(self) -> bool:
        """Whether the server answers anything at all."""
        try:
            self.bucket_exists()
        except StoreError as error:
            return not isinstance(error, StoreSilent)
        return True

    def create_bucket(self) -> None:
        """Make the bucket. One that is there and ours stays as it is.

        Raises:
            StoreMismatch: it belongs to another account.
        """
        if self.bucket_exists():
            return
        place = {} if self._region in {None, "us-east-1"} else {"LocationConstraint": self._region}
        how = {"CreateBucketConfiguration": place} if place else {}
        with self._translated(None):
            try:
                self._client.create_bucket(Bucket=self.bucket, **how)
            except vendor.ClientError as error:
                if _code(error) != "BucketAlreadyOwnedByYou":
                    raise

    def close(self) -> None:
        """Give the connections back. May be called twice."""
        self._client.close()

    # -- the border ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        """No error of the vendor's leaves the store."""
        try:
            yield
        except vendor.ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise self._refusal(key, _code(error), status, _message(error)) from error
        except _CREDENTIALS as error:
            raise self._denied(key, str(error)) from error
        except vendor.SSLError as error:
            raise StoreError(
                f"{self.name} cannot be trusted.",
                found=str(error),
                expected="a certificate from an authority that this machine knows",
                hint="name the authority's file in AWS_CA_BUNDLE",
                target=key,
            ) from error
        except _SILENT as error:
            kind = StoreUnreachable if _broke_off(error) else StoreSilent
            raise self._unreachable(key, str(error), kind) from error
        except _GARBLED as error:
            raise self._unreachable(key, str(error)) from error
        except (vendor.BotoCoreError, *_UNREADABLE) as error:
            raise self._failed(key, f"an answer that cannot be read: {error}") from error

    def _refusal(self, key: str | None, code: str, status: int, told: str) -> StoreError | Conflict:
        """The error that an answer of the store's stands for."""
        found = f"{code} (HTTP {status}): {told}"
        if code == "NoSuchBucket":
            return StoreError(
                f"There is no bucket '{self.bucket}'.",
                found=found,
                expected=f"a bucket of this name in {self.name}",
                hint="run `imgstore regions init`",
                target=self.bucket,
            )
        if code == "BucketAlreadyExists":
            return StoreMismatch(
                f"The bucket '{self.bucket}' belongs to someone else.",
                found=found,
                expected="a name that is free",
                hint="give the region another bucket in regions.yaml",
                target=self.bucket,
            )
        if code in {"NoSuchKey", "NotFound"} or status == 404:
            return missing_object_error(self.name, key or self.bucket)
        if code == "PreconditionFailed" or status == 412:
            return existing_object_error(self.name, key or "")
        if code in _DAMAGED:
            return self._damaged(key, found)
        if code in _FULL or status == 507:
            return StoreFull(
                "The store has no room left.",
                found=found,
                expected=f"room for the object in {self.name}",
                hint="make room there, then run the same command again: it goes on",
                target=key,
            )
        if code in _PASSING or status >= 500 or status == 429:
            return self._unreachable(key, found)
        if code in _DENIED or status in {401, 403}:
            return self._denied(key, found)
        return self._failed(key, found)

    def _damaged(self, key: str | None, found: str) -> ObjectCorrupt:
        return ObjectCorrupt(
            f"The object '{key}' did not arrive whole.",
            found=found,
            expected="a body of the checksum that was sent with it",
            hint="run the same command again; if it stays so, look at the network and at proxies in it",
            target=key,
        )

    def _denied(self, key: str | None, found: str) -> StoreDenied:
        return StoreDenied(
            f"{self.name} refuses the credentials.",
            found=found,
            expected="credentials that may read and write the bucket, and a clock that is right",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name an AWS profile in regions.yaml",
            target=key,
        )

    def _unreachable(
        self, key: str | None, found: str, kind: type[StoreUnreachable] = StoreUnreachable
    ) -> StoreUnreachable:
        return kind(
            f"{self.name} does not answer as it should.",
            found=found,
            expected="an answer of an S3 server",
            hint="see that the server runs and that the endpoint in regions.yaml is right, then run the command again",
            target=key,
        )

    def _failed(self, key: str | None, found: str) -> StoreError:
        return StoreError(
            f"{self.name} could not do it.",
            found=found,
            expected="an S3 server that does what it is asked",
            hint="look the code up in the server's documentation, and at the region's entry in regions.yaml",
            target=key,
        )


# -- probing ----------------------------------------------------------------------------------------------------------


# -- a source ---------------------------------------------------------------------------------------------------------


# -- words of the vendor ----------------------------------------------------------------------------------------------

_sessions_lock: Final = threading.Lock()


_CREDENTIAL_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SERVICES: Final = ["s3", "signin", "sso", "sso-oidc", "sts"]
"""S3, and where a profile's credentials may have to be asked for."""


class _Models(Loader):
    """botocore's models of services. Its own way to know a service is to look through 400 folders, twice: 30 ms."""

    def list_available_services(self, type_name: str) -> list[str]:
        return _SERVICES


@cache
def _session(profile: str | None, _credentials: tuple[str | None, ...]) -> boto3.session.Session:
    """One for each profile and each set of credentials in the environment, which a session reads once.

    It is kept since it holds the service's model, which takes 30 ms to read.
    """
    session = botocore.session.Session()
    session.register_component("data_loader", _Models())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    return boto3.session.Session(profile_name=profile, botocore_session=session)


def _timestamp(told: str) -> datetime:
    """A time as S3 tells it: ISO 8601 in documents, HTTP's date in headers.

    What botocore takes instead knows every way to write a time: that was two thirds of the time of a listing.
    """
    try:
        return datetime.fromisoformat(told) if told[:1].isdigit() else parsedate_to_datetime(told)
    except ValueError:
        any_other: datetime = parse_timestamp(told)
        return any_other


def _client(
    profile: str | None,
    endpoint: str | None,
    region: str | None,
    access_key: str | None,
    secret_key: str | None,
    config: Config,
) -> Any:
    with _sessions_lock:  # clients are safe to share between threads, sessions are not
        session = _session(profile, tuple(os.environ.get(name) for name in _CREDENTIAL_VARIABLES))
        return session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=region or session.region_name or "us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=config,
        )


def _listed_info(found: Mapping[str, Any]) -> ObjectInfo:
    time: datetime = found["LastModified"]
    length = _checked_length(found["Size"])
    return ObjectInfo(key=found["Key"], stored_bytes=length, last_modified=time.astimezone(UTC), checksum=None)


def _checked_length(length: int) -> int:
    """The length of an object.

    Raises:
        ValueError: no object has this length.
    """
    if not 0 <= length <= _LENGTH_MAX:
        raise ValueError(f"the length {str(length)[:40]}")
    return length


def range_header(offset: int, length: int) -> str:
    """Make the value of a Range header (RFC 9110, section 14.2)."""
    return f"bytes={offset}-{offset + length - 1}"


def _code(error: vendor.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _broke_off(error: Exception) -> bool:
    """Whether the server ended the connection, or spoke something else than HTTP, which a request that timed out did not."""
    if not isinstance(error, vendor.ConnectionClosedError):
        return False
    told = error.kwargs.get("error")  # urllib3's, with what it met as its last argument
    return not (isinstance(told, HTTPError) and any(isinstance(each, TimeoutError) for each in told.args))


def _message(error: vendor.ClientError) -> str:
    return f"{error.operation_name}: {error.response.get('Error', {}).get('Message', '')}"


def _in_key_order(infos: Iterable[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
    """A listing in the order of whole keys, though the store may walk folders, as SeaweedFS does.

    The orders differ only among neighbours of which one's name begins with the other's ("a/x" and "a-b/x"): these are
    held together and sorted. So below ``segments/`` one 256th of a listing is in memory at a time.
    """
    start = prefix.rfind("/") + 1
    held: list[ObjectInfo] = []
    stem = ""
    for info in infos:
        name = info.key[start:].partition("/")[0]
        if held and not name.startswith(stem):
            yield from sorted(held, key=_by_key)
            held.clear()
        if not held:
            stem = name
        held.append(info)
    yield from sorted(held, key=_by_key)


def _by_key(info: ObjectInfo) -> str:
    return info.key


def _checksum(answer: Mapping[str, Any]) -> str | None:
    """The full-object checksum that an answer tells. One put together from parts (COMPOSITE) is of no use here."""
    if answer.get("ChecksumType") == "COMPOSITE":
        return None
    told = ((name, answer.get(f"Checksum{name}")) for name in _CHECKSUMS)
    return next((f"{name}:{value}" for name, value in told if value), None)
