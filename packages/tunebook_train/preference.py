"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): the loss of pairs of answers.

In a token table a pair is two rows, the preferred answer before the other; they share every step and pack.

Shapes: R rows of a pack, P pairs, M measures.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MEASURES = ("loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
"""As TRL names them."""


def preference_sums(log_R: Tensor, reference_R: Tensor, beta: float) -> Tensor:
    """The sums of `MEASURES` over the pairs of a pack [M]; the loss alone has gradients.

    Args:
        log_R: log-probability of each row by the model that is trained.
        reference_R: the same by the untrained one.
        beta: reward of a nat between the two.
    """
    chosen_P, rejected_P = (beta * (log_R - reference_R)).view(-1, 2).unbind(1)
    margins_P = chosen_P - rejected_P
    loss = -logsigmoid(margins_P).sum()
    told = (chosen_P, rejected_P, (margins_P > 0).float(), margins_P)
    return torch.stack([loss, *(each.detach().sum() for each in told)])
