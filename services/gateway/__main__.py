"""`python -m gateway`: serves the protocol until it is told to stop."""

from __future__ import annotations

import argparse
import sys

import uvicorn

from gateway.app import make_app
from tunebook_run import log
from tunebook_run.parent import end_with_parent
from tunebook_run.settings import Settings
from tunebook_spec.errors import TunebookError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin does")
    arguments = parser.parse_args()
    if arguments.with_parent:
        end_with_parent()
    try:
        settings = Settings.read()
        log.configure(settings.log, settings.log_level)
        app = make_app(settings)
    except TunebookError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_config=None, access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
