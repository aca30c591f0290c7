from __future__ import annotations

import logging
import re
import time

import pytest

from tunebook_run import progress as module
from tunebook_run.progress import progress


def test_what_an_earlier_attempt_had_done_makes_the_rest_look_no_faster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    caplog.set_level(logging.INFO)
    with progress("train") as advance:
        time.sleep(0.3)
        advance(900, 1000, "first")
        time.sleep(0.2)
        advance(901, 1000, "loss=1.0")
    (line,) = caplog.messages
    found = re.fullmatch(r"train 901/1000 eta=(\d+)s loss=1.0", line)
    assert found
    assert 19 <= int(found[1]) < 60
