"""A headless Chromium that tests look at pages with, over the DevTools protocol's pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Browser:
    """One page of a browser."""

    requests: Any
    answers: Any
    complaints: list[str] = field(default_factory=list)
    """What the page threw, what it logged as an error or warning, and what it could not load."""
    _session: dict[str, str] = field(default_factory=dict)
    _last: int = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        request = {"id": self._last, "method": method, "params": params, **self._session}
        self.requests.write(json.dumps(request).encode() + b"\0")
        self.requests.flush()
        while (said := self._read()).get("id") != self._last:
            self._note(said)
        assert "error" not in said, said["error"]
        result: dict[str, Any] = said["result"]
        return result

    def open(self, page: Path, *, width: int, height: int = 900) -> None:
        """Load a file, and return when it is shown."""
        if not self._session:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = {"sessionId": attached["sessionId"]}
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        self.call("Page.navigate", url=page.as_uri())
        loaded = "document.readyState === 'complete' && location.protocol === 'file:'"
        while not self.value(loaded):
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """What JavaScript makes of it; a promise is waited for."""
        made = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def press(self, key: str) -> None:
        """Press and let go one key, `Tab` or `Enter`, as a person would."""
        text = {"Enter": "\r"}.get(key, "")
        code = {"Enter": 13, "Tab": 9}[key]
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            message += byte
        said: dict[str, Any] = json.loads(message)
        return said

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        match said.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start one; it ends with the block.

    Args:
        profile: Gets what a browser leaves.
    """
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    options = f"--headless --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir='{profile}'"
    ends = f"3<&{to_browser[0]} 4>&{from_browser[1]}"
    process = subprocess.Popen(
        ["bash", "-c", f"exec '{CHROMIUM}' {options} {ends}"],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (to_browser[0], from_browser[1]):
        os.close(end)
    with os.fdopen(to_browser[1], "wb") as requests, os.fdopen(from_browser[0], "rb") as answers:
        opened = Browser(requests, answers)
        try:
            yield opened
        finally:
            opened._session = {}
            opened.call("Browser.close")
            process.wait(30)
