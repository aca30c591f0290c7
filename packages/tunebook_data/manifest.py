"""What `prepare` and `replay` say of what they made: counts that add up."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from tunebook_data.split import Side
from tunebook_inference.supporting import Taken
from tunebook_spec.data import RowFormat
from tunebook_spec.fields import Frozen

CARD_PAGE = "card.html"


class FileCounts(Frozen):
    """One file of a source."""

    file: str
    format: RowFormat | Literal["columns"] | None
    """None: a file without a single record."""
    rows_in: int
    sha256: str
    """Of the file as it lies there, packed or not."""
    note: str | None = None
    """What of its rows is trained on, where that is not all."""


FEW_ROWS = 100
"""Fewer rows to train on are a warning."""


class SourceCounts(Frozen):
    """One source of the spec; `rows_in` is the sum of what was left out and of the distinct rows kept."""

    source: str
    task: str
    licence: str | None = None
    """As the spec says it; none for a built-in data set, of which `attribution` tells."""
    rows_in: int
    rejects: int
    duplicates: int
    """Equal conversations after the first."""
    near_duplicates: int = 0
    """Training rows that nearly repeat an earlier one; 0 too where the spec drops none."""
    contaminated: int = 0
    """Training rows that contain what is held out; 0 too where the spec looks for none."""
    prompts: int = 0
    """Rows without an answer, for a teacher; `distill` tells what became of them."""
    capped: int
    """Left out by max_train_rows, max_test_rows, or a weight below 1."""
    train: int
    validation: int
    test: int
    repeats: int = 0
    """Copies of training rows that a weight above 1 adds; no rows that came in."""
    files: tuple[FileCounts, ...] = ()
    """None for a built-in data set."""

    @property
    def accounted(self) -> int:
        left_out = self.rejects + self.duplicates + self.near_duplicates + self.contaminated + self.capped
        return left_out + self.prompts + self.train + self.validation + self.test


class Step(Frozen):
    """One step of the fixed order, over all sources."""

    name: str
    sees: Literal["all rows", "training rows"]
    rows_in: int
    rows_out: int | None
    """None: the step is another stage's."""
    note: str


class SplitCounts(Frozen):
    rows: int
    groups: int
    tokens: int
    """Of a row that is a pair, those of both its answers, each after the prompt; likewise below."""
    supervised_tokens: int
    longest_tokens: int
    """Tokens of the longest row, or of the longer answer with its prompt."""


class ReplayCounts(Frozen):
    """General prompts that the base model answered, mixed into the training rows."""

    rows: int
    distinct: int
    """Fewer than `rows` where the pool had to be shown more than once."""
    tokens: int
    share: float
    """Of all training tokens."""
    held_out: int
    """Answers left out because they contain what a test row, validation row or suite asks."""
    unusable: int
    """Answers left out because they fail the checks."""


class JudgedCounts(Taken):
    """Answers that a judge was asked to score."""

    judge: str
    asked: int
    """Answers to score: those of `scores` plus `unscored`."""
    scores: dict[int, int]
    """How many have each score."""
    unscored: int
    """The judge's answer could not be read, after one repair, or there was none."""
    repaired: int
    """Scored only after the judge had been shown what was wrong with its first answer."""

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.asked} answers judged"]
        parts += [f"{self.unscored} not scored"] if self.unscored else []
        if self.scores:
            mean = sum(score * rows for score, rows in self.scores.items()) / sum(self.scores.values())
            parts.append(f"mean score {mean:.1f}")
        parts += [f"{self.repaired} repaired"] if self.repaired else []
        parts += [f"{self.resumed} answers not asked for again"] if self.resumed else []
        parts += [f"{count} x {kind}" for kind, count in self.troubles.items()]
        parts.append(f"{self.prompt_tokens + self.completion_tokens} tokens")
        parts += [] if self.cost is None else [f"cost {self.cost:.4f}"]
        return ", ".join(parts)


class QualityCounts(Frozen):
    """Training rows of sources that a judge has scored, or could not: the latter stay, and are flagged."""

    at_least: int
    judged: JudgedCounts
    below: int
    """Left out; among the rejects of their sources."""
    withheld: int
    """Kept unjudged, since personal data were found in them that no endpoint is shown."""
    uses_tools: int
    """Kept unjudged: rows with tools or calls."""

    @property
    def of_any_attempt(self) -> QualityCounts:
        return self.model_copy(update={"judged": self.judged.of_any_attempt})

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.below} rows below quality {self.at_least}", self.judged.summary()]
        parts += [f"{self.withheld} withheld for personal data"] if self.withheld else []
        parts += [f"{self.uses_tools} with tools not judged"] if self.uses_tools else []
        return f"{parts[0]} ({', '.join(parts[1:])})"


class GeneratedCounts(Taken):
    """Rows that a teacher was asked about, and the rows that it made of them."""

    teacher: str
    withheld: int
    """Training rows that no endpoint is shown, since personal data were found in them."""
    uses_tools: int
    """Rows with tools or calls, about which no teacher is asked."""
    asked: int
    """Rows asked about: `parsed` plus `failed`."""
    parsed: int
    repaired: int
    """Of these, only after the model had been shown what was wrong with its first answer."""
    failed: int
    """No answer that can be used; generated_failures.jsonl has the reasons and the answers."""
    made: int
    """Rows in the answers: the sum of the next four."""
    rejected_by_reason: dict[str, int]
    copies_by_reason: dict[str, int]
    contaminated_by_rule: dict[str, int]
    kept: int
    judged: JudgedCounts | None = None
    """What the judge who chose among answers was asked, beside all this."""

    @property
    def accounted(self) -> int:
        left_out = (self.rejected_by_reason, self.copies_by_reason, self.contaminated_by_rule)
        return self.kept + sum(sum(counts.values()) for counts in left_out)

    @property
    def of_any_attempt(self) -> Self:
        judged = self.judged and self.judged.of_any_attempt
        return super().of_any_attempt.model_copy(update={"judged": judged})

    def summary(self, what: str) -> str:
        """One line for people."""
        parts = [
            f"{count} {why}"
            for count, why in (
                (self.repaired, "repaired"),
                (self.failed, "failed"),
                (self.withheld, "withheld for personal data"),
                (self.uses_tools, "with tools left out"),
                (sum(self.rejected_by_reason.values()), "rejected"),
                (sum(self.copies_by_reason.values()), "copies"),
                (sum(self.contaminated_by_rule.values()), "contaminated"),
                (self.resumed, "answers not asked for again"),
            )
            if count
        ]
        parts += [f"{count} x {kind}" for kind, count in self.troubles.items()]
        parts.append(f"{self.prompt_tokens + self.completion_tokens} tokens")
        parts += [] if self.cost is None else [f"cost {self.cost:.4f}"]
        parts += [self.judged.summary()] if self.judged else []
        return f"{self.kept} of {self.made} {what} of {self.asked} rows kept ({', '.join(parts)})"


class Attribution(Frozen):
    """What a built-in data set is made of."""

    name: str
    licence: str
    attribution: tuple[str, ...]
    notice: str
    packages: dict[str, str] = Field(default_factory=dict)
    """Name and version of each data package that it is derived from -> its SHA-256."""


class DatasetManifest(Frozen):
    """A checked, split and tokenised data set.

    Beside it lie train.jsonl, validation.jsonl, test.jsonl, probes.jsonl, the token tables train.tokens.arrow
    and validation.tokens.arrow, whose rows are those of the JSONL files, in order (a pair is two, the
    preferred answer first), and what was left out, row by row: rejects.jsonl, duplicates.jsonl, leaks.jsonl;
    flags.jsonl lists rows that stay. Where a teacher made rows, generated.jsonl and distilled.jsonl say what
    became of each, and generated_failures.jsonl and distilled_failures.jsonl hold its answers that could not
    be used. card.json tells it all in short; card.html shows that to people.
    """

    sources: tuple[SourceCounts, ...]
    rejects_by_reason: dict[str, int]
    flags_by_reason: dict[str, int] = Field(default_factory=dict)
    """Rows that stay with something to be looked at, or changed in them; 0 for a rule of personal data that
    was applied and found nothing (`tunebook_data.personal_data` says what each covers)."""
    leaks_by_rule: dict[str, int] = Field(default_factory=dict)
    """Contaminated training rows by the rule that found them."""
    splits: dict[Side, SplitCounts]
    """Replay rows and repeats are among those of train."""
    quality: QualityCounts | None = None
    augment: GeneratedCounts | None = None
    """The variations that are kept are among the training rows, and in no source's counts."""
    distill: GeneratedCounts | None = None
    """Likewise of rows that a teacher has answered; `made` are the answers, and prompts not worth asking."""
    replay: ReplayCounts | None
    attribution: tuple[Attribution, ...]
    warnings: tuple[str, ...] = ()

    @property
    def of_any_attempt(self) -> DatasetManifest:
        """The same for the same inputs, whatever teachers were asked before and however often they failed."""
        asked = {"quality": self.quality, "augment": self.augment, "distill": self.distill}
        return self.model_copy(
            update={name: counts and counts.of_any_attempt for name, counts in asked.items()}
        )

    @property
    def num_taught(self) -> int:
        """Training rows without the rehearsed ones."""
        written = sum(each.kept for each in (self.augment, self.distill) if each)
        return sum(source.train for source in self.sources) + written

    def summary(self) -> str:
        rows = ", ".join(f"{counts.rows} {side}" for side, counts in self.splits.items())
        train = self.splits["train"]
        parts = [f"rows: {rows}", f"{train.tokens} training tokens, {train.supervised_tokens} supervised"]
        if self.quality:
            parts.append(self.quality.summary())
        if self.augment:
            parts.append(self.augment.summary("variations"))
        if self.distill:
            parts.append(self.distill.summary("answered prompts"))
        if self.replay:
            parts.append(f"{self.replay.rows} replay rows are {self.replay.share:.1%} of them")
        for name in ("rejects", "duplicates", "near_duplicates", "contaminated", "capped", "repeats"):
            count = sum(getattr(source, name) for source in self.sources)
            parts += [f"{count} {name.replace('_', ' ')}"] if count else []
        parts += [f"{count} x {reason}" for reason, count in self.flags_by_reason.items() if count]
        parts.append(size_advice(self.num_taught))
        return "; ".join(parts)


def size_advice(num_rows: int) -> str:
    """What that many training rows are good for, by the field's rule of thumb; rehearsed ones aside."""
    if num_rows < 50:
        return f"{num_rows} rows to train on are too few: prompt instead, with the rows as examples"
    if num_rows < FEW_ROWS:
        return f"{num_rows} rows to train on work but weakly: below 100, try a prompt with examples first"
    if num_rows < 500:
        return f"{num_rows} rows to train on are between weak (below 100) and good (from 500)"
    if num_rows < 1000:
        return f"{num_rows} rows to train on are good"
    if num_rows < 10_000:
        return f"{num_rows} rows to train on are strong"
    return f"{num_rows} rows to train on are enough for full capability"


class ReplayManifest(Frozen):
    """The base model's own answers to general prompts, in rows.jsonl."""

    prompts: int
    rows: int
    """Answers that can be rehearsed."""
    cut: int
    """Of these, cut at max_tokens: rehearsed as far as they go."""
    empty: int
    errors: int
    resumed: int
    """Answers that an earlier attempt had made."""

    def summary(self) -> str:
        counts = f"{self.cut} cut at max_tokens, {self.empty} empty, {self.errors} failed"
        return f"{self.rows} of {self.prompts} general prompts answered ({counts})"
