"""`python -m model_server`: serves base models and runs, each started when it is first asked."""

from __future__ import annotations

import argparse
import sys

import uvicorn

from model_server.on_demand import make_app
from model_server.process import config
from tunebook_run import log
from tunebook_run.parent import end_with_parent
from tunebook_run.settings import Settings
from tunebook_spec.errors import TunebookError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m model_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; nothing asks for a key")
    parser.add_argument("--port", type=int, default=8001, help="port to listen on")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin does")
    options = parser.parse_args()
    if options.with_parent:
        end_with_parent()
    try:
        settings = Settings.read()
        log.configure(settings.log, settings.log_level)
        app = make_app(settings)
    except TunebookError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    uvicorn.Server(config(app, options.host, options.port)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
