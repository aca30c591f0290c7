"""Stage processes, forked from one that has imported what they need: imports are paid for once a run."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver
from multiprocessing.connection import Connection

from tunebook_cli import stage_process
from tunebook_cli.request import Request

STOP_S = 15.0


class StageProcesses:
    """Runs one stage after the other, each in a process whose memory is given back.

    Args:
        preload: modules that have what stages to come import.
    """

    def __init__(self, *preload: str) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*preload])
        os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
        forkserver.ensure_running()

    def run(self, request: Request) -> int:
        """Exit status of the stage; a negative one is the signal that ended it.

        Raises:
            KeyboardInterrupt: after the stage's process has ended.
        """
        ours_gone, ours = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(request, ours_gone), name=request.stage.name)
        process.start()
        ours_gone.close()
        try:
            process.join()
        except KeyboardInterrupt:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
            process.join(STOP_S)
            process.kill()
            process.join()
            raise
        finally:
            ours.close()
        assert process.exitcode is not None
        return process.exitcode


def _work(request: Request, parent_gone: Connection) -> None:
    # A child of a fork server would make its own children likewise, and leave their semaphores to be found.
    multiprocessing.set_start_method(None, force=True)
    threading.Thread(target=_end_with_parent, args=(parent_gone,), daemon=True).start()
    status = stage_process.main(request)
    logging.shutdown()
    sys.stdout.flush()
    # Engines leave threads behind that would hold a plain exit up.
    os._exit(status)


def _end_with_parent(parent_gone: Connection) -> None:
    """The other end closes when the parent is gone, however it went."""
    parent_gone.poll(None)
    os._exit(1)
