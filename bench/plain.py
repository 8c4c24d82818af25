"""A server too simple to lose anything: one answer, made beforehand, for whatever is asked.

What it shares with `imgstore serve` is what cannot be left out: uvicorn as imgstore sets it up, and TLS with the
certificate of a home. `bench.api` runs it as a process: ``python -m bench.plain --home HOME``. It is told `Answer` as
JSON in the first line of its input, says the port it listens on, and answers until SIGTERM.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
"""Where `imgstore serve` listens too, unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered once."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """In their order, without the date, which uvicorn puts before all others."""
    body: str

    def told(self) -> str:
        """As the server reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def heard(cls, line: str) -> Self:
        """The answer that was told."""
        fields = json.loads(line)
        return cls(**{**fields, "headers": tuple((name, value) for name, value in fields["headers"])})


def application(answer: Answer) -> "ASGIApp":
    """Gives `answer` to every request, unread."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    head = {"type": "http.response.start", "status": answer.status, "headers": headers}
    body = {"type": "http.response.body", "body": answer.body.encode()}

    async def give(scope: "Scope", _receive: "Receive", send: "Send") -> None:
        assert scope["type"] == "http", "from this uvicorn learns that there is nothing to start before"
        await send(head)
        await send(body)

    return give


def main() -> None:
    """Serve until SIGTERM."""
    # Here, since whoever runs the bench may lack the server's extra, and reads `Answer` all the same.
    import uvicorn  # noqa: PLC0415

    from imgstore.api.dev_tls import make_certificates  # noqa: PLC0415
    from imgstore.api.serve import ListenAddress, listen, make_uvicorn_config  # noqa: PLC0415

    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    files = make_certificates(parser.parse_args().home)
    answer = Answer.heard(sys.stdin.readline())
    door = ListenAddress(host=HOST, port=0, certificate=files.certificate, key=files.key)
    with listen(door) as listening:
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(make_uvicorn_config(application(answer), door)).run(sockets=[listening])


if __name__ == "__main__":
    main()
