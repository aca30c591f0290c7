"""The part `needs` of a spec: what only its user knows, and `tunebook advise` weighs. No stage reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunebook_spec.fields import Frozen

Taught = Literal["style", "format", "terms", "behaviour", "facts", "removal"]
"""What answers may lack; `removal` is something that a model should stop doing."""


class Needs(Frozen):
    teach: tuple[Taught, ...] = ()
    """What the base's answers lack. Format, style and removal are also told by metrics, schemas and the
    objective."""
    facts_change: Literal["never", "yearly", "monthly", "weekly", "daily"] | None = None
    """How often the facts change that answers rest on; none: not said."""
    private_data: bool = False
    """Answers rest on data that not every user may see."""
    update_within: Literal["hours", "days", "weeks"] | None = None
    """How soon a wrong answer has to be mended, or a changed wish be met; none: not said."""
    tight_budget: bool = False
    """There is no money or time for training, evaluating and serving a model of one's own."""
    fast_answers: bool = False
    """Each tenth of a second counts."""
    queries_per_month: int | None = Field(None, ge=1)
    """Expected volume, by which an update of the tuned model is repaid; none: not said."""
