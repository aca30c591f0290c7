"""`card.html`: the data card for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from tunebook_data.card import DataCard, Lengths, Measure, read_card
from tunebook_data.manifest import CARD_PAGE
from tunebook_data.split import Side
from tunebook_run.page import COLOURS, STYLE, WIDTH_IN, environment, svg


def write_page(folder: Path) -> None:
    """Write `card.html` beside the card that it shows; the same card gives the same bytes."""
    card = read_card(folder)
    template = environment("tunebook_data").get_template("card.html.j2")
    page = template.render(card=card, drawings=drawings(card))
    (folder / CARD_PAGE).write_text(page, encoding="utf-8")


def drawings(card: DataCard) -> list[Markup]:
    """What the body of a card is given to draw: a histogram of each measure."""
    return [Markup(_lengths_svg(measure, by_side)) for measure, by_side in card.lengths.items() if by_side]


def _lengths_svg(measure: Measure, by_side: Mapping[Side, Lengths]) -> str:
    """One histogram under the other, a split each, over the same lengths; the line is the median."""
    with matplotlib.rc_context(STYLE):
        height = 0.6 + 0.75 * len(by_side)
        figure = Figure(figsize=(WIDTH_IN, height))
        places = {"left": 0.27, "right": 0.97, "bottom": 0.5 / height, "top": 1 - 0.1 / height}
        panels = figure.subplots(len(by_side), 1, sharex=True, squeeze=False, gridspec_kw=places)
        for axes, (side, each) in zip(panels[:, 0], by_side.items(), strict=True):
            axes.stairs(each.rows, each.edges, fill=True, color=COLOURS["accent"], alpha=0.55)
            axes.axvline(each.median, color=COLOURS["text"], linewidth=1)
            axes.set_yticks([0, max(each.rows)])
            axes.set_ylabel(side, rotation=0, ha="right", va="center")
        axes.set_xlabel(f"{measure} of a row")
        return svg(figure, f"Histograms of the {measure} of a row, by split")
