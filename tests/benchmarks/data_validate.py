"""Chat rows of about a kilobyte: every row judged, equal conversations found.

The rules are those by which a row is rejected unless the spec says otherwise: fields and roles, who speaks
when, empty and damaged text, the length of the answer. The rules that only flag by default, `refusals` and
`personal_data`, are off here, and so is what needs a tokenizer.

One in a hundred rows is no good, in eleven ways, and two in a hundred repeat an earlier row, half of these in
another spelling of the JSON. No line is broken JSON: `datasets` gives up a whole file for one. `raw_orjson`
only decodes each line, on all cores, so its time is the least that any reader with it needs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import US, Answer, BenchError, Benchmark, Peer

BAD_SHARE, COPY_SHARE = 0.01, 0.02
_COPY_DISTANCE = 5000


def make(folder: Path, size: int) -> None:
    """`rows.jsonl`, and `planted.json`: how many rejects and duplicates it holds."""
    rng = random.Random(size)
    sentences = [_sentence(rng) for _ in range(20_000)]
    recent: list[dict[str, Any]] = []
    planted = {"rejects": 0, "duplicates": 0}
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(size):
            draw = rng.random()
            if draw < COPY_SHARE and recent:
                row = {**rng.choice(recent), "id": f"row-{number}"}
                planted["duplicates"] += 1
                if rng.random() < 0.5:
                    row["messages"] = [dict(reversed(each.items())) for each in row["messages"]]
            else:
                row = {
                    "id": f"row-{number}",
                    "messages": _chat(rng, sentences, number),
                    "topic": "benchmarks",
                }
                if draw > 1 - BAD_SHARE:
                    _spoil(row, rng)
                    planted["rejects"] += 1
                elif len(recent) < _COPY_DISTANCE:
                    recent.append(row)
                else:
                    recent[number % _COPY_DISTANCE] = row
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "planted.json").write_text(json.dumps(planted))


def equal(folder: Path, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Rejects by line and reason, and duplicates by line, are the same; all that was planted is found."""
    planted = json.loads((folder / "planted.json").read_text())
    ours, theirs = answers[US], answers["pydantic_rows"]
    if ours != theirs:
        raise BenchError(f"ours: {ours}; pydantic_rows: {theirs}")
    if planted != {"rejects": sum(ours["rejects"].values()), "duplicates": ours["duplicates"]}:
        raise BenchError(f"planted: {planted}; found: {ours}")
    if answers["raw_orjson"]["lines"] != ours["lines"]:
        raise BenchError(f"raw_orjson decoded {answers['raw_orjson']['lines']} lines of {ours['lines']}")
    return {**ours, "bytes": (folder / "rows.jsonl").stat().st_size}


def _chat(rng: random.Random, sentences: list[str], number: int) -> list[dict[str, Any]]:
    def text(most: int) -> str:
        return " ".join(rng.choices(sentences, k=rng.randint(1, most)))

    chat = [{"role": "system", "content": text(2)}] if rng.random() < 0.3 else []
    for turn in range(rng.choice((1, 1, 2, 3))):
        chat.append({"role": "user", "content": f"{text(2)} ({number}, {turn})"})
        chat.append({"role": "assistant", "content": text(8)})
    return chat


def _spoil(row: dict[str, Any], rng: random.Random) -> None:
    chat = row["messages"]
    match rng.randrange(11):
        case 0:
            row["messages"] = None
        case 1:
            row["messages"] = chat[-1:]
        case 2:
            chat[-1]["role"] = "robot"
        case 3:
            chat[-1]["role"] = "user"
        case 4:
            chat.append({"role": "user", "content": "And then?"})
        case 5:
            chat[-1]["content"] = None
        case 6:
            chat[-2]["content"] = " \n"
        case 7:
            chat[-1]["content"] = "Yes."
        case 8:
            chat[-1]["content"] = "So be it. " * 500
        case 9:
            chat[-1]["content"] += "\x07"
        case 10:
            chat[-1]["content"] += " caf\u00c3\u00a9"


_SYLLABLES = "ba co di fe ga ho in jo ka le mi no op pa re si to un ve wa".split()
_ENDS = (
    ".",
    ".",
    ".",
    ".",
    "?",
    "!",
    ":\n\n- one\n- two\n",
    ' ("as it were").',
    ", in 1998.",
    " \u2014 caf\u00e9!",
)


def _sentence(rng: random.Random) -> str:
    words = ("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(rng.randint(6, 18)))
    end = rng.choice(_ENDS[:-1]) if rng.random() < 0.99 else _ENDS[-1]
    return " ".join(words).capitalize() + end


BENCHMARK = Benchmark(
    name="data_validate",
    size=1_000_000,
    peers=(
        Peer("raw_orjson", ("orjson==3.13.0",)),
        Peer("pydantic_rows", ("datasets==5.2.0", "pydantic==2.14.3")),
    ),
    make=make,
    equal=equal,
)
