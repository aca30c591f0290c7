"""Fixed sets that ask a model for what it should still be able to do after a narrow fine-tune.

The base model is measured on them before and the tuned model after; only the difference is read. Kinds of
questions of which the smallest base knows nothing are left out: they could not show a loss. All questions and
texts were written for this repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson

from tunebook_spec.errors import DataError

SUITES = ("general",)
TEXTS = ("fixed_texts",)


@dataclass(frozen=True)
class SuiteItem:
    """A short question, and the strings of which an answer has to hold one."""

    id: str
    q: str
    expected_contains: tuple[str, ...]
    group: str
    """The kind of question, e.g. `capitals`."""
    choices: tuple[str, ...] = ()
    """What there is to choose from; empty: the answer is free."""

    @property
    def prompt(self) -> str:
        listed = "".join(f"\n- {choice}" for choice in self.choices)
        return f"{self.q}\nAnswer with one of:{listed}" if listed else self.q


def contains(answer: str, expected: tuple[str, ...]) -> bool:
    """Does the answer hold one of the expected strings, as words of their own?

    Upper and lower case are alike, and so are all runs of white space. Where an expected string begins or
    ends with a letter or digit, the answer must not go on with another one there: "cat" is not in
    "concatenate", nor "4" in "14". A number must not be part of another one either: "4" is not in "-4",
    "0.4", "4.5" or "4,000", but it is in "2+2=4." and "2, 4, 6".
    """
    text = " ".join(answer.split())
    return any(re.search(_pattern(" ".join(item.split())), text, re.IGNORECASE) for item in expected)


def _pattern(expected: str) -> str:
    before = r"(?<!\w)" if expected[0].isalnum() else ""
    after = r"(?!\w)" if expected[-1].isalnum() else ""
    if expected[0].isdigit():
        before += r"(?<!\d\.)(?<!(?<!\w)[-\u2212])"
        if re.match(r"\d{3}(?!\d)", expected):
            before += r"(?<!\d,)"
    if expected[-1].isdigit():
        after += r"(?!\.\d)(?!,\d{3}(?!\d))"
    return before + re.escape(expected) + after


def load_suite(name: str) -> list[SuiteItem]:
    """A suite by name, in file order.

    Raises:
        DataError: no such suite.
    """
    _check(name, SUITES, "suite")
    return [
        SuiteItem(item["id"], item["q"], tuple(item["expected_contains"]), item["group"])
        for item in _lines(f"{name}.jsonl")
    ]


def load_texts(name: str) -> list[str]:
    """Short texts for paired log-likelihoods, in file order.

    Raises:
        DataError: no such collection of texts.
    """
    _check(name, TEXTS, "collection of texts")
    return [item["text"] for item in _lines(f"{name}.jsonl")]


def load_replay_prompts() -> list[str]:
    """General prompts for rehearsal; the base model answers them itself, none is near a suite's item."""
    return [item["q"] for item in _lines("replay_prompts.jsonl")]


def _check(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        raise DataError(f"no {what} named {name!r}; there is {', '.join(known)}")


def _lines(file: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in files(__name__).joinpath(file).read_bytes().splitlines()]
