"""`python -m gateway`: serves the protocol until it is told to stop."""

from __future__ import annotations

import sys

import uvicorn

from gateway.app import make_app
from tunebook_run.service import Address, run_service
from tunebook_run.settings import Settings

KEEP_ALIVE_S = 75
"""Longer than any client keeps an idle connection: one that is closed as it is used again loses a request."""


def serve(settings: Settings, at: Address) -> None:
    uvicorn.run(
        make_app(settings),
        host=at.host,
        port=at.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


if __name__ == "__main__":
    sys.exit(
        run_service("gateway", "The OpenAI fine-tuning protocol over our own cluster.", serve, port=8000)
    )
