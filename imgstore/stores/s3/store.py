"""A store in an S3 bucket. Only modules of this package import botocore.

A put uses body signing or a checksum, never both. The table shows medians of the client's CPU in milliseconds per
request (2026-11, two cores, MinIO on loopback; the server's CPU did not differ beyond noise):

======================================================  =====  =====
put of                                                   1 MB   4 MB
======================================================  =====  =====
boto3's default: signed body and CRC-32 by botocore        2.9    8.0
signed body (SHA-256), no checksum                        2.5    6.4
unsigned body, SHA-256 in a header                        2.5    6.3
unsigned body, CRC-32 in a header                         2.0    4.7
unsigned body, CRC-32, memoryview (used here)             1.9    3.8
unsigned body, no checksum                                1.8    3.4
======================================================  =====  =====

The CRC-32 is best: the store compares the CRC-32 with the received bytes, keeps it for the whole object, and returns it
from HEAD. The table used zlib's CRC-32; ISA-L's, used here, takes a millisecond less for 4 MB. A memoryview keeps
botocore from joining headers and body in one buffer. A body that is neither signed nor sent over TLS can be forged on
the network. A reader then detects that the body does not match its name. Reads do not verify the checksum (2.0 instead
of 5.2 ms for 4 MB), because readers verify names. `fast_path` saves half a millisecond per request.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final

import botocore.session
from botocore import exceptions as vendor
from botocore.config import Config
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from urllib3.exceptions import HTTPError

import imgstore
from imgstore.domain.effects import Effects
from imgstore.domain.errors import (
    Conflict,
    ObjectCorrupt,
    ObjectNotFound,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreSilent,
    StoreUnreachable,
)
from imgstore.stores.errors import check_accepted, check_length, existing_object_error, missing_object_error
from imgstore.stores.interface import (
    Accept,
    Body,
    ObjectInfo,
    StoreProperties,
    check_key,
    crc32_checksum,
    split_batches,
)
from imgstore.stores.s3.connections import TimeLimits, close_last_response, use_progress_timeouts
from imgstore.stores.s3.credentials import (
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    clean_credentials,
    clean_key,
    clock_skew,
    config_error,
    denied_error,
    profile_error,
)
from imgstore.stores.s3.fast_path import FastPath
from imgstore.stores.tls_errors import (
    TlsServer,
    find_plain_http_failure,
    find_tls_failure,
    tls_server,
)
from imgstore.stores.wrappers.hedging import note_answer

UNPROBED: Final = StoreProperties(verifies_checksum=False, server_side_copy=False, atomic_create=False)
"""The promises of a store that was never probed."""

CONNECTIONS_MAX: Final = 64
"""Open connections per store: more than the worker threads of any pipeline."""

_CHECKSUMS: Final = ("CRC32", "CRC64NVME", "CRC32C", "SHA256", "SHA1")
"""The algorithms of S3, in the order of preference.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

_HEADERS: Final = {
    "StorageClass": "x-amz-storage-class",
    "ChecksumAlgorithm": "x-amz-sdk-checksum-algorithm",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "IfNoneMatch": "If-None-Match",
}
"""The headers for the arguments of `put_object`."""

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
_BUSY: Final = frozenset(
    {
        *("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"),
        "BandwidthLimitExceeded",
    }
)
_BUSY_HINT: Final = "wait, then run the same command again, which resumes; the owner of the store may raise the limit"
_PASSING: Final = frozenset(
    {
        *("InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException", "OperationAborted"),
        *("ConditionalRequestConflict", "XMinioServerNotInitialized", "IncompleteBody"),
    }
)
_PASSING_HINT: Final = "run the same command again, which resumes; if the error stays, look into the log of the store"
_FAILED_HINT: Final = "look up the code in the server's documentation, and check the region's entry in regions.yaml"
_REGION_HINT: Final = "set signing_region of the zone in regions.yaml to the region that the store names"
_PROXY_HINT: Final = (
    "correct HTTP_PROXY and HTTPS_PROXY, or name the host of the endpoint in NO_PROXY. Then run the command again"
)
_FOREIGN_HINT: Final = (
    "check the endpoint in regions.yaml, and HTTP_PROXY, HTTPS_PROXY and NO_PROXY: another program answers, such as a "
    "proxy, a console or a login page"
)
_STATUSES_WITHOUT_TEXT: Final = (412, 429)
"""Statuses that name the cause without a code."""
_WRONG_PORT: Final = "S3 API Requests must be made to API port"
"""The message of MinIO's console."""
_FAILED_HINTS: Final = {
    "AuthorizationHeaderMalformed": _REGION_HINT,
    "PermanentRedirect": "set endpoint and signing_region of the zone in regions.yaml to the region of the bucket",
    "IllegalLocationConstraintException": _REGION_HINT,
    "400": "check that the endpoint has https:// if the server uses TLS, and that the port is that of the S3 service",
}
_CREDENTIALS: Final = (
    vendor.NoCredentialsError,
    vendor.PartialCredentialsError,
    vendor.CredentialRetrievalError,
    vendor.TokenRetrievalError,
    vendor.SSOError,
)

_UNREADABLE: Final = (ValueError, TypeError, LookupError, OverflowError, AttributeError, RuntimeError)
"""Errors of invalid dates, lengths, names and nesting in a store's response.

botocore raises RuntimeError for an invalid date, and its parser raises RecursionError.
"""
_ADDRESSING: Final[Mapping[bool | None, Any]] = {
    None: {},
    True: {"addressing_style": "path"},
    False: {"addressing_style": "virtual"},  # "auto" means the path at a configured endpoint
}
_LENGTH_MAX: Final = 2**63 - 1
"""The catalog's limit, and more than the length of any object."""
ETAG_CHARACTERS_MAX: Final = 1_024
_SILENT: Final = (
    vendor.ConnectionError,  # no connection
    vendor.HTTPClientError,  # a lost connection or a timeout
    HTTPError,  # urllib3's errors, which botocore does not translate in an error response that breaks off
)
_GARBLED: Final = (
    vendor.IncompleteReadError,  # the response ended before the body
    ResponseParserError,  # not a response of S3
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
        path_style: bool | None = None,
        storage_class: str | None = None,
        properties: StoreProperties | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        limits: TimeLimits = TimeLimits(),  # noqa: B008 - frozen
        now: Callable[[], datetime] = Effects().now,  # noqa: B008 - frozen
    ) -> None:
        """Name the bucket without a request.

        Args:
            endpoint: the server's URL; None is AWS.
            bucket: the bucket's name.
            profile: a profile of the AWS configuration files; None uses the default chain, environment first.
            signing_region: the region of the signature; None is the profile's region, else us-east-1.
            path_style: put the bucket in the path (true) or in the host name (false). None is the `addressing_style` of
                the AWS profile, else the path at an endpoint and the host name at AWS.
            storage_class: S3's name of the class; None is the bucket's default.
            properties: the result of `probe_properties`; None promises nothing.
            access_key: explicit credentials, together with `secret_key`, instead of the chain.
            secret_key: see `access_key`.
            limits: the time limits of requests.
            now: the clock of this machine, for the comparison with the store's clock.

        Raises:
            StoreDenied: the profile does not exist, or a key contains a control character.
            StoreError: the endpoint is not a URL.
        """
        self.name = f"s3 {endpoint or 'aws'}/{bucket}"
        self.bucket = bucket
        self.properties = properties or UNPROBED
        self._region = signing_region
        self._now = now
        self.request_count = 0
        """The number of requests so far, with repeats."""
        self._count_lock = threading.Lock()
        self._has_answered = False
        """Whether the endpoint has answered a request, so the scheme of the address is right."""
        self._class = {"StorageClass": storage_class} if storage_class else {}
        config = Config(
            signature_version="s3v4",
            connect_timeout=limits.connect_seconds,
            read_timeout=limits.fixed_seconds,
            max_pool_connections=CONNECTIONS_MAX,
            tcp_keepalive=True,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3=_ADDRESSING[path_style] | {"payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent=f"imgstore/{imgstore.__version__}",  # botocore's default takes 0.2 ms per request
            parameter_validation=False,  # botocore refuses a memoryview; this class checks keys and bodies
        )
        self._endpoint = endpoint or ""
        with self._translate_errors(None):
            self._client: Any = _client(profile, endpoint, signing_region, access_key, secret_key, config)
            use_progress_timeouts(self._client, limits, self._is_alive, self._count_request)
        self._fast_path = FastPath.create(self._client, bucket) if endpoint else None
        """For whole objects at a configured endpoint. AWS's own endpoints (FIPS, dual stack) need the client's rules."""

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
        with self._translate_errors(key):
            try:
                answer = None if how or self._fast_path is None else self._fast_path.get(key)
                if answer is None:
                    answer = self._client.get_object(Bucket=self.bucket, Key=key, **how)
                note_answer()
                self._has_answered = True
                with closing(
                    answer["Body"]
                ) as stream:  # `with answer["Body"]` gives urllib3's stream, which checks no length
                    if not how:
                        check_length(self.name, key, answer.get("ContentLength") or 0)
                    body: bytes = stream.read()
            except vendor.ClientError as error:
                if error_code(error) == "InvalidRange":  # the range begins at or after the object's end
                    return b""
                raise
        return body

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`."""
        return self._info(key, self._head(check_key(key)))

    def _head(self, key: str) -> Mapping[str, Any]:
        with self._translate_errors(key):
            answer: Mapping[str, Any] = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        self._has_answered = True
        return answer

    def _info(self, key: str, answer: Mapping[str, Any]) -> ObjectInfo:
        time: datetime = self._require_field(key, answer, "LastModified")
        with self._translate_errors(key):
            return ObjectInfo(
                key=key,
                stored_bytes=self._length(key, answer),
                last_modified=time.astimezone(UTC),
                checksum=_checksum(answer),
            )

    def _require_field(self, key: str, answer: Mapping[str, Any], name: str) -> Any:
        """Return a field that every S3 server sends. A proxy may have removed the field."""
        if name not in answer:
            raise self._failed_error(key, f"an answer without {name}")
        return answer[name]

    def _length(self, key: str, answer: Mapping[str, Any]) -> int:
        return _check_length(self._require_field(key, answer, "ContentLength"))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`."""
        return self.list_in_pages(prefix, None)

    def list_in_pages(self, prefix: str, page_keys: int | None) -> Iterator[ObjectInfo]:
        """List as `list`, with at most `page_keys` keys in each answer. None is the maximum of the store."""
        last = ""
        for info in _in_key_order(self._list_pages(prefix, page_keys), prefix):
            if info.key <= last:
                raise self._failed_error(info.key, f"a listing in no order: '{info.key}' after '{last}'")
            last = info.key
            yield info

    def _list_pages(self, prefix: str, page_keys: int | None) -> Iterator[ObjectInfo]:
        more: dict[str, str] = {}
        limit = {} if page_keys is None else {"MaxKeys": page_keys}
        while True:
            with self._translate_errors(None):
                page = self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **limit, **more)
                infos = [_parse_listed(found) for found in page.get("Contents", ())]
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
        """See `Puts.put`.

        `last_modified` is the date of the response, by the store's clock. HEAD may return a second less.
        """
        return self._put(check_key(key), body, crc32_checksum(body), only_if_absent=only_if_absent)

    def _put(self, key: str, body: Body, checksum: str | None, *, only_if_absent: bool = False) -> ObjectInfo:
        answer = self._send_put(key, body, checksum, only_if_absent=only_if_absent)
        date = self._require_field(key, answer["ResponseMetadata"]["HTTPHeaders"], "date")
        with self._translate_errors(key):
            time = parsedate_to_datetime(date).astimezone(UTC)
        return ObjectInfo(key=key, stored_bytes=memoryview(body).nbytes, last_modified=time, checksum=_checksum(answer))

    def put_with_version(self, key: str, body: Body) -> str | None:
        """Store an object as `put`, and return the id of its version; None without versioning."""
        answer = self._send_put(check_key(key), body, crc32_checksum(body))
        found: str | None = answer.get("VersionId")
        return found

    def _send_put(
        self, key: str, body: Body, checksum: str | None, *, only_if_absent: bool = False
    ) -> Mapping[str, Any]:
        how: dict[str, str] = dict(self._class)
        if checksum is not None:
            how |= {"ChecksumAlgorithm": "CRC32", "ChecksumCRC32": checksum.removeprefix("CRC32:")}
        if only_if_absent:
            how["IfNoneMatch"] = "*"
        sent = memoryview(body) if body else b""
        with self._translate_errors(key):
            headers = {_HEADERS[name]: value for name, value in how.items()}
            answer = None if self._fast_path is None else self._fast_path.put(key, sent, headers)
            if answer is None:
                answer = self._client.put_object(Bucket=self.bucket, Key=key, Body=sent, **how)
        kept = _checksum(answer)
        if checksum is not None and kept is not None and kept.startswith("CRC32:") and kept != checksum:
            raise self._damaged_error(key, f"{kept} acknowledged for a body of {checksum}")
        return answer

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`. Each request is sent once.

        Raises:
            StoreError: the error of the first key that the store did not delete; the other keys are deleted.
        """
        for batch in split_batches(map(check_key, keys)):
            objects = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            with self._translate_errors(None):
                answer = self._client.delete_objects(Bucket=self.bucket, Delete=objects)
            if errors := [each for each in answer.get("Errors", ()) if each.get("Code") != "NoSuchKey"]:
                first = errors[0]
                message = f"{first.get('Message', '')} ({len(errors)} of {len(batch)} keys)"
                raise self._create_error(first.get("Key"), first.get("Code", "InternalError"), 200, message)
        return True

    def delete_with_version(self, key: str) -> str | None:
        """Remove one object, and return the id of its delete marker; None without versioning."""
        with self._translate_errors(key):
            answer = self._client.delete_object(Bucket=self.bucket, Key=check_key(key))
        marker_id: str | None = answer.get("VersionId") if answer.get("DeleteMarker") else None
        return marker_id

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`. The request asks the store for a CRC-32 of the new object."""
        return self._copy(check_key(source_key), check_key(target_key), "CRC32")

    def _copy(self, source_key: str, target_key: str, algorithm: str) -> ObjectInfo:
        source = {"Bucket": self.bucket, "Key": source_key}
        with self._translate_errors(source_key):
            self._client.copy_object(
                Bucket=self.bucket, Key=target_key, CopySource=source, ChecksumAlgorithm=algorithm, **self._class
            )
        return self.head(target_key)

    def _count_request(self) -> None:
        with self._count_lock:
            self.request_count += 1

    # -- the bucket ---------------------------------------------------------------------------------------------------

    def bucket_exists(self) -> bool:
        """Return whether the bucket exists.

        Raises:
            StoreDenied: the credentials are refused.
        """
        try:
            with self._translate_errors(None):
                self._client.head_bucket(Bucket=self.bucket)
        except ObjectNotFound:
            return False
        return True

    def _is_alive(self) -> bool:
        """Return whether the server answers any request."""
        try:
            self.bucket_exists()
        except StoreError as error:
            return not isinstance(error, StoreSilent)
        return True

    def create_bucket(self) -> None:
        """Create the bucket. A bucket of this account stays unchanged.

        Raises:
            StoreMismatch: the bucket belongs to another account.
        """
        if self.bucket_exists():
            return
        place = {} if self._region in {None, "us-east-1"} else {"LocationConstraint": self._region}
        how = {"CreateBucketConfiguration": place} if place else {}
        with self._translate_errors(None):
            try:
                self._client.create_bucket(Bucket=self.bucket, **how)
            except vendor.ClientError as error:
                if error_code(error) != "BucketAlreadyOwnedByYou":
                    raise

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._client.close()

    # -- errors -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _translate_errors(self, key: str | None) -> Iterator[None]:
        """Translate the vendor's errors into errors of stores."""
        try:
            yield
        except vendor.ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            code, is_from_s3 = error_code(error), "x-amz-request-id" in headers
            if code == "400" and not is_from_s3:
                self._check_scheme(key, None)  # The answer to a HEAD request has no text.
            self._has_answered |= is_from_s3
            if not (code or is_from_s3) and status < 500 and status not in _STATUSES_WITHOUT_TEXT:
                raise self._foreign_error(key, status) from error
            skew = clock_skew(headers, self._now())
            raise self._create_error(key, code, status, _error_message(error), skew) from error
        except vendor.ProfileNotFound as error:
            raise profile_error(str(error)) from error
        except vendor.ProxyConnectionError as error:
            raise self._unreachable_error(key, str(error), StoreSilent, hint=_PROXY_HINT) from error
        except _CREDENTIALS as error:
            raise denied_error(self.name, key, "", str(error), None) from error
        except vendor.ConfigParseError as error:
            raise config_error(str(error)) from error
        except vendor.SSLError as error:
            # The URL may also be that of a service for credentials.
            failure = find_tls_failure(error, self._tls_server(str(error.kwargs.get("endpoint_url"))))
            if failure is None:
                raise self._unreachable_error(key, str(error), StoreSilent) from error
            raise failure.to_error(key) from error
        except _SILENT as error:
            self._check_scheme(key, error)
            kind = StoreUnreachable if _is_closed_by_server(error) else StoreSilent
            raise self._unreachable_error(key, str(error), kind) from error
        except _GARBLED as error:
            self._check_scheme(key, error)
            raise self._unreachable_error(key, str(error)) from error
        except (vendor.BotoCoreError, *_UNREADABLE) as error:
            close_last_response()
            raise self._failed_error(key, f"an answer that cannot be read: {error}") from error

    def _check_scheme(self, key: str | None, error: Exception | None) -> None:
        """Raise a StoreError if an endpoint with http:// speaks TLS. An endpoint that has answered speaks http."""
        if not self._has_answered and self._endpoint.startswith("http:"):
            failure = find_plain_http_failure(error, self._tls_server(self._endpoint))
            if failure is not None:
                raise failure.to_error(key) from error

    def _tls_server(self, url: str) -> TlsServer:
        place = self.name if url.startswith(self._endpoint) else url.partition("?")[0]
        return tls_server(place, url, "set AWS_CA_BUNDLE to the file of the authority")

    def _create_error(
        self, key: str | None, code: str, status: int, message: str, skew: timedelta | None = None
    ) -> StoreError | Conflict:
        """Create the error for an error response of the store. `skew` is the difference of the clocks, if known."""
        found = f"{code} (HTTP {status}): {message}"
        if code == "NoSuchBucket":
            return StoreError(
                f"There is no bucket '{self.bucket}'.",
                found=found,
                expected=f"a bucket of this name in {self.name}",
                hint="check the bucket and the endpoint of the region in regions.yaml. Then run `imgstore regions init`, "
                "which creates the bucket of a new zone, and names the steps for a lost bucket",
                target=self.bucket,
            )
        if code == "BucketAlreadyExists":
            return StoreMismatch(
                f"The bucket '{self.bucket}' belongs to another account.",
                found=found,
                expected="an unused bucket name",
                hint="give the region another bucket in regions.yaml",
                target=self.bucket,
            )
        if code in {"NoSuchKey", "NotFound"} or status == 404:
            return missing_object_error(self.name, key or self.bucket)
        if code == "PreconditionFailed" or status == 412:
            return existing_object_error(self.name, key or "")
        if code in _DAMAGED:
            return self._damaged_error(key, found)
        if code in _FULL or status == 507:
            return StoreFull(
                "The store is full.",
                found=found,
                expected=f"free space for the object in {self.name}",
                hint="free some space in the store, then run the same command again, which resumes the work",
                target=key,
            )
        if code in _BUSY or status == 429:
            return self._unreachable_error(key, found, hint=_BUSY_HINT)
        if code in _PASSING or (status >= 500 and code != "NotImplemented"):
            return self._unreachable_error(key, found, hint=_PASSING_HINT)
        if code in _DENIED or status in {401, 403}:
            return denied_error(self.name, key, code, found, skew)
        return self._failed_error(key, found, "400" if _WRONG_PORT in message else code)

    def _foreign_error(self, key: str | None, status: int) -> StoreError:
        """Create the error for an error response that is not from S3."""
        return StoreError(
            f"{self.name} does not answer as an S3 server.",
            found=f"HTTP {status} without an error code of S3",
            expected="an answer of an S3 server",
            hint=_FOREIGN_HINT,
            target=key,
        )

    def _damaged_error(self, key: str | None, found: str) -> ObjectCorrupt:
        return ObjectCorrupt(
            f"The object '{key}' was damaged on the network.",
            found=found,
            expected="a body that matches its checksum",
            hint="run the same command again; if the error stays, check the network and its proxies",
            target=key,
        )

    def _unreachable_error(
        self,
        key: str | None,
        found: str,
        kind: type[StoreUnreachable] = StoreUnreachable,
        hint: str = "check that the server runs and that the endpoint in regions.yaml is right, then run the command again",
    ) -> StoreUnreachable:
        return kind(
            f"{self.name} does not answer as expected.",
            found=found,
            expected="an answer of an S3 server",
            hint=hint,
            target=key,
        )

    def _failed_error(self, key: str | None, found: str, code: str = "") -> StoreError:
        return StoreError(
            f"{self.name} failed the request.",
            found=found,
            expected="a successful response",
            hint=_FAILED_HINTS.get(code, _FAILED_HINT),
            target=key,
        )


# -- sessions and responses of botocore -------------------------------------------------------------------------------

_sessions_lock: Final = threading.Lock()


_CREDENTIAL_VARIABLES: Final = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
_SERVICES: Final = ["s3", "signin", "sso", "sso-oidc", "sts"]
"""S3, and the services for the credentials of profiles."""


class _ServiceModels(Loader):
    """botocore's service models. The default loader searches 400 folders twice, which takes 30 ms."""

    def list_available_services(self, type_name: str) -> list[str]:
        return _SERVICES


@cache
def _session(profile: str | None, _credentials: tuple[str | None, ...]) -> botocore.session.Session:
    """Return the session of a profile and of a set of credentials in the environment, which a session reads once.

    The session is cached with its service model, which takes 30 ms to read. The package boto3 adds 40 ms to the start of a
    command, and nothing that this module uses.
    """
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _ServiceModels())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    return session


def _timestamp(text: str) -> datetime:
    """Parse a time of S3: ISO 8601 in documents, an HTTP date in headers.

    botocore's default parser accepts any notation of a time, and took two thirds of the time of a listing.
    """
    try:
        return datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
    except ValueError:
        other: datetime = parse_timestamp(text)
        return other


def _client(
    profile: str | None,
    endpoint: str | None,
    region: str | None,
    access_key: str | None,
    secret_key: str | None,
    config: Config,
) -> Any:
    with _sessions_lock:  # threads may share clients, but not sessions
        session = _session(profile, tuple(os.environ.get(name) for name in _CREDENTIAL_VARIABLES))
        if access_key is None:
            clean_credentials(session.get_credentials())
        return session.create_client(
            "s3",
            endpoint_url=endpoint,
            region_name=region or session.get_config_variable("region") or "us-east-1",
            aws_access_key_id=clean_key(ACCESS_KEY, access_key),
            aws_secret_access_key=clean_key(SECRET_KEY, secret_key),
            config=config,
        )


def _parse_listed(found: Mapping[str, Any]) -> ObjectInfo:
    time: datetime = found["LastModified"]
    length = _check_length(found["Size"])
    return ObjectInfo(key=found["Key"], stored_bytes=length, last_modified=time.astimezone(UTC), checksum=None)


def _check_length(length: int) -> int:
    """Return the length of an object.

    Raises:
        ValueError: the length is impossible.
    """
    if not 0 <= length <= _LENGTH_MAX:
        raise ValueError(f"the length {str(length)[:40]}")
    return length


def range_header(offset: int, length: int) -> str:
    """Create the value of a Range header (RFC 9110, section 14.2)."""
    return f"bytes={offset}-{offset + length - 1}"


def error_code(error: vendor.ClientError) -> str:
    """Return S3's code of an error, the HTTP status of a HEAD request, or "" for a body that is not from S3."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_closed_by_server(error: Exception) -> bool:
    """Return whether the server closed the connection or violated HTTP. A request that timed out is no such case."""
    if not isinstance(error, vendor.ConnectionClosedError):
        return False
    cause = error.kwargs.get("error")  # urllib3's error, with its cause as the last argument
    return not (isinstance(cause, HTTPError) and any(isinstance(each, TimeoutError) for each in cause.args))


def _error_message(error: vendor.ClientError) -> str:
    region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    place = f" The bucket is in {region}." if region else ""
    return f"{error.operation_name}: {error.response.get('Error', {}).get('Message', '')}{place}"


def _in_key_order(infos: Iterable[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
    """Sort a listing by whole keys, because some stores walk folders (SeaweedFS).

    The orders differ only among neighbours of which one name begins with the other ("a/x" and "a-b/x"). Such neighbours
    are collected and sorted. Below ``segments/``, a 256th of a listing is in memory at a time.
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
    """Return the full-object checksum in a response. A checksum of parts (COMPOSITE) is not usable."""
    if answer.get("ChecksumType") == "COMPOSITE":
        return None
    found = ((name, answer.get(f"Checksum{name}")) for name in _CHECKSUMS)
    return next((f"{name}:{value}" for name, value in found if value), None)
