"""Where a built-in data set comes from, for the data card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataCard:
    name: str
    licence: str
    """SPDX expression over everything that went in."""
    attribution: tuple[str, ...]
    """One line per source: name, version, authors, licence."""
    notice: str
    """What a user of the rows must know; empty if nothing."""
