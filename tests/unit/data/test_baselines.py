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


def test_any_task_has_copy_and_majority() -> None:
    assert _answers("replies", "Hello") == {"copy": "Hello", "majority": min(row.reference for row in TRAIN)}
    assert baselines("replies", [])[1].rule("Hello") == ""


@pytest.mark.parametrize("name", ["copy", "majority", "lookup"])
def test_no_rule_sees_the_reference(name: str) -> None:
    rule = {made.name: made.rule for made in baselines("glossary", [])}[name]
    assert "congestive" not in rule(question(TRAIN[0]))
