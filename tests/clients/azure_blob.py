"""azure-storage-blob, unmodified, against the blob door: what it sends, how it resumes, what it reads.

Run by tests/api/test_api_blobs.py in an environment of its own, so it imports nothing of ours.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

blob: Any = importlib.import_module("azure.storage.blob")

WHAT, URL, PATH = sys.argv[1:4]
PAGE = 1 << 20
data = Path(PATH).read_bytes()
sent = 0


def counted(request: Any) -> None:
    """Adds up the bodies of all requests."""
    global sent
    sent += int(request.http_request.headers.get("Content-Length", 0))


client: Any = blob.BlobClient.from_blob_url(URL, max_page_size=PAGE, max_single_get_size=PAGE, max_chunk_get_size=PAGE)


def upload() -> None:
    """The whole, in parallel, with checksums."""
    client.upload_blob(
        data,
        blob_type="PageBlob",
        overwrite=True,
        max_concurrency=4,
        validate_content=True,
        raw_request_hook=counted,
    )
    print(sent)


def half() -> None:
    """Every other MiB, as an upload that broke off."""
    for at in range(0, len(data) - PAGE, 2 * PAGE):
        client.upload_page(data[at : at + PAGE], offset=at, length=PAGE)
    client.clear_page(offset=0, length=512)
    client.upload_page(data[:512], offset=0, length=512)
    print("half")


def resume() -> None:
    """What the page ranges lack."""
    there = [False] * (len(data) // 512)
    for each in client.list_page_ranges():
        there[each.start // 512 : (each.end + 1) // 512] = [True] * ((each.end + 1 - each.start) // 512)
    for at in range(0, len(data), PAGE):
        part = data[at : at + PAGE]
        if any(part) and not all(there[at // 512 : (at + len(part)) // 512]):
            client.upload_page(part, offset=at, length=len(part))
    print("resumed")


def download() -> None:
    """In parallel, with checksums."""
    found = client.download_blob(max_concurrency=4, validate_content=True).readall()
    assert client.get_blob_properties().size == len(data)
    print("same" if found == data else "other")


{"upload": upload, "half": half, "resume": resume, "download": download}[WHAT]()
