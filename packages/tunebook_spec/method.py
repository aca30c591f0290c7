"""The part `method` of a spec: how the model is trained."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunebook_spec.fields import Frozen, Share

MergeBase = Literal["dequantised", "base"]
Schedule = Literal["cosine_with_min_lr", "cosine", "linear", "constant_with_warmup"]
"""As transformers spells `lr_scheduler_type`."""
ParallelStrategy = Literal["ddp", "fsdp"]
"""As Ray Train spells it."""
Optim = Literal["adamw_torch_fused", "adamw_8bit"]
"""As transformers spells it."""


class EarlyStopping(Frozen):
    """Training ends where the validation loss falls no more; the weights of its lowest are merged."""

    eval_steps: int = Field(10, ge=1)
    """Steps from one validation to the next; the last step has one in any case."""
    patience: int = Field(3, ge=1)
    """Validations in a row that may bring no better loss; training stops at the last of them."""
    threshold: float = Field(0.0, ge=0)
    """A loss is better if it is lower than the lowest by more than this, in nats per token, or per pair."""


class SftObjective(Frozen):
    """Each supervised token is made likelier."""

    kind: Literal["sft"]


class DpoObjective(Frozen):
    """Preferred answers are made likelier against those that were not (Rafailov et al., arXiv 2305.18290).

    The loss of a pair is -log sigmoid of its margin: what the preferred answer's reward is above that of the
    other. An answer's reward is `beta` times what its log-probability is above that by the untrained model.
    """

    kind: Literal["dpo"]
    beta: float = Field(0.1, gt=0)
    """The lower, the further answers may move from what the untrained model finds likely."""


MAX_HOSTED_BETA = 2.0
SFT = SftObjective(kind="sft")
AnyObjective = Annotated[SftObjective | DpoObjective, Field(discriminator="kind")]


class TrainingMethod(Frozen):
    """AdamW; the learning rate warms up linearly and then follows a schedule."""

    objective: AnyObjective = SFT
    """What is learnt of the rows: their answers (sft), or to prefer one answer to another (dpo), which takes
    rows of the format `preference`."""
    epochs: int = Field(3, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    """Peak of the schedule."""
    tokens_per_step: int = Field(1024, ge=8)
    """Tokens of one optimizer step over all workers; of a pair, those of both its rows."""
    rows_per_step: int | None = Field(None, ge=1)
    """Rows of one optimizer step over all workers, or pairs, however long they are; none: `tokens_per_step`
    decides."""
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
    optim: Optim = "adamw_torch_fused"
    """Whose moments are kept in float32, 8 bytes a trained parameter, or in 8 bits by blocks of 256 (Dettmers
    et al., arXiv 2110.02861), 2 bytes; those of embeddings and of what has fewer than 4096 numbers stay in
    float32."""
    early_stopping: EarlyStopping | None = None
    """Stop by the validation loss and keep the best weights; none: train to the end and keep the last."""

    @model_validator(mode="after")
    def blocks_stay_whole(self) -> Self:
        if self.optim == "adamw_8bit" and self.parallel_strategy == "fsdp":
            raise ValueError(
                "fsdp cannot cut the moments of `optim: adamw_8bit`, whose blocks share a scale: set "
                "`parallel_strategy: ddp` or `optim: adamw_torch_fused`"
            )
        return self


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


Auto = Literal["auto"]
"""The provider chooses."""


class HostedHyperparameters(Frozen):
    """As the OpenAI protocol spells and bounds them."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Examples of one step."""
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = "auto"
    """Of the rate that the provider takes for the model."""


class HostedMethod(Frozen):
    """A provider of the OpenAI fine-tuning protocol trains a model of its own, and answers with it.

    Where it is, its key, prices and budgets are settings of the machine: TUNEBOOK_HOSTED__BASE_URL and so on.
    `base_model` is then whose tokenizer counts and limits rows, which leave as messages; its weights do
    nothing.
    """

    kind: Literal["hosted"]
    model: str = Field(min_length=1)
    """The name that the provider knows the model by; it is tuned, and answers as base and few-shot."""
    objective: AnyObjective = SFT
    """What is learnt of the rows: their answers (sft), or to prefer one answer to another (dpo), which takes
    rows of the format `preference`."""
    hyperparameters: HostedHyperparameters = HostedHyperparameters()
    suffix: str | None = Field(None, min_length=1, max_length=64)
    """A part of the tuned model's name."""

    @field_validator("objective")
    @classmethod
    def beta_is_in_the_protocols_bounds(cls, objective: AnyObjective) -> AnyObjective:
        if isinstance(objective, DpoObjective) and objective.beta > MAX_HOSTED_BETA:
            raise ValueError(
                f"beta is at most {MAX_HOSTED_BETA:g} where a provider trains (got {objective.beta})"
            )
        return objective


LocalMethod = Annotated[FullMethod | LoraMethod | QloraMethod, Field(discriminator="kind")]
"""What trains here or on a cluster of one's own, and leaves weights."""
AnyMethod = Annotated[FullMethod | LoraMethod | QloraMethod | HostedMethod, Field(discriminator="kind")]
