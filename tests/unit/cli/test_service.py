"""How the parts of the service are kept up."""

from __future__ import annotations

import logging
import time

import pytest

from tunebook_cli import service


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")],
)
def test_a_url_names_an_address_that_can_be_reached(host: str, shown: str) -> None:
    assert service._reachable(host) == shown


def test_what_ends_again_and_again_is_started_ever_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "RESTART_S", 0.05)
    monkeypatch.setattr(service, "MAX_RESTART_S", 0.15)
    processes = {"part": service._Process.start(("antigravity_",), {})}  # there is no such module
    pids = {processes["part"].process.pid}
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        while len(pids) < 5:
            assert time.monotonic() < started + 30
            service._keep_up(processes)
            pids.add(processes["part"].process.pid)
            time.sleep(0.01)
    for each in processes.values():
        each.stop()
    assert caplog.messages == [
        f"part ended with status 1 and is started again in {wait:.2f} s" for wait in (0.05, 0.1, 0.15, 0.15)
    ]
