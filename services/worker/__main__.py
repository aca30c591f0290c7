"""`python -m worker`: takes fine-tuning jobs until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import signal
import sys

from tunebook_jobs.database import open_database
from tunebook_run.service import Address, run_service
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from worker.worker import Worker


def serve(settings: Settings, _: Address) -> None:
    store = Store(settings.storage_url, settings.cache_dir)
    worker = Worker(settings, store, open_database(settings, store))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()


if __name__ == "__main__":
    sys.exit(run_service("worker", "Runs the fine-tuning jobs of the gateway.", serve))
