"""`python -m worker`: takes fine-tuning jobs until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import argparse
import signal
import sys

from tunebook_jobs.database import open_database
from tunebook_run import log
from tunebook_run.parent import end_with_parent
from tunebook_run.settings import Settings
from tunebook_run.store import Store
from tunebook_spec.errors import TunebookError
from worker.worker import Worker


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--with-parent", action="store_true", help="end when stdin does")
    if parser.parse_args().with_parent:
        end_with_parent()
    try:
        settings = Settings.read()
        log.configure(settings.log, settings.log_level)
        store = Store(settings.storage_url, settings.cache_dir)
        worker = Worker(settings, store, open_database(settings, store))
    except TunebookError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
