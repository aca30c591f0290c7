"""One answer to a score: in [0, 1], or a log-likelihood; None where there is nothing to score."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

from tunebook_data.suites import contains as contains_any
from tunebook_eval.answers import Answer
from tunebook_spec.models import Metric

Scorer = Callable[[Answer], float | None]

_LIST_MARK = re.compile(r"^(?:[-*\u2022]|\d+[.)])\s+")


def exact_match(answer: Answer) -> float:
    """1 if the answer is the reference, but for case, white space, quotes and a final full stop."""
    return float(normalise(answer.text) == normalise(answer.reference or ""))


def line_match(answer: Answer) -> float | None:
    """Share of the reference's lines that the answer has, normalised.

    Lines may come in any order and with a list mark before them. Lines that were not expected neither help
    nor cost, except that an abbreviation given two different meanings has not been answered: a line counts
    only if it is the only one of the answer with that text before its colon.
    """
    expected = _lines(answer.reference or "")
    given = _lines(answer.text)
    meanings: dict[str, set[str]] = {}
    for line in given:
        meanings.setdefault(_key(line), set()).add(line)
    matches = [meanings.get(_key(line)) == {line} for line in expected]
    return sum(matches) / len(matches) if matches else None


def choice_accuracy(answer: Answer) -> float:
    """1 if the answer names the right one of `meta["choices"]` and no other.

    A choice is named if it stands in the answer as words of its own; inside a longer choice that is named too
    it does not count. An answer that names none or several is wrong: it does not tell the reader which.
    """
    text = normalise(answer.text)
    choices = [normalise(choice) for choice in answer.meta["choices"]]
    named = {choice for choice in choices if re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text)}
    longest = {one for one in named if not any(one != other and one in other for other in named)}
    return float(longest == {normalise(answer.reference or "")})


def contains(answer: Answer) -> float:
    """1 if the answer holds one of the expected strings."""
    return float(contains_any(answer.text, answer.expected))


SCORERS: Mapping[Metric, Scorer] = {
    "exact_match": exact_match,
    "line_match": line_match,
    "choice_accuracy": choice_accuracy,
    "contains": contains,
    "log_likelihood": lambda answer: answer.log_likelihood,
}


def score(metric: Metric, answer: Answer) -> float | None:
    """The answer's score; None for a row that failed before it had an answer."""
    return None if answer.error is not None else SCORERS[metric](answer)


def normalise(text: str) -> str:
    """Case, width, white space, surrounding quotes and a final full stop do not matter."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip("\"'`").removesuffix(".").strip("\"'`")


def _lines(text: str) -> list[str]:
    stripped = (_LIST_MARK.sub("", line.strip()) for line in text.splitlines())
    return [re.sub(r"\s*:\s*", ": ", normalise(line), count=1) for line in stripped if line]


def _key(line: str) -> str:
    return line.partition(":")[0]
