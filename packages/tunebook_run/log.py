"""The only place that sets up logging: one line per event on stderr, as text or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Literal

from rich.console import Console
from rich.logging import RichHandler

console = Console(stderr=True)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(form: Literal["text", "json"], level: str) -> None:
    """Send our packages' records to stderr; other libraries speak from WARNING on."""
    handler: logging.Handler
    if form == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    elif console.is_terminal and "NO_COLOR" not in os.environ:
        handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S", markup=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("spec", "run", "model", "inference", "data", "jobs", "train", "eval", "plan", "cli"):
        logging.getLogger(f"tunebook_{package}").setLevel(level)
    for service in ("gateway", "worker", "model_server"):
        logging.getLogger(service).setLevel(level)
    # It warns of a kernel for answering that it did not find; nothing here answers through it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
