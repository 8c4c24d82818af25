"""``imgstore serve``: the server of the API, and the settings for Azure's clients."""

import ipaddress
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Command
from imgstore.cli.framework.session import Session, open_session
from imgstore.cli.framework.standard_streams import drop_output
from imgstore.domain.errors import InvalidInput, ToolMissing
from imgstore.domain.extras import install_hint
from imgstore.operations.installation import MachineHost
from imgstore.operations.machines.running import check_machine_host
from imgstore.operations.stores.catalog_checks import check_catalog_in_background

if TYPE_CHECKING:
    from imgstore.api.auth.client_secrets import Credential
    from imgstore.api.serve import ListenAddress

_EXAMPLE: Final = """
imgstore serve --dev-tls
imgstore serve --host 0.0.0.0 --url https://images.example:8443 --tls-cert cert.pem --tls-key key.pem
"""
_PORT: Final = 8443


@click.command(cls=Command, example=_EXAMPLE)
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1.")
@options.number(
    "--port", least=0, most=65535, default=_PORT, text=f"Port to listen on. 0 chooses a free port. Default: {_PORT}."
)
@click.option(
    "--url",
    metavar="URL",
    help="URL of the server for clients, also the audience of tokens. Default: https://localhost:PORT.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate with its chain, as PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Key of the certificate, as PEM.")
@click.option(
    "--dev-tls", is_flag=True, help="Create a certificate authority and a certificate for localhost in the home, once."
)
@click.option(
    "--insecure-http", is_flag=True, help="Serve plain HTTP, on loopback only. Azure's clients refuse plain HTTP."
)
@click.option(
    "--no-worker",
    is_flag=True,
    help="Run no worker in the server. `imgstore worker` makes replicas and runs maintenance.",
)
@options.number(
    "--retry-after-seconds",
    least=0,
    default=2,
    unit="SECONDS",
    text="Value of the Retry-After header for polling clients. Default: 2.",
)
@options.number("--page-items", least=1, default=100, text="Number of items on a page of a list. Default: 100.")
@options.segment_cache
@options.number(
    "--rate-limit-factor",
    least=0,
    default=100,
    text="Factor on Azure's request rates of a subscription; 0 for no limit. Default: 100.",
)
@options.number(
    "--connections-max",
    least=1,
    default=2_048,
    text="Largest number of open connections. Each connection needs a file descriptor. Default: "
    "2048, or fewer by `ulimit -n`.",
)
@options.number(
    "--connections-per-address-max",
    least=1,
    default=512,
    text="Largest number of open connections from one address. Default: 512.",
)
@options.fraction(
    "--head-seconds",
    least=0.1,
    default=10.0,
    unit="SECONDS",
    text="Time limit of a TLS handshake and of a request's head. Default: 10.",
)
@options.fraction(
    "--keep-alive-seconds",
    least=0.1,
    default=5.0,
    unit="SECONDS",
    text="Time limit of an idle connection between requests. Default: 5.",
)
@options.fraction(
    "--body-idle-seconds",
    least=0.1,
    default=60.0,
    unit="SECONDS",
    text="Time limit without a byte of a request's body or of a response. Default: 60.",
)
@options.number(
    "--body-bytes-per-second-min",
    least=0,
    default=1_024,
    unit="BYTES",
    text="Smallest rate of a request's body. Default: 1024.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="CIDR",
    help="Network of trusted proxies, such as 10.0.0.0/8. Their X-Forwarded-For and Forwarded "
    "headers name the client. Repeatable. Default: none.",
)
@options.number(
    "--secret-failures-max",
    least=1,
    default=30,
    text="Largest number of wrong secrets from one address in a minute. Default: 30.",
)
@click.option(
    "--machines",
    is_flag=True,
    help="Run machines on this host with QEMU. The API then starts a new machine, and start, stop and restart work.",
)
@click.option(
    "--runas", "runs_as", metavar="USER", help="User for QEMU, with --machines. See `imgstore vm start --help`."
)
def serve(
    *,
    host: str,
    port: int,
    url: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    dev_tls: bool,
    insecure_http: bool,
    no_worker: bool,
    machines: bool,
    runs_as: str | None,
    cache_dir: Path | None,
    cache_bytes: int | None,
    trusted_proxies: tuple[str, ...],
    **limits: Any,
) -> None:
    """Serve Azure's API for az and Azure's SDKs, until SIGTERM or SIGINT.

    The server prints the settings for clients. The first start also creates an administrator, and prints the secret once. A
    worker runs in the server.
    """
    try:
        from imgstore.api.application import make_application  # noqa: PLC0415 - an extra
        from imgstore.api.auth.client_secrets import create_first_administrator  # noqa: PLC0415
        from imgstore.api.auth.tokens import AUDIENCES, TokenAuthority  # noqa: PLC0415
        from imgstore.api.http.client_addresses import parse_networks  # noqa: PLC0415
        from imgstore.api.http.connection_limits import ConnectionLimits  # noqa: PLC0415
        from imgstore.api.http.context import ServerSettings  # noqa: PLC0415
        from imgstore.api.serve import listen  # noqa: PLC0415
        from imgstore.api.serve import serve as run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ToolMissing(
            f"The server needs {error.name}.",
            found="an installation without the extra `server`",
            expected="the packages of the extra `server`",
            hint=install_hint("server"),
            target="serve",
        ) from error
    if sum((tls_cert is not None, dev_tls, insecure_http)) != 1 or (tls_key is None) == (tls_cert is not None):
        raise click.UsageError("Give --tls-cert and --tls-key, or --dev-tls, or --insecure-http.")
    if insecure_http and not _is_loopback(host):
        raise InvalidInput(
            f"Plain http is not served on {host}.",
            found="--insecure-http with an address that other machines reach",
            expected="127.0.0.1, ::1 or localhost",
            hint="use --tls-cert and --tls-key",
            target="host",
        )
    if machines:
        check_machine_host(runs_as)
    with open_session(may_read_only=False, cache_folder=cache_dir, cache_bytes=cache_bytes) as session:
        address, bundle = _listen_address(session, host, port, tls_cert, tls_key, dev_tls=dev_tls)
        listening = listen(address)
        scheme, taken = ("http" if insecure_http else "https"), listening.getsockname()[1]
        here = (url or f"{scheme}://localhost:{taken}").rstrip("/")
        also = tuple(f"{scheme}://{name}:{taken}" for name in ("localhost", "127.0.0.1", "[::1]"))
        administrator = create_first_administrator(session.installation)
        authority = TokenAuthority(session.installation, here, audiences=(*AUDIENCES, *also))
        names = [each.name for each in fields(ConnectionLimits) if each.name in limits]
        connections = ConnectionLimits(**{name: limits.pop(name) for name in names})
        settings = ServerSettings(
            leaves_replicas=no_worker,
            connections=connections,
            trusted_proxies=parse_networks(trusted_proxies),
            machines=MachineHost(runs_as=runs_as) if machines else None,
            **limits,
        )
        app = make_application(session.installation, authority, settings)
        lines = _lines(session, here, bundle, administrator)
        check_catalog_in_background(session.installation)
        run(
            app,
            session.installation,
            address,
            listening,
            worker=not no_worker,
            ready=lambda _stop: _announce(session, lines),
        )


def _announce(session: Session, lines: Sequence[str]) -> None:
    """Print the settings for clients. An error of the output does not stop the server."""
    try:
        click.echo("\n".join(lines))
    except OSError as error:
        drop_output()
        session.warn(
            f"the settings for clients could not be printed: {error}\n"
            "`imgstore auth sp credential reset` gives the administrator a new secret"
        )


def _listen_address(
    session: Session, host: str, port: int, certificate: Path | None, key: Path | None, *, dev_tls: bool
) -> "tuple[ListenAddress, Path | None]":
    """Return the listen address, and the certificates that clients need."""
    from imgstore.api.serve import ListenAddress  # noqa: PLC0415 - as above

    if not dev_tls:
        return ListenAddress(host=host, port=port, certificate=certificate, key=key), None
    from imgstore.api.dev_tls import make_certificates  # noqa: PLC0415

    made = make_certificates(session.installation.home)
    return ListenAddress(host=host, port=port, certificate=made.certificate, key=made.key), made.bundle


def _lines(session: Session, url: str, bundle: Path | None, administrator: "Credential | None") -> list[str]:
    """Make the lines for a shell: one ``NAME=value`` or command on each line."""
    with session.installation.catalog.reading() as transaction:
        tenant = transaction.tenants.owner_uid(session.installation.subscription)
    given = (
        []
        if administrator is None
        else [
            f"IMGSTORE_CLIENT_ID={administrator.known.identity.client_id}",
            f"IMGSTORE_CLIENT_SECRET={administrator.secret}",
        ]
    )
    roots = [f"{name}={bundle}" for name in ("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS") if bundle]
    return [
        f"# imgstore serves {url} (its API: {url}/docs). Settings for az and Azure's SDKs, to paste into another shell:",
        "set -a",
        f"IMGSTORE_TENANT_ID={tenant}",
        *given,
        f"IMGSTORE_SUBSCRIPTION_ID={session.installation.subscription}",
        *roots,
        "AZURE_CORE_INSTANCE_DISCOVERY=false",
        "set +a",
        f"az cloud register -n imgstore --endpoint-resource-manager {url}",
        "az cloud set -n imgstore",
        'az login --service-principal -u "$IMGSTORE_CLIENT_ID" -p "$IMGSTORE_CLIENT_SECRET" --tenant "$IMGSTORE_TENANT_ID"',
    ]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
