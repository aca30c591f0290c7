"""The spec as frozen models. A field's docstring is its documentation in editors, through the JSON Schema."""

from __future__ import annotations

import re
from string import Formatter, Template
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from tunebook_spec.metrics import AnyMetric, Judged

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Share = Annotated[float, Field(ge=0, lt=1)]
BuiltinModelName = Literal["smollm2-135m-instruct"]
DatasetName = Literal["medical_glossary"]
RowFormat = Literal["messages", "preference", "alpaca", "sharegpt", "prompt_completion"]
SuiteName = Literal["general"]
TextsName = Literal["fixed_texts"]
Arm = Literal["base", "few_shot", "tuned"]
MergeBase = Literal["dequantised", "base"]
Schedule = Literal["cosine_with_min_lr", "cosine", "linear", "constant_with_warmup"]
"""As transformers spells `lr_scheduler_type`."""
ParallelStrategy = Literal["ddp", "fsdp"]
"""As Ray Train spells it."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BaseModelReference(Frozen):
    chat_template_kwargs: dict[str, str | bool] = {}
    """Fixed arguments of the chat template, e.g. `date_string` where a template would print today's date."""


class BuiltinModel(BaseModelReference):
    kind: Literal["builtin"]
    name: BuiltinModelName
    """A model that set-up puts on the machine."""


class FolderModel(BaseModelReference):
    kind: Literal["folder"]
    path: str
    """A folder in Hugging Face layout: config, tokenizer with chat template, safetensors."""


class GgufModel(BaseModelReference):
    kind: Literal["gguf"]
    path: str
    """A GGUF file; its weights are dequantised."""


class HubModel(BaseModelReference):
    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """`owner/name` on the Hugging Face hub; reached only with TUNEBOOK_HUB_ONLINE=true, or from its cache."""
    revision: str = "main"


AnyBaseModel = Annotated[BuiltinModel | FolderModel | GgufModel | HubModel, Field(discriminator="kind")]


class EndpointModel(Frozen):
    kind: Literal["endpoint"]
    """An endpoint of the OpenAI protocol; where it is, its key, prices and budget are settings of the
    machine: TUNEBOOK_MODELS__<ROLE>__BASE_URL and so on."""
    model: str = Field(min_length=1)
    """The name that the endpoint knows the model by."""


class ScriptedReply(Frozen):
    pattern: str
    """A regular expression (Python's), looked for in the last message that the model is sent."""
    answers: tuple[str, ...] = Field(min_length=1)
    """What it then answers: the first one, and with several samples one after the other. `$name` stands for
    what the group `(?P<name>...)` of the pattern has found; a dollar sign is written `$$`."""

    @model_validator(mode="after")
    def answers_name_groups_of_the_pattern(self) -> ScriptedReply:
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        for answer in self.answers:
            template = Template(answer)
            if not template.is_valid():
                raise ValueError(f"{answer!r} has a $ that names nothing; write $$ for a dollar sign")
            unknown = sorted(set(template.get_identifiers()) - set(groups))
            if unknown:
                way_out = f"write (?P<{unknown[0]}>...) in it, or $$ for a dollar sign"
                raise ValueError(f"{answer!r}: the pattern has no group {unknown[0]!r}; {way_out}")
        return self


class ScriptedModel(Frozen):
    """No model: it says what it is told to, so that the way of the data can be tried at no cost."""

    kind: Literal["scripted"]
    script: tuple[ScriptedReply, ...] = ()
    """The first whose pattern is found answers; where none is, there is no answer."""
    path: str | None = None
    """The same as lines of JSON in a file, relative to the spec."""

    @model_validator(mode="after")
    def its_script_stands_in_one_place(self) -> ScriptedModel:
        if bool(self.script) == (self.path is not None):
            raise ValueError("a scripted model has either a `script` or the `path` of one")
        return self


AnySupportingModel = Annotated[
    EndpointModel | ScriptedModel | BuiltinModel | FolderModel | GgufModel | HubModel,
    Field(discriminator="kind"),
]
"""All but an endpoint and a script are run on this machine, by vLLM."""


class Split(Frozen):
    group_by: Name | None = None
    """Rows that share this field stay on one side of every split; none: each row is a group of its own."""
    test: Share = 0.15
    """Share of the groups held out for `evaluate`."""
    validation: Share = 0.05
    """Share of the groups held out for the validation loss."""

    @model_validator(mode="after")
    def some_groups_are_left_to_train_on(self) -> Split:
        if self.test + self.validation >= 1:
            raise ValueError(f"test + validation must be below 1 (got {self.test} + {self.validation})")
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
    answer_schema: dict[Name, dict[str, Any]] = {}
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


class EarlyStopping(Frozen):
    """Training ends where the validation loss falls no more; the weights of its lowest are merged."""

    eval_steps: int = Field(10, ge=1)
    """Steps from one validation to the next; the last step has one in any case."""
    patience: int = Field(3, ge=1)
    """Validations in a row that may bring no better loss; training stops at the last of them."""
    threshold: float = Field(0.0, ge=0)
    """A loss is better if it is lower than the lowest by more than this, in nats per token."""


class TrainingMethod(Frozen):
    """AdamW; the learning rate warms up linearly and then follows a schedule."""

    epochs: int = Field(3, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    """Peak of the schedule."""
    tokens_per_step: int = Field(1024, ge=8)
    """Tokens of one optimizer step over all workers."""
    max_pack_tokens: int = Field(1024, ge=8)
    """Rows are packed, without padding and unseen by one another, up to this length."""
    lr_scheduler_type: Schedule = "cosine_with_min_lr"
    """The rate after warm-up: by a cosine to a tenth of the peak, by a cosine or a line to 0, or the peak."""
    warmup_ratio: Share = 0.06
    """Share of all steps in which the rate rises to its peak."""
    weight_decay: float = Field(0.0, ge=0)
    """Of matrices; embeddings, norms and biases do not decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    checkpoint_every_steps: int = Field(10, ge=1)
    """A killed run goes on from the newest checkpoint."""
    parallel_strategy: ParallelStrategy = "ddp"
    """How workers share a model: each holds all of it (ddp), or an even part of every weight, gradient
    and optimizer state (fsdp), for models that do not fit. One worker holds all of it either way."""
    early_stopping: EarlyStopping | None = None
    """Stop by the validation loss and keep the best weights; none: train to the end and keep the last."""


class FullMethod(TrainingMethod):
    """All weights are trained."""

    kind: Literal["full"]


class AdapterMethod(TrainingMethod):
    """The base is frozen; a low-rank update of linear layers is trained (Hu et al., arXiv 2106.09685)."""

    learning_rate: float = Field(2e-4, gt=0)
    """Peak of the schedule; adapters want about ten times the rate of all weights."""
    r: int = Field(16, ge=1)
    """Rank of the update."""
    lora_alpha: int | None = Field(None, ge=1)
    """The update counts alpha / r; none: alpha is 2 r."""
    lora_dropout: Share = 0.0
    """Share of an adapter's inputs left out, while training."""
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """The linear layers that get an update: `all-linear` (every one but the head), a list of names or of
    their last parts (`[q_proj, layers.0.mlp.up_proj]`), or a regular expression for whole names."""
    modules_to_save: tuple[str, ...] = ()
    """Embeddings (`embed_tokens`), head (`lm_head`) and norms that are trained whole beside the adapter and
    saved with it, by the ends of their names. Where embeddings and head are tied, either means both."""
    use_rslora: bool = False
    """The update counts alpha / sqrt(r) instead (Kalajdzievski 2023, arXiv 2312.03732)."""
    use_dora: bool = False
    """The length of each row of a weight is trained beside its direction (Liu et al. 2024, arXiv 2402.09353);
    slower."""

    @field_validator("target_modules")
    @classmethod
    def a_regular_expression_is_one(cls, target: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(target, str):
            try:
                re.compile(target)
            except re.error as error:
                raise ValueError(f"{target!r} is no regular expression: {error}") from None
        return target

    @property
    def alpha(self) -> int:
        return 2 * self.r if self.lora_alpha is None else self.lora_alpha


class LoraMethod(AdapterMethod):
    kind: Literal["lora"]


class QloraMethod(AdapterMethod):
    """The same on a base whose linear layers are kept in 4 bits (Dettmers et al., arXiv 2305.14314)."""

    kind: Literal["qlora"]
    merge_into: MergeBase = "dequantised"
    """What the adapter is merged into: the 4-bit base, dequantised, which it was trained against, or the base
    as it was before."""

    @field_validator("parallel_strategy")
    @classmethod
    def four_bits_stay_whole(cls, strategy: ParallelStrategy) -> ParallelStrategy:
        if strategy == "fsdp":
            raise ValueError(
                "fsdp cannot cut the 4-bit weights of qlora: set ddp, where each worker holds all of them, or"
                " `kind: lora`"
            )
        return strategy


AnyMethod = Annotated[FullMethod | LoraMethod | QloraMethod, Field(discriminator="kind")]


class Decoding(Frozen):
    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    max_tokens: int = Field(64, ge=1)


class EvaluationSet(Frozen):
    metrics: tuple[AnyMetric, ...] = Field(min_length=1)
    """By name, or `{kind: ...}` with options. `stop_rate` and `answer_tokens` are measured of any prompts."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in this set; none: that of `evaluation.decoding`."""

    @model_validator(mode="after")
    def metrics_have_names_of_their_own(self) -> EvaluationSet:
        labels = [metric.label for metric in self.metrics]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise ValueError(f"two metrics are called {twice[0]!r}; give one a `name`")
        return self


class TaskSet(EvaluationSet):
    task: Name
    """The test rows of this task."""


class SuiteSet(EvaluationSet):
    suite: SuiteName
    """A regression suite that ships."""


class SuiteItem(Frozen):
    q: str = Field(min_length=1)
    expected_contains: str | tuple[str, ...]
    """What the answer must contain; of several, any."""


class InlineSet(EvaluationSet):
    items: tuple[SuiteItem, ...] = Field(min_length=1)
    """A regression suite of one's own."""


class TextsSet(EvaluationSet):
    texts: TextsName
    """Fixed texts, scored by the log-likelihood that the model gives them."""


def _set_tag(value: Any) -> str | None:
    """Which kind of set this is, by the one key that only it has."""
    keys = set(value) if isinstance(value, dict) else set(type(value).model_fields)
    for key, tag in (
        ("task", "TaskSet"),
        ("suite", "SuiteSet"),
        ("items", "InlineSet"),
        ("texts", "TextsSet"),
    ):
        if key in keys:
            return tag
    return None


AnySet = Annotated[
    Annotated[TaskSet, Tag("TaskSet")]
    | Annotated[SuiteSet, Tag("SuiteSet")]
    | Annotated[InlineSet, Tag("InlineSet")]
    | Annotated[TextsSet, Tag("TextsSet")],
    Discriminator(
        _set_tag,
        custom_error_type="unknown_set",
        custom_error_message="a set names its rows by one of `task`, `suite`, `items`, `texts`",
    ),
]


class Gate(Frozen):
    metric: str
    """`set.metric`, as declared under `evaluation.sets`, or a part of it: `set.metric.precision`.

    `set.metric.unscored` is the share of answers that it could not score; `set.stop_rate` and
    `set.answer_tokens` are there for every set of prompts.
    """
    arm: Arm = "tuned"
    """Whose metric is judged."""
    at_least: float | None = None
    """Lower bound on the metric; with `gain_over`, on the gain."""
    at_most: float | None = None
    """Upper bound on the metric; with `gain_over`, on the gain."""
    gain_over: Arm | Literal["best_baseline"] | None = None
    """Judge the arm minus this one; `best_baseline` is the better of few-shot and the best non-learned rule:
    the highest, or under `at_most` the lowest."""
    max_drop: float | None = Field(None, ge=0)
    """The metric may fall below the base by less than this."""

    @property
    def opponent(self) -> str | None:
        """What the arm is held against; none: only the bound."""
        return "base" if self.max_drop is not None else self.gain_over

    @model_validator(mode="after")
    def states_exactly_one_bound(self) -> Gate:
        bounds = (self.at_least, self.at_most, self.max_drop)
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError("a gate states exactly one of `at_least`, `at_most` and `max_drop`")
        if self.gain_over is not None and self.max_drop is not None:
            raise ValueError("`gain_over` needs `at_least` or `at_most`, the gain that passes")
        if self.arm == self.opponent:
            raise ValueError(f"{self.arm} is held against itself; name another `arm`")
        return self


class GatesFile(Frozen):
    """Gates without a spec, to judge what a run has measured."""

    gates: tuple[Gate, ...] = Field(min_length=1)


class Evaluation(Frozen):
    decoding: Decoding = Decoding()
    few_shot: int = Field(3, ge=1, le=32)
    """Training rows shown to the few_shot arm."""
    sets: dict[Name, AnySet] = Field(min_length=1)
    arms: tuple[Arm, ...] = ("base", "few_shot", "tuned")
    gates: tuple[Gate, ...] = Field(min_length=1)

    @property
    def roles(self) -> tuple[str, ...]:
        """The supporting models that judge answers."""
        metrics = [metric for each in self.sets.values() for metric in each.metrics]
        return tuple(dict.fromkeys(metric.judge for metric in metrics if isinstance(metric, Judged)))

    @model_validator(mode="after")
    def arms_hold_what_gates_compare(self) -> Evaluation:
        missing = {"base", "tuned"} - set(self.arms)
        if missing:
            raise ValueError(f"arms must hold base and tuned; missing: {', '.join(sorted(missing))}")
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"an arm is listed twice: {', '.join(self.arms)}")
        return self


class Spec(Frozen):
    """One scenario: where its data comes from, how it is trained, how it is measured, what it must reach."""

    version: Literal[1]
    name: Name
    """The scenario; its runs live under this name."""
    problem: str = ""
    """The reader's problem in a sentence; opens the report."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Splits, shuffles and the choice of few-shot rows follow from it."""
    base_model: AnyBaseModel
    data: Data
    models: dict[Name, AnySupportingModel] = {}
    """Supporting models by role, e.g. `teacher`."""
    method: AnyMethod
    evaluation: Evaluation

    @property
    def roles(self) -> tuple[str, ...]:
        """The supporting models that anything of the spec asks."""
        return tuple(dict.fromkeys((*self.data.roles, *self.evaluation.roles)))

    def is_tuned_or_base(self, model: AnySupportingModel) -> bool:
        """Whether a supporting model is, by its name, the base model or what is made of it."""
        base = self.base_model
        if isinstance(model, EndpointModel):
            served = model.model.startswith(f"{self.name}@")  # as `tunebook serve` names it
            return served or (isinstance(base, HubModel) and model.model == base.repo)
        left_out = {"chat_template_kwargs"}
        return model.model_dump(exclude=left_out) == base.model_dump(exclude=left_out)
