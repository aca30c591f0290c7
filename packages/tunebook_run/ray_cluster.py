"""A running Ray cluster, whose hosts work for this process."""

from __future__ import annotations

import logging

from tunebook_spec.errors import StageError


def connect(address: str, otherwise: str) -> None:
    """Connect to it, unless this process is; `ray.shutdown` ends that.

    Args:
        address: `host:port`, or `auto` on one of its hosts.
        otherwise: what this machine does alone without the setting.

    Raises:
        StageError: there is no such cluster.
    """
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        ray.init(address=address, ignore_reinit_error=True, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StageError(
            f"no Ray cluster answers at TUNEBOOK_RAY_ADDRESS={address} ({error}); start it, or unset the"
            f" variable to {otherwise}"
        ) from None
