from __future__ import annotations

import socket

import pytest

from tunebook_run.ray_cluster import connect
from tunebook_spec.errors import StageError


@pytest.mark.timeout(30)  # Ray alone would try for ten minutes
def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    with socket.socket() as taken:  # and does not listen
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StageError) as told:
            connect(address, "train on this machine alone")
    reason = f"no Ray cluster answers at TUNEBOOK_RAY_ADDRESS={address} ([Errno 111] Connection refused)"
    assert str(told.value).startswith(reason)
    assert str(told.value).endswith("or unset the variable to train on this machine alone")
