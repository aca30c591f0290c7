"""The part `data` of a spec: sources, checks, and what is done to rows."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from tunebook_spec.fields import Frozen, Name, Share, null_removes, toml

DatasetName = Literal["medical_glossary", "medical_plain", "support_tickets", "code_style"]
RowFormat = Literal["messages", "preference", "alpaca", "sharegpt", "prompt_completion"]


class Split(Frozen):
    group_by: Name | None = None
    """Rows that share this field stay on one side of every split; none: each row is a group of its own."""
    across_tasks: bool = False
    """Whether that holds for rows of other tasks too that say so; else groups are of one task."""
    test: float = Field(0.15, ge=0, le=1)
    """Share of the groups held out for `evaluate`; 1: nothing is learnt from this source."""
    validation: float = Field(0.05, ge=0, le=1)
    """Share of the groups held out for the validation loss; 1: nothing is learnt from this source."""

    @model_validator(mode="after")
    def only_named_groups_span_tasks(self) -> Split:
        if self.across_tasks and self.group_by is None:
            raise ValueError("`across_tasks` needs `group_by`, the field that rows of several tasks share")
        return self

    @model_validator(mode="after")
    def some_groups_are_left_to_train_on_or_all_are_tested(self) -> Split:
        if self.test + self.validation >= 1 and {self.test, self.validation} != {0, 1}:
            got = f"(got {self.test} + {self.validation})"
            raise ValueError(f"test + validation must be below 1, or one of them 1 and the other 0 {got}")
        return self


class Source(Frozen):
    task: Name
    """What the rows ask for; evaluation sets and few-shot examples pick rows by it."""
    split: Split = Split()
    weight: float = Field(1.0, gt=0, le=100)
    """How often an epoch sees each training row: 2 is twice, 2.5 twice and half of them a third time, 0.5
    half of them once and the others never; drawn by seed. Nothing else is weighted."""
    max_train_rows: int | None = Field(None, ge=1)
    """Cap on training rows, drawn by seed, before `weight`; none: all."""
    max_test_rows: int | None = Field(None, ge=1)
    """Cap on test rows, drawn by seed; none: all."""


class DatasetSource(Source):
    kind: Literal["dataset"]
    name: DatasetName
    """A built-in data set; `task` is one that it derives."""
    num_rows: int | None = Field(None, ge=1)
    """Rows to derive, before the split; none: the data set's own number."""
    num_terms: int = Field(200, ge=10, le=200)
    """Abbreviations in the house glossary, which `task: glossary` asks for."""
    ruff: Annotated[str, AfterValidator(toml)] | None = None
    """The house style of `code_style`, as `ruff.toml` has it."""


def template_fields(template: str) -> tuple[str, ...]:
    """The fields that a template such as `{title}: {question}` names, in order.

    Raises:
        ValueError: one of them is not a plain name, or the braces do not match.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}; write {{{{ for a brace") from None
    fields = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name or name.isdigit() or set(name) & set(".["):
            raise ValueError(f"{template!r} may hold plain field names alone, such as {{question}}")
        fields.append(name)
    return tuple(fields)


def _plain_fields(template: str) -> str:
    template_fields(template)
    return template


def _some_field(template: str) -> str:
    if not template_fields(template):
        raise ValueError(f"{template!r} names no field, so every row would say the same; write {{question}}")
    return template


class Columns(Frozen):
    """How a row's fields make a conversation; `{name}` stands for a field, which must be there as text."""

    system: Annotated[str, AfterValidator(_plain_fields)] | None = None
    """Overrides `data.system`."""
    user: Annotated[str, AfterValidator(_some_field)]
    assistant: Annotated[str, AfterValidator(_some_field)] | None = None
    """None: no row has an answer, and `data.distill` has a teacher give them."""


class RowsSource(Source):
    """A source whose rows lie in files."""

    format: RowFormat | None = None
    """What fields make a row; none: found out by each file's first good rows."""
    columns: Columns | None = None
    """Own fields, for files of no known format."""
    licence: str | None = Field(None, min_length=1)
    """What the rows may be used under, as the data card tells it; none: nobody has said."""

    @model_validator(mode="after")
    def columns_are_a_format_of_their_own(self) -> RowsSource:
        if self.format is not None and self.columns is not None:
            raise ValueError("`columns` says all of the format: leave `format` out, or `columns`")
        return self


class FileSource(RowsSource):
    kind: Literal["file"]
    path: str = Field(min_length=1)
    """A file relative to the spec, several by a glob (`data/*.jsonl`, in the order of their names), a folder
    that `datasets` saved, an http(s) URL, or `s3://bucket/key`, a glob too, with pyarrow's
    `?endpoint_override=...`.

    The name says the kind: .jsonl, .json (a list, or an object with one list), .csv, .parquet, .arrow; the
    first three may end in .gz, .bz2, .xz or .zst as well.
    """

    @field_validator("path")
    @classmethod
    def url_can_be_opened_and_holds_no_secret(cls, path: str) -> str:
        if "://" not in path:
            return path
        url = urlsplit(path)
        if path.partition("://")[0] not in ("http", "https", "s3") or not url.netloc:
            raise ValueError(f"{path!r} is no path and no http://, https:// or s3:// URL")
        if "@" in url.netloc:
            raise ValueError("a URL in a spec holds no user or password; set AWS_ACCESS_KEY_ID and the like")
        return path


class HubSource(RowsSource):
    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """A data set's `owner/name` on the Hugging Face hub; reached only with TUNEBOOK_HUB_ONLINE=true, or from
    its cache."""
    revision: str = "main"
    path: str = Field(min_length=1)
    """A file of the repository, several by a glob, or a folder that `datasets` saved.

    The files say which configuration and split are read (`en/train-*.parquet`); their names say the kind, as
    those of a file source.
    """

    @field_validator("path")
    @classmethod
    def path_stays_in_the_repository(cls, path: str) -> str:
        if path.startswith(("/", "~")) or "://" in path or ".." in path.split("/"):
            raise ValueError(f"{path!r} is no path within the repository, such as data/train-*.parquet")
        return path


AnySource = Annotated[DatasetSource | FileSource | HubSource, Field(discriminator="kind")]


class Checks(Frozen):
    min_response_chars: int = Field(10, ge=1)
    """A shorter answer is a reject."""
    max_response_chars: int = Field(4000, ge=1)
    """A longer answer is a reject."""
    max_tokens: int = Field(2048, ge=8)
    """Longest conversation in tokens, template included."""
    on_too_long: Literal["drop", "truncate_left", "fail"] = "drop"
    """What a longer conversation is: a reject, cut to fit, or the end of the run.

    `truncate_left` leaves out its oldest turns, after the system message; where the last turn alone is too
    long, it is a reject.
    """
    damaged_text: Literal["allow", "flag", "drop"] = "drop"
    """What becomes of a row with control characters, U+FFFD, or UTF-8 read as Latin-1 (`Ã©`); a flagged row
    stays as it is, and flags.jsonl lists it."""
    refusals: Literal["allow", "flag", "drop"] = "flag"
    """What becomes of a row that answers by a refusal or boilerplate (`As an AI language model`)."""
    personal_data: Literal["allow", "flag", "mask", "drop"] = "flag"
    """What becomes of a row with secrets or personal data.

    Told by listed rules: keys of well-known shapes, private key blocks, e-mail addresses, phone numbers,
    IBANs, credit cards, US social security numbers; names and addresses are not found. `mask` puts `[EMAIL]`
    and the like in their place.
    """
    answer_schema: Annotated[dict[Name, dict[str, Any]], null_removes(dict[Name, dict[str, Any] | None])] = (
        Field({})
    )
    """By task, the JSON Schema of its answers: one that is not JSON, or does not match, is a reject."""


class Replay(Frozen):
    share: Share = 0.15
    """Share of the training tokens that are general prompts answered by the base, against forgetting.

    The base's probabilities are rehearsed, not only the tokens that it chose (Li and Hoiem 2016, Learning
    without Forgetting, arXiv 1606.09282).
    """
    loss_weight: float = Field(1.0, gt=0)
    """How much a rehearsed token counts in the loss against a supervised token of the task."""
    max_tokens: int = Field(32, ge=8)
    """Longest answer; one that would go on is rehearsed as far as it goes."""
    max_prompts: int | None = Field(None, ge=1)
    """General prompts to ask, an even part of those that ship; none: all."""


class Dedup(Frozen):
    near: float = Field(0.8, gt=0, le=1)
    """A training row repeats another if the Jaccard similarity of their word 3-shingles is at least this.

    0.8 is the field's threshold (Lee et al. 2022, arXiv 2107.06499): about one word changed in thirty. Of
    pairs just there the hashing finds 92 %, of those at 0.9 all.
    """


class Decontaminate(Frozen):
    ngram_words: int = Field(8, ge=2)
    """Length of the n-grams by which a training row is told to contain what is held out, in words."""
    ngram_overlap: float = Field(0.5, gt=0, le=1)
    """Share of a held-out item's words in such n-grams from which a training row is dropped."""
    near: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of word 3-shingles from which a training row is dropped."""


class Augment(Frozen):
    teacher: Name
    """The role under `models` that is asked for variations."""
    variations: int = Field(5, ge=1, le=20)
    """Variations to ask for each row, in one request.

    Each must pass every check and be no near copy of any row, held-out ones included; where `dedup` or
    `decontaminate` is off, their defaults hold for variations.
    """
    rows: int | None = Field(None, ge=1)
    """Training rows to vary, drawn by seed, evenly over groups; none: all."""
    temperature: float = Field(0.8, ge=0)
    max_tokens: int = Field(4096, ge=16)
    """Longest answer of the teacher, all variations of a row together."""


class Judging(Frozen):
    judge: Name
    """The role under `models` that scores answers from 0 to 10."""
    criteria: str = Field(min_length=1)
    """What makes an answer good: all that the judge is told of it."""
    max_tokens: int = Field(512, ge=16)
    """Longest answer of the judge, which gives its reason before the score."""


class Choice(Judging):
    may_judge_itself: bool = False
    """Whether judge and teacher may be one model, which tends to like what it wrote."""


class Quality(Judging):
    at_least: int = Field(ge=1, le=10)
    """A training row that scores less is a reject; one that the judge cannot score stays, and is flagged."""


class Distill(Frozen):
    teacher: Name
    """The role under `models` that answers rows without an answer; these all train, and none is held out."""
    samples: int = Field(1, ge=1, le=20)
    """Answers to each prompt, of which one is kept."""
    choose: Choice | None = None
    """The answer is kept that a judge scores best, of equals the first, and none where it can score none;
    none: the one that more than half agree on, case and white space aside, or none where there is no such."""
    teacher_system: str | None = None
    """System message that the teacher answers under; the row keeps its own (context distillation)."""
    shots: int = Field(0, ge=0, le=16)
    """Training rows of the same task that the teacher is shown as examples, which the row does not keep."""
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(1024, ge=16)
    """Longest answer; a longer one is not kept."""

    @model_validator(mode="after")
    def samples_differ(self) -> Distill:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 all samples are the same: raise it, or ask for one")
        return self

    @model_validator(mode="after")
    def a_judge_has_a_choice(self) -> Distill:
        if self.choose is not None and self.samples == 1:
            raise ValueError("a judge cannot choose among one answer: raise `samples`, or leave `choose` out")
        return self


class Data(Frozen):
    system: str | None = None
    """System message of every row that brings none."""
    sources: tuple[AnySource, ...] = Field(min_length=1)
    checks: Checks = Checks()
    max_reject_fraction: float = Field(0.2, ge=0, le=1)
    """The run stops where a larger share of a source's rows, and five at least, are rejects; those of low
    `quality` do not count."""
    dedup: Dedup | None = None
    """Drop training rows that nearly repeat another one; none: only equal conversations are dropped.

    Off unless asked for: rows made from a template resemble one another on purpose, and no threshold can tell
    them from copies.
    """
    decontaminate: Decontaminate | None = Decontaminate()
    """Drop training rows that contain what evaluation or validation asks; none: none is looked for."""
    quality: Quality | None = None
    """Drop training rows of sources that a judge scores low; none: none is judged.

    What is held out is not judged, so that no judge decides what is measured.
    """
    loss_outliers: int | None = Field(None, ge=1, le=1000)
    """Training rows to list in the data card, by the base model's mean loss over their supervised tokens, the
    highest first; all stay. None: none is scored.

    The base reads every training row once for it, on the CPU in 32-bit floats. Copies by `weight` and
    rehearsed rows are not ranked.
    """
    augment: Augment | None = None
    """Variations of training rows, written by a teacher, train beside them."""
    distill: Distill | None = None
    """Rows without an answer are answered by a teacher; none: such a row is a reject."""
    replay: Replay | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """The supporting models that judge or write rows."""
        judges = (self.quality, self.distill.choose if self.distill else None)
        asked = [each.judge for each in judges if each]
        asked += [each.teacher for each in (self.augment, self.distill) if each]
        return tuple(dict.fromkeys(asked))

    @model_validator(mode="after")
    def answer_schemas_are_for_tasks_of_sources(self) -> Data:
        unknown = sorted(set(self.checks.answer_schema) - {source.task for source in self.sources})
        if unknown:
            known = ", ".join(sorted({source.task for source in self.sources}))
            raise ValueError(
                f"checks.answer_schema: no source has task {unknown[0]!r}; sources have: {known}"
            )
        return self
