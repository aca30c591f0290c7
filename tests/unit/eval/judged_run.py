"""Answers that a judge behind a real endpoint judges, from the stage to the verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.openai_endpoint import Endpoint, Reply
from tests.unit.eval.answers_on_disk import asked, leave
from tunebook_data.rows import Row, write_rows
from tunebook_eval.decide import decide
from tunebook_eval.evaluate import evaluate
from tunebook_eval.evidence import EvalReport, JudgeEvidence
from tunebook_eval.inputs import EvaluateInputs, JudgeInputs, PromptSet
from tunebook_eval.judging import JudgeRun, judge_answers
from tunebook_eval.verdict import GateResult, GateVerdict
from tunebook_inference.endpoint import EndpointGenerator
from tunebook_inference.kept_answers import KeptAnswers
from tunebook_inference.supporting import Budget, SupportingModel
from tunebook_spec.base_model import EndpointModel
from tunebook_spec.evaluation import Gate

NUM_ITEMS = 24
NUM_PROMPTS = 12
CRITERIA = {"worth": "The answer has a high number."}
FACTS: dict[str, Any] = {"personal_data": "flag", "is_tuned_or_base": False, "is_teacher": False}


def worth(text: str) -> int:
    """What an answer is worth: the number in it, from 0 to 10."""
    found = re.search(r"worth (\d+)", text)
    assert found, text
    return int(found[1])


def shown(body: dict[str, Any]) -> dict[str, Any]:
    """What the judge is shown."""
    return dict(json.loads(body["messages"][1]["content"]))


def answer_in(body: dict[str, Any]) -> str:
    return str(shown(body)["conversation"][-1]["assistant"])


def scored(value: Any) -> Reply:
    return Reply(json.dumps({"reason": "It is so.", "score": value}))


def better(which: str) -> Reply:
    return Reply(json.dumps({"reason": "It is so.", "better": which}))


def fair(body: dict[str, Any]) -> Reply:
    """A judge that sees what an answer is worth."""
    seen = shown(body)
    if "first answer" not in seen:
        return scored(worth(answer_in(body)))
    first, second = worth(seen["first answer"]), worth(seen["second answer"])
    return better("first" if first > second else "second" if second > first else "neither")


def golden_rows() -> list[dict[str, Any]]:
    """Three answers to each prompt; how long one is says nothing of its worth."""
    scores = [(prompt * 7 + 3 * number) % 11 for prompt in range(NUM_PROMPTS) for number in range(3)]
    return [
        {
            "prompt": f"What is thing {number // 3} worth?",
            "answer": f"worth {score}" + " indeed" * (number * 5 % 9),
            "score": score,
        }
        for number, score in enumerate(scores)
    ]


@dataclass
class JudgedRun:
    """One set, `price`, of which base answers with 4 and tuned with 8, but for `texts`."""

    folder: Path
    endpoint: Endpoint
    texts: Callable[[str, int], str] = lambda arm, number: f"worth {8 if arm == 'tuned' else 4} of {number}"
    metric: dict[str, Any] = field(default_factory=dict)
    golden: list[dict[str, Any]] | None = field(default_factory=golden_rows)
    settings: dict[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    facts: dict[str, Any] = field(default_factory=dict)
    num_items: int = NUM_ITEMS
    num: int = 0

    def prepare(self) -> dict[str, Path]:
        """What earlier stages left."""
        data, arms = self.folder / "data", self.folder / "arms"
        if not data.exists():
            data.mkdir()
            arms.mkdir()
            rows = [
                Row(
                    f"{number:03}",
                    (
                        {"role": "system", "content": "Be exact."},
                        {"role": "user", "content": f"What is {number} worth?"},
                        {"role": "assistant", "content": "worth 9"},
                    ),
                    "price",
                    f"g{number}",
                    "source",
                    1,
                )
                for number in range(self.num_items)
            ]
            write_rows(data / "test.jsonl", rows)
            for arm in ("base", "tuned"):
                answers = [
                    asked(n, self.texts(arm, n), set="price", group=f"g{n}", stratum=None)
                    for n in range(self.num_items)
                ]
                leave(arms, arm, answers)
        if self.golden is not None:
            (self.folder / "golden.jsonl").write_text("\n".join(map(json.dumps, self.golden)))
        return {arm: arms / arm for arm in ("base", "tuned")}

    def judge(self) -> tuple[JudgeRun, Path]:
        """The stage, as a run of its own."""
        self.num += 1
        arms = self.prepare()
        out = self.folder / f"judge-{self.num}"
        out.mkdir()
        kept = KeptAnswers(self.folder / "answers.sqlite")
        generator = EndpointGenerator(
            self.endpoint.base_url, "judge-x", backoff_s=0.01, **{"timeout_s": 20.0, **self.settings}
        )
        judge = SupportingModel(
            "judge",
            f"judge-x at {self.endpoint.base_url}",
            generator,
            kept,
            is_remote=True,
            budget=self.budget,
            troubles=generator.troubles,
        )
        try:
            run = judge_answers(
                self.inputs,
                judge=judge,
                is_judged=False,
                data_dir=self.folder / "data",
                arms=arms,
                spec_dir=self.folder,
                out=out,
                advance=lambda done, total, note="": None,
            )
        finally:
            kept.close()
        return run, out

    @property
    def inputs(self) -> JudgeInputs:
        return JudgeInputs(
            role="judge",
            model=EndpointModel(kind="endpoint", model="judge-x"),
            sets={"price": PromptSet(task="price", max_tokens=16)},
            metrics={"price": (self._metric,)},  # type: ignore[arg-type]
            **{**FACTS, **self.facts},
        )

    @property
    def _metric(self) -> dict[str, Any]:
        golden = {} if self.golden is None else {"golden": "golden.jsonl"}
        return {"kind": "judge", "judge": "judge", "criteria": CRITERIA, **golden, **self.metric}

    def report(self) -> EvalReport:
        _, out = self.judge()
        place = self.folder / f"evaluate-{self.num}"
        place.mkdir()
        inputs = EvaluateInputs.model_validate({"metrics": {"price": [self._metric]}})
        arms = {arm: self.folder / "arms" / arm for arm in ("base", "tuned")}
        return evaluate(inputs, arms=arms, judges={"judge": out}, out=place)

    def verdict(self, report: EvalReport, *gates: Gate) -> GateVerdict:
        (metric,) = self.inputs.metrics["price"]
        return decide(report, gates, {f"price.{metric.label}": metric.bounds})

    def gate(self, report: EvalReport, **gate: Any) -> GateResult:
        (result,) = self.verdict(report, Gate(**gate)).results
        return result


def evidence(report: EvalReport) -> JudgeEvidence:
    (found,) = report.judges
    return found
