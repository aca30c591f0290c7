from __future__ import annotations

from tunebook_run.differences import differences


def test_each_leaf_that_differs_has_its_path_and_both_values() -> None:
    one = {"method": {"epochs": 3, "kind": "full"}, "sets": [{"task": "a"}, {"task": "b"}], "seed": 0}
    other = {"method": {"epochs": 5, "kind": "full"}, "sets": [{"task": "a"}], "name": "x", "seed": 0}
    found = [(each.path, each.shown, each.is_change) for each in differences(one, other)]
    assert found == [
        ("method.epochs", ("3", "5"), True),
        ("sets.1", ('{"task": "b"}', "-"), False),
        ("name", ("-", "x"), False),
    ]


def test_what_changes_its_kind_differs_as_a_whole_and_a_null_is_a_value() -> None:
    (found,) = differences({"few_shot": {"k": 3}}, {"few_shot": None})
    assert (found.path, found.shown, found.is_change) == ("few_shot", ('{"k": 3}', "null"), True)
    assert list(differences([1, "a"], [1, "a"])) == []


def test_long_values_are_shown_in_one_short_line() -> None:
    (found,) = differences("a\n" * 200, "b")
    assert found.shown == ("a " * 30 + "... (399 characters)", "b")
