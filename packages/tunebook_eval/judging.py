"""Stage `judge-ROLE`: a supporting model judges the answers of the arms, and those of its golden set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from tunebook_data.generated import uses_tools
from tunebook_data.personal_data import scan
from tunebook_eval.answers import FILE as ANSWERS
from tunebook_eval.answers import Answer, read_answers
from tunebook_eval.golden import Golden, GoldenRow, golden_pairs, read_golden
from tunebook_eval.inputs import JudgeInputs
from tunebook_eval.judge_questions import Heard, Prompt, ask, compare, score
from tunebook_eval.sets import Item, build_items
from tunebook_inference.supporting import SupportingModel, Taken
from tunebook_model.conversation import Message
from tunebook_run.progress import Advance
from tunebook_spec.errors import StageError
from tunebook_spec.fields import Frozen
from tunebook_spec.metrics import Judge, Pairwise

FILE = "judgements.jsonl"
SUMMARY = "judge.json"
TUNED = "tuned"
_UNSEEN = {"said": "not shown: it tells of tools", "is_asked": False}
_PERSONAL = {"said": "not shown: personal data", "is_asked": False}


class Judgement(Frozen):
    """What one question came to."""

    set: str
    metric: str
    arm: str | None
    """Whose answer it is; none: of the golden set."""
    item: str
    """The item's id; of a golden row its line, of two `better/worse`."""
    criterion: str | None = None
    """None: all of them."""
    repeat: int = 0
    swapped: bool = False
    """Of a pair: the judged answer stood second."""
    value: float | None
    """Of a score, 0 to 10. Of a pair, 1: the judged answer is better (of golden ones, the one that people
    prefer), 0: the other is, 0.5: neither. None: unscored."""
    said: str
    """The judge's reason; why there is no value, where there is none."""
    is_asked: bool = True
    """Whether the judge was asked; not where both answers are the same, or may not be shown."""


class JudgeRun(Taken):
    role: str
    who: str
    """The model and its host, or the digest of its weights."""
    by_probability: bool
    """It answered with one token, whose probabilities were read."""
    is_tuned_or_base: bool
    is_teacher: bool
    asked: int
    unscored: int
    """Answers that could not be read, after one repair, or that never came."""
    faults: dict[str, int]
    """Of these, how many for which reason."""
    repaired: int
    seconds: float
    """Of the attempt that finished."""
    golden: dict[str, dict[int, GoldenRow]]
    """The golden sets, as the spec names them, by line."""

    def summary(self) -> str:
        resumed = f", {self.resumed} of them by an earlier attempt" if self.resumed else ""
        unscored = f"; {self.unscored} of {self.asked} questions unscored" if self.unscored else ""
        troubles = "".join(f"; {num} x {kind}" for kind, num in self.troubles.items())
        tokens = f"{self.prompt_tokens} prompt and {self.completion_tokens} answer tokens"
        cost = "" if self.cost is None else f", cost {self.cost:.4f}"
        return f"{self.answers} answers of {self.who}{resumed}{unscored}{troubles}; {tokens}{cost}"


@dataclass(frozen=True)
class _Asked:
    """A question and what its answer is of."""

    about: Judgement
    prompt: Prompt


def judge_answers(
    inputs: JudgeInputs,
    *,
    judge: SupportingModel,
    is_judged: bool,
    data_dir: Path,
    arms: Mapping[str, Path],
    spec_dir: Path,
    out: Path,
    advance: Advance,
) -> JudgeRun:
    """Ask what is not answered yet; `judge` keeps each answer as it arrives.

    Args:
        inputs: What this judge reads of the spec.
        judge: Answers.
        is_judged: It has the very weights that were tuned, or those that came of it.
        data_dir: What `prepare` left.
        arms: The folder that `answer` left, by arm.
        spec_dir: What golden sets are relative to.
        out: Gets `judgements.jsonl` and `judge.json`.
        advance: Told how many of the questions of a metric are answered.

    Raises:
        DataError: a golden set cannot be read.
        StageError: the judge answers no more, its budget is spent, or it would judge itself.
    """
    started = time.monotonic()
    itself = inputs.is_tuned_or_base or is_judged
    if itself and not all(each.may_judge_itself for of_set in inputs.metrics.values() for each in of_set):
        raise StageError(
            f"{inputs.role} ({judge.who}) has the weights that it would judge, and models like their own"
            " answers: name another model, or set `may_judge_itself: true`"
        )
    items = build_items(inputs.sets, data_dir)
    answers = {
        arm: {(each.set, each.item): each for each in read_answers(folder / ANSWERS)}
        for arm, folder in arms.items()
    }
    judgements: list[Judgement] = []
    num_repaired = 0
    golden = {name: read_golden(spec_dir / name, name) for name in inputs.golden}
    for name, of_set in inputs.metrics.items():
        here = [item for item in items if item.set == name]
        for metric in of_set:
            told: list[Judgement] = []
            asked: list[_Asked] = []
            for each in _questions(name, metric, here, answers, golden.get(metric.golden or "", ())):
                if isinstance(each, _Asked):
                    asked.append(each)
                else:
                    told.append(each)
            asked, withheld = _may_see(asked, inputs, judge)
            prompts = {str(number): (each.prompt, each.about.repeat) for number, each in enumerate(asked)}
            heard = ask(judge, prompts, metric, advance=advance, doing=f"{name}.{metric.label}")
            num_repaired += sum(each.is_repaired for each in heard.values())
            judgements += [*told, *withheld]
            judgements += [_judgement(each, heard[str(number)]) for number, each in enumerate(asked)]
    (out / FILE).write_bytes(b"".join(map(_encode, judgements)))
    run = _run(inputs, judge, judgements, num_repaired, itself, golden, time.monotonic() - started)
    (out / SUMMARY).write_text(run.model_dump_json(indent=1))
    return run


def read_judgements(folder: Path) -> tuple[JudgeRun, list[Judgement]]:
    """What `judge_answers` left.

    Raises:
        StageError: it is gone, or of another version.
    """
    try:
        run = JudgeRun.model_validate_json((folder / SUMMARY).read_bytes())
        lines = (folder / FILE).read_bytes().splitlines()
        return run, [Judgement.model_validate_json(line) for line in lines]
    except (FileNotFoundError, ValidationError) as error:
        raise StageError(
            f"{folder}: no judgements of this version; delete it and run the spec again"
        ) from error


def _questions(
    set: str,
    metric: Judge | Pairwise,
    items: Sequence[Item],
    answers: Mapping[str, Mapping[tuple[str, str], Answer]],
    golden: Sequence[Golden],
) -> Iterator[_Asked | Judgement]:
    """Every question of a metric; a judgement where there is nothing to ask."""
    about = Judgement(set=set, metric=metric.label, arm=None, item="", value=None, said="")
    if isinstance(metric, Pairwise):
        for item in items:
            tuned, other = (answers[arm].get((set, item.id)) for arm in (TUNED, metric.against))
            if tuned and other and tuned.error is None and other.error is None:
                subject = about.model_copy(update={"arm": TUNED, "item": item.id})
                if item.tools or (item.row and uses_tools(item.row)):
                    yield subject.model_copy(update=_UNSEEN)
                else:
                    yield from _comparisons(subject, metric, item.messages, tuned.text, other.text)
        for better, worse in golden_pairs(golden):
            subject = about.model_copy(update={"item": f"{better.line}/{worse.line}"})
            yield from _comparisons(subject, metric, better.prompt, better.row.answer, worse.row.answer)
        return
    for arm, of_arm in answers.items():
        for item in items:
            answer = of_arm.get((set, item.id))
            if answer and answer.error is None and answer.rule is None:
                subject = about.model_copy(update={"arm": arm, "item": item.id})
                if item.tools or (item.row and uses_tools(item.row)):
                    yield subject.model_copy(update=_UNSEEN)
                else:
                    yield from _scorings(subject, metric, item.messages, answer.text)
    for each in golden:
        subject = about.model_copy(update={"item": str(each.line)})
        yield from _scorings(subject, metric, each.prompt, each.row.answer)


def _scorings(subject: Judgement, metric: Judge, asked: Sequence[Message], answer: str) -> Iterator[_Asked]:
    said: Message = {"role": "assistant", "content": answer}
    for name, criterion in metric.criteria.items():
        prompt = score((*asked, said), criterion)
        for repeat in range(metric.repeats):
            yield _Asked(subject.model_copy(update={"criterion": name, "repeat": repeat}), prompt)


def _comparisons(
    subject: Judgement, metric: Pairwise, asked: Sequence[Message], judged: str, other: str
) -> Iterator[_Asked | Judgement]:
    if judged == other:
        yield subject.model_copy(update={"value": 0.5, "said": "the answers are the same", "is_asked": False})
        return
    for swapped in (False, True):
        first, second = (other, judged) if swapped else (judged, other)
        prompt = compare(asked, first, second, metric.criteria)
        for repeat in range(metric.repeats):
            yield _Asked(subject.model_copy(update={"swapped": swapped, "repeat": repeat}), prompt)


def _may_see(
    asked: Sequence[_Asked], inputs: JudgeInputs, judge: SupportingModel
) -> tuple[list[_Asked], list[Judgement]]:
    """What may be asked, and judgements of what an endpoint is not shown: an item with personal data."""
    if not judge.is_remote or inputs.personal_data == "allow":
        return list(asked), []
    kept, withheld = [], []
    for each in asked:
        if each.about.arm is not None and any(scan(text)[1] for text in _texts(each.prompt.shown)):
            withheld.append(each.about.model_copy(update=_PERSONAL))
        else:
            kept.append(each)
    return kept, withheld


def _texts(shown: Any) -> Iterator[str]:
    """All that stands in what is shown."""
    if isinstance(shown, str):
        yield shown
    else:
        for each in shown.values() if isinstance(shown, Mapping) else shown:
            yield from _texts(each)


def _judgement(asked: _Asked, heard: Heard) -> Judgement:
    value = heard.value
    if value is not None and asked.about.swapped:
        value = 1 - value
    return asked.about.model_copy(update={"value": value, "said": heard.said})


def _run(
    inputs: JudgeInputs,
    judge: SupportingModel,
    judgements: Sequence[Judgement],
    num_repaired: int,
    itself: bool,
    golden: Mapping[str, Sequence[Golden]],
    seconds: float,
) -> JudgeRun:
    asked = [each for each in judgements if each.is_asked]
    unscored = [each for each in asked if each.value is None]
    return JudgeRun(
        role=inputs.role,
        who=judge.who,
        by_probability=judge.weighs_choices,
        is_tuned_or_base=itself,
        is_teacher=inputs.is_teacher,
        asked=len(asked),
        unscored=len(unscored),
        faults=dict(Counter(each.said.partition(":")[0] for each in unscored).most_common()),
        repaired=num_repaired,
        **judge.taken(judge.spent),
        seconds=round(seconds, 1),
        golden={name: {each.line: each.row for each in rows} for name, rows in golden.items()},
    )


def _encode(judgement: Judgement) -> bytes:
    return orjson.dumps(judgement.model_dump(), option=orjson.OPT_APPEND_NEWLINE)
