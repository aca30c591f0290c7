"""One answer to scores: in [0, 1], or a log-likelihood; None where there is nothing to score."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

from tunebook_data.answer_schema import schema_problem
from tunebook_data.suites import contains as contains_any
from tunebook_eval import code_scores, json_scores
from tunebook_eval.answers import Answer
from tunebook_eval.readability import reading_ease
from tunebook_spec import Spec
from tunebook_spec.errors import StageError
from tunebook_spec.metrics import (
    AnyMetric,
    ChoiceAccuracy,
    CodeDoctests,
    CodeRuff,
    EmbeddingSimilarity,
    ExactMatch,
    JsonFields,
    JsonSchema,
    NearestReference,
    Numeric,
    RegexMatch,
    Rules,
    TextRule,
    TokenF1,
)

if TYPE_CHECKING:
    from tunebook_eval.shots import Embed

Scores = Mapping[str, float]
"""By part of the metric; the metric itself is the part `""`. What says nothing of an answer is left out."""
_LIST_MARK = re.compile(r"^(?:[-*\u2022]|\d+[.)])\s+")
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?"
)
_ARTICLES = frozenset({"a", "an", "the"})


def score_all(
    metric: AnyMetric, answers: Sequence[Answer], embed: Embed | None = None
) -> list[Scores | None]:
    """The scores of each answer, in order; None for what could not be scored, which is not wrong.

    Args:
        metric: Of the spec.
        answers: Of one arm to one set.
        embed: For `embedding_similarity`.

    Raises:
        StageError: the metric cannot be used on these answers.
    """
    answered = [each for each in answers if each.error is None]
    match metric:
        case CodeRuff():
            found = code_scores.passes_ruff([each.text for each in answered], metric.config)
            whole: list[Scores | None] = [
                {"": float(passes and _is_asked_for(metric, each))}
                for passes, each in zip(found, answered, strict=True)
            ]
        case CodeDoctests():
            texts = [each.text for each in answered]
            whole = [
                _whole(value)
                for value in code_scores.pass_doctests(metric, texts, _examples(metric, answered))
            ]
        case EmbeddingSimilarity():
            assert embed is not None, "who evaluates embeds"
            whole = [_whole(value) for value in embedding_similarities(metric, answered, embed)]
        case JsonFields():
            whole = [json_scores.fields(each.text, each.reference or "", metric.fields) for each in answered]
        case Rules():
            whole = [rules(metric, each) for each in answered]
        case _:
            whole = [_whole(SCORERS[metric.kind](metric, each)) for each in answered]
    made = iter(whole)
    return [None if each.error is not None else next(made) for each in answers]


def metric_problems(spec: Spec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with the options of metrics, as those who will read them tell; by place in the spec."""
    for name, each in spec.evaluation.sets.items():
        for index, metric in enumerate(each.metrics):
            at = ("evaluation", "sets", name, "metrics", index)
            if isinstance(metric, JsonSchema) and metric.answer_schema is not None:
                if (message := schema_problem(metric.answer_schema)) is not None:
                    yield (*at, "answer_schema"), message
            elif (
                isinstance(metric, CodeRuff)
                and (message := code_scores.ruff_problem(metric.config)) is not None
            ):
                yield (*at, "config"), message


def _whole(value: float | None) -> Scores | None:
    return None if value is None else {"": value}


def exact_match(metric: ExactMatch, answer: Answer) -> float:
    """1 if the answer is the reference."""
    alike = normalise if metric.normalise else str
    return float(alike(answer.text) in {alike(each) for each in references(answer)})


def line_match(metric: object, answer: Answer) -> float | None:
    """Share of the reference's lines that the answer has, normalised.

    Lines may come in any order and with a list mark before them. Lines that were not expected neither help
    nor cost, except that an abbreviation given two different meanings has not been answered: a line counts
    only if it is the only one of the answer with that text before its colon.
    """
    expected = _lines(answer.reference or "")
    given = _lines(answer.text)
    meanings: dict[str, set[str]] = {}
    for line in given:
        meanings.setdefault(_key(line), set()).add(line)
    matches = [meanings.get(_key(line)) == {line} for line in expected]
    return sum(matches) / len(matches) if matches else None


def choice_accuracy(metric: ChoiceAccuracy, answer: Answer) -> float:
    """1 if the answer names the right choice and no other.

    A choice is named if it stands in the answer as words of its own; inside a longer choice that is named too
    it does not count. An answer that names none or several is wrong: it does not tell the reader which.
    """
    given = metric.choices or answer.meta.get("choices")
    if not (isinstance(given, list | tuple) and _are_texts(given)):
        raise StageError(
            f"set {answer.set!r}, item {answer.item!r}: nothing says what there is to choose from; write "
            "{kind: choice_accuracy, choices: [...]}, or give every row a field `choices`, a list of texts "
            f"(got {given!r})"
        )
    text = normalise(answer.text)
    choices = [normalise(choice) for choice in given]
    named = {choice for choice in choices if re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text)}
    longest = {one for one in named if not any(one != other and one in other for other in named)}
    return float(longest in [{normalise(each)} for each in references(answer)])


def contains(metric: object, answer: Answer) -> float | None:
    """1 if the answer holds one of the expected strings, or the reference; None if these are empty."""
    expected = tuple(each for each in references(answer) if each.strip())
    return float(contains_any(answer.text, expected)) if expected else None


def token_f1(metric: TokenF1, answer: Answer) -> float:
    """F1 of the words that answer and reference share, articles aside; of several references the best."""
    return max(_shared(_words(answer.text), _words(each)) for each in _all_references(metric, answer))


def embedding_similarities(
    metric: EmbeddingSimilarity, answers: Sequence[Answer], embed: Embed
) -> list[float]:
    """Of each answer with its reference, of several the best: the cosine of their embeddings, at least 0."""
    right = [_all_references(metric, answer) for answer in answers]
    texts = dict.fromkeys([*(answer.text for answer in answers), *chain.from_iterable(right)])
    vectors = dict(zip(texts, embed([*texts]), strict=True)) if texts else {}
    return [
        float(max(0.0, min(1.0, max(vectors[answer.text] @ vectors[each] for each in of_one))))
        for answer, of_one in zip(answers, right, strict=True)
    ]


def _all_references(metric: NearestReference, answer: Answer) -> Sequence[str]:
    return (*references(answer), *_texts_of(answer, metric.references, metric.label))


def numeric(metric: Numeric, answer: Answer) -> float | None:
    """1 if the answer's last number is near enough to that of a reference; None if no reference has one."""
    right = [number for each in references(answer) if (number := last_number(each)) is not None]
    given = last_number(answer.text)
    if not right or given is None:
        return 0.0 if right else None
    absolute, relative = Decimal(str(metric.tolerance)), Decimal(str(metric.relative_tolerance))
    return float(any(abs(given - each) <= max(absolute, relative * abs(each)) for each in right))


def regex(metric: RegexMatch, answer: Answer) -> float:
    """1 if the pattern is found."""
    return float(re.search(metric.pattern, answer.text) is not None)


def json_schema(metric: JsonSchema, answer: Answer) -> float:
    """1 if the answer is JSON that matches."""
    assert metric.answer_schema is not None, "resolved with the spec"
    return float(json_scores.matches(answer.text, metric.answer_schema))


def rules(metric: Rules, answer: Answer) -> Scores:
    """Share of the rules that an answer keeps; `all`: it keeps every one; and each rule by its name."""
    kept = {rule.name: float(keeps(rule, answer)) for rule in metric.rules}
    return {"": sum(kept.values()) / len(kept), "all": float(all(kept.values())), **kept}


def keeps(rule: TextRule, answer: Answer) -> bool:
    """No rule is kept by saying nothing."""
    num_words = len(answer.text.split())
    return (
        num_words > 0
        and (
            rule.pattern is None
            or (re.search(rule.pattern, answer.text) is not None) == (rule.must == "match")
        )
        and (rule.min_words or 0) <= num_words <= (rule.max_words or num_words)
        and (rule.min_reading_ease is None or reading_ease(answer.text) >= rule.min_reading_ease)
        and all(contains_any(answer.text, (each,)) for each in _said(rule, answer))
    )


def _said(rule: TextRule, answer: Answer) -> Sequence[str]:
    return _texts_of(answer, rule.holds, f"rule {rule.name!r}")


def _texts_of(answer: Answer, field: str | None, reader: str) -> Sequence[str]:
    """What the answer's row lists in a field; nothing without a field."""
    if field is None:
        return ()
    listed = answer.meta.get(field)
    if isinstance(listed, list) and _are_texts(listed):
        return listed
    raise StageError(
        f"set {answer.set!r}, item {answer.item!r}: {reader} needs a list of texts in the rows' "
        f"field {field!r} (got {listed!r}); give every row one"
    )


def _are_texts(listed: Sequence[Any]) -> bool:
    """At least one, and none of them empty."""
    return bool(listed) and all(isinstance(each, str) and each.strip() for each in listed)


def consistency(metric: object, answer: Answer) -> float | None:
    """Share of the rewordings that are answered as the question is; None if none of them was."""
    said = [other for other in answer.others if other is not None]
    return sum(_is_same(answer.text, other) for other in said) / len(said) if said else None


def _is_same(one: str, other: str) -> bool:
    facts = json_scores.facts_of(one)
    return normalise(one) == normalise(other) or (facts is not None and facts == json_scores.facts_of(other))


SCORERS: Mapping[str, Callable[[Any, Answer], float | None]] = {
    "exact_match": exact_match,
    "line_match": line_match,
    "choice_accuracy": choice_accuracy,
    "contains": contains,
    "token_f1": token_f1,
    "numeric": numeric,
    "regex": regex,
    "json_valid": lambda metric, answer: float(json_scores.is_json(answer.text)),
    "json_schema": json_schema,
    "code_parses": lambda metric, answer: float(code_scores.parses(answer.text)),
    "log_likelihood": lambda metric, answer: answer.log_likelihood,
    "consistency": consistency,
}
"""What scores one answer alone, with one number."""


def references(answer: Answer) -> tuple[str, ...]:
    """The right answers, of which one is enough."""
    return answer.expected or (answer.reference or "",)


def last_number(text: str) -> Decimal | None:
    """`1,234.5` is one number, and the hyphen of `10-3` no sign."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def _is_asked_for(metric: CodeRuff, answer: Answer) -> bool:
    if metric.defines is None:
        return True
    signature = answer.meta.get(metric.defines)
    if not isinstance(signature, str):
        raise StageError(
            f"set {answer.set!r}, item {answer.item!r}: no text {metric.defines!r} says what code_ruff should"
            " find defined; give every row such a field, or leave `defines` out"
        )
    return code_scores.defines(answer.text, signature)


def _examples(metric: CodeDoctests, answers: Sequence[Answer]) -> list[str | None]:
    """The doctest examples of each row; None: its answer brings its own."""
    return [
        None if metric.examples is None else str(each.meta.get(metric.examples) or "") for each in answers
    ]


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in re.findall(r"\w+", folded) if word not in _ARTICLES]


def _shared(given: Sequence[str], right: Sequence[str]) -> float:
    if not given and not right:
        return 1.0
    return 2 * (Counter(given) & Counter(right)).total() / (len(given) + len(right))


def normalise(text: str) -> str:
    """Case, width, white space, surrounding quotes and a final full stop do not matter."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip("\"'`").removesuffix(".").strip("\"'`")


def _lines(text: str) -> list[str]:
    stripped = (_LIST_MARK.sub("", line.strip()) for line in text.splitlines())
    return [re.sub(r"\s*:\s*", ": ", normalise(line), count=1) for line in stripped if line]


def _key(line: str) -> str:
    return line.partition(":")[0]
