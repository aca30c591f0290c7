"""What a row must be before it may teach: pure functions from a row to what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tunebook_data.answer_schema import answer_problem
from tunebook_data.personal_data import RULE_NAMES, mask_reject, mask_row, scan
from tunebook_data.prompts import normalised
from tunebook_data.rejects import Fault, Flag, Reject
from tunebook_data.rows import Row
from tunebook_model.conversation import Role, is_learnt, text_of
from tunebook_spec.data import Checks
from tunebook_spec.errors import DataError

if TYPE_CHECKING:
    from tunebook_model.render import Rendered, Renderer

# Tab, line feed and carriage return are text; all other C0 and C1 characters are binary or broken input.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\ufffd")
# UTF-8 read as Latin-1 or Windows-1252: é becomes `Ã` and `©`, an apostrophe begins with `â€`, an emoji with
# `ðŸ`. Pairs that real text has too, such as Ã before a closing quote, are left out.
_MOJIBAKE = re.compile("[ÂÃ][\u00a0-\u00bf]|â€|ðŸ")

_BOILERPLATE = (
    "as an ai language model",
    "as an ai assistant",
    "as a large language model",
    "as a language model",
    "as an artificial intelligence",
    "i'm just an ai",
    "i am just an ai",
    "my knowledge cutoff",
    "my training data only goes",
)
_REFUSAL = re.compile(
    r"(?:(?:i'm|i am|we're|we are)? ?(?:very |so )?(?:sorry|afraid)|i apologi[sz]e|unfortunately),?(?: but)? "
    r"(?:i|we)(?: can't| cannot| can not| won't|'m unable to|'m not able to| am unable to| am not able to)"
    r" (?:assist|comply|fulfill?|help (?:you )?with (?:that|this)|provide|do that|answer)"
    r"|i (?:can't|cannot|can not|won't) (?:assist|comply|fulfill?|help (?:you )?with (?:that|this))"
)


def judged(item: Row | Reject, checks: Checks) -> tuple[Row, list[Flag]] | Reject:
    """A row as the spec wants it, with what it is flagged for, or why there is none; its tokens unseen."""
    if isinstance(item, Reject):
        return mask_reject(item) if hides(checks) else item
    row, flags = mask_row(item) if checks.personal_data == "mask" else (item, [])
    fault = find_fault(row, checks)
    if fault is not None:
        reject = Reject.of_row(row, fault)
        return mask_reject(reject) if hides(checks) else reject
    return row, [*flags, *find_flags(row, checks)]


def hides(checks: Checks) -> bool:
    """Whether a reject must not quote personal data either."""
    return checks.personal_data in ("mask", "drop")


def find_fault(row: Row, checks: Checks) -> Fault | None:
    """The first thing wrong with a row, before any tokenizer sees it.

    A rejected answer may refuse, or be no answer of the schema: it may have been rejected for just that.
    """
    return (
        roles_fault(row)
        or _calls(row)
        or _something_to_learn(row)
        or (personal_data(row) if checks.personal_data == "drop" else None)
        or (damaged_text(row) if checks.damaged_text == "drop" else None)
        or _contents(row)
        or (refusal(row) if checks.refusals == "drop" else None)
        or _response_length(row, checks)
        or _answer_schema(row, checks)
    )


def find_flags(row: Row, checks: Checks) -> Iterator[Flag]:
    """What the spec wants a row looked at for that stays as it is; `mask_row` tells what it masks."""
    if checks.personal_data == "flag" and (fault := personal_data(row)):
        for rule in fault.value:
            yield Flag(row.source, row.line, fault.field, f"personal data: {rule}")
    if checks.damaged_text == "flag" and (fault := damaged_text(row)):
        yield Flag.of_row(row, fault)
    if checks.refusals == "flag" and (fault := refusal(row)):
        yield Flag.of_row(row, fault)


def personal_data(row: Row) -> Fault | None:
    """Secrets and personal data, told by the rules that found them: what they found is not quoted."""
    found = [(place, scan(text_of(message))[1]) for place, message in row.places]
    places = [place for place, rules in found if rules]
    if not places:
        return None
    rules = {rule for _, each in found for rule in each}
    named = [name for name in RULE_NAMES if name in rules]
    return Fault(f"{places[0]}.content", f"personal data: {', '.join(named)}", named)


def damaged_text(row: Row) -> Fault | None:
    """Control characters and encoding damage."""
    for place, message in row.places:
        content = text_of(message)
        for reason, pattern in (("control characters", _CONTROL), ("encoding damage", _MOJIBAKE)):
            if match := pattern.search(content):
                around = content[max(0, match.start() - 20) : match.end() + 20]
                return Fault(f"{place}.content", reason, around)
    return None


def refusal(row: Row) -> Fault | None:
    """An answer that begins with a refusal, or holds what models say of themselves."""
    for index, message in enumerate(row.messages):
        said = normalised(message["content"]).replace("\u2019", "'")
        if message["role"] == "assistant" and (
            _REFUSAL.match(said) or any(phrase in said for phrase in _BOILERPLATE)
        ):
            return Fault(f"messages[{index}].content", "refusal or boilerplate", message["content"])
    return None


def render_or_fault(row: Row, renderer: Renderer, checks: Checks) -> tuple[Row, Rendered] | Fault:
    """The row as training sees it, cut to fit where the spec says so, or why it cannot be trained on.

    Both answers of a preference follow the same prompt: where one is cut, so is the other.

    Raises:
        DataError: the row is too long, and the spec says that this ends the run; or the model's template
            has no place for the row's tools.
    """
    if row.rejected is None:
        return _render_or_fault(row, renderer, checks)
    fitting = row
    while True:
        preferred = _render_or_fault(fitting, renderer, checks)
        if isinstance(preferred, Fault):
            return preferred
        fitting, rendered = preferred
        counterpart = fitting.counterpart
        assert counterpart is not None, "a cut leaves the answers"
        other = _render_or_fault(counterpart, renderer, checks)
        if isinstance(other, Fault):
            return replace(other, field="non_preferred_output")
        if len(other[0].messages) == len(fitting.messages):
            return fitting, replace(rendered, rejected=other[1])
        fitting = cut_to(fitting, len(other[0].messages))


def _render_or_fault(row: Row, renderer: Renderer, checks: Checks) -> tuple[Row, Rendered] | Fault:
    if row.tools and not renderer.shows_tools(row.tools):
        raise DataError(
            f"{row.source}:{row.line}: has tools, and the base model's chat template ignores them: the model"
            " would be taught calls of functions that it is never shown; take a base whose template knows"
            " tools, give the model folder a chat_template.jinja that does, or leave rows with tools out"
        )
    cut = row
    while True:
        try:
            rendered = renderer.render(cut.messages, tools=cut.tools)
        except DataError as error:
            return Fault("messages", "cannot be rendered as it would be served", str(error))
        num_tokens = len(rendered.input_ids)
        if num_tokens <= checks.max_tokens:
            return cut, rendered
        if checks.on_too_long == "fail":
            raise DataError(
                f"{row.source}:{row.line}: {num_tokens} tokens, more than data.checks.max_tokens"
                f" {checks.max_tokens}; shorten the row, raise max_tokens, or set data.checks.on_too_long:"
                " drop or truncate_left"
            )
        shorter = _without_oldest_turn(cut) if checks.on_too_long == "truncate_left" else None
        if shorter is None:
            return Fault("messages", f"longer than max_tokens {checks.max_tokens}", num_tokens)
        cut = shorter


def cut_to(row: Row, num_messages: int) -> Row:
    """The row without as many of its oldest turns as leave that many messages."""
    while len(row.messages) > num_messages:
        shorter = _without_oldest_turn(row)
        assert shorter is not None, "no row was cut to fewer messages than it can be"
        row = shorter
    return row


def _without_oldest_turn(row: Row) -> Row | None:
    """The row without its first question and what answers it, its system message kept; None if no more is."""
    first = 1 if row.messages[0]["role"] == "system" else 0
    asked = [index for index, message in enumerate(row.messages) if message["role"] == "user"]
    rest = row.messages[asked[1] :] if len(asked) > 1 else ()
    return replace(row, messages=(*row.messages[:first], *rest)) if rest else None


def roles_fault(row: Row) -> Fault | None:
    roles = [message["role"] for message in row.messages]
    if len(roles) < 2:
        return Fault("messages", "fewer than two messages", len(roles))
    first = 1 if roles[0] == "system" else 0
    expected: Role = "user"
    awaited: set[str] = set()
    for index, message in enumerate(row.messages[first:], start=first):
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in awaited:
                reason = "tool_call_id is none of an unanswered call of the turn before"
                return Fault(f"messages[{index}].tool_call_id", reason, call_id)
            awaited.remove(call_id)
            expected = "assistant"
            continue
        if awaited:
            reason = "a call has no tool message that answers it"
            return Fault(f"messages[{index}].role", reason, sorted(awaited))
        if message["role"] != expected:
            reason = "roles do not alternate user, assistant after an optional system message"
            return Fault(f"messages[{index}].role", reason, message["role"])
        expected = "assistant" if message["role"] == "user" else "user"
        awaited = {call["id"] for call in message.get("tool_calls", ())}
    if roles[-1] != "assistant":
        reason = "the last message is not the assistant's"
        return Fault(f"messages[{len(roles) - 1}].role", reason, roles[-1])
    return None


def _calls(row: Row) -> Fault | None:
    known = {tool["function"]["name"] for tool in row.tools}
    for place, message in row.places:
        for number, call in enumerate(message.get("tool_calls", ())):
            if (name := call["function"]["name"]) not in known:
                where = f"{place}.tool_calls[{number}].function.name"
                return Fault(where, "calls a function that is none of the row's tools", name)
    return None


def _something_to_learn(row: Row) -> Fault | None:
    if any(map(is_learnt, row.messages)):
        return None
    return Fault("messages", "every assistant turn has weight 0, so there is nothing to train on")


def _contents(row: Row) -> Fault | None:
    for place, message in row.places:
        # A tool may answer nothing.
        if message["role"] != "tool" and not text_of(message).strip():
            return Fault(f"{place}.content", "empty content", message["content"])
    return None


def _response_length(row: Row, checks: Checks) -> Fault | None:
    for place, message in [*row.places][len(row.messages) - 1 :]:
        if message.get("tool_calls"):
            continue  # how long a call is, its function decides
        field, answer = f"{place}.content", message["content"]
        if len(answer) < checks.min_response_chars:
            return Fault(field, f"answer shorter than min_response_chars {checks.min_response_chars}", answer)
        if len(answer) > checks.max_response_chars:
            reason = f"answer longer than max_response_chars {checks.max_response_chars}"
            return Fault(field, reason, len(answer))
    return None


def _answer_schema(row: Row, checks: Checks) -> Fault | None:
    schema = None if row.messages[-1].get("tool_calls") else checks.answer_schema.get(row.task)
    problem = answer_problem(row.reference, schema) if schema is not None else None
    if problem is None:
        return None
    field = f"messages[{len(row.messages) - 1}].content"
    return Fault(field, "answer does not match data.checks.answer_schema", problem)
