"""`python -m model_server`: serves base models and runs, each started when it is first asked."""

from __future__ import annotations

import sys

import uvicorn

from model_server.on_demand import make_app
from model_server.process import config
from tunebook_run.service import Address, run_service
from tunebook_run.settings import Settings


def serve(settings: Settings, at: Address) -> None:
    uvicorn.Server(config(make_app(settings), at.host, at.port)).run()


if __name__ == "__main__":
    about = "Base models and runs, each started when it is first asked; nothing asks for a key."
    sys.exit(run_service("model_server", about, serve, port=8001))
