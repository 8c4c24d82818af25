"""The certificate of the server over time: daily warnings, and renewed files that become valid later (invariant H19)."""

import logging
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgstore.api.server_certificate import CertificateFiles, CertificateWatch, load_certificate
from imgstore.domain.errors import InvalidInput
from tests.support.certificates import issue

DAY = timedelta(days=1)
AUTHORITY_INFORMATION_ACCESS = bytes.fromhex("06082b06010505070101")
"""The identifier of the extension (RFC 5280, section 4.2.2.1) in DER."""
CURVE = bytes.fromhex("06082a8648ce3d030107")
"""The identifier of the curve P-256 (RFC 5480) in DER."""


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def warnings_of(watch: CertificateWatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    watch.look()
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_warnings_are_daily_in_the_last_thirty_days(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    files = CertificateFiles(*issue("localhost", ends=40 * DAY).write(tmp_path))
    watch = CertificateWatch(files, clock)
    assert warnings_of(watch, caplog) == []
    clock.now += 11.5 * DAY
    (warning,) = warnings_of(watch, caplog)
    assert f"the certificate in {files.certificate} ends in 28 days: notAfter " in warning
    clock.now += DAY / 24
    assert warnings_of(watch, caplog) == []
    clock.now += DAY
    assert "ends in 27 days" in warnings_of(watch, caplog)[0]
    clock.now += 40 * DAY
    assert "has expired, and clients refuse it" in warnings_of(watch, caplog)[0]


def test_renewed_certificate_is_used_once_it_is_valid(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watch = CertificateWatch(CertificateFiles(*issue("localhost").write(tmp_path)), clock)
    first = watch.context
    issue("localhost", begins=DAY, ends=400 * DAY).write(tmp_path)
    (warning,) = warnings_of(watch, caplog)
    assert "the former one stays in use" in warning
    assert "is not valid yet" in warning
    assert warnings_of(watch, caplog) == []
    assert watch.context is first
    clock.now += 2 * DAY
    assert "uses the renewed certificate" in warnings_of(watch, caplog)[0]
    assert watch.context is not first
    assert warnings_of(watch, caplog) == []


def test_removed_files_leave_the_present_certificate(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    files = CertificateFiles(*issue("localhost").write(tmp_path))
    watch = CertificateWatch(files, clock)
    first = watch.context
    files.key.unlink()
    assert "the key file" in warnings_of(watch, caplog)[0]
    assert watch.context is first


def test_notes_name_a_readable_key_and_a_doubtful_chain(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    root = issue("Root", authority=True)
    between = issue("Intermediate", by=root, authority=True)
    other = issue("Other", by=root, authority=True)
    leaf = issue("images.example", by=between, issuer_address=True)

    def notes(*above: object) -> str:
        files = CertificateFiles(*leaf.write(tmp_path, *above))  # type: ignore[arg-type] # certificates of this test
        return "\n".join(warnings_of(CertificateWatch(files, clock), caplog))

    assert "may be incomplete: clients that do not know 'CN=Intermediate'" in notes()
    assert notes(between) == ""
    assert notes(between, root) == ""
    assert "is broken: the certificate after 'CN=images.example' is not of its issuer 'CN=Intermediate'" in notes(other)
    (tmp_path / "key.pem").chmod(0o644)
    assert "can read the key" in notes(between)


def test_expired_intermediate_is_refused(tmp_path: Path, clock: Clock) -> None:
    root = issue("Root", authority=True)
    between = issue("Intermediate", by=root, authority=True, ends=-DAY)
    files = CertificateFiles(*issue("images.example", by=between).write(tmp_path, between))
    with pytest.raises(InvalidInput, match="has expired"):
        CertificateWatch(files, clock)


def test_an_extension_that_cannot_be_read_gives_no_note(tmp_path: Path, clock: Clock) -> None:
    """Only a note would use the extension."""
    files = CertificateFiles(*issue("localhost", by=issue("Root", authority=True), issuer_address=True).write(tmp_path))
    der = ssl.PEM_cert_to_DER_cert(files.certificate.read_text())
    value = der.index(AUTHORITY_INFORMATION_ACCESS) + len(AUTHORITY_INFORMATION_ACCESS) + 2
    damaged = der[:value] + b"\x31" + der[value + 1 :]  # A SET in place of a SEQUENCE.
    files.certificate.write_text(ssl.DER_cert_to_PEM_cert(damaged))
    assert load_certificate(files).notes == ()


def test_an_authority_with_an_unknown_kind_of_key_is_refused_in_words(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    files = CertificateFiles(*issue("localhost").write(tmp_path))
    watch = CertificateWatch(files, clock)
    first = watch.context
    root = issue("Root", authority=True)
    issue("localhost", by=root).write(tmp_path, root)
    own, authority = re.findall(r"(-----BEGIN.*?END CERTIFICATE-----\n)", files.certificate.read_text(), re.DOTALL)
    der = ssl.PEM_cert_to_DER_cert(authority)
    assert CURVE in der
    files.certificate.write_text(own + ssl.DER_cert_to_PEM_cert(der.replace(CURVE, CURVE[:-1] + b"\x77")))
    assert "OpenSSL refuses the certificate" in warnings_of(watch, caplog)[0]
    assert watch.context is first
