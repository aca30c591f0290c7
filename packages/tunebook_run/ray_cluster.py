"""A running Ray cluster, whose hosts work for this process."""

from __future__ import annotations

import logging
import socket

from tunebook_spec.errors import StageError

ANSWERS_S = 10.0
"""How long its head may take to be reached; Ray itself tries for ten minutes."""


def connect(address: str, otherwise: str) -> None:
    """Connect to it, unless this process is; `ray.shutdown` ends that.

    Args:
        address: `host:port`, or `auto` on one of its hosts.
        otherwise: what this machine does alone without the setting.

    Raises:
        StageError: there is no such cluster.
    """
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), ANSWERS_S).close()
        import ray

        ray.init(
            address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING
        )
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise StageError(
            f"no Ray cluster answers at TUNEBOOK_RAY_ADDRESS={address} ({error}); start it, or unset the"
            f" variable to {otherwise}"
        ) from None
