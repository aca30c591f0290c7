"""Answers of an arm as `answer` leaves them."""

from __future__ import annotations

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
        "completion_tokens": 10,
    }
    return Answer(**{**facts, **more, "text": text})


def general(number: int, text: str) -> Answer:
    return asked(number, text, set="general", reference=None, expected=("yes",), stratum=None)


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
        timed={each.set: Timed(num_answers=1, seconds=0.5) for each in answers},
    )
    (place / SUMMARY).write_text(result.model_dump_json())
    return place
