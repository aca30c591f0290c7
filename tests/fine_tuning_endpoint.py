"""A local server of the OpenAI fine-tuning protocol that does as it is told, and counts what it is asked.

It trains nothing: the model that it "makes" answers as the test says.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.openai_endpoint import Reply, Server, completion

BASE = "gpt-4o-mini-2024-07-18"
RESULTS = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"


@dataclass
class FineTuning:
    answer: Callable[[dict[str, Any]], str] = field(default=lambda body: "Yes.")
    """What a model answers, by the body of the request."""
    trouble: Callable[[str, int], Reply | None] = field(default=lambda call, count: None)
    """What goes wrong before a call is done, by its name (`POST /files`) and its number, from 1."""
    after: Callable[[str, int], Reply | None] = field(default=lambda call, count: None)
    """What goes wrong after it was done: nobody is told of it."""
    states: tuple[str, ...] = ("validating_files", "queued", "running", "succeeded")
    """Those of a job, one at each look; it stays in the last."""
    error: dict[str, Any] | None = None
    """Of a job that fails."""
    filters: bool = True
    """Whether jobs are listed by their metadata."""
    keeps_metadata: bool = True
    makes_models: bool = True
    """Whether a job that succeeds names one."""
    note: str = ""
    """At the end of each event."""
    result_files: bool = True
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    chats: Counter[str] = field(default_factory=Counter)
    """By model."""
    base_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, verb: str, path: str, query: dict[str, str], body: bytes, kind: str) -> Reply:
        with self.lock:
            return self._route(verb, path, query, body, kind)

    def _route(self, verb: str, path: str, query: dict[str, str], body: bytes, kind: str) -> Reply:
        match verb, path.strip("/").split("/"):
            case "POST", ["chat", "completions"]:
                asked = json.loads(body)
                self.chats[asked["model"]] += 1
                reply = Reply(self.answer(asked))
                return _json({**completion(reply, asked), "model": asked["model"]})
            case "POST", ["files"]:
                return _json(self._upload(body, kind))
            case "GET", ["files"]:
                return _page([*self.files.values()], query)
            case "GET", ["files", name, "content"]:
                return Reply(body=self.contents[name])
            case "POST", ["fine_tuning", "jobs"]:
                return self._create(json.loads(body))
            case "GET", ["fine_tuning", "jobs"]:
                return _page([job for job in reversed(self.jobs.values()) if self._fits(job, query)], query)
            case "GET", ["fine_tuning", "jobs", name]:
                return self._look(name)
            case "POST", ["fine_tuning", "jobs", name, "cancel"]:
                self.jobs[name]["status"] = "cancelled"
                return _json(self.jobs[name])
            case "GET", ["fine_tuning", "jobs", name, "events"]:
                return _page(self._events(name), query)
            case "GET", ["fine_tuning", "jobs", name, "checkpoints"]:
                return _page(self._checkpoints(name), query)
        return error(404, f"Unknown request URL: {verb} /v1{path}")

    def _upload(self, body: bytes, kind: str) -> dict[str, Any]:
        whole = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(whole)
        part = next(each for each in message.iter_parts() if each.get_filename())
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        return self.add_file(str(part.get_filename()), content, "fine-tune")

    def add_file(self, name: str, content: bytes, purpose: str) -> dict[str, Any]:
        file = {
            "id": f"file-{len(self.files) + 1:04}",
            "object": "file",
            "bytes": len(content),
            "created_at": 1_700_000_000,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self.files[file["id"]], self.contents[file["id"]] = file, content
        return file

    def _create(self, asked: dict[str, Any]) -> Reply:
        if asked["training_file"] not in self.files:
            return error(400, f"invalid training_file: {asked['training_file']}", param="training_file")
        name = f"ftjob-{len(self.jobs) + 1:04}"
        method = asked.get("method", {"type": "supervised", "supervised": {"hyperparameters": {}}})
        self.jobs[name] = {
            "id": name,
            "object": "fine_tuning.job",
            "created_at": 1_700_000_000,
            "model": asked["model"],
            "status": self.states[0],
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": method[method["type"]]["hyperparameters"],
            "organization_id": "org-test",
            "result_files": [],
            "seed": asked.get("seed", 0),
            "trained_tokens": None,
            "training_file": asked["training_file"],
            "validation_file": asked.get("validation_file"),
            "metadata": asked.get("metadata") if self.keeps_metadata else None,
            "method": method,
            "suffix": asked.get("suffix"),
        }
        return _json(self.jobs[name])

    def _fits(self, job: dict[str, Any], query: dict[str, str]) -> bool:
        wanted = {found[1]: value for key, value in query.items() if (found := _METADATA.fullmatch(key))}
        return not self.filters or wanted.items() <= (job["metadata"] or {}).items()

    def _look(self, name: str) -> Reply:
        if name not in self.jobs:
            return error(404, f"Could not find fine tune: {name}", param="fine_tuning_job_id")
        job = self.jobs[name]
        if job["status"] != "cancelled":
            self.looks[name] += 1
            job["status"] = self.states[min(self.looks[name], len(self.states) - 1)]
        if job["status"] == "failed":
            job["error"] = self.error
        if job["status"] == "succeeded" and job["fine_tuned_model"] is None and self.makes_models:
            results = RESULTS + "".join(f"{step},{2 / step},0.5,,\n" for step in (1, 2))
            results += "3,0.5,0.9,0.75,0.8\n"
            if self.result_files:
                file = self.add_file("step_metrics.csv", results.encode(), "fine-tune-results")
                job["result_files"] = [file["id"]]
            suffix = job["suffix"] or ""
            job |= {
                "fine_tuned_model": f"ft:{job['model']}:org:{suffix}:{name[-4:]}",
                "finished_at": 1_700_000_360,
                "trained_tokens": 1234,
            }
        return _json(job)

    def _events(self, name: str) -> list[dict[str, Any]]:
        """The newest first: one for each look, and three steps."""
        told = [f"Now {state}" for state in self.states[: self.looks[name] + 1]]
        events = [self._event(name, number, message, None) for number, message in enumerate(told)]
        if self.jobs[name]["status"] == "succeeded":
            for step in (1, 2, 3):
                data = {"step": step, "total_steps": 3, "train_loss": 2 / step}
                events.append(self._event(name, len(events), f"Step {step}/3", data))
        return events[::-1]

    def _event(self, name: str, number: int, message: str, data: Any) -> dict[str, Any]:
        return {
            "id": f"ftevent-{name}-{number}",
            "object": "fine_tuning.job.event",
            "created_at": 1_700_000_000 + number,
            "level": "info",
            "message": message + self.note,
            "type": "metrics" if data else "message",
            "data": data or {},
        }

    def _checkpoints(self, name: str) -> list[dict[str, Any]]:
        model = self.jobs[name]["fine_tuned_model"]
        return [
            {
                "id": f"ftckpt_{step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": 1_700_000_000,
                "fine_tuned_model_checkpoint": model if step == 3 else f"{model}:ckpt-step-{step}",
                "fine_tuning_job_id": name,
                "metrics": {"step": step, "train_loss": 2 / step},
                "step_number": step,
            }
            for step in (3, 2)
        ]


_METADATA = re.compile(r"metadata\[(.+)\]")


def error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> Reply:
    told = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply(status=status, body=json.dumps({"error": told}).encode())


def _json(content: dict[str, Any]) -> Reply:
    return Reply(body=json.dumps(content).encode())


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> Reply:
    ids = [item["id"] for item in items]
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    page = items[start : start + min(int(query.get("limit", 20)), 2)]
    has_more = start + len(page) < len(items)
    return _json({"object": "list", "data": page, "has_more": has_more})


@contextmanager
def serving_fine_tuning(service: FineTuning) -> Iterator[FineTuning]:
    """Pages have two items each, so that cursors are followed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._do("POST")

        def do_GET(self) -> None:
            self._do("GET")

        def _do(self, verb: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            path = parts.path.removeprefix("/v1")
            call = f"{verb} {re.sub(r'/(ftjob|file)-[^/]+', '/ID', path)}"
            with service.lock:
                service.calls[call] += 1
                count = service.calls[call]
                service.keys.add(self.headers["Authorization"])
            reply = service.trouble(call, count)
            if reply is None:
                query = dict(parse_qsl(parts.query))
                done = service.handle(verb, path, query, body, self.headers.get("Content-Type", ""))
                reply = service.after(call, count) or done
            time.sleep(reply.seconds)
            if not reply.status:
                self.close_connection = True
                return
            sent = (
                reply.body
                if reply.body is not None
                else json.dumps({"error": {"message": reply.text}}).encode()
            )
            try:
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked is gone

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    service.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
