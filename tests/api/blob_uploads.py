"""Help with uploads in tests: a fixed VHD, a disk that waits for an upload, and curl."""

import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_server import Api

from imgstore.domain.storage.sizes import MIB
from imgstore.formats.vhd_layout import TYPE_FIXED, pack_footer
from tests.support.sample_gallery import GROUP


def make_vhd(path: Path, *, disk_bytes: int = 8 * MIB, noise_bytes: int = MIB) -> Path:
    """Write a fixed VHD with few blocks that are not zero."""
    noise = random.Random(7)
    with path.open("wb") as file:
        for at in (0, 3 * MIB - 512, 6 * MIB + 4096):
            file.seek(at)
            file.write(noise.randbytes(noise_bytes))
        file.truncate(disk_bytes)
        file.seek(disk_bytes)
        file.write(pack_footer(virtual_bytes=disk_bytes, disk_type=TYPE_FIXED, disk_digest=bytes(32)))
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class CurlAnswer:
    """The result of a call of curl."""

    exit_code: int
    status: int
    headers: dict[str, str]
    body: bytes


def curl(*arguments: Any, stdin: bytes | None = None) -> CurlAnswer:
    """Run curl. Return the status and the headers of the last answer."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = ["curl", "-sS", "-D", "/dev/stderr", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    last = [part for part in done.stderr.decode().replace("\r", "").split("\n\n") if part.startswith("HTTP/")]
    lines = last[-1].splitlines() if last else ["HTTP/1.1 0"]
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return CurlAnswer(exit_code=done.returncode, status=int(lines[0].split()[1]), headers=headers, body=done.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A disk of the API that waits for an upload."""

    api: Api
    name: str = "up"

    @property
    def path(self) -> str:
        return f"{self.api.compute}/disks/{self.name}"

    def make(self, upload_bytes: int) -> "Upload":
        assert (
            self.api.ask("PUT", f"{self.api.top}/resourceGroups/{GROUP}", {"location": "southcentralus"}).status < 300
        )
        assert self.put(upload_bytes).status == 202
        return self

    def put(self, upload_bytes: int) -> Any:
        data = {"createOption": "Upload", "uploadSizeBytes": upload_bytes}
        return self.api.ask("PUT", self.path, {"location": "southcentralus", "properties": {"creationData": data}})

    def grant(self, access: str = "Write", seconds: int = 3600) -> str:
        body = {"access": access, "durationInSeconds": seconds}
        answer = self.api.ask("POST", f"{self.path}/beginGetAccess", body)
        assert answer.status == 200, answer
        return str(answer.body["accessSAS"])

    def end(self) -> Any:
        """Revoke the URL, and wait until the upload is ingested."""
        answer = self.api.ask("POST", f"{self.path}/endGetAccess")
        return self.api.await_end(answer) if answer.status == 202 else answer

    def shown(self) -> Any:
        return self.api.ask("GET", self.path).body["properties"]
