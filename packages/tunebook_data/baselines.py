"""Rules that need no model: what a tuned model has to beat before its score means anything.

`copy`, `majority` and `letter_match` know the task and the training answers as a heap, not which meaning
belongs to which abbreviation; the best of them is the best non-learned baseline. `lookup` is that knowledge
itself, a dictionary made from the training rows: it solves every seen abbreviation and no unseen one, so it
is shown beside the verdict as a reference and is not the bar. References of code are `ruff`, the tool that
says what house style is and mends what it can, and `stub`, a function in style that does nothing.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tunebook_data import ruff
from tunebook_data.letters import letter_score
from tunebook_data.rows import Row

Rule = Callable[[str], str]
"""The last user message to an answer."""

_ABBREVIATION = re.compile(r"\b(?=\w*[A-Z]\w*[A-Z])[A-Za-z0-9]{2,6}\b")
_ASKED = re.compile(r"What does (\S+) stand for\?")
_ISSUE_WORDS = (
    ("refund", re.compile(r"refund|money back|charged|overpaid|reimburse", re.IGNORECASE)),
    ("cancellation", re.compile(r"cancel|terminat|unsubscribe|not renew|leave", re.IGNORECASE)),
    ("login", re.compile(r"log ?in|sign in|password|locked|access|account", re.IGNORECASE)),
)
_SIGNATURE = re.compile(r"^[A-Z]\w+(?: [A-Z][\w-]+){0,2}$")
_NAMED = r"[A-Z][\w-]*(?: [A-Z0-9][\w-]*)?"
_PLAN = re.compile(
    rf"\b(?P<before>{_NAMED}) (?:plan|subscription|package|user|account)\b"
    rf"|\b(?:plan|[Oo]n|have|tariff|Tariff)(?: is)?:? (?P<after>{_NAMED})"
)
_MONEY = r"(?:[$€£](?P<before>\d+(?:\.\d\d)?)|\b(?P<after>\d+(?:\.\d\d)?) (?:USD|EUR|dollars))"
_AMOUNT = re.compile(_MONEY)
_ASKED_BACK = re.compile(rf"(?:refund|back)[^$€£\d]{{0,40}}{_MONEY}", re.IGNORECASE)
_DAY = re.compile(
    r"(?:bill|charge|renew|pay|paid|due|fee|payment)(?:[^.]|\.\d){0,40}?\bthe (?P<day>\d{1,2})(?:st|nd|rd|th)"
)
_ORDER = re.compile(r"(?P<order>\b(?:[A-Z]{1,3}-?)?\d{4,}(?:-\w+)?)")
_FUNCTION = re.compile(r"Write the function `(?P<signature>.+)`\. (?P<summary>.+)")
_NOTE = re.compile(r"Note: (?P<note>.+?)\n\n(?P<asked>.+)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.;])\s+")
_OPENING = "Hi there, here's what you need to know."
_PLAIN_WORDS = {
    "accepted": "taken", "advised": "best", "amended": "changed", "applicable": "due", "applied": "used",
    "article": "item", "articles": "items", "available": "there", "beforehand": "first", "cannot": "can't",
    "commence": "start", "commences": "starts", "customer": "you", "customers": "you", "deemed": "seen as",
    "excluded": "left out", "exceeding": "over", "granted": "given", "incurs": "costs", "issued": "sent",
    "located": "found", "minimum": "least", "obligatory": "a must", "obtainable": "there",
    "permissible": "fine", "persons": "people", "prior to": "before", "provided": "if", "purchase": "order",
    "purchases": "orders", "redeemed": "used", "reimbursed": "paid back", "reimbursement": "money back",
    "remain": "stay", "remains": "stays", "require": "need", "required": "needed", "requires": "needs",
    "retained": "kept", "situated": "found", "subject to": "if there is", "supplied": "sent",
    "telephone": "phone", "thereafter": "then", "undertaken": "done", "unsuitable": "not fit", "upon": "on",
    "whereupon": "and then",
}  # fmt: skip
_OFFICE_WORD = re.compile(rf"\b({'|'.join(_PLAIN_WORDS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Baseline:
    name: str
    rule: Rule
    is_reference: bool = False
    """Shown for comparison; a tuned model need not beat it."""


def baselines(task: str, train: Sequence[Row], house: str | None = None) -> tuple[Baseline, ...]:
    """The rules that fit a task; any other has `copy` and `majority`, JSON two more, and code `ruff`.

    Args:
        task: what its rows ask for.
        train: its training rows.
        house: what ruff finds fault with, where answers are code.
    """
    match task:
        case "glossary":
            return (
                Baseline("copy", copy_abbreviations),
                Baseline("majority", majority_meaning(train)),
                Baseline("lookup", lookup(train), is_reference=True),
            )
        case "choice":
            return (Baseline("letter_match", letter_match), Baseline("first_option", first_option))
        case "tickets":
            return (Baseline("patterns", read_ticket), *_of_objects(train))
        case "voice":
            return (
                Baseline("note", note_between(train)),
                Baseline("note_sentence", note_sentence_between(train)),
                Baseline("plain_sentence", plain_sentence_between(train)),
                Baseline("majority", majority(train)),
            )
        case "plain":
            return (
                Baseline("term", term),
                Baseline("nearest_term", nearest_term(train)),
                Baseline("majority", majority(train)),
            )
        case "write":
            return (
                Baseline("majority", majority(train)),
                *([Baseline("stub", stub(house), is_reference=True)] if house else []),
            )
        case _:
            return (
                Baseline("copy", copy),
                Baseline("majority", majority(train)),
                *_of_objects(train),
                *([Baseline("ruff", ruff_fixes(house), is_reference=True)] if house else []),
            )


def _of_objects(train: Sequence[Row]) -> tuple[Baseline, ...]:
    """Constant answers field by field, where every training answer is a JSON object."""
    answers = [_object(row.reference) for row in train]
    found = [each for each in answers if each is not None]
    if not found or len(found) < len(answers):
        return ()
    return (Baseline("majority_fields", majority_fields(found)), Baseline("nulls", nulls(found)))


def _object(answer: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def question(row: Row) -> str:
    """The last user message, which is all that a rule sees."""
    return next(message["content"] for message in reversed(row.messages) if message["role"] == "user")


def copy(asked: str) -> str:
    return asked


def majority(train: Sequence[Row]) -> Rule:
    """The most frequent training answer, whatever is asked; empty without training rows."""
    answer = _most_frequent(row.reference for row in train)
    return lambda asked: answer


def copy_abbreviations(asked: str) -> str:
    """Each abbreviation as its own meaning, in the right format."""
    return "\n".join(f"{found}: {found}" for found in abbreviations(asked))


def majority_meaning(train: Sequence[Row]) -> Rule:
    """The most frequent training meaning for each abbreviation, in the right format."""
    meaning = _most_frequent(meaning for row in train for _, meaning in _lines(row.reference))
    return lambda asked: "\n".join(f"{found}: {meaning}" for found in abbreviations(asked))


def lookup(train: Sequence[Row]) -> Rule:
    """A dictionary: abbreviations of the training answers with their meanings, found by exact match."""
    known = dict(line for row in train for line in _lines(row.reference))
    return lambda asked: "\n".join(
        f"{found}: {known[found]}" for found in abbreviations(asked) if found in known
    )


def letter_match(asked: str) -> str:
    """The option that fits the abbreviation's letters best; of equals, the first."""
    head, *options = asked.splitlines()
    found = _ASKED.search(head)
    if found is None or not options:
        return ""
    return max(options, key=lambda option: letter_score(found[1], option))


def first_option(asked: str) -> str:
    """What is left of a majority vote where right answers stand at every position equally often."""
    return next(iter(asked.splitlines()[1:]), "")


def term(asked: str) -> str:
    """The term that is to be said in plain words, as it is."""
    return asked.rpartition(": ")[2]


def nearest_term(train: Sequence[Row]) -> Rule:
    """The plain words of the training term whose spelling is most alike (Jaccard index of trigrams)."""
    known = [(_trigrams(term(question(row))), row.reference) for row in train]

    def answer(asked: str) -> str:
        wanted = _trigrams(term(asked))
        likeness = [len(wanted & each) / len(wanted | each) for each, _ in known]
        return known[likeness.index(max(likeness))][1] if known else ""

    return answer


def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {text.casefold()} "
    return frozenset(padded[at : at + 3] for at in range(len(padded) - 2))


def majority_fields(answers: Sequence[dict[str, Any]]) -> Rule:
    """Of each field the most frequent training value, null among them, whatever is asked."""
    names = dict.fromkeys(name for each in answers for name in each)
    values = {
        name: orjson.loads(_most_frequent(orjson.dumps(each.get(name)).decode() for each in answers))
        for name in names
    }
    return lambda asked: orjson.dumps(values).decode()


def nulls(answers: Sequence[dict[str, Any]]) -> Rule:
    """The fields of the training answers, all null."""
    answer = orjson.dumps(dict.fromkeys(name for each in answers for name in each)).decode()
    return lambda asked: answer


def read_ticket(asked: str) -> str:
    """A support ticket by key words and patterns, as one would write them in an hour.

    The name is a last line of one to three words in capitals; plan, day and order stand beside a word that
    tells them; the refund is the last amount after "refund" or "back", else the first of all, where the
    ticket is about a refund.
    """
    issue = next((name for name, words in _ISSUE_WORDS if words.search(asked)), "bug")
    name = _SIGNATURE.search((asked.splitlines() or [""])[-1].strip())
    plan, day, order = (pattern.search(asked) for pattern in (_PLAN, _DAY, _ORDER))
    amounts = [*[*_AMOUNT.finditer(asked)][:1], *_ASKED_BACK.finditer(asked)]
    amount = amounts[-1] if amounts and issue == "refund" else None
    fields = {
        "issue": issue,
        "name": name[0] if name else None,
        "plan": plan["before"] or plan["after"] if plan else None,
        "refund": float(amount["before"] or amount["after"]) if amount else None,
        "billing_day": int(day["day"]) if day else None,
        "order": order["order"] if order else None,
    }
    return orjson.dumps(fields).decode()


def note_between(train: Sequence[Row]) -> Rule:
    """What the question's note says, between a friendly opening and the training answers' last line."""
    closing = _closing(train)
    return lambda asked: f"{_OPENING} {_note(asked)[0]}\n{closing}"


def note_sentence_between(train: Sequence[Row]) -> Rule:
    """The same with the one sentence of the note that shares most words with what is asked."""
    closing = _closing(train)
    return lambda asked: f"{_OPENING} {_nearest_sentence(asked)}\n{closing}"


def plain_sentence_between(train: Sequence[Row]) -> Rule:
    """The same with that sentence's office words replaced by plain ones, whatever becomes of the grammar."""
    closing = _closing(train)

    def answer(asked: str) -> str:
        plain = _OFFICE_WORD.sub(lambda found: _PLAIN_WORDS[found[0].casefold()], _nearest_sentence(asked))
        return f"{_OPENING} {plain[:1].upper()}{plain[1:]}\n{closing}"

    return answer


def _nearest_sentence(asked: str) -> str:
    note, question = _note(asked)
    wanted = set(_content_words(question))
    return max(_SENTENCE_END.split(note), key=lambda each: len(wanted & set(_content_words(each))))


def _closing(train: Sequence[Row]) -> str:
    return _most_frequent(row.reference.splitlines()[-1] for row in train if row.reference)


def _note(asked: str) -> tuple[str, str]:
    """The note and what is asked, of `Note: ...`, an empty line and the rest; without a note, all is both."""
    found = _NOTE.match(asked)
    return (found["note"], found["asked"]) if found else (asked, asked)


def _content_words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.casefold()) if len(word) > 3 or word.isdigit()]


def stub(house: str) -> Rule:
    """The function that is asked for, without what it does, which a linter cannot tell from a good one."""

    def answer(asked: str) -> str:
        found = _FUNCTION.match(asked)
        if found is None:
            return ""
        try:
            function = ast.parse(f"def {found['signature']}: ...").body[0]
        except SyntaxError:  # rows of one's own may name a function without its parameters
            return ""
        assert isinstance(function, ast.FunctionDef)
        for each in ast.walk(function):
            if isinstance(each, ast.arg):
                each.annotation = ast.Name("object")
        function.returns = ast.Name("object")
        function.body = [ast.Expr(ast.Constant(found["summary"])), ast.Raise(ast.Name("NotImplementedError"))]
        return ruff_fixes(house)(ast.unparse(ast.fix_missing_locations(function)))

    return answer


def ruff_fixes(house: str) -> Rule:
    """The question's code as ruff mends and formats it, and as it is where ruff cannot read it."""
    return lambda asked: ruff.fixed([asked], house)[0].strip()


def abbreviations(text: str) -> list[str]:
    """Words of two to six letters and digits with at least two capitals, once each, in order."""
    return list(dict.fromkeys(_ABBREVIATION.findall(text)))


def _lines(answer: str) -> list[tuple[str, str]]:
    """The `ABBR: meaning` lines of an answer."""
    split = [line.partition(": ") for line in answer.splitlines()]
    return [(abbreviation, meaning) for abbreviation, colon, meaning in split if colon]


def _most_frequent(values: Iterable[str]) -> str:
    return min(Counter(values).items(), key=lambda item: (-item[1], item[0]), default=("", 0))[0]
