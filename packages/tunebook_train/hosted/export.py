"""Rows of a data set as the lines that a provider trains on, held against its rules before any leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from tunebook_data.checks import personal_data
from tunebook_data.rows import Row, read_rows
from tunebook_model.conversation import FunctionTool, Message, is_learnt
from tunebook_spec.errors import DataError
from tunebook_spec.method import AnyObjective, DpoObjective

MIN_EXAMPLES = 10
MAX_FILE_BYTES = 512 * 1000 * 1000
MAX_TOOLS = 128
REJECTED = "-rejected"
"""Behind the id of a pair, in the table of tokens, its second row."""
_ROLES = ("system", "user", "assistant", "tool")
_MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Export:
    """A file that is ready to be uploaded."""

    path: Path
    rows: int
    tokens: int
    """Of one epoch, as the base model's tokenizer counts them."""
    withheld: int
    """Rows left out, since personal data were found in them."""


def export(side: str, objective: AnyObjective, *, data_dir: Path, out: Path, sends_personal: bool) -> Export:
    """Write the rows of a split, `train` or `validation`, one example a line.

    Args:
        side: the split.
        objective: what is learnt, which decides the form of a line.
        data_dir: what `prepare` left.
        out: an existing folder, which gets `training.jsonl` or `validation.jsonl`.
        sends_personal: whether rows may leave in which personal data are found.

    Raises:
        DataError: the provider would refuse the file; names file and rows.
    """
    rows = read_rows(data_dir / f"{side}.jsonl")
    sent = [row for row in rows if sends_personal or personal_data(row) is None]
    path = out / ("training.jsonl" if side == "train" else "validation.jsonl")
    problems = [f"{row.source}:{row.line}: {found}" for row in sent for found in _problems(row, objective)]
    if problems:
        more = f"\n  and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        listed = "\n  ".join(problems[:_MOST_PROBLEMS])
        raise DataError(f"{side} rows that the protocol forbids, of {data_dir}:\n  {listed}{more}")
    if side == "train" and len(sent) < MIN_EXAMPLES:
        withheld = f", {len(rows) - len(sent)} withheld for personal data" if len(sent) < len(rows) else ""
        least = f"providers take {MIN_EXAMPLES} at least: add rows"
        raise DataError(f"{path}: {len(sent)} training rows{withheld}, and {least}")
    path.write_bytes(b"".join(orjson.dumps(example(row), option=orjson.OPT_APPEND_NEWLINE) for row in sent))
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes, and a file has {MAX_FILE_BYTES} at most: cap a source by"
            " `max_train_rows`"
        )
    ids = {row.id for row in sent}
    lengths = _lengths(data_dir, side)
    tokens = sum(num for name, num in lengths if name.removesuffix(REJECTED) in ids)
    return Export(path, len(sent), tokens, len(rows) - len(sent))


def example(row: Row) -> dict[str, Any]:
    """A line of a training file: of the supervised method, or for a pair of the dpo method."""
    tools = {"tools": [_tool(tool) for tool in row.tools]} if row.tools else {}
    if row.rejected is None:
        return {"messages": [_message(each) for each in row.messages], **tools}
    *prompt, preferred = row.messages
    return {
        "input": {"messages": [_message(each) for each in prompt], **tools},
        "preferred_output": [_message(preferred)],
        "non_preferred_output": [_message(row.rejected)],
    }


def _message(message: Message) -> dict[str, Any]:
    """Without the empty content beside calls, which the protocol leaves out."""
    left_out = {"content"} if message.get("tool_calls") and not message["content"] else set()
    return {name: value for name, value in message.items() if name not in left_out}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    known = {name: value for name, value in tool["function"].items() if value is not None}
    return {"type": "function", "function": known}


def _problems(row: Row, objective: AnyObjective) -> Iterator[str]:
    for place, message in row.places:
        if message["role"] not in _ROLES:
            yield f"{place}.role: {message['role']!r} is none of {', '.join(_ROLES)}"
        if not message["content"] and not message.get("tool_calls"):
            yield f"{place}.content: is empty"
        if "weight" in message and (message["role"] != "assistant" or message["weight"] not in (0, 1)):
            yield f"{place}.weight: {message['weight']!r}; only assistant messages have one, of 0 or 1"
    if row.messages[-1]["role"] != "assistant":
        yield "the last message is not the assistant's"
    elif not any(map(is_learnt, row.messages)):
        yield "no assistant message has a weight other than 0, so nothing is learnt"
    if len(row.tools) > MAX_TOOLS:
        yield f"tools: {len(row.tools)}, and at most {MAX_TOOLS} can be sent"
    yield from _unanswered(row.messages)
    if isinstance(objective, DpoObjective) != (row.rejected is not None):
        yield "is a pair" if row.rejected else "has no rejected answer, which dpo learns from"


def _unanswered(messages: Sequence[Message]) -> Iterator[str]:
    called: set[str] = set()
    for index, message in enumerate(messages):
        called |= {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and message.get("tool_call_id") not in called:
            yield f"messages[{index}].tool_call_id: {message.get('tool_call_id')!r} answers no earlier call"


def _lengths(data_dir: Path, side: str) -> Iterator[tuple[str, int]]:
    """Id and number of tokens of each row that was tokenised."""
    with pa.memory_map(str(data_dir / f"{side}.tokens.arrow")) as file:
        table = pa.ipc.open_file(file).get_batch(0)
        lengths = table["input_ids"].value_lengths()
        return zip(table["id"].to_pylist(), lengths.to_pylist(), strict=True)
