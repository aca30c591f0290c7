from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tunebook_data.decontaminate import HeldOut
from tunebook_data.inputs import ReplayInputs
from tunebook_data.manifest import ReplayManifest
from tunebook_data.replay import (
    NUM_ALTERNATIVES,
    Rehearsal,
    contaminated,
    mix_replay,
    read_pool,
    replay,
)
from tunebook_data.rows import Row, read_rows
from tunebook_data.suites import load_replay_prompts
from tunebook_inference.generator import ChatRequest, Completion, Generator, OnDone
from tunebook_inference.scripted import ScriptedGenerator
from tunebook_model.render import Renderer
from tunebook_spec.data import Decontaminate
from tunebook_spec.errors import DataError, StageError

INPUTS = ReplayInputs(max_tokens=8, max_prompts=None, chat_template_kwargs={})


def ask_base(
    generator: Generator, renderer: Renderer, out: Path, inputs: ReplayInputs = INPUTS
) -> ReplayManifest:
    return replay(inputs, renderer=renderer, generator=generator, out=out, advance=quiet)


def quiet(done: int, total: int, note: str = "") -> None:
    pass


def short(request: ChatRequest) -> str:
    return "In a word, yes."


@pytest.fixture
def pool(make_row: Callable[..., Row], renderer: Renderer) -> list[Rehearsal]:
    rows = [make_row(f"What is {n} and {n}?", f"It is {2 * n}, of course.", task="replay") for n in range(12)]
    return [(row, renderer.render(row.messages)) for row in rows]


@pytest.mark.parametrize("share", [0.05, 0.15, 0.5, 0.9])
def test_the_share_is_reached_within_one_row(pool: list[Rehearsal], share: float) -> None:
    picked, counts = mix_replay(
        pool, share=share, weight=4, task_tokens=2000, leave_out=(), max_tokens=2048, seed=0
    )
    tokens = sum(len(rendered.input_ids) for _, rendered in picked)
    without_last = tokens - len(picked[-1][1].input_ids)
    assert without_last / (without_last + 2000) < share <= tokens / (tokens + 2000)
    assert (counts.tokens, counts.rows) == (tokens, len(picked))
    assert {rendered.weight for _, rendered in picked} == {4}
    assert counts.share == pytest.approx(tokens / (tokens + 2000), abs=1e-6)


def test_a_small_pool_is_shown_again_in_turn_under_ids_of_its_own(pool: list[Rehearsal]) -> None:
    picked, counts = mix_replay(
        pool, share=0.5, weight=4, task_tokens=2000, leave_out=(), max_tokens=2048, seed=0
    )
    ids = [row.id for row, _ in picked]
    assert len(ids) > 24
    assert len(set(ids)) == len(ids)
    assert counts.distinct == 12
    assert sorted(ids[:12]) == sorted(row.id for row, _ in pool)
    assert [row.messages for row, _ in picked[12:24]] == [row.messages for row, _ in picked[:12]]


@pytest.mark.parametrize("rules", [Decontaminate(), None], ids=["rules", "none"])
def test_what_evaluation_asks_is_not_rehearsed(pool: list[Rehearsal], rules: Decontaminate | None) -> None:
    held_out = [HeldOut.of_text("a", "what  is 3 AND 3?"), HeldOut.of_text("b", "What is 5 and 5?")]
    known = contaminated(pool, held_out, rules)
    picked, counts = mix_replay(
        pool, share=0.5, weight=4, task_tokens=2000, leave_out=known, max_tokens=2048, seed=0
    )
    asked = {row.messages[0]["content"] for row, _ in picked}
    assert asked == {row.messages[0]["content"] for row, _ in pool} - {"What is 3 and 3?", "What is 5 and 5?"}
    assert counts.held_out == 2


def test_an_answer_that_contains_what_is_held_out_is_contaminated(
    make_row: Callable[..., Row], renderer: Renderer
) -> None:
    text = "the harbour town decided after long debate to paint the old lighthouse white again"
    row = make_row("Tell me some news.", f"Well, {text}, they say.", task="replay")
    pool = [(row, renderer.render(row.messages))]
    item = HeldOut.of_text("text", text.capitalize())
    assert contaminated(pool, [item], Decontaminate()) == {row.id}
    assert contaminated(pool, [item], None) == set()


def test_a_pool_of_which_nothing_can_be_used_is_refused(pool: list[Rehearsal]) -> None:
    with pytest.raises(DataError, match="none of 12 answers"):
        mix_replay(pool, share=0.5, weight=4, task_tokens=2000, leave_out=(), max_tokens=8, seed=0)


def test_every_prompt_is_asked_alone(tmp_path: Path, renderer: Renderer) -> None:
    manifest = replay(
        INPUTS, renderer=renderer, generator=ScriptedGenerator(short), out=tmp_path, advance=quiet
    )
    rows = read_rows(tmp_path / "rows.jsonl")
    assert sorted(row.messages[0]["content"] for row in rows) == sorted(load_replay_prompts())
    assert {row.task for row in rows} == {"replay"}
    assert manifest.rows == manifest.prompts == len(rows)


def test_answers_are_kept_as_far_as_they_go(tmp_path: Path, renderer: Renderer) -> None:
    prompts = load_replay_prompts()

    def answer(request: ChatRequest) -> str:
        return {prompts[0]: "word " * 9, prompts[1]: " "}.get(request.messages[-1]["content"], "Yes.")

    manifest = replay(
        INPUTS, renderer=renderer, generator=ScriptedGenerator(answer), out=tmp_path, advance=quiet
    )
    assert (manifest.rows, manifest.cut, manifest.empty, manifest.errors) == (len(prompts) - 1, 1, 1, 0)
    answers = {row.messages[0]["content"]: row.reference for row, _ in read_pool(tmp_path)}
    assert answers[prompts[0]] == " ".join(["word"] * 8)
    assert prompts[1] not in answers


class Doubtful:
    """Says 7 and 8, of each of which it is unsure."""

    def start(self) -> None:
        """It is always ready."""

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        assert all(request.top_logprobs == NUM_ALTERNATIVES for request in requests)
        places = (((7, math.log(0.6)), (9, math.log(0.2))), ((8, math.log(0.5)),))
        done = [Completion(each.id, "a b", "length", 3, 2, (7, 8), places) for each in requests]
        for each in done:
            on_done(each)
        return done


def test_what_the_base_thought_likely_is_what_is_rehearsed(tmp_path: Path, renderer: Renderer) -> None:
    ask_base(Doubtful(), renderer, tmp_path)
    again = ask_base(Doubtful(), renderer, tmp_path)
    assert again.resumed == again.rows, "probabilities come back from the file too"
    row, rendered = read_pool(tmp_path)[0]
    prompt = renderer.prompt_ids(row.messages[:-1])
    assert rendered.input_ids.tolist() == [*prompt, 7, 8]
    assert rendered.loss_mask.tolist() == [False] * len(prompt) + [True, True]
    assert rendered.soft_targets is not None
    assert rendered.soft_targets.ids_NK.tolist() == [[7, 9], [8, 0]]
    np.testing.assert_allclose(rendered.soft_targets.probabilities_NK, [[0.75, 0.25], [1, 0]], rtol=1e-6)


class Killed(ScriptedGenerator):
    """Dies after five answers."""

    def generate(self, requests: Sequence[ChatRequest], on_done: OnDone) -> list[Completion]:
        super().generate(requests[:5], on_done)
        raise KeyboardInterrupt


def test_a_killed_attempt_is_gone_on_from(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask_base(Killed(short), renderer, tmp_path)
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(answers.read_bytes()[:-20])
    asked = []

    def count(request: ChatRequest) -> str:
        asked.append(request.id)
        return short(request)

    manifest = replay(
        INPUTS, renderer=renderer, generator=ScriptedGenerator(count), out=tmp_path, advance=quiet
    )
    assert manifest.resumed == 4
    assert len(asked) == manifest.prompts - 4
    assert manifest.rows == manifest.prompts
    again = ask_base(ScriptedGenerator(count), renderer, tmp_path)
    assert again.resumed == again.prompts, "the torn line is gone from the file"


def test_a_base_that_answers_nothing_is_a_stage_error(tmp_path: Path, renderer: Renderer) -> None:
    silent = ScriptedGenerator(lambda _: " ")
    with pytest.raises(StageError, match=r"0 of \d+ general prompts.*remove data\.replay"):
        ask_base(silent, renderer, tmp_path)


def test_an_even_part_of_the_prompts_is_asked_where_that_is_enough(
    tmp_path: Path, renderer: Renderer
) -> None:
    some = INPUTS.model_copy(update={"max_prompts": 20})
    manifest = replay(
        some, renderer=renderer, generator=ScriptedGenerator(short), out=tmp_path, advance=quiet
    )
    asked = [row.messages[0]["content"] for row in read_rows(tmp_path / "rows.jsonl")]
    assert manifest.prompts == len(asked) == 20
    assert asked != load_replay_prompts()[:20]
