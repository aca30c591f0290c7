"""Preferences as `dpo` learns them: a row with two answers, from a file to the token tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.data.preparing import prepared
from tunebook_data.manifest import DatasetManifest
from tunebook_data.rows import Row, read_rows
from tunebook_data.split import SIDES
from tunebook_data.tokens import TokenTable
from tunebook_model.render import Renderer
from tunebook_spec.errors import DataError

WriteJsonl = Callable[..., Path]
Run = Callable[..., DatasetManifest]

KIND, RUDE = "It is blue, and a fine day to you.", "Blue. Look out of the window yourself."


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def preference(question: str, better: str = KIND, worse: str = RUDE, **fields: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": question}]}
    return {
        "input": asked,
        "preferred_output": [says(better)],
        "non_preferred_output": [says(worse)],
        **fields,
    }


PLAIN = [preference(f"What colour is thing {n}?", topic=f"t{n % 10}") for n in range(40)]
SPLIT = {"group_by": "topic", "test": 0.2, "validation": 0.2}


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path) -> Run:
    def run(out: str = "out", *, learns_preferences: bool = True, **data: Any) -> DatasetManifest:
        source = {"kind": "file", "path": "rows.jsonl", "task": "colour", **data.pop("source", {})}
        # Rows from a template are all alike.
        given = {"sources": [{"split": SPLIT, **source}], "decontaminate": None, **data}
        inputs = {"learns_preferences": learns_preferences}
        return prepared(tmp_path, tiny_llama, given, out=out, inputs=inputs)

    return run


def test_a_pair_is_two_rows_of_a_token_table_with_one_prompt(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path, tiny_llama: Path
) -> None:
    write_jsonl(PLAIN)
    manifest = run(source={"weight": 2})
    renderer = Renderer.load(tiny_llama, {})
    for side in ("train", "validation"):
        rows = read_rows(tmp_path / "out" / f"{side}.jsonl")
        table = TokenTable.open(tmp_path / "out" / f"{side}.tokens.arrow")
        ids = [name for row in rows for name in (row.id, f"{row.id}-rejected")]
        assert [table.row_id(number) for number in range(len(table))] == ids
        for number, row in enumerate(rows):
            assert row.rejected == says(RUDE)
            assert row.counterpart is not None
            for place, (of, answer) in enumerate(((row, KIND), (row.counterpart, RUDE))):
                assert renderer.last_answer(table.rendered(2 * number + place)) == answer
                expected = renderer.render(of.messages)
                assert table.input_ids(2 * number + place).tolist() == expected.input_ids.tolist()
                assert table.loss_mask(2 * number + place).tolist() == expected.loss_mask.tolist()
        counts = manifest.splits[side]
        assert (counts.rows, counts.tokens) == (len(rows), int(table.lengths.sum()))
        assert counts.supervised_tokens == sum(int(table.loss_mask(i).sum()) for i in range(len(table)))
        assert counts.longest_tokens == int(table.lengths.max())
    assert manifest.splits["train"].rows == 2 * 24, "copies of pairs are pairs"
    tested = read_rows(tmp_path / "out" / "test.jsonl")
    assert {row.reference for row in tested} == {KIND}
    assert all("non_preferred_output" not in row.meta for row in tested)
    assert manifest.sources[0].files[0].note is None
    assert '"is_rejected": true' in (tmp_path / "out" / "card.json").read_text()


def test_answers_to_one_prompt_stay_on_one_side_and_only_equal_pairs_are_copies(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    worse = [f"Thing {n} is whatever you want it to be." for n in range(3)]
    pairs = [preference(f"What colour is thing {n}?", worse=each) for n in range(20) for each in worse]
    write_jsonl([*pairs, pairs[0], preference("What colour is thing 0?", better=worse[0], worse=worse[1])])
    (source,) = run(source={"split": {"test": 0.2, "validation": 0.2}}).sources
    assert (source.duplicates, source.rejects) == (1, 0)
    sides = {side: read_rows(tmp_path / "out" / f"{side}.jsonl") for side in SIDES}
    prompts = {side: {row.messages[-2]["content"] for row in rows} for side, rows in sides.items()}
    assert sum(map(len, prompts.values())) == len(set.union(*prompts.values())) == 20
    assert sum(map(len, sides.values())) == 61
    assert len({row.id for rows in sides.values() for row in rows}) == 61


def test_near_copies_are_told_by_both_answers(run: Run, write_jsonl: WriteJsonl) -> None:
    long = "Thing {n} is of a colour that you could very well have found out by looking at it for a while."
    asked = "Say it, what colour is it?"
    pair, near = (preference(asked, worse=long.format(n=name)) for name in "AB")
    other = preference(asked, worse="No idea at all, ask somebody else who cares about such things.")
    write_jsonl([pair, near, other])
    split = {"test": 0, "validation": 0}
    assert run(source={"split": split}, dedup={"near": 0.8}).sources[0].near_duplicates == 1
    alike = run("as answers", source={"split": split}, dedup={"near": 0.8}, learns_preferences=False)
    assert alike.sources[0].duplicates == 2


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (preference("Why?", worse=KIND), "non_preferred_output", "is the preferred answer too"),
        (
            preference("Why?", worse="No."),
            "non_preferred_output[0].content",
            "answer shorter than min_response_chars 10",
        ),
        (
            preference("Why?", worse="x" * 5000),
            "non_preferred_output[0].content",
            "answer longer than max_response_chars 4000",
        ),
        (
            preference("Why?", worse="Blue \ufffd, or so it seems"),
            "non_preferred_output[0].content",
            "control characters",
        ),
        (preference("Why?", worse=" " * 20), "non_preferred_output[0].content", "empty content"),
        (
            preference("Why?", worse="word " * 600),
            "non_preferred_output",
            "longer than max_tokens 512",
        ),
        (
            preference("Why?", better="No."),
            "messages[1].content",
            "answer shorter than min_response_chars 10",
        ),
    ],
)
def test_either_answer_can_make_a_pair_a_reject(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path, row: dict[str, Any], field: str, reason: str
) -> None:
    write_jsonl([*PLAIN, {**row, "topic": "t0"}])
    manifest = run(checks={"max_tokens": 512})
    assert manifest.rejects_by_reason == {reason: 1}
    (reject,) = map(orjson.loads, (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines())
    assert (reject["line"], reject["field"]) == (41, field)


def test_what_is_rejected_may_refuse_and_miss_the_schema(run: Run, write_jsonl: WriteJsonl) -> None:
    good, bad = '{"colour": "blue"}', "I'm sorry, but I cannot help with that."
    write_jsonl([preference(f"{n}?", good, bad, topic=f"t{n % 10}") for n in range(40)])
    schema = {"type": "object", "required": ["colour"]}
    checks = {"refusals": "drop", "answer_schema": {"colour": schema}}
    assert run(checks=checks).sources[0].rejects == 0


def test_personal_data_of_both_answers_are_masked(run: Run, write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl(
        [*PLAIN, preference("Who?", "Ask ann@corp.com, please.", "Ask bob@corp.com, man.", topic="t0")]
    )
    run(checks={"personal_data": "mask"})
    rows: list[Row] = [row for side in SIDES for row in read_rows(tmp_path / "out" / f"{side}.jsonl")]
    (row,) = [row for row in rows if "Ask" in row.reference]
    assert row.reference == "Ask [EMAIL], please."
    assert row.rejected == says("Ask [EMAIL], man.")
    assert b"corp.com" not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_both_answers_are_cut_to_one_prompt(run: Run, write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "word " * 100},
        says("Yes, indeed."),
        {"role": "user", "content": "So?"},
    ]
    row = preference("", worse="word " * 90)
    write_jsonl([*PLAIN, {**row, "input": {"messages": turns}, "topic": "t0"}])
    checks = {"max_tokens": 700, "on_too_long": "truncate_left"}
    assert run(checks=checks).sources[0].rejects == 0
    rows = [row for side in SIDES for row in read_rows(tmp_path / "out" / f"{side}.jsonl")]
    (cut,) = [row for row in rows if row.messages[-2]["content"] == "So?"]
    assert len(cut.messages) == 2, "the preferred answer alone would have fitted"


def test_rows_of_one_answer_are_refused_by_name(run: Run, write_jsonl: WriteJsonl) -> None:
    chat = [{"role": "user", "content": "What colour?"}, says(KIND)]
    write_jsonl([{"messages": chat, "topic": "t0"}])
    with pytest.raises(DataError, match=r"rows\.jsonl: its rows are of format messages, .* dpo .* leave"):
        run()


def test_without_dpo_the_other_answer_is_no_part_of_a_row(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    write_jsonl(PLAIN)
    run(learns_preferences=False)
    rows = read_rows(tmp_path / "out" / "train.jsonl")
    assert all(row.rejected is None and row.meta["non_preferred_output"] == [says(RUDE)] for row in rows)
    assert len(TokenTable.open(tmp_path / "out" / "train.tokens.arrow")) == len(rows)
