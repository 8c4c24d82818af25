"""Two equal PUTs at once in one server: both are accepted, and the second ends with the result of the first."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from api_server import Answer, Api, version_body
from test_api_fairness import disk_body

from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, WebServer, start_web

pytest_plugins = ["api_fixtures"]


def put_version(api: Api, web: WebServer, page: str = "/disk.raw") -> Answer:
    return api.ask("PUT", api.version(), version_body(web.url(page)))


def put_disk(api: Api, web: WebServer, page: str = "/disk.raw") -> Answer:
    return api.ask("PUT", f"{api.compute}/disks/d", disk_body(web.url(page)))


@pytest.mark.parametrize(("put", "created"), [(put_version, 201), (put_disk, 202)])
def test_an_equal_put_follows_the_first(api: Api, put: Callable[[Api, WebServer, str], Answer], created: int) -> None:
    page = Page(body=random.Random(1).randbytes(12 * MIB), held_at=range(8 * MIB, 8 * MIB + 1))
    with start_web({"/disk.raw": page, "/other.raw": Page(body=bytes(MIB))}) as web:
        api.found()
        first = put(api, web, "/disk.raw")
        assert page.held.acquire(timeout=60), first
        second = put(api, web, "/disk.raw")
        other = put(api, web, "/other.raw")
        assert (first.status, second.status) == (created, 200)
        assert (other.status, other.code) == (409, "PropertyChangeNotAllowed")
        url = second.headers["azure-asyncoperation"]
        assert url != first.headers["azure-asyncoperation"]
        assert api.ask("GET", api.path_of(url)).body["status"] == "InProgress"
        page.held_at = range(0)
        ends: list[Any] = [api.await_end(each) for each in (first, second)]
        assert [each["status"] for each in ends] == ["Succeeded", "Succeeded"]


def test_an_equal_put_fails_with_the_first(api: Api) -> None:
    page = Page(body=random.Random(1).randbytes(12 * MIB), held_at=range(8 * MIB, 8 * MIB + 1))
    with start_web({"/disk.raw": page}) as web:
        api.found()
        first = put_version(api, web)
        assert page.held.acquire(timeout=60), first
        second = put_version(api, web)
        page.headers = {"ETag": '"2"'}
        page.held_at = range(0)
        ends = [api.await_end(each) for each in (first, second)]
    assert [each["status"] for each in ends] == ["Failed", "Failed"]
    assert "was replaced during the read" in ends[0]["error"]["message"]
