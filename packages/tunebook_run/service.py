"""The command of a service: its options, settings and log, and what stops it before it begins."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tunebook_run import log
from tunebook_run.parent import end_with_parent
from tunebook_run.settings import Settings
from tunebook_spec.errors import TunebookError


@dataclass(frozen=True)
class Address:
    host: str
    port: int


def run_service(
    module: str, about: str, serve: Callable[[Settings, Address], None], *, port: int | None = None
) -> int:
    """Serve as the command line says, until told to stop; the exit status.

    Args:
        module: `python -m` starts it.
        about: what it does, for `--help`.
        serve: returns at the end.
        port: that it listens on unless told otherwise; none: it listens nowhere.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    if port is not None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", type=int, default=port, help="port to listen on")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin does")
    options = parser.parse_args()
    if options.with_parent:
        end_with_parent()
    try:
        settings = Settings.read()
        log.configure(settings.log, settings.log_level)
        address = Address("", 0) if port is None else Address(options.host, options.port)
        serve(settings, address)
    except TunebookError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    return 0
