from __future__ import annotations

from collections.abc import Callable

import torch

from tunebook_data.tokens import TokenTable

CPU = torch.device("cpu")

MakeTable = Callable[[str, list[int]], TokenTable]
