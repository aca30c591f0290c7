"""The loss of a pack, or of its rows, inside the forward that DDP and FSDP wrap.

Only there are gradients synchronised.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tunebook_spec.errors import StageError
from tunebook_spec.method import AdapterMethod, LocalMethod, QloraMethod
from tunebook_train.attention import SEGMENT_ATTENTION, Segments
from tunebook_train.head_loss import summed_cross_entropy, target_log_probabilities
from tunebook_train.norms import use_fast_norms
from tunebook_train.pack import Pack
from tunebook_train.tied import TiedGradient

HEAD_PART = 8192
"""Rows of the head that are in float32 at once."""


class SupervisedLoss(nn.Module):
    """A causal language model whose output is its loss, or of pairs what their loss is made of."""

    def __init__(self, model: Any, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype

    def parameter_counts(self) -> tuple[int, int]:
        """Trained parameters, and all of them; tied ones once."""
        parameters = list(self.model.parameters())
        # A 4-bit weight is a row of bytes, of two parameters each.
        sizes = [math.prod(p.quant_state.shape if hasattr(p, "quant_state") else p.shape) for p in parameters]
        trained = [size for p, size in zip(parameters, sizes, strict=True) if p.requires_grad]
        return sum(trained), sum(sizes)

    def state_with(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is not frozen of the model's `state_dict`, with these weights, tied ones under all names.

        Args:
            weights: all that are trained, by the names of this module's parameters.
        """
        names = {p: name for name, p in self.named_parameters() if p.requires_grad}
        every = self.model.named_parameters(remove_duplicate=False)
        buffers = dict(self.model.named_buffers())
        state = {name: each for name, each in self.model.state_dict().items() if name in buffers}
        return state | {name: weights[names[p]] for name, p in every if p in names}

    def forward(self, pack: Pack) -> Tensor:
        """Sum over the supervised tokens of their cross-entropy, in nats, a float32 scalar.

        Of a pack of pairs, `row_log_probabilities`.
        """
        if pack.reference_R is not None:
            return self.row_log_probabilities(pack)
        tied = TiedGradient.of(self.model)
        return summed_cross_entropy(
            self._hidden_NC(pack, tied),
            self.model.get_output_embeddings().weight,
            pack.targets_NK,
            pack.probabilities_NK,
            self.compute_dtype,
            tied,
        )

    def row_log_probabilities(self, pack: Pack) -> Tensor:
        """Of each row, the sum over its supervised tokens; [R], float32, in nats."""
        tied = TiedGradient.of(self.model)
        log_N = target_log_probabilities(
            self._hidden_NC(pack, tied),
            self.model.get_output_embeddings().weight,
            pack.targets_NK[:, 0],
            self.compute_dtype,
            tied,
        )
        return log_N.new_zeros(len(pack.row_ids)).index_add(0, pack.rows_N, log_N)

    def own_loss(self, pack: Pack) -> Tensor:
        """The same of a pack of one row, by the model's own attention and head; no gradients come of it."""
        self.model.set_attn_implementation("sdpa")
        with self._autocast(pack.input_ids_T.device):
            logits_1NV = self.model(
                input_ids=pack.input_ids_T[None], use_cache=False, logits_to_keep=pack.predicts_N
            ).logits
        self.model.set_attn_implementation(SEGMENT_ATTENTION)
        log_NV = logits_1NV[0].float().log_softmax(1)
        own: Tensor = -(log_NV.gather(1, pack.targets_NK) * pack.probabilities_NK).sum()
        return own

    def log_probabilities(self, pack: Pack) -> Tensor:
        """Of every token of the vocabulary, where a supervised one is predicted; [N, V], float32."""
        hidden_NC = self._hidden_NC(pack, None).float()
        # A float32 copy of all of a large head might be what memory has no room for.
        parts = self.model.get_output_embeddings().weight.split(HEAD_PART)
        return torch.cat([hidden_NC @ part.float().t() for part in parts], dim=1).log_softmax(1)

    def _hidden_NC(self, pack: Pack, tied: TiedGradient | None) -> Tensor:
        """Last hidden states, where a supervised token is predicted."""
        ids_T, device = pack.input_ids_T, pack.input_ids_T.device
        read = {"inputs_embeds": tied.embed(ids_T)[None]} if tied else {"input_ids": ids_T[None]}
        with self._autocast(device):
            hidden_TC: Tensor = self.model.get_decoder()(
                **read,
                position_ids=pack.position_ids_T[None],
                use_cache=False,
                segments=Segments.of(pack.lengths, device, pack.shared),
            ).last_hidden_state[0]
        return hidden_TC.index_select(0, pack.predicts_N)

    def _autocast(self, device: torch.device) -> torch.autocast:
        mixed = self.compute_dtype != torch.float32
        return torch.autocast(device.type, dtype=self.compute_dtype if mixed else None, enabled=mixed)


def check_loss(loss: SupervisedLoss, pack: Pack) -> None:
    """Prove on a pack of one row that this loss is the model's own: head and attention are computed here.

    Under FSDP all workers take part, with the same row.

    Raises:
        StageError: the architecture caps or scales its logits, or attends in a window.
    """
    model = loss.model.eval()
    with torch.no_grad():
        ours, own = float(loss(pack)), float(loss.own_loss(pack))
    model.train()
    tolerance = 1e-3 if loss.compute_dtype == torch.float32 else 3e-2
    if math.isfinite(own) and not abs(ours - own) <= tolerance * max(own, 1.0):  # nor where only ours is none
        raise StageError(
            f"{model.config.model_type}: the model's own loss of row {pack.row_ids[0]} is {own:.4f}, and"
            f" training would compute {ours:.4f}: it caps or scales its logits, or attends in a window, which"
            " training does not reproduce yet; choose another base_model"
        )


def load_model(
    folder: Path, compute_dtype: torch.dtype, device: torch.device, method: LocalMethod
) -> SupervisedLoss:
    """The base model, attending within rows alone, with float32 weights where it is trained.

    What an adapter leaves frozen is in the compute type; its linear layers in 4 bits if asked for.
    """
    adapts, quantised = isinstance(method, AdapterMethod), isinstance(method, QloraMethod)
    options: dict[str, Any] = {}
    if quantised:
        from tunebook_train.quantise import keep_trainable, nf4

        options = {"quantization_config": nf4(compute_dtype), "device_map": {"": device}}
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=compute_dtype if adapts else torch.float32,
        attn_implementation=SEGMENT_ATTENTION,
        **options,
    )
    if quantised:
        keep_trainable(model)
    if isinstance(method, AdapterMethod):
        from tunebook_train.adapter import add_adapter  # PEFT takes seconds to import

        model = add_adapter(model, method, folder)
    use_fast_norms(model)
    model.train()
    return SupervisedLoss(model, compute_dtype).to(device)
