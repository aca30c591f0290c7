"""Stage `answer`: one arm answers every item of its sets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import IO

from tunebook_data.baselines import baselines, question
from tunebook_data.near_duplicates import said
from tunebook_data.personal_data import scan
from tunebook_data.rows import read_rows
from tunebook_eval.answers import (
    FILE,
    SUMMARY,
    Answer,
    AnswerResult,
    Timed,
    encode,
    of_completion,
    of_rule,
    of_text,
    reopen,
)
from tunebook_eval.inputs import AnswerInputs
from tunebook_eval.log_likelihood import score_texts
from tunebook_eval.sets import Item, ItemKey, build_items, reword
from tunebook_eval.shots import NO_SHOTS, Embed, Shots, choose_shots
from tunebook_inference.generator import ChatRequest, Completion, Generator
from tunebook_inference.supporting import SupportingModel
from tunebook_run.progress import Advance


def answer(
    inputs: AnswerInputs,
    *,
    data_dir: Path,
    model_dir: Path | None,
    generator: Generator | None,
    out: Path,
    advance: Advance,
    embed: Embed | None = None,
    in_one_batch: bool = False,
) -> AnswerResult:
    """Answer what is not answered yet; each answer is on the disk as soon as it is finished.

    Args:
        inputs: What this arm reads of the spec.
        data_dir: What `prepare` left.
        model_dir: The arm's model, for the likelihood of fixed texts; None for rules and a model elsewhere.
        generator: Answers the chats; None for rules.
        out: Gets `answers.jsonl`, one answer a line in the order of finishing, and `arm.json`, the result.
        advance: Told how many of the items are answered.
        embed: For the arm that retrieves.
        in_one_batch: Whether the generator is asked once for all, and no set is timed.
    """
    started = time.monotonic()
    items = build_items(inputs.sets, data_dir)
    items += reword(items, inputs.sets)
    kept = reopen(out / FILE)
    timed: dict[str, Timed] = {}
    with (out / FILE).open("ab") as file:
        sheet = _Sheet(file, kept, advance, len(items))
        if inputs.arm == "baselines":
            _answer_by_rules(items, inputs, data_dir, sheet)
        else:
            assert generator is not None, "only rules do without a generator"
            left = [item for item in items if not sheet.has(item)]
            if texts := [item for item in left if not item.messages]:
                assert model_dir is not None, "a model elsewhere is given no texts"
                _score_texts(texts, model_dir, sheet)
            shots = choose_shots(inputs, items, data_dir, embed)
            chats = [item for item in left if item.messages]
            if isinstance(generator, SupportingModel) and generator.is_endpoint:
                may_leave = not generator.is_remote or inputs.personal_data == "allow"
                chats = _sendable(chats, sheet, may_leave=may_leave)
            if in_one_batch:
                _answer_set(chats, inputs.temperature, shots, generator, sheet)
            else:
                timed = _answer_chats(chats, inputs.temperature, shots, generator, sheet)
    result = _result(inputs.arm, sheet.answers, len(kept), timed, time.monotonic() - started)
    if isinstance(generator, SupportingModel):
        # What was kept of an earlier stage took no time now.
        timed = {} if generator.spent.resumed else timed
        priced = generator.prices
        told = {
            "cost": generator.spent.cost,
            "prices": priced and (priced.prompt, priced.completion),
            "is_remote": generator.is_remote,
            "timed": timed,
        }
        result = result.model_copy(update=told)
    (out / SUMMARY).write_text(result.model_dump_json(indent=1))
    return result


@dataclass
class _Sheet:
    """The growing file of answers."""

    file: IO[bytes]
    answers: list[Answer]
    advance: Advance
    num_items: int
    keys: set[tuple[ItemKey, str | None]] = field(init=False)

    def __post_init__(self) -> None:
        self.answers = list(self.answers)
        self.keys = {each.key for each in self.answers}

    def has(self, item: Item, rule: str | None = None) -> bool:
        return (item.key, rule) in self.keys

    def add(self, answers: Iterable[Answer]) -> None:
        for each in answers:
            self.file.write(encode(each))
            self.answers.append(each)
            self.keys.add(each.key)
        self.file.flush()
        self.advance(len({item for item, _ in self.keys}), self.num_items)


def _sendable(items: Sequence[Item], sheet: _Sheet, *, may_leave: bool) -> list[Item]:
    """What an endpoint may be asked; the rest fails, with the reason.

    Args:
        items: What is to be asked.
        sheet: Gets what fails.
        may_leave: Whether personal data may be sent there.
    """
    kept = []
    for item in items:
        error = None
        if item.tools:
            error = "not asked: an endpoint is asked for text, not for calls"
        elif not may_leave and any(scan(text)[1] for text in said(item.messages)):
            error = "not asked: personal data, which `personal_data: allow` would let go"
        if error is None:
            kept.append(item)
        else:
            sheet.add([of_completion(item, Completion(item.id, "", "error", 0, 0, error=error), ())])
    return kept


def _answer_chats(
    items: Sequence[Item], temperature: float | None, shots: Shots, generator: Generator, sheet: _Sheet
) -> dict[str, Timed]:
    """Set by set, so that arms which answer other sets beside it can be compared by the time of one.

    Rewordings come last and in no time: much of what they hold has been read before.
    """
    if items:
        generator.start()
    as_it_is = [item for item in items if item.reworded is None]
    timed = {
        name: _answer_set(list(of_set), temperature, shots, generator, sheet)
        for name, of_set in groupby(as_it_is, attrgetter("set"))
    }
    if reworded := [item for item in items if item.reworded is not None]:
        _answer_set(reworded, temperature, shots, generator, sheet)
    return timed


def _answer_set(
    items: Sequence[Item], temperature: float | None, shots: Shots, generator: Generator, sheet: _Sheet
) -> Timed:
    by_id = {"/".join(map(str, item.key)): item for item in items}
    requests = [
        ChatRequest(
            id,
            shots.get(item.key, NO_SHOTS).put_into(item.messages),
            item.max_tokens,
            tools=item.tools,
            temperature=temperature,
            json_schema=item.json_schema,
        )
        for id, item in by_id.items()
    ]

    def keep(completion: Completion) -> None:
        item = by_id[completion.id]
        shown = shots.get(item.key, NO_SHOTS)
        sheet.add([of_completion(item, completion, shown.ids)])

    started = time.monotonic()
    done = generator.generate(requests, keep)
    seconds = time.monotonic() - started
    return Timed(num_answers=sum(each.error is None for each in done), seconds=round(seconds, 3))


def _score_texts(items: Sequence[Item], model_dir: Path, sheet: _Sheet) -> None:
    texts = [item.reference or "" for item in items]
    for item, scored in zip(items, score_texts(model_dir, texts), strict=True):
        sheet.add([of_text(item, scored.num_tokens, scored.mean)])


def _answer_by_rules(items: Sequence[Item], inputs: AnswerInputs, data_dir: Path, sheet: _Sheet) -> None:
    train = read_rows(data_dir / "train.jsonl")
    asked = [(item, item.row) for item in items if item.row is not None]
    for task, house in dict.fromkeys(
        (item.learns_from, inputs.sets[item.set].ruff) for item, _ in asked if item.learns_from
    ):
        rules = baselines(task, [row for row in train if row.task == task], house)
        for item, row in asked:
            if (item.learns_from, inputs.sets[item.set].ruff) == (task, house):
                left = [each for each in rules if not sheet.has(item, each.name)]
                sheet.add(of_rule(item, each, each.rule(question(row))) for each in left)


def _result(
    arm: str, answers: Sequence[Answer], num_resumed: int, timed: dict[str, Timed], seconds: float
) -> AnswerResult:
    return AnswerResult(
        arm=arm,
        num_answers=len(answers),
        num_errors=sum(each.error is not None for each in answers),
        prompt_tokens=sum(each.prompt_tokens for each in answers),
        completion_tokens=sum(each.completion_tokens for each in answers),
        seconds=round(seconds, 1),
        num_resumed=num_resumed,
        timed=timed,
    )
