"""Run on one host of a cluster: has a data set made by this host alone and by all, and tells what came out.

python -m tests.integration.prepared_twice FOLDER RAY_ADDRESS OUT [LOST]

LOST is a host that is lost in the middle of what a teacher writes.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import ray

from tests.integration.hosts import lose
from tests.openai_endpoint import Endpoint, Reply, serving
from tunebook_cli.request import Request
from tunebook_cli.stage_process import run_stage
from tunebook_data import scan
from tunebook_data.inputs import PrepareInputs
from tunebook_model.resolve import ReadyModel
from tunebook_run.settings import Settings
from tunebook_run.stages import Artifact, Stage
from tunebook_spec.base_model import EndpointModel
from tunebook_spec.data import Data
from tunebook_spec.errors import DataError

SPLIT = {"group_by": "topic", "test": 0.1, "validation": 0.05}
TEACHER = {"teacher": EndpointModel(kind="endpoint", model="gpt-x")}


def chat(question: str, answer: str | None, topic: int) -> dict[str, Any]:
    said = [] if answer is None else [{"role": "assistant", "content": answer}]
    return {"messages": [{"role": "user", "content": question}, *said], "topic": f"t{topic}"}


def rows() -> Iterator[dict[str, Any]]:
    """Good rows; every tenth is copied with one word changed, and some are rejects or flagged."""
    for n in range(600):
        words = " ".join(f"w{n}x{k}" for k in range(20))
        yield chat(f"What is thing {n} that {words}?", f"Thing {n} is certainly blue.", n)
        if n % 10 == 0:
            yield chat(f"What is thing {n} that {words} now?", f"Thing {n} is certainly blue.", n)
        if n % 50 == 0:
            yield chat(f"Who is {n}?", "No.", n)
            yield chat(f"How is {n}?", f"Write to jane{n}@doe-mail.org about it.", n)


def write_sources(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "completion", "topic"])
        table.writerows([f"Where is town {n}?", f"Town {n} is up north.", f"c{n}"] for n in range(200))
    prompts = (chat(f"Who made case {n}?", None, 1000 + n) for n in range(100))
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))


DATA: dict[str, Any] = {
    "sources": [
        {"kind": "file", "path": "rows.jsonl", "task": "thing", "split": SPLIT},
        {"kind": "file", "path": "rows.csv", "task": "town", "split": SPLIT},
        {"kind": "file", "path": "prompts.jsonl", "task": "case", "split": SPLIT},
    ],
    "augment": {"teacher": "teacher", "variations": 2, "rows": 100},
    "distill": {"teacher": "teacher"},
    "dedup": {"near": 0.8},
}


def answer(body: dict[str, Any]) -> Reply:
    """What the teacher says: the same to the same question."""
    asked = body["messages"][-1]["content"]
    if (case := re.fullmatch(r"Who made case (\d+)\?", asked)) is not None:
        return Reply(f"The maker of case {case[1]} is known.")
    subject = re.findall(r"(?:thing|town) \d+", asked)[0].replace(" ", "")
    made = [
        [{"user": " ".join(f"q{subject}{each}{c}" for c in "abcdef"), "assistant": f"It is {subject}{each}."}]
        for each in "xy"
    ]
    return Reply(json.dumps({"variations": made}))


def request(folder: Path, data: dict[str, Any], ray_address: str | None) -> Request:
    inputs = PrepareInputs(
        data=Data.model_validate(data),
        seed=0,
        chat_template_kwargs={},
        suites=(),
        questions=("Who wrote Hamlet?",),
        texts=(),
        models=TEACHER,
    )
    return Request(
        stage=Stage.of("tiny", "prepare", inputs),
        parents={},
        model=ReadyModel(folder / "model", "tiny", "0" * 64, None),
        supporting={},
        spec_dir=folder,
        ray_address=ray_address,
        facts={},
    )


def prepared(folder: Path, ray_address: str | None, endpoint: Endpoint) -> Any:
    """What the stage left, and how often each call was made for it; nothing is known from before."""
    endpoint.calls.clear()
    storage = folder / f"runs-{len(list(folder.glob('runs-*')))}"
    os.environ["TUNEBOOK_STORAGE_URL"] = str(storage)
    os.environ["TUNEBOOK_CACHE_DIR"] = str(storage / "cache")
    run_stage(request(folder, DATA, ray_address), Settings.read())
    (path,) = storage.glob("tiny/stages/prepare-*/artifact.json")
    artifact = Artifact.model_validate_json(path.read_text())
    return {
        "digest": artifact.digest,
        "files": artifact.files,
        "result": artifact.result,
        "calls": dict(endpoint.calls),
    }


def failure(folder: Path, ray_address: str | None) -> str:
    """What ends a run that a row ends."""
    data = {"sources": DATA["sources"][:1], "checks": {"max_tokens": 60, "on_too_long": "fail"}}
    os.environ["TUNEBOOK_STORAGE_URL"] = str(folder / "failed")
    try:
        run_stage(request(folder, data, ray_address), Settings.read())
    except DataError as error:
        return str(error)
    raise AssertionError("the run goes on")


@contextmanager
def small_ranges() -> Iterator[None]:
    """A small file is many ranges; the hosts are handed them and know no size."""
    before, scan.RANGE_BYTES = scan.RANGE_BYTES, 10_000
    yield
    scan.RANGE_BYTES = before


def tasks_by_host(ray_address: str) -> dict[str, int]:
    """How many tasks of Ray Data each host has done, by its address."""
    ray.init(ray_address, log_to_driver=False)
    done: dict[str, int] = {}
    for event in ray.timeline():
        if event["cat"].startswith("task") and "MapBatches(apply)" in event["cat"]:
            done[event["pid"]] = done.get(event["pid"], 0) + 1
    ray.shutdown()
    return done


def losing(host: str) -> Callable[[dict[str, Any]], Reply]:
    """The teacher's answers, until whose 50th a host is there."""
    asked = count(1)

    def reply(body: dict[str, Any]) -> Reply:
        if next(asked) == 50:
            lose(host)
        return answer(body)

    return reply


def after_a_loss(folder: Path, ray_address: str, out: Path, host: str) -> None:
    write_sources(folder)
    with serving(Endpoint(answer)) as endpoint, small_ranges():
        os.environ["TUNEBOOK_MODELS__TEACHER__BASE_URL"] = endpoint.base_url
        alone = prepared(folder, None, endpoint)
        endpoint.reply = losing(host)
        together = prepared(folder, ray_address, endpoint)
    out.write_text(json.dumps([alone, together]))


def main(folder: Path, ray_address: str, out: Path) -> None:
    write_sources(folder)
    told: dict[str, Any] = {}
    with serving(Endpoint(answer)) as endpoint, small_ranges():
        os.environ["TUNEBOOK_MODELS__TEACHER__BASE_URL"] = endpoint.base_url
        told["prepared"] = [prepared(folder, where, endpoint) for where in (None, ray_address)]
    told["failure"] = [failure(folder, where) for where in (None, ray_address)]
    told["tasks"] = tasks_by_host(ray_address)
    out.write_text(json.dumps(told))


if __name__ == "__main__":
    paths = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    after_a_loss(*paths, sys.argv[4]) if len(sys.argv) > 4 else main(*paths)
