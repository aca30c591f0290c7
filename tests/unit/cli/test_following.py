from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from ray.job_submission import JobSubmissionClient

from tunebook_cli import submission
from tunebook_cli.submission import exit_status, follow
from tunebook_spec.errors import StageError

# Of Ray's own call of aiohttp.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")
LINES = [f"line {n}\n" for n in range(30)]


@dataclass
class JobServer:
    """Speaks Ray's job protocol for one job, whose connections it cuts after so many lines each."""

    cut_after: list[int] = field(default_factory=list)
    status: str = "SUCCEEDED"
    exit_code: int | None = 0
    is_known: bool = True
    num_connections: int = 0
    url: str = ""

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"ray_version": "2.60.0", "version": "4"})

    async def details(self, _: web.Request) -> web.Response:
        if not self.is_known:
            return web.Response(status=404, text="Job a does not exist")
        status = "RUNNING" if self.cut_after else self.status
        known = {"status": status, "driver_exit_code": self.exit_code, "message": "It broke."}
        return web.json_response({"type": "SUBMISSION", "entrypoint": "python", **known})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.num_connections += 1
        num_lines = self.cut_after.pop(0) if self.cut_after else len(LINES)
        for line in LINES[:num_lines]:
            await socket.send_str(line)
        if num_lines < len(LINES):
            assert request.transport is not None
            request.transport.abort()
        return socket

    async def serve(self, ready: threading.Event, done: asyncio.Event) -> None:
        app = web.Application()
        app.add_routes([web.get("/api/version", self.version), web.get("/api/jobs/a", self.details)])
        app.add_routes([web.get("/api/jobs/a/logs/tail", self.tail)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await done.wait()
        await runner.cleanup()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made, ready, loop = JobServer(), threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(made.serve(ready, done)))
    thread.start()
    ready.wait()
    yield made
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()


Following = Callable[[], int]


@pytest.fixture
def following(server: JobServer) -> Following:
    def run() -> int:
        client = JobSubmissionClient(server.url)
        return exit_status("a", follow(client, "a"))

    return run


def test_each_line_is_printed_once_over_cut_connections(
    server: JobServer, following: Following, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cut_after = [12, 5, 20]
    assert following() == 0
    assert capsys.readouterr().out == "".join(LINES)
    assert server.num_connections == 4


@pytest.mark.parametrize(
    ("status", "exit_code", "ours"),
    [("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 3, 3), ("FAILED", 4, 4), ("STOPPED", None, 130)],
)
def test_the_exit_status_is_the_runs(
    server: JobServer, following: Following, status: str, exit_code: int | None, ours: int
) -> None:
    server.status, server.exit_code = status, exit_code
    assert following() == ours


@pytest.mark.parametrize("exit_code", [None, 137, -9])
def test_a_job_that_ended_before_its_run_is_told(
    server: JobServer, following: Following, exit_code: int | None
) -> None:
    server.status, server.exit_code = "FAILED", exit_code
    with pytest.raises(StageError, match=r"job a ended before its run did: It broke\.; the same command"):
        following()


def test_a_cluster_that_was_started_anew_is_told(server: JobServer, following: Following) -> None:
    server.is_known = False
    with pytest.raises(StageError, match="was started anew and knows no job a; the same command goes on"):
        following()


def test_a_cluster_that_stays_away_is_given_up(
    server: JobServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submission, "LOST_S", 0.5)
    client = JobSubmissionClient(server.url)
    client._address = "http://127.0.0.1:9"
    with pytest.raises(StageError, match=r"lost the cluster at http://127\.0\.0\.1:9 "):
        follow(client, "a")
    assert "is out of reach; trying again" in capsys.readouterr().err
