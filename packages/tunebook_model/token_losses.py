"""How unlikely a causal model finds tokens that are given, in 32-bit floats: nothing is sampled."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar


def load_float32(model_dir: Path) -> PreTrainedModel:
    """A model to score with, on the CPU."""
    disable_progress_bar()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True
    )
    return model.eval()


def token_losses(model: PreTrainedModel, ids_BT: Tensor, places_K: Tensor) -> Tensor:
    """Negative natural-log likelihoods (B, K) of the tokens at some places, none of which is the first.

    Logits are made for these places alone. Padding stands behind a row, where a causal model does not look.
    """
    with torch.inference_mode():
        logits_BKV = model(input_ids=ids_BT, logits_to_keep=places_K - 1).logits
        rows = zip(logits_BKV, ids_BT[:, places_K], strict=True)
        return torch.stack([cross_entropy(*row, reduction="none") for row in rows])
