import pytest

from tunebook_data.letters import letter_score


@pytest.mark.parametrize(
    ("abbreviation", "meaning"),
    [("AKI", "acute kidney injury"), ("SOB", "shortness of breath"), ("CrCl", "creatinine clearance")],
)
def test_known_pairs_score_high(abbreviation: str, meaning: str) -> None:
    assert letter_score(abbreviation, meaning) >= 0.69


def test_an_initialism_scores_one_and_fillers_cost_nothing() -> None:
    assert letter_score("AKI", "acute kidney injury") == 1.0
    assert letter_score("FUO", "fever of unknown origin") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("abbreviation", "better", "worse"),
    [
        ("AKI", "acute kidney injury", "acute kidney infection disease"),
        ("MTX", "methotrexate", "mitral valve"),
        ("XRT", "radiotherapy", "anesthesia"),
        ("ABC", "alpha beta", "beta alpha"),
    ],
)
def test_the_closer_meaning_scores_higher(abbreviation: str, better: str, worse: str) -> None:
    assert letter_score(abbreviation, better) > letter_score(abbreviation, worse)


def test_case_and_hyphens_do_not_matter() -> None:
    assert letter_score("nsclc", "Non-Small cell lung cancer") == letter_score(
        "NSCLC", "non small cell lung cancer"
    )
