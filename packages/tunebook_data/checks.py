"""What a row must be before it may teach: pure functions from a row to what is wrong with it."""

from __future__ import annotations

from itertools import cycle

from tunebook_data.rejects import Fault
from tunebook_data.rows import Row
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.errors import DataError
from tunebook_spec.models import Checks


def find_fault(row: Row, checks: Checks) -> Fault | None:
    """The first thing wrong with a row, before any tokenizer sees it."""
    return _roles(row) or _contents(row) or _response_length(row, checks)


def render_or_fault(row: Row, renderer: Renderer, checks: Checks) -> Rendered | Fault:
    """The row as training sees it, or why it cannot be trained as it would be served.

    Raises:
        DataError: the row is too long, and the spec says that this ends the run.
    """
    try:
        rendered = renderer.render(row.messages)
    except DataError as error:
        return Fault("messages", "cannot be rendered as it would be served", str(error))
    num_tokens = len(rendered.input_ids)
    if num_tokens <= checks.max_tokens:
        return rendered
    if checks.on_too_long == "fail":
        raise DataError(
            f"{row.source}:{row.line}: {num_tokens} tokens, more than data.checks.max_tokens"
            f" {checks.max_tokens}; shorten the row, raise max_tokens, or set data.checks.on_too_long: drop"
        )
    return Fault("messages", f"longer than max_tokens {checks.max_tokens}", num_tokens)


def _roles(row: Row) -> Fault | None:
    roles = [message["role"] for message in row.messages]
    if len(roles) < 2:
        return Fault("messages", "fewer than two messages", len(roles))
    first = 1 if roles[0] == "system" else 0
    for index, expected in zip(range(first, len(roles)), cycle(("user", "assistant")), strict=False):
        if roles[index] != expected:
            reason = "roles do not alternate user, assistant after an optional system message"
            return Fault(f"messages[{index}].role", reason, roles[index])
    if roles[-1] != "assistant":
        reason = "the last message is not the assistant's"
        return Fault(f"messages[{len(roles) - 1}].role", reason, roles[-1])
    return None


def _contents(row: Row) -> Fault | None:
    for index, message in enumerate(row.messages):
        if not message["content"].strip():
            return Fault(f"messages[{index}].content", "empty content", message["content"])
    return None


def _response_length(row: Row, checks: Checks) -> Fault | None:
    field, num_chars = f"messages[{len(row.messages) - 1}].content", len(row.reference)
    if num_chars < checks.min_response_chars:
        return Fault(
            field, f"answer shorter than min_response_chars {checks.min_response_chars}", row.reference
        )
    if num_chars > checks.max_response_chars:
        return Fault(field, f"answer longer than max_response_chars {checks.max_response_chars}", num_chars)
    return None
