"""The one Ray of a local run, started while earlier stages work and stopped when training has ended."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor

logger = logging.getLogger(__name__)


class LocalRay:
    """A Ray cluster of this machine alone; `start` returns at once, `address` waits for it."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-start")
        self._address: Future[str] | None = None

    def start(self) -> None:
        if self._address is None:
            # As `ray.init` does, but before there are stage processes, which inherit it.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
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
