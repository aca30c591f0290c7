"""How answers are scored: each metric by its name alone, or as a map with `kind` and options."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tunebook_spec.fields import null_removes, toml

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Criterion = Annotated[str, Field(min_length=1)]
PlainMetric = Literal[
    "line_match",
    "exact_match",
    "contains",
    "choice_accuracy",
    "token_f1",
    "embedding_similarity",
    "numeric",
    "json_valid",
    "json_schema",
    "json_fields",
    "code_parses",
    "code_doctests",
    "log_likelihood",
    "consistency",
]
"""Metrics that need no options."""
KINDS: tuple[str, ...] = (*get_args(PlainMetric), "regex", "code_ruff", "rules", "judge", "pairwise")
ALWAYS = ("stop_rate", "answer_tokens")
"""Metrics of every set of prompts: the share of answers that the model ended by itself, and their length."""
RESERVED = frozenset({*ALWAYS, "unscored"})


def is_headline(metric: str) -> bool:
    """Whether a spec names it: it is no part of one, nor what every set has."""
    return "." not in metric and metric not in ALWAYS


def _is_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_is_pattern)]


class Metric(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: MetricName | None = None
    """What gates and reports call it, `set.name`; none: its kind."""

    @property
    def label(self) -> str:
        return self.name or str(self.kind)  # type: ignore[attr-defined]

    @property
    def parts(self) -> tuple[str, ...]:
        """What else it measures and gates can name, as `set.name.part`."""
        return ()

    @model_validator(mode="after")
    def name_is_free(self) -> Metric:
        if self.name in RESERVED:
            raise ValueError(f"{self.name!r} is a measure that every set has; name this one otherwise")
        return self


class SimpleMetric(Metric):
    kind: Literal["line_match", "contains", "json_valid", "code_parses", "log_likelihood"]
    """line_match: share of the reference's lines that the answer has. contains: the answer holds the
    reference, or one of the expected strings, as words of its own. json_valid: it is JSON, and nothing else.
    code_parses: it is Python; of an answer with a fenced block, that block. log_likelihood: of fixed
    texts."""


class NearestReference(Metric):
    references: str | None = None
    """Field of the rows that lists other right answers; the one most like the answer counts."""


class TokenF1(NearestReference):
    """F1 of the words that answer and reference share (Rajpurkar et al. 2016)."""

    kind: Literal["token_f1"]


class EmbeddingSimilarity(NearestReference):
    """Cosine of the embeddings of answer and reference by all-MiniLM-L6-v2; 0 where it is negative."""

    kind: Literal["embedding_similarity"]


class ExactMatch(Metric):
    kind: Literal["exact_match"]
    normalise: bool = True
    """Case, width, white space, quotes around and a final full stop do not matter."""


class ChoiceAccuracy(Metric):
    kind: Literal["choice_accuracy"]
    choices: tuple[str, ...] | None = Field(None, min_length=2)
    """What there is to choose from; none: each row's field `choices` says."""


class RegexMatch(Metric):
    kind: Literal["regex"]
    pattern: Pattern
    """1 if it is found anywhere in the answer; Python's syntax, `(?i)` and the like at its start."""


class Numeric(Metric):
    """The last number of the answer against the last number of the reference."""

    kind: Literal["numeric"]
    tolerance: float = Field(0.0, ge=0)
    """Largest difference that is right."""
    relative_tolerance: float = Field(0.0, ge=0)
    """The same as a share of the right number; either is enough."""


class JsonSchema(Metric):
    kind: Literal["json_schema"]
    answer_schema: dict[str, Any] | None = None
    """JSON Schema that the answer must match; none: that of the task under `data.checks.answer_schema`."""


class JsonFields(Metric):
    """F1 of a JSON object's fields against the reference's, a row at a time.

    Null, empty text, an empty list and a field that is not there all say nothing. A nested field is
    `customer.name`; a list is a set. Text is compared without regard to case and white space. An answer that
    is no JSON object scores 0.
    """

    kind: Literal["json_fields"]
    fields: tuple[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")], ...] | None = Field(None, min_length=1)
    """The fields that count, with all that is within them; none: every field of reference and answer. A gate
    on one field needs it listed."""

    @property
    def parts(self) -> tuple[str, ...]:
        measured = ("precision", "recall")
        each = [f"{field}.{part}" for field in self.fields or () for part in ("f1", *measured)]
        return ("exact", *measured, *each)


class CodeRuff(Metric):
    kind: Literal["code_ruff"]
    config: Annotated[str, AfterValidator(toml)]
    """Ruff's configuration, as `ruff.toml` has it; 1 if ruff finds nothing. `noqa` comments do not count."""
    defines: str | None = None
    """Field of the rows with the function that was asked for, as `name(a, b=1)`: an answer that does not
    define it, with these parameters, is 0, however clean. None: any code will do."""


class CodeDoctests(Metric):
    """Runs what a model wrote, in a process without a network, new processes, or more than these limits."""

    kind: Literal["code_doctests"]
    examples: str | None = None
    """Field of the rows that holds doctest examples; none: those of the answer's own docstrings. An answer
    without any is not scored."""
    timeout_s: float = Field(10.0, gt=0, le=600)
    """Longest time, of the processor and of the clock."""
    memory_mib: int = Field(512, ge=64)
    """Most memory."""


class TextRule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: MetricName
    pattern: Pattern | None = None
    """Regular expression for any part of the answer."""
    must: Literal["match", "not_match"] = "match"
    """Whether the pattern has to be found, or must not be."""
    min_words: int | None = Field(None, ge=1)
    max_words: int | None = Field(None, ge=1)
    min_reading_ease: float | None = Field(None, le=120)
    """Flesch's reading ease of English: 90 is very easy, 65 plain, 30 hard."""
    holds: str | None = Field(None, min_length=1)
    """Field of the rows that lists what the answer must hold, all of it, as words of its own; upper and lower
    case are alike."""

    @model_validator(mode="after")
    def rules_something(self) -> TextRule:
        bounds = ("pattern", "min_words", "max_words", "min_reading_ease", "holds")
        if all(getattr(self, bound) is None for bound in bounds):
            raise ValueError(f"rule {self.name!r} states none of {', '.join(f'`{each}`' for each in bounds)}")
        return self


class Rules(Metric):
    """Share of the rules that an answer keeps; each rule and `all` are parts."""

    kind: Literal["rules"]
    rules: tuple[TextRule, ...] = Field(min_length=1)

    @property
    def parts(self) -> tuple[str, ...]:
        return ("all", *(rule.name for rule in self.rules))

    @model_validator(mode="after")
    def rules_have_names_of_their_own(self) -> Rules:
        names = [rule.name for rule in self.rules]
        taken = [name for name in names if names.count(name) > 1 or name in ("all", "unscored")]
        if taken:
            raise ValueError(f"rule name {taken[0]!r} is taken; name each rule otherwise")
        return self


def _holds_the_question(frame: str) -> str:
    if frame.count("{question}") != 1:
        raise ValueError(f"{frame!r} must hold {{question}} once: what is asked stands there")
    return frame


FRAMES = (
    "Please answer this:\n\n{question}",
    "{question}\n\nThank you.",
    "Hello! {question}",
    "Could you help me with this?\n\n{question}",
    "I have a question for you.\n\n{question}\n\nWhat do you say?",
)


class Consistency(Metric):
    """Share of a question's rewordings that a model answers as it answers the question as it is.

    Answers are equal without regard to case, width, white space, quotes around and a final full stop; JSON
    objects if they say the same, in any order and spelling. Of what is right it knows nothing.
    """

    kind: Literal["consistency"]
    rows: int = Field(40, ge=1)
    """How many of the set's questions are asked again, the same in every arm and run."""
    frames: tuple[Annotated[str, AfterValidator(_holds_the_question)], ...] = Field(FRAMES, min_length=1)
    """How they are asked; `{question}` stands for the question, which no rewording touches: words put around
    it cannot change what is right."""


class Judged(Metric):
    """What a supporting model makes of the answers; it decides gates only once it is calibrated."""

    judge: MetricName
    """The role under `models` that judges."""
    criteria: Annotated[dict[MetricName, Criterion], null_removes(dict[MetricName, Criterion | None])] = (
        Field(min_length=1)
    )
    """What makes an answer good, by a name for each: all that the judge is told of it."""
    golden: str | None = Field(None, min_length=1)
    """JSON lines of `prompt`, `answer` and `score` (0 to 10), and `system` if there is one, relative to the
    spec: what the judge is calibrated by. None: it is not, and the metric is shown and decides nothing."""
    repeats: int = Field(1, ge=1, le=20)
    """How often each question is asked; what is read of the answers is averaged."""
    temperature: float = Field(0.0, ge=0)
    """Of the judge."""
    max_tokens: int = Field(512, ge=16)
    """Longest answer of the judge, which gives its reason first; where vLLM runs the judge on this machine,
    it answers with one token, whose probabilities are read."""
    may_judge_itself: bool = False
    """Whether the judge may be the model that is tuned, before or after; it tends to like its own answers."""

    @model_validator(mode="after")
    def repeats_differ(self) -> Judged:
        if self.repeats > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 all repeats are the same: raise it, or ask once")
        return self

    @model_validator(mode="after")
    def criteria_are_no_reserved_names(self) -> Judged:
        taken = [name for name in self.criteria if name == "unscored"]
        if taken:
            raise ValueError(f"criterion name {taken[0]!r} is taken; name it otherwise")
        return self

    @property
    def measured(self) -> Self:
        """The metric without the bounds of its calibration: they decide what it is worth, not what it is."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in self.bounds})

    @property
    def bounds(self) -> dict[str, float]:
        """What the calibration is held to, by field."""
        raise NotImplementedError


class Judge(Judged):
    """Each answer scored from 0 to 10 by each criterion, alone; their mean, from 0 to 1."""

    kind: Literal["judge"]
    min_spearman: float = Field(0.5, ge=0, lt=1)
    """The rank correlation with the golden scores is above this with 95 % confidence, or the metric decides
    nothing."""
    max_length_bias: float = Field(0.5, gt=0, le=1)
    """The rank correlation of the judge's score with the length of the answer, among answers of like golden
    score, is at most this, or the metric decides nothing."""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.criteria) if len(self.criteria) > 1 else ()

    @property
    def bounds(self) -> dict[str, float]:
        return {"min_spearman": self.min_spearman, "max_length_bias": self.max_length_bias}


class Pairwise(Judged):
    """The tuned model's answer beside another arm's, in both orders.

    1 is a win, 0 a loss, 0.5 a tie, also where the orders disagree; `win`, `tie` and `loss` are parts.
    """

    kind: Literal["pairwise"]
    against: Literal["base", "few_shot", "retrieval"] = "base"
    """The arm that the tuned model is compared with."""
    min_agreement: float = Field(0.6, ge=0.5, lt=1)
    """Share of pairs of golden answers to one prompt in which the judge prefers the better, a tie counting
    half: above this with 95 % confidence, or the metric decides nothing."""

    @property
    def parts(self) -> tuple[str, ...]:
        return ("win", "tie", "loss")

    @property
    def bounds(self) -> dict[str, float]:
        return {"min_agreement": self.min_agreement}


_Spelt = Annotated[
    SimpleMetric
    | TokenF1
    | EmbeddingSimilarity
    | ExactMatch
    | ChoiceAccuracy
    | RegexMatch
    | Numeric
    | JsonSchema
    | JsonFields
    | CodeRuff
    | CodeDoctests
    | Rules
    | Consistency
    | Judge
    | Pairwise,
    Field(discriminator="kind"),
]


def _spell_out(metric: Any) -> Any:
    kind = metric.get("kind") if isinstance(metric, dict) else metric
    if isinstance(kind, str) and kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(KINDS)}"
        raise ValueError(f"no metric {kind!r}; {hint}")
    return {"kind": metric} if isinstance(metric, str) else metric


AnyMetric = Annotated[_Spelt, BeforeValidator(_spell_out, json_schema_input_type=PlainMetric | _Spelt)]


def fields_of_rows(metric: AnyMetric) -> tuple[str, ...]:
    """The fields of a row, beside its messages, that it reads."""
    match metric:
        case Rules():
            return tuple(dict.fromkeys(rule.holds for rule in metric.rules if rule.holds is not None))
        case CodeRuff(defines=str(field)) | CodeDoctests(examples=str(field)):
            return (field,)
        case NearestReference(references=str(field)):
            return (field,)
        case ChoiceAccuracy(choices=None):
            return ("choices",)
    return ()


def needs_reference(metric: AnyMetric) -> bool:
    """Whether an answer is held against what was expected, or against a field of its row."""
    if isinstance(metric, Rules | CodeRuff | CodeDoctests):
        return bool(fields_of_rows(metric))
    return metric.kind not in ("regex", "json_valid", "json_schema", "code_parses")


def scores_alone(metric: AnyMetric) -> bool:
    """Whether it scores one answer by itself: no model judges it, and nothing is asked again."""
    return not isinstance(metric, Judged | Consistency) and metric.kind != "log_likelihood"
