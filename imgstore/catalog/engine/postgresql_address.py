"""Parse the address of a PostgreSQL database by libpq's rules.

libpq itself parses the address, so every parameter of libpq is accepted. Errors show no part of a password.

Source: https://www.postgresql.org/docs/current/libpq-connect.html, section 34.1.1.2 (URIs) and 34.1.1.3 (several hosts).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from imgstore.domain.errors import InvalidInput

_SCHEME: Final = re.compile(r"(?:postgresql|postgres|postgresql\+psycopg)://")
_USER: Final = re.compile(r"[^@/]*@")
"""libpq ends the user and the password at the first `@` before a `/`."""
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class PostgresqlAddress:
    """The connection parameters of libpq that an address contains."""

    parameters: Mapping[str, str]
    place: str
    """The address without a password."""


def is_postgresql_address(url: str) -> bool:
    """Return whether an address names PostgreSQL."""
    return _SCHEME.match(url) is not None


def parse_postgresql_address(url: str) -> PostgresqlAddress:
    """Parse an address for which `is_postgresql_address` is true.

    Several hosts are given `target_session_attrs=read-write` by default, because a catalog needs the primary server.

    Raises:
        InvalidInput: libpq does not know a parameter, a port is no number from 1 to 65535, or the address is malformed.
        ModuleNotFoundError: psycopg is not installed.
    """
    from psycopg import ProgrammingError  # noqa: PLC0415 - an extra, loaded for PostgreSQL only
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    scheme = _SCHEME.match(url)
    rest = url[scheme.end() :] if scheme else url
    user = _USER.match(rest)
    location, _, query = rest[user.end() if user else 0 :].partition("?")
    shown = rest.rpartition("@")[2].partition("?")[0]
    if "@" in location:
        raise _invalid_address_error(
            "has an '@' that is not encoded", shown, hint="write %40 for each '@' in the user, the password or the name"
        )
    _check_query(query, shown)
    try:
        parsed = conninfo_to_dict(f"postgresql://{rest}")
    except ProgrammingError as error:
        # libpq puts the wrong part in quotes, which may belong to a password.
        problem = re.sub(r': ".*|(?<=spaces found) in ".*"', "", str(error), flags=re.DOTALL).strip()
        raise _invalid_address_error(
            f"is malformed: {problem}",
            shown,
            hint="write an IPv6 address in brackets, and percent-encode special characters of the password and of the "
            "values of parameters, such as %20 for a space and %3D for '='",
        ) from None
    except UnicodeDecodeError:
        raise _invalid_address_error(
            "is not UTF-8", shown, hint="percent-encode the bytes of UTF-8, such as %C3%A9 for 'é'"
        ) from None
    parameters = {name: str(value) for name, value in parsed.items()}
    # libpq connects to `hostaddr`, if it is given, and uses `host` for the name in the certificate only.
    hosts = (parameters.get("host") or parameters.get("hostaddr") or "").split(",")
    ports = parameters.get("port", "").split(",")
    _check_host_names(hosts, shown)
    _check_ports(ports, len(hosts), shown)
    if len(hosts) > 1:
        parameters.setdefault("target_session_attrs", "read-write")
    return PostgresqlAddress(parameters, _format_place(parameters, hosts, ports))


def _check_query(query: str, shown: str) -> None:
    from psycopg.pq import Conninfo  # noqa: PLC0415 - as above

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"}
    # libpq accepts a last '&'.
    for pair in query.removesuffix("&").split("&") if query else ():
        name, equals, _value = pair.partition("=")
        if not equals:
            raise _invalid_address_error(
                "has a parameter without a value",
                shown,
                hint="write each parameter as NAME=VALUE, with '&' between two",
            )
        if unquote(name) not in known:
            named = "" if "@" in query else f" {unquote(name)!r}"  # An '@' may be the end of a password.
            raise InvalidInput(
                f"The address of the database has the unknown parameter{named}.",
                found="a parameter that libpq does not have",
                expected="parameters of libpq, such as sslmode, sslrootcert, connect_timeout, application_name, options, "
                "target_session_attrs and host",
                hint="remove or correct the parameter in --database or IMGSTORE_DATABASE. imgstore sets options of the "
                "driver itself",
                target="database",
            )


def _check_host_names(hosts: list[str], shown: str) -> None:
    for host in hosts:
        try:
            host.encode("idna")  # The driver resolves names, and Python encodes them so.
        except UnicodeError:
            if not host.startswith(("/", "@")):
                raise _invalid_address_error(
                    "has a host that is no name", shown, hint="write a name with 1 to 63 characters between two dots"
                ) from None


def _check_ports(ports: list[str], hosts: int, shown: str) -> None:
    for port in ports:
        # libpq replaces an empty port by its default.
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= _PORT_MAX):
            named = f" {port!r}" if port in shown else ""
            raise _invalid_address_error(
                f"has the invalid port{named}",
                shown,
                expected=f"a number from 1 to {_PORT_MAX}",
                hint="correct the port. Write an IPv6 address in brackets, and percent-encode special characters of the "
                "password",
            )
    if len(ports) not in (1, hosts):
        raise _invalid_address_error(
            f"has {len(ports)} ports for {hosts} hosts", shown, hint="give one port for all hosts, or one for each host"
        )


def _format_place(parameters: Mapping[str, str], hosts: list[str], ports: list[str]) -> str:
    user = f"{parameters['user']}@" if "user" in parameters else ""
    if any(host.startswith("/") for host in hosts):
        port = f"&port={parameters['port']}" if "port" in parameters else ""
        return f"postgresql://{user}/{parameters.get('dbname', '')}?host={','.join(hosts)}{port}"
    ports = ports * len(hosts) if len(ports) == 1 else ports
    names = (f"[{host}]" if ":" in host else host for host in hosts)
    servers = ",".join(name + (f":{port}" if port else "") for name, port in zip(names, ports, strict=True))
    service = f"?service={parameters['service']}" if "service" in parameters else ""
    return f"postgresql://{user}{servers}/{parameters.get('dbname', '')}{service}"


def _invalid_address_error(
    problem: str, shown: str, *, expected: str = "postgresql://USER@HOST:PORT/NAME", hint: str
) -> InvalidInput:
    return InvalidInput(
        f"The address of the database {problem}.",
        found=repr(shown),
        expected=expected,
        hint=hint,
        target="database",
    )
