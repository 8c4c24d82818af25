"""The addresses of PostgreSQL: libpq's rules, and errors that show no part of a password."""

import pytest

from imgstore.catalog.engine.database import configure_database
from imgstore.catalog.engine.postgresql_address import parse_postgresql_address
from imgstore.domain.errors import InvalidInput


@pytest.mark.parametrize(
    ("url", "parameters", "place"),
    [
        ("postgresql://", {}, "postgresql:///"),
        (
            "postgres://u:a%40b%2F@h",
            {"user": "u", "password": "a@b/", "host": "h"},
            "postgresql://u@h/",
        ),
        (
            "postgresql+psycopg://u@/db?host=/run/pg",
            {"user": "u", "dbname": "db", "host": "/run/pg"},
            "postgresql://u@/db?host=/run/pg",
        ),
        (
            "postgresql://u@[::1]:5433/db?password=secret&sslmode=verify-full&sslrootcert=/ca.pem",
            {
                "user": "u",
                "password": "secret",
                "host": "::1",
                "port": "5433",
                "dbname": "db",
                "sslmode": "verify-full",
                "sslrootcert": "/ca.pem",
            },
            "postgresql://u@[::1]:5433/db",
        ),
        (
            "postgresql://a:5431,b/db",
            {"host": "a,b", "port": "5431,", "dbname": "db", "target_session_attrs": "read-write"},
            "postgresql://a:5431,b/db",
        ),
        (
            "postgresql:///db?host=a,b&port=6432&target_session_attrs=any",
            {"host": "a,b", "port": "6432", "dbname": "db", "target_session_attrs": "any"},
            "postgresql://a:6432,b:6432/db",
        ),
        (
            "postgresql://u:p?q=r&s@h/db?options=-c%20a%3Db",
            {"user": "u", "password": "p?q=r&s", "host": "h", "dbname": "db", "options": "-c a=b"},
            "postgresql://u@h/db",
        ),
        ("postgresql:///?service=images", {"service": "images"}, "postgresql:///?service=images"),
        (
            "postgresql://u:@%2Frun%2Fpg:5433/db?sslmode=disable&",
            {"user": "u", "host": "/run/pg", "port": "5433", "dbname": "db", "sslmode": "disable"},
            "postgresql://u@/db?host=/run/pg&port=5433",
        ),
        (
            "postgresql:///db?hostaddr=10.0.0.1,10.0.0.2&port=1,2",
            {"hostaddr": "10.0.0.1,10.0.0.2", "port": "1,2", "dbname": "db", "target_session_attrs": "read-write"},
            "postgresql://10.0.0.1:1,10.0.0.2:2/db",
        ),
    ],
)
def test_address_is_parsed_as_libpq_does(url: str, parameters: dict[str, str], place: str) -> None:
    address = parse_postgresql_address(url)
    assert address.parameters == parameters
    assert address.place == place


def test_line_end_of_a_variable_is_no_part_of_the_name() -> None:
    assert configure_database("postgresql://u@h/db\n").place == "postgresql://u@h/db"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u@h:port/db", "invalid port 'port'"),
        ("postgresql://u@h:70000/db", "invalid port '70000'"),
        ("postgresql://u@h:0/db", "invalid port '0'"),
        ("postgresql://u@h:-1/db", "invalid port '-1'"),
        ("postgresql://u@a:5432,b:54x/db", "invalid port '54x'"),
        ("postgresql://u@::1:5432/db", "Write an IPv6 address in brackets"),
        ("postgresql://u@[::1/db", 'matching "]" in IPv6 host address'),
        ("postgresql:///db?host=a,b&port=1,2,3", "3 ports for 2 hosts"),
        ("postgresql://h/db?prepare_threshold=0", "unknown parameter 'prepare_threshold'"),
        ("postgresql://h/db?sslmode", "parameter without a value"),
        ("postgresql://h/db?sslmode=a=b", "extra key/value separator"),
        ("postgresql://u:secret secret@h/db", "unexpected spaces found, use percent-encoded spaces"),
        ('postgresql://u:secret: "secret "secret@h/db', "unexpected spaces found, use percent-encoded spaces"),
        ("postgresql://h/db?options=-c secret=1", "%20 for a space and %3D for '='"),
        ("postgresql://u:secret@db..example/db", "a host that is no name"),
        (f"postgresql://u:secret@ok,{'h' * 64}.example/db", "a host that is no name"),
        ("postgresql://u:secret%ff@h/db", "is not UTF-8"),
        ("postgresql://u:secret%zz@h/db", "invalid percent-encoded token"),
        ("postgresql://u:secret@secret@h/db", "write %40"),
        ("postgresql://u:secret/secret@h/db", "write %40"),
        ("postgresql://u:5432/secret?secret=1@h/db", "unknown parameter"),
        ("postgresql://u:secret/?host=a@h/db", "invalid port"),
        ("host=h password=secret", "no URL"),
        ("mysql://h/db?password=secret", "postgresql://USER@HOST/NAME"),
    ],
)
def test_malformed_address_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        configure_database(url)
    error = caught.value
    shown = f"{error} {error.found} {error.expected} {error.hint}"
    assert message in shown
    assert "secret" not in shown
