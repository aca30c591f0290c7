"""Engines on a Ray cluster answer what one engine in a process of its own answers. By hand: `-m soak`."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from tests.integration.project import Project
from tunebook_eval.answers import read_answers
from tunebook_inference.generator import ChatRequest, Completion, Decoding, TokenLogprobs
from tunebook_inference.ray_engines import RayEngines
from tunebook_model.precision import compute_dtype
from tunebook_model.render import Renderer
from tunebook_run.store import Store

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the extra cpu or gpu"),
    pytest.mark.filterwarnings("ignore"),  # of what Ray imports
]

ALONE = """
import pickle, sys
from pathlib import Path
from tunebook_inference.generator import Decoding
from tunebook_inference.vllm_engine import VLLMEngine
from tunebook_model.precision import compute_dtype
from tunebook_model.render import Renderer

folder = Path(sys.argv[1])
engine = VLLMEngine(folder, Renderer.load(folder, {}), Decoding(), compute_dtype().dtype, takes_schemas=True)
requests = pickle.loads(sys.stdin.buffer.read())
answers = engine.generate(requests, lambda completion: None)
prompt = engine.renderer.prompt_ids(requests[0].messages, ())
sys.stdout.buffer.write(pickle.dumps((answers, engine.next_tokens([prompt]))))
"""
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}


def ask(id: str, text: str, **more: object) -> ChatRequest:
    request = ChatRequest(id, ({"role": "user", "content": text},), 8)
    return replace(request, **more)  # type: ignore[arg-type]


REQUESTS = [
    *(ask(f"plain {number}", f"Is {number} a number?") for number in range(60)),
    ask("too long", "blue " * 600),
    ask("choices", "One digit?", choices=tuple("0123456789")),
    ask("schema", "Say it as JSON", json_schema=SCHEMA, max_tokens=40),
    ask("weighed", "Is it?", top_logprobs=3),
]


@pytest.fixture(scope="module")
def engines(
    talking_llama: Path, s3_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayEngines]:
    """On a cluster of this machine, whose disk it does not see: weights come from the store."""
    cache = tmp_path_factory.mktemp("cache")
    store = Store(s3_url, cache)
    store.filesystem.create_dir("bucket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEBOOK_CACHE_DIR", str(cache))
        context = ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        yield RayEngines(
            talking_llama,
            Renderer.load(talking_llama, {}),
            Decoding(),
            store,
            context.address_info["gcs_address"],
            num_engines=1,
            takes_schemas=True,
        )
        ray.shutdown()


@pytest.fixture(scope="module")
def alone(talking_llama: Path) -> tuple[list[Completion], list[TokenLogprobs]]:
    """What one engine answers in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(talking_llama)], input=pickle.dumps(REQUESTS), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    answers: tuple[list[Completion], list[TokenLogprobs]] = pickle.loads(done.stdout)
    return answers


def said(answers: list[Completion]) -> list[tuple[object, ...]]:
    return [(each.id, each.text, each.finish_reason, each.prompt_tokens, each.token_ids) for each in answers]


def cores_of_engines() -> list[psutil.Process]:
    """The processes that compute."""
    return [each for each in psutil.process_iter(["name"]) if "EngineCor" in str(each.info["name"])]


def test_they_answer_what_an_engine_answers_alone(
    engines: RayEngines, alone: tuple[list[Completion], list[TokenLogprobs]]
) -> None:
    order: list[str] = []
    answers = engines.generate(REQUESTS, lambda completion: order.append(completion.id))
    assert sorted(order) == sorted(each.id for each in REQUESTS)
    by_id, expected = ({each.id: each for each in them} for them in (answers, alone[0]))
    refused = by_id.pop("too long")
    assert refused.finish_reason == expected.pop("too long").finish_reason == "error"
    assert refused.error is not None
    assert "512" in refused.error
    assert said([*by_id.values()]) == said([*expected.values()])
    exact = 1e-3 if compute_dtype().dtype == "float32" else 2e-2
    chosen = by_id["choices"].choice_logprobs
    assert chosen == pytest.approx(expected["choices"].choice_logprobs, abs=exact)
    for mine, theirs in zip(by_id["weighed"].top_logprobs, expected["weighed"].top_logprobs, strict=True):
        assert mine[0][0] == theirs[0][0]
        assert mine[0][1] == pytest.approx(theirs[0][1], abs=exact)


def test_they_tell_the_next_tokens_that_an_engine_tells_alone(
    engines: RayEngines, alone: tuple[list[Completion], list[TokenLogprobs]]
) -> None:
    (told,) = engines.next_tokens([engines.renderer.prompt_ids(REQUESTS[0].messages, ())])
    (expected,) = alone[1]
    assert told[0][0] == expected[0][0]
    assert dict(told)[expected[0][0]] == pytest.approx(expected[0][1], abs=2e-2)


def test_where_an_engine_dies_its_questions_are_answered_all_the_same(
    engines: RayEngines, tiny_llama: Path
) -> None:
    renderer = Renderer.load(tiny_llama, {})
    babbling = replace(engines, model=tiny_llama, renderer=renderer, num_engines=2)
    seen: set[int] = set()
    ended = threading.Event()
    killed: list[psutil.Process] = []

    def watch() -> None:
        while not ended.wait(0.2):
            seen.update(each.pid for each in cores_of_engines())

    def on_done(completion: Completion) -> None:
        if not killed:
            killed.append(cores_of_engines()[0])
            killed[0].kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    requests = [ask(str(number), f"Is {number} a number?", max_tokens=300) for number in range(2000)]
    try:
        answers = babbling.generate(requests, on_done)
    finally:
        ended.set()
        watcher.join()
    assert [each.id for each in answers] == [each.id for each in requests]
    assert {each.error for each in answers} == {None}
    assert len(seen) == 3, "another has come in its place"


@pytest.mark.timeout(1200)
def test_a_run_that_they_answer_comes_to_the_same_verdict(
    engines: RayEngines, finished: Project, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished.folder, again, symlinks=True)
    for stage in (again / "runs/tiny/stages").iterdir():
        if stage.name.startswith(("answer-base", "answer-tuned", "evaluate", "decide")):
            shutil.rmtree(stage) if stage.is_dir() else stage.unlink()
    there = {"TUNEBOOK_RAY_ADDRESS": engines.address, "TUNEBOOK_NUM_ENGINES": "1"}
    project = Project(again, {**finished.environment, **there})
    status, output = project.run("run", "tiny", "--profile", "local", timeout_s=1000)
    assert status == 0, output
    assert "engines on the Ray cluster that answer: 1, with 1 CPU each" in output
    assert "says what training said" in output
    for arm in ("answer-base", "answer-tuned"):
        ours, theirs = (
            {each.key: each.text for each in read_answers(it.stage(arm) / "answers.jsonl")}
            for it in (project, finished)
        )
        assert ours == theirs
