"""What training leaves beside its weights; light, for all who only read it."""

from __future__ import annotations

from typing import Any

from tunebook_spec.fields import Frozen


class TrainResult(Frozen):
    trainable_parameters: int
    parameters: int
    """All of them, an adapter's too; tied ones once."""
    trainable_share: float
    steps: int
    tokens: int
    """Trained, over all epochs and attempts of the steps that count."""
    seconds: float
    """Of the steps, in the attempt that finished."""
    tokens_per_s: float
    """Over all steps; validation and checkpoints do not count."""
    mfu: float
    """Over all steps, the share of what this machine did in plain matrix products: see `StepCost`."""
    peak_memory_gib: float
    """Of the first worker: resident, or allocated on its GPU."""
    loss: float
    """Of the last step."""
    validation_loss_before: float | None
    validation_loss: float | None
    """Of the weights that were kept."""
    validation_accuracy: float | None = None
    """Likewise, where preferences are learnt: share of pairs whose preferred answer has the higher reward."""
    best_step: int | None
    """Whose weights were kept; None where it is the last one, because nothing stopped early."""
    num_workers: int
    """In the attempt that finished."""
    dtype: str

    def summary(self) -> str:
        trained = share(self.trainable_parameters, self.parameters)
        speed = f"{self.tokens} tokens at {self.tokens_per_s:.0f} tokens/s in {self.dtype}"
        speed += f" (MFU {self.mfu:.0%}, {self.peak_memory_gib:.1f} GiB at most)"
        line = f"{trained}: {self.steps} steps, {speed}"
        if self.validation_loss is None or self.validation_loss_before is None:
            return f"{line}; loss {self.loss:.4f}"
        line += f"; validation loss {self.validation_loss_before:.4f} to {self.validation_loss:.4f}"
        if self.validation_accuracy is not None:
            line += f", {self.validation_accuracy:.1%} of pairs as preferred"
        return line if self.best_step is None else f"{line}, of step {self.best_step}, which was the best"


class HostedResult(Frozen):
    """What a provider has trained, and where it is asked for."""

    provider: str
    """Its host and path, as its base URL has them."""
    base_model: str
    job: str
    fine_tuned_model: str
    """The name by which the provider answers with it."""
    training_file: str
    """The file at the provider, which stays there until someone deletes it; likewise the next."""
    validation_file: str | None
    hyperparameters: dict[str, Any]
    """As the provider has taken them."""
    rows: int
    withheld: int
    """Rows for training and validation that did not leave, since personal data were found in them."""
    trained_tokens: int | None
    """As the provider counts them, over all epochs; None: it does not say."""
    cost: float | None
    """Of these tokens, where their price is known."""
    steps: int | None
    loss: float | None
    """Of the last step; likewise below. None: the provider does not tell."""
    validation_loss: float | None
    checkpoints: int
    """Models of steps on the way that the provider has kept; checkpoints.jsonl names them."""
    job_seconds: int | None
    """From the job's creation to its end, queue included."""
    seconds: float
    """Of the attempt that finished."""

    def summary(self) -> str:
        trained = "" if self.trained_tokens is None else f", {self.trained_tokens} trained tokens"
        cost = "" if self.cost is None else f", cost {self.cost:.4f}"
        withheld = f", {self.withheld} withheld for personal data" if self.withheld else ""
        made = f"{self.fine_tuned_model} at {self.provider}, by job {self.job}"
        return f"{made}: {self.rows} rows{withheld}{trained}{cost}"


def share(trainable: int, total: int) -> str:
    return f"{trainable / 1e6:.2f}M of {total / 1e6:.2f}M parameters ({trainable / total:.2%})"
