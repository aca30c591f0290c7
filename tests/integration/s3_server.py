"""`python s3_server.py HOST PORT`: S3 in memory, overloaded while a file `s3.refuses` lies here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def main(host: str, port: int) -> None:
    s3 = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if Path("s3.refuses").exists():
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [BODY]
        return s3(environ, start_response)

    run_simple(host, port, answer, threaded=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
