"""What is wrong is told by the protocol's error, with its place; nothing is half done."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.doorway import MAX_BODY_BYTES
from gateway.files import MAX_FILE_BYTES
from tests.gateway_client import ALIAS, ROWS, Gateway, Project, lines, row

USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


def chat(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"messages": list(messages), **more}).encode()


DEFECTS = {
    "not JSON": (b"{ not json", "Line 3: not JSON"),
    "cut off": (b'{"messages": [{"role": "user", "con', "Line 3: not JSON"),
    "not UTF-8": (b'{"messages": "\xff\xfe"}', "Line 3: not UTF-8"),
    "not an object": (b"[1, 2]", "Line 3: not a JSON object"),
    "no messages": (b'{"prompt": "a"}', "Line 3, messages: no list of messages"),
    "messages are no list": (b'{"messages": "Hi"}', "Line 3, messages: no list of messages (got 'Hi')"),
    "no message": (b'{"messages": []}', "Line 3, messages: fewer than two messages"),
    "message is no object": (chat("Hi", ASSISTANT), "Line 3, messages[0]: message is not an object"),
    "no role": (chat({"content": "Hi"}, ASSISTANT), "Line 3, messages[0].role: role is none of"),
    "unknown role": (chat({"role": "boss", "content": "Hi"}, ASSISTANT), "(got 'boss')"),
    "no content": (chat(USER, {"role": "assistant"}), "Line 3, messages[1].content: content is not a string"),
    "content is a number": (
        chat(USER, {"role": "assistant", "content": 4}),
        "content is not a string (got '4')",
    ),
    "an unknown key": (chat(USER, {**ASSISTANT, "mood": "good"}), "message has more than role and content"),
    "no answer": (chat(USER), "Line 3, messages: fewer than two messages"),
    "the user ends": (chat(USER, ASSISTANT, USER), "Line 3, messages[2].role: the last message is not"),
    "nothing to learn": (chat(USER, {**ASSISTANT, "weight": 0}), "Line 3, messages"),
    "weight of 2": (chat(USER, {**ASSISTANT, "weight": 2}), "messages[1].weight: weight is neither 0 nor 1"),
    "empty answer": (chat(USER, {"role": "assistant", "content": " "}), "messages[1].content: empty content"),
    "tools are no list": (chat(USER, ASSISTANT, tools="x"), "Line 3, tools"),
    "old functions": (
        chat(USER, ASSISTANT, functions=[{"name": "f"}]),
        "Line 3, functions: is the protocol's old",
    ),
    "a call of no tool": (
        chat(USER, {"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}),
        "Line 3, messages[1].tool_calls[0]: is no call of the form",
    ),
    "a preference among chats": (
        json.dumps(
            {"input": {"messages": [USER]}, "preferred_output": [], "non_preferred_output": []}
        ).encode(),
        "Line 3, messages: no list of messages",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_of_a_training_file_is_told_with_its_line(acme: Project, name: str) -> None:
    line, told = DEFECTS[name]
    answer = acme.send(lines(row(1), row(2)) + line + b"\n" + ROWS)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert told in error["message"]
    assert error["message"].startswith("Invalid file format. Line 3")
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "file",
        "invalid_file_format",
    )
    assert acme.client.get("/v1/files").json()["data"] == []


PREFERENCE_DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": None}, "Line 3, input: no object 'input'"),
    "no messages": ({"input": {}}, "Line 3, input.messages: no list of messages"),
    "no question": ({"input": {"messages": []}}, "Line 3, messages: fewer than two messages"),
    "no preferred answer": (
        {"preferred_output": []},
        "Line 3, preferred_output: preferred_output is not one assistant message",
    ),
    "two preferred answers": (
        {"preferred_output": [ASSISTANT, ASSISTANT]},
        "Line 3, preferred_output: preferred_output is not one assistant message",
    ),
    "an answer of the user": (
        {"non_preferred_output": [USER]},
        "Line 3, non_preferred_output: non_preferred_output is not one assistant message",
    ),
    "an empty answer": (
        {"non_preferred_output": [{"role": "assistant", "content": ""}]},
        "Line 3, non_preferred_output",
    ),
    "no answer that is worse": ({"non_preferred_output": None}, "Line 3, non_preferred_output: no list of"),
    "the same answer twice": (
        {"non_preferred_output": [ASSISTANT]},
        "Line 3, non_preferred_output: is the preferred answer too",
    ),
}


@pytest.mark.parametrize("name", PREFERENCE_DEFECTS)
def test_a_defect_of_a_file_of_preferences_is_told_with_its_line(acme: Project, name: str) -> None:
    changed, told = PREFERENCE_DEFECTS[name]
    worse = [{"role": "assistant", "content": "No."}]
    good = {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": worse}
    assert acme.send(lines(good, good)).status_code == 200
    error = acme.send(lines(good, good, {**good, **changed}, good)).json()["error"]
    assert error["message"].startswith("Invalid file format. Line 3")
    assert told in error["message"]
    assert (error["param"], error["code"]) == ("file", "invalid_file_format")


def test_many_defects_are_counted(acme: Project) -> None:
    message = acme.send(b"x\n" * 25).json()["error"]["message"]
    assert message.count("Line ") == 10
    assert message.endswith("15 more lines have faults.")


@pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["empty", "blank"])
def test_a_file_without_examples_is_refused(acme: Project, content: bytes) -> None:
    assert "no examples" in acme.send(content).json()["error"]["message"]


def test_a_byte_order_mark_and_blank_lines_are_no_defect(acme: Project) -> None:
    assert acme.upload(b"\xef\xbb\xbf" + ROWS.replace(b"\n", b"\n\n"))["status"] == "processed"


@pytest.mark.parametrize(
    ("name", "shown"), [("../../etc/passwd.jsonl", "passwd.jsonl"), ("C:\\a\\b.jsonl", "b.jsonl")]
)
def test_a_files_name_is_shown_and_never_a_path(
    gateway: Gateway, acme: Project, name: str, shown: str
) -> None:
    made = acme.upload(ROWS, name)
    assert made["filename"] == shown
    root = gateway.state.store.local_root
    assert root is not None
    assert not list(root.rglob(f"*{shown}"))
    assert gateway.state.store.read(f"gateway/files/{made['id']}/content") == ROWS


def test_only_jsonl_can_be_trained_on(acme: Project) -> None:
    error = acme.send(ROWS, "rows.csv").json()["error"]
    assert (error["param"], error["code"]) == ("file", "unsupported_file")
    assert acme.upload(b"any", "notes.txt", purpose="user_data")["purpose"] == "user_data"


BAD_JOBS: dict[str, tuple[dict[str, Any], int, str | None, str | None]] = {
    "unknown model": ({"model": "gpt-9"}, 404, "model", "model_not_found"),
    "17 metadata pairs": (
        {"metadata": {str(n): "a" for n in range(17)}},
        400,
        "metadata",
        "object_above_max_properties",
    ),
    "a long metadata value": ({"metadata": {"a": "b" * 513}}, 400, "metadata.a", "string_above_max_length"),
    "n_epochs of 0": (
        {"hyperparameters": {"n_epochs": 0}},
        400,
        "hyperparameters.n_epochs",
        "integer_below_min_value",
    ),
    "n_epochs of 51 by method": (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 51}}}},
        400,
        "method.supervised.hyperparameters.n_epochs",
        "integer_above_max_value",
    ),
    "n_epochs of a word": ({"hyperparameters": {"n_epochs": "many"}}, 400, "hyperparameters.n_epochs", None),
    "a multiplier of 0": (
        {"hyperparameters": {"learning_rate_multiplier": 0}},
        400,
        "hyperparameters.learning_rate_multiplier",
        "decimal_below_min_value",
    ),
    "an unknown parameter": ({"epochs": 3}, 400, "epochs", "unknown_parameter"),
    "a long suffix": ({"suffix": "a" * 65}, 400, "suffix", "string_above_max_length"),
    "a negative seed": ({"seed": -1}, 400, "seed", "integer_below_min_value"),
    "a method of another type": (
        {"method": {"type": "supervised", "dpo": {}}},
        400,
        "method.dpo",
        None,
    ),
    "reinforcement": ({"method": {"type": "reinforcement"}}, 400, "method.type", "invalid_value"),
    "both places of hyperparameters": (
        {"method": {"type": "supervised"}, "hyperparameters": {"n_epochs": 1}},
        400,
        "hyperparameters",
        None,
    ),
    "wandb": (
        {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
        400,
        "integrations",
        "invalid_value",
    ),
    "no such file": ({"training_file": "file-no"}, 404, "training_file", None),
    "no such validation file": ({"validation_file": "file-no"}, 404, "validation_file", None),
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_bad_job_is_refused_with_the_parameter(acme: Project, name: str) -> None:
    changed, status, param, code = BAD_JOBS[name]
    answer = acme.create(acme.upload(ROWS)["id"], **changed)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert code is None or error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert acme.client.get("/v1/fine_tuning/jobs").json()["data"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'{"model": "a"}'])
def test_a_body_that_is_no_job_is_refused(acme: Project, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = acme.client.post("/v1/fine_tuning/jobs", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_file_of_another_purpose_is_not_trained_on(acme: Project) -> None:
    other = acme.upload(ROWS, purpose="user_data")["id"]
    assert acme.create(other).json()["error"]["code"] == "invalid_file_purpose"


def test_too_few_examples_fail_the_job(acme: Project) -> None:
    job = acme.create(acme.upload(lines(*map(row, range(7))))["id"]).json()
    assert job["status"] == "failed"
    assert job["error"] == {
        "code": "invalid_n_examples",
        "message": "Training file has 7 example(s), but must have at least 10 examples",
        "param": "training_file",
    }
    assert job["finished_at"] is not None
    events = acme.client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert (events[0]["level"], events[0]["message"]) == ("error", job["error"]["message"])


def test_chats_for_dpo_fail_the_job(acme: Project) -> None:
    job = acme.create(acme.upload(ROWS)["id"], method={"type": "dpo"}).json()
    assert (job["status"], job["error"]["code"]) == ("failed", "invalid_training_file")


def test_unknown_routes_and_methods_are_told_as_errors_are(acme: Project) -> None:
    for method, path, status in (("GET", "/v1/engines", 404), ("PUT", "/v1/files", 405)):
        answer = acme.client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("limit", ["0", "101", "x"])
def test_a_bad_limit_is_refused(acme: Project, limit: str) -> None:
    answer = acme.client.get("/v1/fine_tuning/jobs", params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_a_model_server_that_is_away_is_told(acme: Project) -> None:
    body = {"model": ALIAS, "messages": [{"role": "user", "content": "a"}]}
    answer = acme.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("path", "most"), [("/v1/files", MAX_FILE_BYTES), ("/v1/fine_tuning/jobs", MAX_BODY_BYTES)]
)
def test_a_huge_body_is_refused_before_it_is_read(
    gateway: Gateway, acme: Project, path: str, most: int
) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"authorization", f"Bearer {acme.key}".encode()),
        (b"content-length", str(600 * 2**20).encode()),
    ]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    asyncio.run(gateway.app({**scope, "http_version": "1.1"}, receive, send))
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["error"]["message"].startswith("The request is larger than")


def test_a_body_of_no_told_length_is_counted(acme: Project) -> None:
    def chunks() -> Any:
        for _ in range(MAX_BODY_BYTES // 2**20 + 2):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    answer = acme.client.post("/v1/fine_tuning/jobs", content=chunks(), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "files/%00",
        "files/a%00b/content",
        "fine_tuning/jobs/%00",
        "fine_tuning/jobs?after=%00",
        "fine_tuning/jobs?metadata[a]=%00",
        "files?purpose=%00",
        "models/%00",
    ],
)
def test_a_name_that_no_database_can_hold_is_refused(acme: Project, path: str) -> None:
    answer = acme.client.get(f"/v1/{path}")
    assert answer.status_code == 400, answer.text
    assert "U+0000" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "a\0"},
        {"training_file": "\0"},
        {"validation_file": "\0"},
        {"suffix": "\0"},
        {"metadata": {"a": "\0"}},
        {"metadata": {"\0": "a"}},
    ],
    ids=str,
)
def test_nor_does_a_job_hold_one(acme: Project, changed: dict[str, Any]) -> None:
    answer = acme.create(acme.upload(ROWS)["id"], **changed)
    assert answer.status_code == 400, answer.text
    assert "U+0000" in answer.json()["error"]["message"]
    assert acme.client.get("/v1/fine_tuning/jobs", params={"metadata[a]": "b"}).status_code == 200
