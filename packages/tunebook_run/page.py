"""The look that the HTML pages of a run share: templates, colours, drawings. A page needs nothing else."""

from __future__ import annotations

import io
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

# Stand-ins that are replaced by the page's variables, so that one drawing suits light and dark.
COLOURS = {
    "text": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "pass": "#040404",
    "fail": "#050505",
    "inconclusive": "#060606",
    "accent": "#070707",
    "bg": "#080808",
}
WIDTH_IN = 4.9
"""About a phone's width at 72 dpi, so that text is read at its own size there."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tunebook",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "text.color": COLOURS["text"],
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@cache
def environment(*packages: str) -> Environment:
    """Templates of these packages and of this one (page.css); everything put into them is escaped.

    Made once: it compiles a template when that is first asked for.
    """
    loaders = [PackageLoader(name, "") for name in (*packages, "tunebook_run")]
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["count"] = lambda value: f"{value:,}"
    return made


def svg(figure: Figure, title: str) -> str:
    """A drawing made under `STYLE`, to be put into a page; the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for name, stand_in in COLOURS.items():
        drawn = drawn.replace(stand_in, f"var(--{name})")
    return drawn
