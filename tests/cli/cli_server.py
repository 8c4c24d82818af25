"""A running ``imgstore serve``, as a process."""

import http.client
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Process:
    """A running ``imgstore serve``."""

    def __init__(self, running: "subprocess.Popen[str]") -> None:
        self.running = running
        self.told: dict[str, str] = {}
        self.lines: list[str] = []
        assert running.stdout is not None
        for line in running.stdout:
            self.lines.append(line.rstrip())
            if named := re.fullmatch(r"([A-Z_]+)=(.*)\n", line):
                self.told[named[1]] = named[2]
            if line.startswith("az login"):
                break
        match = re.search(r"serves (https?)://localhost:(\d+)", "\n".join(self.lines))
        assert match, self.lines
        self.scheme, self.port = match[1], int(match[2])

    def ask(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        context = None
        if self.scheme == "https":
            context = ssl.create_default_context(cafile=self.told["REQUESTS_CA_BUNDLE"])
            connection: Any = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=60)
        else:
            connection = http.client.HTTPConnection("localhost", self.port, timeout=60)
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        try:
            connection.request(method, path, data, {"Authorization": f"Bearer {token}"} if token else {})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        self.headers = dict(answer.getheaders())
        return answer.status, json.loads(text) if text.startswith("{") else text

    def token(self, first: dict[str, str]) -> str:
        form = f"grant_type=client_credentials&client_id={first['IMGSTORE_CLIENT_ID']}&client_secret="
        form += f"{first['IMGSTORE_CLIENT_SECRET']}&scope={self.scheme}://localhost:{self.port}/.default"
        status, given = self.ask("POST", f"/{first['IMGSTORE_TENANT_ID']}/oauth2/v2.0/token", form)
        assert status == 200, given
        return str(given["access_token"])

    def end(self, number: int) -> int:
        self.running.send_signal(number)
        return self.running.wait(60)


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "imgstore", "serve", "--port", "0", "--retry-after-seconds", "0", *arguments]
    environment = os.environ | {"IMGSTORE_HOME": str(home), "IMGSTORE_ALLOW_PRIVATE_SOURCES": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield Process(running)
        finally:
            running.kill()
