"""A local endpoint of the OpenAI protocol that does as it is told, and counts what it is asked."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What it answers one call with."""

    text: str = "Yes."
    status: int = 200
    """0: it hangs up."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of a chat completion or an error."""
    told_length: int | None = None
    """A Content-Length that is not true."""
    seconds: float = 0.0
    """Before it answers."""
    finish_reason: str = "stop"
    refusal: str | None = None


@dataclass
class Endpoint:
    reply: Callable[[dict[str, Any]], Reply] = field(default=lambda body: Reply())
    """By the body of the request."""
    calls: Counter[str] = field(default_factory=Counter)
    """Calls by the content of their messages."""
    answered: Counter[str] = field(default_factory=Counter)
    """Of these, answered with status 200."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    connections: set[Any] = field(default_factory=set)
    """Addresses of clients."""
    models: list[dict[str, Any]] | int = 404
    """What it says it serves, or the status with which it does not say."""
    under_way: int = 0
    most_under_way: int = 0
    base_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_calls(self) -> int:
        return self.calls.total()


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # of the default, 5, a burst of callers is reset


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                content = content_of(body)
                endpoint.calls[content] += 1
                endpoint.bodies.append(body)
                endpoint.keys.add(self.headers["Authorization"])
                endpoint.connections.add(self.client_address)
                endpoint.under_way += 1
                endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
            try:
                reply = endpoint.reply(body)
                time.sleep(reply.seconds)
            finally:
                with endpoint.lock:
                    endpoint.under_way -= 1
            with endpoint.lock:
                endpoint.answered[content] += reply.status == 200
            if reply.status:
                self.send(reply, body)
            else:
                self.close_connection = True

        def do_GET(self) -> None:
            endpoint.keys.add(self.headers["Authorization"])
            known = endpoint.models
            status = known if isinstance(known, int) else 200
            body = {"object": "list", "data": known} if status == 200 else {"error": {"message": "no"}}
            self.send(Reply(status=status, body=json.dumps(body).encode()), {})

        def send(self, reply: Reply, body: dict[str, Any]) -> None:
            sent = reply.body if reply.body is not None else json.dumps(completion(reply, body)).encode()
            try:
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(reply.told_length or len(sent)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked is gone
            if reply.told_length:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()


def content_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()[:12]


def completion(reply: Reply, body: Mapping[str, Any]) -> dict[str, Any]:
    """Words are its tokens."""
    if reply.status != 200:
        return {"error": {"message": reply.text, "type": "error", "param": None, "code": None}}
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    answer = len(reply.text.split())
    message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}-2026-01-01",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer},
    }
