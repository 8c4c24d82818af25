"""Run a real server on a loopback port over a temporary home, with the token of the first administrator."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgstore.api.application import make_application
from imgstore.api.auth.client_secrets import Credential, create_first_administrator, create_service_principal
from imgstore.api.auth.tokens import TokenAuthority
from imgstore.api.dev_tls import Certificates
from imgstore.api.http.context import ServerSettings
from imgstore.api.serve import ListenAddress, listen, serve
from imgstore.domain.identity.access import Role
from imgstore.operations.identity.roles import assign
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, open_home

NEW = "2023-07-03"
LOOSE = {"IMGSTORE_ALLOW_PRIVATE_SOURCES": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    """The headers, with names in lower case."""
    body: Any
    """The parsed JSON, or the text of another body."""

    @property
    def code(self) -> str:
        """Return the error code in ARM's envelope."""
        return str(self.body["error"]["code"])


@dataclass(slots=True, kw_only=True)
class Api:
    """A running server with methods that send requests."""

    installation: Installation
    port: int
    credential: Credential | None
    headers: dict[str, str] = field(default_factory=dict)
    certificates: Certificates | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.certificates is None else 'https'}://localhost:{self.port}"

    @property
    def top(self) -> str:
        return f"/subscriptions/{self.installation.subscription}"

    @property
    def compute(self) -> str:
        return f"{self.top}/resourceGroups/{GROUP}/providers/Microsoft.Compute"

    @property
    def gallery(self) -> str:
        return f"{self.compute}/galleries/{GALLERY}"

    @property
    def definition(self) -> str:
        return f"{self.gallery}/images/{DEFINITION}"

    def version(self, name: str = "1.0.0") -> str:
        return f"{self.definition}/versions/{name}"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        version: str | None = NEW,
        query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request."""
        parts = [part for part in (f"api-version={version}" if version else "", query) if part]
        target = path if "?" in path else f"{path}?{'&'.join(parts)}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, target, data, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
            told = {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()
        is_json = bool(text) and told.get("content-type", "").startswith("application/json")
        return Answer(status=answer.status, headers=told, body=json.loads(text) if is_json else text)

    def path_of(self, url: str) -> str:
        """Return the path and the query of a URL of this server."""
        return "/" + url.split("/", 3)[3]

    def await_end(self, answer: Answer, count: int = 2_000) -> Any:
        """Poll the operation of an answer until the end. Return the last body."""
        path = self.path_of(answer.headers["azure-asyncoperation"])
        for _ in range(count):
            told = self.ask("GET", path)
            assert told.status == 200, told
            if told.body["status"] != "InProgress":
                return told.body
            assert told.headers["retry-after"] == "0"
            self.installation.effects.wait(0.01)
        raise AssertionError("it does not end")

    def found(self) -> None:
        """Create the group, the gallery and the definition."""
        assert self.ask("PUT", f"{self.top}/resourceGroups/{GROUP}", {"location": "southcentralus"}).status == 201
        assert self.ask("PUT", self.gallery, {"location": "southcentralus"}).status == 201
        assert self.ask("PUT", self.definition, definition_body()).status == 201


def bearer(api: Api, role: Role, group: str, name: str = "builder") -> dict[str, str]:
    """Create a service principal with a role on a resource group. Return the authorization header."""
    made = create_service_principal(api.installation, ADMIN, name=name)
    identity = made.known.identity
    assign(api.installation, ADMIN, assignee=identity.uid, role=role, scope=f"{api.top}/resourceGroups/{group}")
    form = f"grant_type=client_credentials&client_id={identity.client_id}&scope={api.url}/.default"
    form += f"&client_secret={made.secret}"
    given = api.ask("POST", f"/{identity.tenant_uid}/oauth2/v2.0/token", form.encode(), version=None)
    assert given.status == 200, given
    return {"Authorization": f"Bearer {given.body['access_token']}"}


def definition_body(**properties: Any) -> Any:
    """Return the body of a definition."""
    identifier = {"publisher": "p", "offer": "o", "sku": "s"}
    required = {"osType": "Linux", "osState": "Generalized", "identifier": identifier}
    return {"location": "southcentralus", "properties": required | properties}


def version_body(uri: str, *regions: Any, **profile: Any) -> Any:
    """Return the body of a version from a URL."""
    named = [{"name": each} if isinstance(each, str) else each for each in regions or ("southcentralus",)]
    return {
        "location": "southcentralus",
        "properties": {
            "publishingProfile": {"targetRegions": named, **profile},
            "storageProfile": {"osDiskImage": {"source": {"uri": uri}}},
        },
    }


def lines_of(api: Api) -> dict[str, str]:
    """Return the environment of a client: the lines that `imgstore serve` prints."""
    assert api.credential is not None
    assert api.certificates is not None
    identity, bundle = api.credential.known.identity, str(api.certificates.bundle)
    return {
        "IMGSTORE_URL": api.url,
        "IMGSTORE_SUBSCRIPTION_ID": api.installation.subscription,
        "IMGSTORE_TENANT_ID": identity.tenant_uid,
        "IMGSTORE_CLIENT_ID": identity.client_id or "",
        "IMGSTORE_CLIENT_SECRET": api.credential.secret,
        "REQUESTS_CA_BUNDLE": bundle,
        "NODE_EXTRA_CA_CERTS": bundle,
        "SSL_CERT_FILE": bundle,
    }


@contextmanager
def start_api(
    home: Path,
    *,
    certificates: Certificates | None = None,
    worker: bool = False,
    authority_type: type[TokenAuthority] = TokenAuthority,
    database: str | None = None,
    cache_bytes: int | None = None,
    **settings: Any,
) -> Iterator[Api]:
    """Serve a home until the block ends.

    Args:
        home: the home.
        certificates: for TLS.
        worker: whether one runs in the server.
        authority_type: says who a request's caller is.
        database: the URL of the catalog; None is SQLite in the home.
        cache_bytes: the limit of the segment cache.
        settings: fields of `ServerSettings`.
    """
    with open_home(home, environ=LOOSE, database=database, cache_bytes=cache_bytes) as installation:
        door = ListenAddress(
            host="127.0.0.1",
            port=0,
            certificate=None if certificates is None else certificates.certificate,
            key=None if certificates is None else certificates.key,
        )
        listening = listen(door)
        api = Api(
            installation=installation,
            port=listening.getsockname()[1],
            credential=create_first_administrator(installation),
            certificates=certificates,
        )
        authority = authority_type(installation, api.url)
        if api.credential is not None:
            identity = api.credential.known.identity
            assert identity.client_id is not None
            scope = f"{api.url}/.default"
            token = authority.issue_token(identity.tenant_uid, identity.client_id, api.credential.secret, scope)
            api.headers["Authorization"] = f"Bearer {token.access_token}"
        app = make_application(installation, authority, ServerSettings(**{"retry_after_seconds": 0, **settings}))
        begun, stops = threading.Event(), []

        def ready(stop: Any) -> None:
            stops.append(stop)
            begun.set()

        def run() -> None:
            serve(app, installation, door, listening, worker=worker, ready=ready)

        thread = threading.Thread(target=run, name="server")
        thread.start()
        try:
            assert begun.wait(60)
            yield api
        finally:
            stops[0]()
            thread.join()
