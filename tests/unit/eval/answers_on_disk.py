"""Answers of an arm as `answer` leaves them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tunebook_eval.answers import FILE, SUMMARY, Answer, AnswerResult, Timed, encode


def asked(number: int, text: str, **more: Any) -> Answer:
    facts: dict[str, Any] = {
        "set": "glossary",
        "item": f"{number:03}",
        "question": f"note {number}",
        "reference": f"AKI: meaning {number}\nMRI: imaging",
        "group": f"context-{number // 2}",
        "stratum": "seen" if number % 2 else "unseen",
        "finish_reason": "stop",
        "prompt_tokens": 20,
        "cached_tokens": 12,
        "completion_tokens": 10,
    }
    return Answer(**{**facts, **more, "text": text})


def general(number: int, text: str) -> Answer:
    return asked(number, text, set="general", reference=None, expected=("yes",), stratum=None)


def timed(answers: list[Answer]) -> dict[str, Timed]:
    """A tenth of a second for each answer."""
    num = Counter(each.set for each in answers if each.error is None and each.rule is None)
    return {name: Timed(num_answers=count, seconds=count / 10) for name, count in num.items()}


def leave(folder: Path, arm: str, answers: list[Answer]) -> Path:
    place = folder / arm
    place.mkdir()
    (place / FILE).write_bytes(b"".join(encode(each) for each in answers))
    result = AnswerResult(
        arm=arm,
        num_answers=len(answers),
        num_errors=0,
        prompt_tokens=5,
        completion_tokens=7,
        seconds=2.0,
        num_resumed=0,
        timed=timed(answers),
    )
    (place / SUMMARY).write_text(result.model_dump_json())
    return place
