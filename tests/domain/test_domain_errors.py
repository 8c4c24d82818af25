"""The error tree, with classes, codes and statuses, equals the tree in the docstring of the module."""

import inspect
import re

import pytest

from imgstore.domain import errors
from imgstore.domain.errors import (
    ImgstoreError,
    InvalidInput,
    InvalidRegions,
    NotFound,
    ObjectNotFound,
    PropertyChangeNotAllowed,
    SafetyCheckFailed,
    StoreError,
    StoreUnreachable,
    error_from_json,
    error_to_json,
)

EVERY = {
    each.__name__: each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, ImgstoreError)
}

CODES = {
    "ImgstoreError": ("InternalError", 500),
    "InvalidInput": ("InvalidParameter", 400),
    "InvalidRegions": ("InvalidRegions", 400),
    "SourceNotFound": ("InvalidParameter", 400),
    "ImageRefused": ("InvalidImage", 400),
    "ImageTruncated": ("ImageTruncated", 400),
    "SafetyCheckFailed": ("SafetyCheckFailed", 400),
    "NotFound": ("ResourceNotFound", 404),
    "ScopeNotFound": ("ResourceNotFound", 404),
    "ParentNotFound": ("ParentResourceNotFound", 404),
    "ImageNotAvailable": ("GalleryImageNotFound", 404),
    "Unauthenticated": ("InvalidAuthenticationToken", 401),
    "ClientRefused": ("invalid_client", 401),
    "AccessDenied": ("AuthorizationFailed", 403),
    "Conflict": ("Conflict", 409),
    "PropertyChangeNotAllowed": ("PropertyChangeNotAllowed", 409),
    "LostRace": ("Conflict", 409),
    "WorkHeld": ("OperationInProgress", 409),
    "WorkLeased": ("OperationInProgress", 409),
    "LeaseLost": ("LeaseLost", 409),
    "SourceChanged": ("SourceChanged", 409),
    "StoreError": ("StoreError", 503),
    "ObjectNotFound": ("ObjectNotFound", 503),
    "StoreUnreachable": ("StoreUnreachable", 503),
    "StoreDenied": ("StoreDenied", 503),
    "StoreFull": ("StoreFull", 507),
    "StoreMismatch": ("StoreMismatch", 503),
    "ObjectCorrupt": ("ObjectCorrupt", 503),
    "HostFault": ("HostFault", 503),
    "OutputError": ("OutputError", 400),
    "ToolMissing": ("ToolMissing", 400),
    "ReplicationFailed": ("ReplicationJobsFailed", 409),
    "CatalogOutdated": ("CatalogOutdated", 409),
    "CircuitOpen": ("StoreUnreachable", 503),
    "ExistenceUnknown": ("ExistenceUnknown", 503),
    "StoreSilent": ("StoreUnreachable", 503),
    "ReadBackMismatch": ("ObjectCorrupt", 503),
}


def documented_tree() -> dict[str, str]:
    """Return each class of the documented tree with the parent class."""
    above: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+)", line)
        if match:
            depth = len(match[1]) // 4
            path = [*path[:depth], match[2]]
            above[match[2]] = path[depth - 1] if depth else "Exception"
    return above


def test_class_tree_equals_the_tree_in_the_docstring() -> None:
    assert documented_tree() == {name: each.__bases__[0].__name__ for name, each in EVERY.items()}


def test_codes_and_statuses() -> None:
    assert {name: (each.code, each.status) for name, each in EVERY.items()} == CODES


def test_statuses_in_the_docstring() -> None:
    told = dict(re.findall(r"─ (\w+)(?: \(\w+\))? +(\d{3}) ", errors.__doc__ or ""))
    assert told
    assert {name: int(status) for name, status in told.items()} == {name: EVERY[name].status for name in told}


def test_only_an_unreachable_store_is_worth_another_try() -> None:
    stores = [each for each in EVERY.values() if issubclass(each, StoreError)]
    assert all(each.retryable is issubclass(each, StoreUnreachable) for each in stores)


def test_object_not_found_is_a_key_error() -> None:
    error = ObjectNotFound("There is no object 'a'.", hint="look elsewhere")
    assert isinstance(error, KeyError)
    assert str(error) == "There is no object 'a'.\n  what to do: look elsewhere"


def test_error_text_contains_found_expected_and_hint() -> None:
    error = InvalidInput("No.", found="1", expected="2", hint="give 2", target="count", code="Other")
    assert str(error) == "No.\n  found: 1\n  expected: 2\n  what to do: give 2"
    assert (error.error_code, error.status, error.target) == ("Other", 400, "count")


def test_special_errors_have_default_texts() -> None:
    changed = PropertyChangeNotAllowed("osType", found="Windows", expected="Linux")
    assert changed.message == "Changing property 'osType' is not allowed."
    assert changed.target == "osType"
    fault = InvalidRegions("/r.yaml", ["one", "two"])
    assert fault.faults == ("one", "two")
    assert "one; two" in str(fault)
    unsafe = SafetyCheckFailed("backing", "No.", found="a", expected="b", hint="c", target="d")
    assert unsafe.check == "backing"


@pytest.mark.parametrize("name", sorted(EVERY))
def test_each_error_class_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(EVERY[name])


@pytest.mark.parametrize("error", [StoreError("No."), NotFound("No."), InvalidInput("No."), ImgstoreError("No.")])
def test_an_error_of_another_process_keeps_its_parts(error: ImgstoreError) -> None:
    copied = error_from_json(error_to_json(error))
    assert (str(copied), copied.error_code) == (str(error), error.error_code)


def test_an_unexpected_error_of_another_process_has_no_details() -> None:
    """The other process may answer a caller over the network, and the text is for developers."""
    copied = error_from_json(error_to_json(KeyError("/root/secret")))
    assert "secret" not in str(copied)
    assert "log" in str(copied.hint)
    assert (copied.error_code, copied.status) == ("InternalError", 500)
