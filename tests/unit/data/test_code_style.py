"""Functions cut out of stand-ins for the packages, by the real ruff under the house style of the spec."""

from collections import Counter
from pathlib import Path

import pytest

from tests.unit.data.stand_ins import stand_in
from tunebook_data import ruff
from tunebook_data.baselines import baselines, question
from tunebook_data.datasets import code_functions, code_style
from tunebook_data.datasets.code_faults import with_faults
from tunebook_data.datasets.code_functions import Cut, HouseFunction, house_functions
from tunebook_data.rows import Row
from tunebook_data.split import SourceRows, check_leaks, split_rows
from tunebook_spec import load
from tunebook_spec.data import DatasetSource, Split
from tunebook_spec.errors import DataError, IntegrityError
from tunebook_spec.evaluation import TaskSet
from tunebook_spec.metrics import CodeRuff

SPEC = Path(__file__).parents[3] / "specs" / "code_style.yaml"
SHAPES = '''
import math as m
from typing import Optional
from .units import Unit

LIMIT = 3

def area(radius: float, unit: Optional[Unit] = None) -> float:
    """Computes   the area of
    a circle. It is round.

    >>> area(0.0)
    0.0
    """
    if radius < 0:
        raise ValueError(f"{radius} is negative")
    return m.pi * radius ** 2

def bare(x):
    """No annotation tells what it takes."""
    return x

def limited(x: int) -> int:
    """Keep a number below what the module allows."""
    return _least(x, LIMIT)

def _least(x: int, y: int) -> int:
    """Return the smaller number of two."""
    return min(x, y)

def undocumented(x: int) -> int:
    return x

def wordy(x: int) -> int:
    """This sentence is the summary of a function, and it is too long to be in one line of code."""
    return x
'''
OTHERS = '''
from .plane.shapes import LIMIT, _least

def ar_ea(x: int) -> int:
    """Is called as another function is."""
    return x

def limits(x: int) -> int:
    """Does what another function does."""
    return _least(x, LIMIT)

def older(x: int) -> int:
    """Deprecated: use another function."""
    return x + 1

def second(pair: list) -> int:
    """Return the second of a pair."""
    return pair[1]
'''
AREA = '''from __future__ import annotations

import math as m

from algorithms.plane.units import Unit


def area(radius: float, unit: Unit | None = None) -> float:
    """Computes the area of a circle."""
    if radius < 0:
        msg = f'{radius} is negative'
        raise ValueError(msg)
    return m.pi * radius**2
'''


@pytest.fixture(scope="module")
def house() -> str:
    source = load(SPEC).spec.data.sources[0]
    assert isinstance(source, DatasetSource)
    assert source.ruff
    return source.ruff


@pytest.fixture
def assets_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    members = {
        "algorithms/plane/shapes.py": SHAPES,
        "algorithms/zother.py": OTHERS,
        "algorithms/tests/test_shapes.py": OTHERS.replace("second", "third"),
        "algorithms/notes.txt": "def f(): ...",
    }
    monkeypatch.setattr(code_functions, "PACKAGES", ("algorithms",))
    return stand_in(tmp_path, monkeypatch, {("algorithms", "1.0.1"): members})


def rows_of(task: str, assets_dir: Path, house: str, seed: int = 0) -> list[Row]:
    return list(code_style.rows(task, assets_dir=assets_dir, house=house, seed=seed))


def function(code: str, name: str = "f", summary: str = "Do it.") -> HouseFunction:
    return HouseFunction(Cut("p", "p/m", name, summary, "", code), code)


def test_short_documented_functions_are_brought_to_the_house_style(assets_dir: Path, house: str) -> None:
    found = {each.cut.name: each for each in house_functions(assets_dir, house)}
    assert list(found) == ["area", "limited", "second"], "the first of one name, or of one body"
    assert found["area"].code == AREA
    assert found["area"].signature == "area(radius, unit=None)"
    assert found["area"].cut.examples == ">>> area(0.0)\n0.0\n"
    assert "from algorithms.plane.shapes import LIMIT, _least\n" in found["limited"].code


def test_another_house_style_makes_other_code(assets_dir: Path) -> None:
    found = {each.cut.name: each.code for each in house_functions(assets_dir, 'lint.select = ["Q"]')}
    assert found["area"].startswith("from typing import Optional\n")
    assert 'f"{radius} is negative"' in found["area"]
    assert "bare" in found, "no rule asks for annotations"


def test_write_asks_by_name_parameters_and_summary(assets_dir: Path, house: str) -> None:
    (row,) = [each for each in rows_of("write", assets_dir, house) if "area" in each.meta["signature"]]
    assert question(row) == "Write the function `area(radius, unit=None)`. Computes the area of a circle."
    assert row.reference == AREA.strip()
    assert row.meta["module"] == "algorithms/plane/shapes"
    assert row.meta["folder"] == row.group == "algorithms/plane"


def test_restyle_shows_the_same_function_with_faults_by_seed(assets_dir: Path, house: str) -> None:
    written = {row.reference for row in rows_of("write", assets_dir, house)}
    assert rows_of("restyle", assets_dir, house) == rows_of("restyle", assets_dir, house)
    shown = set()
    for seed in range(6):
        rows = rows_of("restyle", assets_dir, house, seed)
        assert {row.reference for row in rows} == written
        assert not any(ruff.is_clean([question(row) for row in rows], house))
        shown |= {question(row) for row in rows if "def area" in question(row)}
    assert len(shown) == 4, "with and without annotations, docstring careless or a comment"
    assert sum("radius: float" in code for code in shown) == 2
    assert sum("# computes the area of a circle\n" in code for code in shown) == 2
    for code in shown:
        assert 'raise ValueError(f"{radius} is negative")' in code
        assert "__future__" not in code
        assert ("import Unit" in code) == ("radius: float" in code), "what nothing needs is not imported"


def test_faults_are_only_in_the_style() -> None:
    code = "def f(a):\n    msg = 'no'\n    b: int = 3\n    if a:\n        raise E(msg)\n    return msg, b\n"
    (shown,) = with_faults([function(code.replace("    msg", "    'Do it.'\n    msg"))], seed=1)
    assert "raise E(msg)" in shown, "the message is not right before it"
    assert "msg = " in shown


def test_examples_are_there_where_they_were_tried(
    assets_dir: Path, house: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {row.meta["examples"] for row in rows_of("write", assets_dir, house)} == {""}
    monkeypatch.setattr(code_style, "tried_functions", lambda: {"algorithms/plane/shapes:area"})
    examples = Counter(row.meta["examples"] for row in rows_of("write", assets_dir, house))
    assert examples == {"": 2, ">>> area(0.0)\n0.0\n": 1}


def test_folders_are_dealt_in_turn(assets_dir: Path, house: str) -> None:
    for task in code_style.TASKS:
        for seed in range(4):
            rows = rows_of(task, assets_dir, house, seed)
            assert len({row.group for row in rows[:2]}) == 2
            assert [row.line for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    ("task", "style", "count", "message"),
    [
        ("other", "", None, "no task 'other'"),
        ("write", None, None, "set `ruff`"),
        ("write", 'lint.selekt = ["Q"]', None, "selekt"),
        ("write", 'lint.select = ["Q"]', 99, "got 99"),
    ],
)
def test_what_cannot_be_had_is_named(
    assets_dir: Path, task: str, style: str | None, count: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(code_style.rows(task, assets_dir=assets_dir, house=style, rows=count))


def test_one_house_style_makes_the_rows_and_scores_the_answers(house: str) -> None:
    for profile in (None, "local"):
        spec = load(SPEC, profile=profile).spec
        assert {source.ruff for source in spec.data.sources if isinstance(source, DatasetSource)} == {house}
        sets = [each for each in spec.evaluation.sets.values() if isinstance(each, TaskSet)]
        scoring = [each for one in sets for each in one.metrics if isinstance(each, CodeRuff)]
        assert {each.config for each in scoring} == {house}
        assert len(scoring) == len(code_style.TASKS)


def row(task: str, number: int, group: str) -> Row:
    asked = {"role": "user", "content": f"{task} {number}"}
    return Row(f"{task}{number}", (asked, {"role": "assistant", "content": "x"}), task, group, "s", number)  # type: ignore[arg-type]


def test_groups_across_tasks_stay_on_one_side() -> None:
    split = Split(group_by="folder", across_tasks=True, test=0.3, validation=0.1)

    def sources(prefix: str) -> list[SourceRows]:
        return [
            SourceRows(task, split, [row(task, n, f"{prefix}m{n % 20}") for n in range(60)])
            for task in code_style.TASKS
        ]

    def sides(made: list[SourceRows]) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for source, of_source in zip(made, split_rows(made, seed=0), strict=True):
            for each, side in zip(source.rows, of_source, strict=True):
                found.setdefault(each.group, set()).add(int(side))
        return found

    assert all(len(of_group) == 1 for of_group in sides(sources("any task: ")).values())
    assert any(len(of_group) > 1 for of_group in sides(sources("")).values())
    with pytest.raises(IntegrityError, match="group 'any task: m0' is in train and test"):
        check_leaks(
            {
                "train": [row("write", 1, "any task: m0")],
                "validation": [],
                "test": [row("restyle", 1, "any task: m0")],
            }
        )


def test_what_spans_tasks_has_a_name() -> None:
    with pytest.raises(ValueError, match="`across_tasks` needs `group_by`"):
        Split(across_tasks=True)


def test_code_is_held_against_ruff_itself_and_an_empty_function(house: str) -> None:
    rules = {each.name: each for each in baselines("restyle", [], house)}
    careless = 'def f(a: int) -> int:\n    "does it"\n    return [ "x" ] [a]'
    mended = rules["ruff"].rule(careless)
    assert rules["ruff"].is_reference
    assert mended.startswith("from __future__ import annotations\n\n\ndef f(a: int)")
    assert ruff.is_clean([mended], house) == [True]
    assert ruff.is_clean([rules["ruff"].rule(careless.replace("a: int", "a"))], house) == [False]
    assert "ruff" not in {each.name for each in baselines("restyle", [])}
    stub = {each.name: each for each in baselines("write", [], house)}["stub"]
    empty = stub.rule("Write the function `f(a, *b, c=1)`. Do it.")
    assert stub.is_reference
    assert "def f(a: object, *b: object, c: object = 1) -> object:\n" in empty
    assert "raise NotImplementedError" in empty
    assert ruff.is_clean([empty], house) == [True]
    assert stub.rule("Hello") == ""
    assert stub.rule("Write the function `slugify`. It makes slugs.") == "", "no parameters"


def test_ruff_leaves_what_it_cannot_read() -> None:
    read = ruff.fixed(["def f(:", "x = [ 1 ]"], "")
    assert read == ["def f(:", "x = [1]\n"]
    assert ruff.is_clean(["def f(:", "x = 1\n"], "") == [False, True]
    with pytest.raises(DataError, match="selekt"):
        ruff.formatted(["x = 1"], 'lint.selekt = ["Q"]')
