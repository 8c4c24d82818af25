"""Whole objects to and from S3 by botocore's signer, connections and parser, past its client.

The client looks through its endpoint rules and calls some thirty handlers a request: 0.4 to 0.6 ms of our CPU of the 1.3
to 3 that an object of 1 to 4 MB takes (MinIO on loopback, 2026-11). What comes back, an answer or an error, is the same.
"""

from collections.abc import Mapping
from typing import Any, Final

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.endpoint import convert_to_response_dict
from botocore.exceptions import ClientError

from imgstore.stores.interface import Body

_ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
"""What the client understands as a bucket in another region, and asks there."""


class FastPath:
    """To one bucket, named in the path. Safe to use from several threads at once."""

    def __init__(self, client: Any, bucket: str) -> None:
        """Go beside the client: to its endpoint, with its credentials, connections, time limits and certificates.

        Args:
            client: botocore's, of an endpoint that was named, path-style.
            bucket: the bucket's name.

        Raises:
            AttributeError: this botocore keeps its parts elsewhere.
        """
        self._url = f"{client.meta.endpoint_url.rstrip('/')}/{bucket}/"
        self._config = client.meta.config
        self._region: str = client.meta.region_name
        self._operation = client.meta.service_model.operation_model
        self._credentials = client._request_signer._credentials
        """They may renew themselves; None are refused when they are needed."""
        self._http = client._endpoint.http_session
        self._parser = client._response_parser

    @classmethod
    def beside(cls, client: Any, bucket: str) -> "FastPath | None":
        """None where the client's parts, which botocore promises to nobody, are not where they were: it can be asked."""
        try:
            return cls(client, bucket)
        except AttributeError:
            return None

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What `get_object` answers for a key that needs no escapes in a URL; None where the client is to be asked.

        Raises:
            botocore's errors.
        """
        return self._answer("GetObject", "GET", key, {}, None)

    def put(self, key: str, body: Body, headers: Mapping[str, str]) -> Mapping[str, Any] | None:
        """What `put_object` answers. Else as `get`."""
        return self._answer("PutObject", "PUT", key, {**headers, "Content-Length": str(len(body))}, body)

    def _answer(
        self, name: str, method: str, key: str, headers: Mapping[str, str], body: Body | None
    ) -> Mapping[str, Any] | None:
        operation = self._operation(name)
        request = AWSRequest(
            method,
            self._url + key,
            headers={**headers, "User-Agent": self._config.user_agent},
            data=body,
            stream_output=operation.has_streaming_output,
        )
        request.context["client_config"] = self._config  # it says that bodies are not signed
        credentials = self._credentials and self._credentials.get_frozen_credentials()
        S3SigV4Auth(credentials, "s3", self._region).add_auth(request)
        answer = convert_to_response_dict(self._http.send(request.prepare()), operation)
        told: dict[str, Any] = self._parser.parse(answer, operation.output_shape)
        if answer["status_code"] < 300:
            return told
        if told["Error"]["Code"] in _ELSEWHERE:
            return None
        raise ClientError(told, name)  # type: ignore[arg-type]  # its stub's shape, made by its own parser
