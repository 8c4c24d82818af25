"""The causes of failed TLS connections, from the texts of OpenSSL and of Python's ssl module."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFault:
    """A cause, in the words of a message, and the steps to correct the cause."""

    problem: str
    """Ends the sentence "The server ..."."""
    hint: str | None
    """None for an authority that this machine does not trust: each client has a setting of its own."""


_UNTRUSTED: Final = TlsFault(problem="has no trusted certificate", hint=None)
_FAULTS: Final = {
    ("wrong_version_number", "record_layer_failure", "unknown_protocol", "packet_length_too_long", "http_request"): (
        TlsFault(
            problem="does not use TLS at this port", hint="correct the port, or write http:// in place of https://"
        )
    ),
    ("certificate has expired",): TlsFault(
        problem="has an expired certificate", hint="renew the certificate of the server, or correct a wrong clock"
    ),
    ("certificate is not yet valid",): TlsFault(
        problem="has a certificate that is not valid yet", hint="correct the clock of this machine or of the authority"
    ),
    ("doesn't match", "hostname mismatch", "ip address mismatch"): TlsFault(
        problem="has a certificate for another name",
        hint="use a name that the certificate contains, or issue a certificate for this name",
    ),
}


def find_tls_fault(text: str) -> TlsFault:
    """Return the cause of a failed handshake from the text of the error. The default is an untrusted authority."""
    lower = text.lower()
    return next((fault for signs, fault in _FAULTS.items() if any(each in lower for each in signs)), _UNTRUSTED)
