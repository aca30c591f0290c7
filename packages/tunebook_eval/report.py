"""The report that a person reads: one HTML file that needs nothing else, and a summary for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from markupsafe import Markup
from pydantic import JsonValue
from rich import box
from rich.table import Table

from tunebook_data.card import DataCard
from tunebook_data.card_page import drawings
from tunebook_eval.charts import calibration_svg, distribution_svg, gates_svg, losses_svg
from tunebook_eval.costs import of_shared_sets, update_seconds
from tunebook_eval.evidence import (
    ArmScores,
    Calibration,
    Change,
    EvalReport,
    Example,
    Flip,
    GoldenPoint,
    JudgeEvidence,
)
from tunebook_eval.verdict import EVIDENCE, REPORT, SUMMARY, GateVerdict
from tunebook_run.page import environment
from tunebook_run.table import lines as lines_of
from tunebook_spec.evaluation import PROMPTED, unwanted
from tunebook_spec.metrics import ALWAYS, is_headline

TEMPLATE = "report.html.j2"
ARMS: tuple[str, ...] = ("base", *PROMPTED)
"""What comes first."""
MAX_FLIPS = 200
"""Flips to list; the table of answers and `report.json` have all of them."""
MAX_DISPUTED = 10
"""Golden answers to show of those on which judge and people are furthest apart."""


def write_report(
    out: Path,
    *,
    name: str,
    problem: str,
    profile: str | None,
    report: EvalReport,
    verdict: GateVerdict,
    training_metrics: Sequence[Mapping[str, Any]],
    card: DataCard,
    stages: Sequence[Mapping[str, Any]],
    price_per_hour: float | None,
    lineage: Mapping[str, JsonValue],
    hosted: Mapping[str, Any] | None = None,
) -> Path:
    """Write `report.html`, `summary.md` for a pull request, and `report.json` for programs.

    Args:
        out: Folder that gets the files.
        name: Of the scenario.
        problem: In a sentence.
        profile: Overlay of the spec that was applied.
        report: What `evaluate` found.
        verdict: What `decide` made of it.
        training_metrics: A mapping per step: step, loss, learning_rate, grad_norm, tokens_per_s, mfu,
            peak_memory_gib, and where measured validation_loss; is_best at the step whose weights were kept,
            where training stopped early.
        card: What `prepare` said of the data.
        stages: A mapping per stage: name, seconds, status.
        price_per_hour: Money for an hour of the machine that answered and trained; None: not known.
        lineage: What the run came from: digests, versions, seed, commit; nested mappings become sections.
        hosted: What a provider said of the training, where it has trained: the fields of `HostedResult`.
    """
    metrics = _by_metric(report)
    headlines = {name: scores for name, scores in metrics.items() if _is_headline(name)}
    less = unwanted(each.gate for each in verdict.results)
    templates = environment("tunebook_eval", "tunebook_data")
    templates.filters["score"] = _score
    templates.filters["cell"] = _cell
    templates.filters["taken"] = _taken
    page = templates.get_template(TEMPLATE).render(
        name=name,
        problem=problem,
        profile=profile,
        report=report,
        verdict=verdict,
        metrics=headlines,
        distributions=_distributions(headlines),
        parts=_parts(metrics),
        shares={name for name, scores in metrics.items() if _is_share(scores)},
        always={
            (each.set, each.metric, each.arm): each.overall for each in report.scores if each.metric in ALWAYS
        },
        averages={f"{each.set}.{each.metric}": _averages(each, report) for each in report.changes},
        counts={f"{each.set}.{each.metric}": _counts(each, report) for each in report.changes},
        queries=of_shared_sets(report.queries),
        update=None if hosted else update_seconds(stages, training_metrics),
        hosted=hosted,
        price=None if price_per_hour is None else price_per_hour / 3600,
        is_paid=price_per_hour is not None or any(each.cost is not None for each in report.queries),
        models=(models := _models(report)),
        answers=_embedded(report.examples, models),
        shown_flips=[each for bad in (True, False) for each in report.flips if _is_bad(each, less) == bad][
            :MAX_FLIPS
        ],
        unwanted=less,
        gates_svg=Markup(gates_svg(verdict)),
        calibration_svgs={
            each.name: Markup(calibration_svg(each.calibration))
            for each in report.judges
            if isinstance(each.calibration, Calibration)
        },
        disputed={each.name: _disputed(each) for each in report.judges},
        losses_svg=Markup(losses_svg(training_metrics)) if training_metrics else None,
        training=training_metrics,
        card=card,
        card_drawings=drawings(card),
        stages=stages,
        slowest=max((stage["seconds"] for stage in stages), default=0) or 1,
        lineage=lineage,
    )
    path = out / REPORT
    path.write_text(page, encoding="utf-8")
    told = {"outcome": verdict.outcome, "verdict": verdict.model_dump(mode="json")}
    (out / EVIDENCE).write_bytes(orjson.dumps(told | report.model_dump(mode="json")))
    (out / SUMMARY).write_text(markdown(verdict, report, name=name, profile=profile), encoding="utf-8")
    return path


def summary(
    verdict: GateVerdict,
    report: EvalReport,
    *,
    update_s: float | None = None,
    price_per_hour: float | None = None,
    hosted: Mapping[str, Any] | None = None,
) -> str:
    """What the command prints: each metric by arm, what a query takes, the gates, and last the verdict.

    Args:
        verdict: What `decide` made of the report.
        report: What `evaluate` found.
        update_s: What training and merging took; None: not told.
        price_per_hour: As for `write_report`.
        hosted: Likewise.
    """
    columns, rows = _metric_table(verdict, report)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    costs = _query_lines(report, None if hosted else update_s, price_per_hour)
    costs += [f" one update of tuned, at {hosted['provider']}: {_taken(hosted)}"] if hosted and costs else []
    advice = [f"advice        {each}" for each in verdict.advice]
    return "\n".join([*lines_of(table), "", *costs, *([""] if costs else []), *advice, *verdict.lines])


def markdown(verdict: GateVerdict, report: EvalReport, *, name: str, profile: str | None) -> str:
    """The verdict, its gates and each metric by arm, for a pull request.

    Args:
        verdict: What `decide` made of the report.
        report: What `evaluate` found.
        name: Of the scenario.
        profile: As for `write_report`.
    """
    of = f"{name}, profile {profile}" if profile else name
    gates = [(each.outcome, each.rule, each.evidence) for each in verdict.results]
    advisory = [f"{metric} is advisory: {why}" for metric, why in verdict.advisory.items()]
    parts = [
        f"### {of}: {verdict.outcome}",
        _markdown_table(("", "gate", "evidence"), gates),
        _markdown_table(*_metric_table(verdict, report)),
        *advisory,
        *verdict.advice,
        *report.warnings,
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _metric_table(verdict: GateVerdict, report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """Each metric by arm, beside the best rule: the columns, and a row for each."""
    gated = {each.gate.metric for each in verdict.results}
    metrics = {name: of for name, of in _by_metric(report).items() if _is_headline(name) or name in gated}
    arms, rows = _models(report), []
    for metric, scores in metrics.items():
        by_arm = {each.arm: each for each in scores}
        rules = [each for each in scores if each.is_rule and not each.is_reference and each.overall]
        best = max(rules, key=lambda each: each.overall.mean if each.overall else 0, default=None)
        tuned = by_arm.get("tuned")
        num = str(tuned.overall.num_samples if tuned and tuned.overall else 0)
        if tuned and tuned.num_unscored and _is_headline(metric):
            num += f", {tuned.num_unscored} unscored"
        cells = [_cell(by_arm.get(arm)) for arm in arms]
        rows.append([metric, *cells, f"{_cell(best)} {best.arm}" if best else "-", num])
    return ["metric", *arms, "best rule", "n"], rows


def _query_lines(report: EvalReport, update_s: float | None, price_per_hour: float | None) -> list[str]:
    """What a query takes of each arm, and what an update takes; nothing where the report does not tell."""
    queries = of_shared_sets(report.queries)
    if not queries:
        return []
    price = None if price_per_hour is None else price_per_hour / 3600
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(f"per query, of {queries[0].num_queries}", no_wrap=True)
    paid = [each.cost_of_1000(price) for each in queries]
    costs = ["cost of 1,000"] if price is not None or any(each is not None for each in paid) else []
    for column in ("prompt tokens", "cached", "answer tokens", "seconds", *costs):
        table.add_column(column, justify="right", no_wrap=True)
    for each, cost in zip(queries, paid, strict=True):
        tokens = (f"{value:.1f}" for value in (each.prompt_tokens, each.cached_tokens, each.answer_tokens))
        seconds = "-" if each.seconds is None else f"{each.seconds:.3f}"
        told = ["-" if cost is None else f"{cost:.4f}"] if costs else []
        table.add_row(each.arm, *tokens, seconds, *told)
    lines = lines_of(table)
    if update_s is not None:
        for_money = "" if price is None else f", cost {update_s * price:.4f}"
        lines.append(f" one update of tuned, training and merging: {update_s:.0f} s{for_money}")
    return lines


def _taken(hosted: Mapping[str, Any]) -> str:
    """What a provider's training took, as far as it says."""
    seconds, tokens, cost = (hosted[name] for name in ("job_seconds", "trained_tokens", "cost"))
    parts = [] if seconds is None else [f"{seconds} s"]
    parts += [] if tokens is None else [f"{tokens} trained tokens"]
    parts += [] if cost is None else [f"cost {cost:.4f}"]
    return ", ".join(parts) or "it does not say what it took"


def _models(report: EvalReport) -> list[str]:
    """The arms that answered: base, those that are shown rows, others, and last what was tuned."""
    found = {each.arm: None for each in report.scores if not each.is_rule}
    return sorted(found, key=_order)


def _embedded(examples: Sequence[Example], arms: Sequence[str]) -> Markup:
    """JSON for a script element, the rows of the table of answers.

    Of each item its set, stratum, question, what is expected, and the arms' shown rows, answers and scores,
    and how answers ended that the model did not end; null where there is none.
    """
    rows = [
        (
            each.set,
            each.stratum,
            each.question,
            each.expected,
            [each.shots_of(arm) for arm in arms],
            [each.answers.get(arm) for arm in arms],
            [round(each.scores[arm], 4) if arm in each.scores else None for arm in arms],
            [each.ended.get(arm) for arm in arms] if each.ended else None,
        )
        for each in examples
    ]
    return Markup(orjson.dumps({"arms": arms, "rows": rows}).decode().replace("<", "\\u003c"))


def _averages(change: Change, report: EvalReport) -> tuple[float, float]:
    """The means of base and tuned, over the items of which both have a score."""
    pairs = _scored_by_both(change, report)
    return sum(base for base, _ in pairs) / len(pairs), sum(tuned for _, tuned in pairs) / len(pairs)


def _counts(change: Change, report: EvalReport) -> tuple[int, int, int]:
    """Items on which tuned wins, ties and loses against the base."""
    pairs = _scored_by_both(change, report)
    won, lost = sum(tuned > base for base, tuned in pairs), sum(tuned < base for base, tuned in pairs)
    return won, len(pairs) - won - lost, lost


def _scored_by_both(change: Change, report: EvalReport) -> list[tuple[float, float]]:
    by_arm = {each.arm: each.scores for each in report.of(f"{change.set}.{change.metric}")}
    items = by_arm["base"].keys() & by_arm["tuned"].keys()
    return [(by_arm["base"][item], by_arm["tuned"][item]) for item in items]


def _is_bad(flip: Flip, less: Collection[str]) -> bool:
    """Lost, or gained where less is better."""
    return flip.lost != (f"{flip.set}.{flip.metric}" in less)


def _disputed(judge: JudgeEvidence) -> list[GoldenPoint]:
    """Golden answers that the judge scores otherwise than people, the furthest apart first."""
    if not isinstance(judge.calibration, Calibration):
        return []
    apart = [
        (abs(each.judged - each.golden), each) for each in judge.calibration.points if each.judged is not None
    ]
    ranked = sorted(apart, key=lambda pair: -pair[0])[:MAX_DISPUTED]
    return [each for distance, each in ranked if distance > 0]


def _by_metric(report: EvalReport) -> dict[str, list[ArmScores]]:
    """Scores by `set.metric`: models in their order, then rules, the best first."""
    metrics: dict[str, list[ArmScores]] = {}
    for each in report.scores:
        metrics.setdefault(f"{each.set}.{each.metric}", []).append(each)
    return {metric: sorted(scores, key=_place) for metric, scores in metrics.items()}


def _is_headline(name: str) -> bool:
    """Of `set.metric`."""
    return is_headline(name.partition(".")[2])


def _distributions(metrics: Mapping[str, Sequence[ArmScores]]) -> dict[str, Markup]:
    """By metric, of the models and the best rule; none where a mean says it all."""
    drawn: dict[str, Markup] = {}
    for name, scores in metrics.items():
        rules = [each for each in scores if each.is_rule and not each.is_reference]
        made = distribution_svg([*(each for each in scores if not each.is_rule), *rules[:1]])
        if made is not None:
            drawn[name] = Markup(made)
    return drawn


def _is_share(scores: Sequence[ArmScores]) -> bool:
    return all(0 <= value <= 1 for each in scores for value in each.scores.values())


def _parts(metrics: Mapping[str, Sequence[ArmScores]]) -> dict[str, dict[str, dict[str, ArmScores]]]:
    """By metric and part, the scores of each model."""
    parts: dict[str, dict[str, dict[str, ArmScores]]] = {}
    for name, scores in metrics.items():
        set_, metric, *rest = name.split(".")
        if rest:
            of_part = {each.arm: each for each in scores if not each.is_rule}
            parts.setdefault(f"{set_}.{metric}", {})[".".join(rest)] = of_part
    return parts


def _order(arm: str) -> int:
    return ARMS.index(arm) if arm in ARMS else len(ARMS) + (arm == "tuned")


def _place(scores: ArmScores) -> tuple[int, float]:
    if not scores.is_rule:
        return _order(scores.arm), 0.0
    return len(ARMS) + 1 + scores.is_reference, -(scores.overall.mean if scores.overall else 0.0)


def _cell(scores: ArmScores | None) -> str:
    return "-" if scores is None or scores.overall is None else scores.overall.shown


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.3f}"
