import pytest

from tunebook_data.baselines import baselines, question
from tunebook_data.rows import Row


def _row(task: str, asked: str, answer: str) -> Row:
    return Row(
        id=asked,
        messages=({"role": "user", "content": asked}, {"role": "assistant", "content": answer}),
        task=task,
        group="g",
        source="s",
        line=1,
    )


TRAIN = [
    _row("glossary", "Has CHF.", "CHF: congestive heart failure"),
    _row("glossary", "Has AKI and CHF.", "AKI: acute kidney injury\nCHF: congestive heart failure"),
]
CHOICE = "What does AKI stand for?\nacne in kids\nacute kidney injury\nkidney\nankle"


def _answers(task: str, asked: str) -> dict[str, str]:
    return {made.name: made.rule(asked) for made in baselines(task, TRAIN)}


def test_glossary_rules_answer_in_the_right_format() -> None:
    answers = _answers("glossary", "A man of 60 with AKI, CrCl and CHF.")
    assert answers == {
        "copy": "AKI: AKI\nCrCl: CrCl\nCHF: CHF",
        "majority": "\n".join(f"{term}: congestive heart failure" for term in ("AKI", "CrCl", "CHF")),
        "lookup": "AKI: acute kidney injury\nCHF: congestive heart failure",
    }


def test_only_the_dictionary_is_a_reference() -> None:
    assert [made.name for made in baselines("glossary", TRAIN) if made.is_reference] == ["lookup"]
    assert not [made.name for made in baselines("choice", TRAIN) if made.is_reference]


def test_letter_match_picks_the_option_that_fits_and_the_first_of_equals() -> None:
    assert _answers("choice", CHOICE) == {
        "letter_match": "acute kidney injury",
        "first_option": "acne in kids",
    }
    tie = "What does AB stand for?\nalpha boat\nalso big"
    assert _answers("choice", tie)["letter_match"] == "alpha boat"


def test_letter_match_has_no_answer_to_another_question() -> None:
    assert _answers("choice", "Hello") == {"letter_match": "", "first_option": ""}


TICKETS = [
    _row("tickets", "a", '{"issue":"bug","name":null,"plan":"Pro","refund":null}'),
    _row("tickets", "b", '{"issue":"bug","name":"Al","plan":null,"refund":5.00}'),
    _row("tickets", "c", '{"issue":"login","name":null,"plan":"Pro","refund":null}'),
]
TICKET = """Money back
I was billed 12.50 USD on the 4th for my Gold plan, invoice A-12345, but 99 USD before. Please refund 30 USD.
Ann Lee"""


def test_ticket_rules_read_by_patterns_or_answer_the_same() -> None:
    answers = {made.name: made.rule(TICKET) for made in baselines("tickets", TICKETS)}
    assert answers == {
        "patterns": '{"issue":"refund","name":"Ann Lee","plan":"Gold","refund":30.0,"billing_day":4,'
        '"order":"A-12345"}',
        "majority_fields": '{"issue":"bug","name":null,"plan":"Pro","refund":null}',
        "nulls": '{"issue":null,"name":null,"plan":null,"refund":null}',
    }
    assert [made.name for made in baselines("tickets", [])] == ["patterns"]


def test_json_of_any_task_has_constant_answers_field_by_field() -> None:
    other = baselines("orders", [*TICKETS, _row("orders", "d", '{"issue":"bug","more":[1]}')])
    assert {made.name: made.rule("x") for made in other}["majority_fields"] == (
        '{"issue":"bug","name":null,"plan":"Pro","refund":null,"more":null}'
    )
    assert [made.name for made in baselines("orders", TRAIN)] == ["copy", "majority"]


def test_a_ticket_that_says_nothing_is_a_bug_with_nothing_else() -> None:
    (patterns, *_) = baselines("tickets", TICKETS)
    nothing = '{"issue":"bug","name":null,"plan":null,"refund":null,"billing_day":null,"order":null}'
    assert patterns.rule("it is slow\nplease look") == nothing
    assert patterns.rule("") == nothing


def test_any_task_has_copy_and_majority() -> None:
    assert _answers("replies", "Hello") == {"copy": "Hello", "majority": min(row.reference for row in TRAIN)}
    assert baselines("replies", [])[1].rule("Hello") == ""


@pytest.mark.parametrize("name", ["copy", "majority", "lookup"])
def test_no_rule_sees_the_reference(name: str) -> None:
    rule = {made.name: made.rule for made in baselines("glossary", [])}[name]
    assert "congestive" not in rule(question(TRAIN[0]))


NOTE = "Note: Returns take 30 days. The form is required.\n\nCustomer: Do I need a form?"
ANSWERED = [
    _row("voice", NOTE, "Hi, you'll need it.\nThe team"),
    _row("voice", "What?", "No.\nThe team"),
    _row("voice", "Why?", "No.\nBye"),
]


def test_voice_rules_say_what_the_note_says_in_the_frame_of_training_answers() -> None:
    rules = {made.name: made.rule for made in baselines("voice", ANSWERED)}
    opening = "Hi there, here's what you need to know."
    assert rules["note"](NOTE) == f"{opening} Returns take 30 days. The form is required.\nThe team"
    assert rules["note_sentence"](NOTE) == f"{opening} The form is required.\nThe team"
    assert rules["plain_sentence"](NOTE) == f"{opening} The form is needed.\nThe team"
    assert rules["note"]("No note.") == f"{opening} No note.\nThe team"
    assert {made.is_reference for made in baselines("voice", ANSWERED)} == {False}
