"""For processes that have no business without the one that started them, however that one ends."""

from __future__ import annotations

import os
import signal
import sys
import threading


def end_with_parent(*, group: bool = False) -> None:
    """End this process as soon as the other end of its stdin is gone; with `group`, its group too."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):  # a buffered reader could not be left alone at exit
            pass
        if group:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
