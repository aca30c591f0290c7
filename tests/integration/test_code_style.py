"""The functions out of the real wheels, where set-up has put them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tunebook_data import ruff
from tunebook_data.baselines import question
from tunebook_data.datasets import code_style
from tunebook_data.datasets.code_functions import HouseFunction, body_digest, house_functions
from tunebook_data.near_duplicates import jaccard, shingles
from tunebook_eval.code_scores import defines, pass_doctests
from tunebook_run.settings import Settings
from tunebook_spec import load
from tunebook_spec.data import DatasetSource
from tunebook_spec.metrics import CodeDoctests

ASSETS = Settings.read().assets_dir
SPEC = Path(__file__).parents[2] / "specs" / "code_style.yaml"
TRIED = 16
pytestmark = pytest.mark.skipif(not (ASSETS / "wheels").is_dir(), reason="make setup has not run")


@pytest.fixture(scope="module")
def house() -> str:
    source = load(SPEC).spec.data.sources[0]
    assert isinstance(source, DatasetSource)
    assert source.ruff
    return source.ruff


@pytest.fixture(scope="module")
def functions(house: str) -> tuple[HouseFunction, ...]:
    return house_functions(ASSETS, house)


def key(function: HouseFunction) -> str:
    return f"{function.cut.module}:{function.cut.name}"


def test_there_are_more_than_eight_hundred_functions_of_as_many_names(
    functions: tuple[HouseFunction, ...],
) -> None:
    packages = Counter(each.cut.package for each in functions)
    assert len(functions) == packages.total() == 832
    assert len(packages) == 11
    assert packages["algorithms"] < len(functions) / 2
    assert len({each.folder for each in functions}) == 100
    assert len({each.cut.name for each in functions}) == len(functions)
    assert len({body_digest(each.code) for each in functions}) == len(functions)


def test_answers_are_in_house_style_and_what_is_to_be_restyled_is_not(house: str) -> None:
    for task in code_style.TASKS:
        rows = list(code_style.rows(task, assets_dir=ASSETS, house=house))
        assert all(ruff.is_clean([row.reference for row in rows], house))
        assert all(defines(row.reference, row.meta["signature"]) for row in rows)
    faulty = [question(row) for row in rows]
    assert not any(ruff.is_clean(faulty, house))
    mended = ruff.is_clean(ruff.fixed(faulty, house), house)
    assert 0.1 < sum(mended) / len(mended) < 0.3, "some faults are for ruff, most are not"
    assert sum(bool(row.meta["examples"]) for row in rows) > 190


def test_functions_of_two_folders_are_no_near_copies(functions: tuple[HouseFunction, ...]) -> None:
    some = [(each.folder, shingles([each.code])) for each in functions[::3]]
    near = [
        (folder, elsewhere)
        for n, (folder, mine) in enumerate(some)
        for elsewhere, other in some[:n]
        if elsewhere != folder and jaccard(mine, other) > 0.6
    ]
    assert near == []


def test_listed_examples_pass_and_others_do_not(functions: tuple[HouseFunction, ...]) -> None:
    shown = [each for each in functions if each.cut.examples]
    listed = [each for each in shown if key(each) in code_style.tried_functions()]
    assert 190 < len(listed) < len(shown)
    others = [each for each in shown if key(each) not in code_style.tried_functions()]
    for some, passes in ((listed, 1.0), (others, 0.0)):
        tried = some[:: len(some) // TRIED][:TRIED]
        found = pass_doctests(
            CodeDoctests(kind="code_doctests"),
            [each.code for each in tried],
            [each.cut.examples for each in tried],
        )
        assert found == [passes] * TRIED
