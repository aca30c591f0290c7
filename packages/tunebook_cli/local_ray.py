"""The one Ray of a local run of several workers, started while earlier stages work."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    # As `ray.init` has it, but before there are stage processes, which inherit it.
    "RAY_AUTH_MODE": "token",
    # Workers started ahead would never be used: Ray Train's have an environment of their own.
    "RAY_prestart_worker_first_driver": "0",
    # Nobody takes this machine from under a run.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # How long a dead worker or the end goes unnoticed; the usual 2 s suit many workers.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
}
"""What suits a Ray of this machine alone; of whatever is set already, that is kept."""


class LocalRay:
    """A Ray cluster of this machine alone; `start` returns at once, `address` waits for it."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-start")
        self._address: Future[str] | None = None

    def start(self) -> None:
        if self._address is None:
            os.environ |= {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
            self._address = self._executor.submit(_start)

    def address(self) -> str:
        self.start()
        assert self._address is not None
        return self._address.result()

    def stop(self) -> None:
        if self._address is None:
            return
        import ray

        self._address.exception()
        ray.shutdown()
        self._address = None


def _start() -> str:
    import ray

    # Ray warns that it cannot hear SIGTERM from this thread; the runner hears it.
    logging.getLogger("ray").setLevel(logging.ERROR)
    context = ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=False,
    )
    address = str(context.address_info["gcs_address"])
    logger.debug("ray started address=%s", address)
    return address
