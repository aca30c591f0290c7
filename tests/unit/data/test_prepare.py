from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import tunebook_data.assemble
from tests.unit.data.preparing import prepared
from tunebook_data.card_page import write_page
from tunebook_data.contract import check_contract, read_probes
from tunebook_data.manifest import DatasetManifest, size_advice
from tunebook_data.rows import Row, read_rows, write_rows
from tunebook_data.split import SIDES, Keys, Side, Sides, SourceRows
from tunebook_data.tokens import TokenTable, write_tokens
from tunebook_model.conversation import Message
from tunebook_model.render import Rendered, Renderer
from tunebook_spec.errors import DataError, IntegrityError

WriteJsonl = Callable[..., Path]
Run = Callable[..., DatasetManifest]


def chat(question: str, answer: str = "It is certainly blue.", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **fields}


MESSY = [
    *[chat(f"What colour is thing {n}?", topic=f"t{n % 20}") for n in range(60)],
    chat("What colour is thing 0?", topic="t0"),
    chat("What colour is thing 1?", topic="t1"),
    chat("Too short", "No.", topic="t1"),
    chat("No topic"),
    b"broken",
]


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path) -> Run:
    def run(
        out: Path | None = None, replay_dir: Path | None = None, seed: int = 0, **data: Any
    ) -> DatasetManifest:
        source = {"kind": "file", "path": "rows.jsonl", "task": "colour", **data.pop("source", {})}
        return prepared(
            tmp_path,
            tiny_llama,
            {"sources": [source], **data},
            out=out.name if out else "out",
            inputs={"seed": seed, "questions": ("Who wrote  HAMLET?",)},
            replay_dir=replay_dir,
        )

    return run


@pytest.fixture
def messy(write_jsonl: WriteJsonl) -> dict[str, Any]:
    write_jsonl(MESSY)
    return {"source": {"split": {"group_by": "topic", "test": 0.2, "validation": 0.1}, "max_train_rows": 30}}


def replay_pool(folder: Path, make_row: Callable[..., Row], renderer: Renderer) -> Path:
    folder.mkdir()
    questions = [*[f"What is {n}?" for n in range(30)], *[f"What colour is thing {n}?" for n in range(60)]]
    rows = [make_row(question, task="replay") for question in [*questions, "Who wrote Hamlet?"]]
    write_rows(folder / "rows.jsonl", rows)
    write_tokens(folder / "tokens.arrow", ((row.id, renderer.render(row.messages)) for row in rows))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_row_that_comes_in_is_accounted_for(run: Run, messy: dict[str, Any], tmp_path: Path) -> None:
    manifest = run(**messy)
    (source,) = manifest.sources
    assert (source.rows_in, source.rejects, source.duplicates) == (65, 3, 2)
    assert (source.train, source.validation, source.test, source.capped) == (30, 6, 12, 12)
    assert manifest.rejects_by_reason == {
        "answer shorter than min_response_chars 10": 1,
        "no string 'topic' to group by": 1,
        "not JSON": 1,
    }
    assert len((tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()) == 3
    for side, counts in manifest.splits.items():
        rows = read_rows(tmp_path / "out" / f"{side}.jsonl")
        assert counts.rows == len(rows)
        assert counts.groups == len({row.group for row in rows})


def test_a_weight_repeats_training_rows_alone(run: Run, messy: dict[str, Any], tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", **{**messy, "source": dict(messy["source"])})
    manifest = run(tmp_path / "heavy", **{**messy, "source": {**messy["source"], "weight": 2.5}})
    (counts,) = manifest.sources
    assert counts == plain.sources[0].model_copy(update={"repeats": 45})
    assert counts.accounted == counts.rows_in
    assert manifest.splits["train"].rows == 75
    assert "45 repeats" in manifest.summary()
    held_out: tuple[Side, ...] = ("validation", "test")
    assert all(manifest.splits[side] == plain.splits[side] for side in held_out)
    once = read_rows(tmp_path / "plain" / "train.jsonl")
    rows = read_rows(tmp_path / "heavy" / "train.jsonl")
    assert rows[:30] == once
    assert len({row.id for row in rows}) == 75
    table = TokenTable.open(tmp_path / "heavy" / "train.tokens.arrow")
    originals = {row.id: table.input_ids(i).tolist() for i, row in enumerate(once)}
    for i, row in enumerate(rows):
        assert table.row_id(i) == row.id
        assert table.input_ids(i).tolist() == originals[row.id.partition("-")[0]]


def test_a_weight_below_1_leaves_rows_out_that_count_as_capped(run: Run, messy: dict[str, Any]) -> None:
    (counts,) = run(**{**messy, "source": {**messy["source"], "weight": 0.5}}).sources
    assert (counts.train, counts.validation, counts.test, counts.capped) == (15, 6, 12, 27)
    assert (counts.accounted, counts.repeats) == (65, 0)


def listing(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


SENTENCE = "The committee of the harbour town decided after long debate to paint the old lighthouse"


def test_near_copies_and_leaks_are_dropped_from_training_alone_and_listed_with_what_they_repeat(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    long = [f"{' '.join(f'w{n}x{k}' for k in range(30))}?" for n in range(40)]
    near = [question.replace("x7 ", "x7b ") for question in long]
    suite = chat("Tell me.\nwho wrote Hamlet? ")
    suite["messages"][0]["content"] = "who wrote Hamlet? "
    write_jsonl([*[chat(question) for question in (*long, *near)], suite, chat(long[0])])
    source = {"split": {"test": 0.25, "validation": 0}, "max_train_rows": 10}
    kept = run(tmp_path / "off", source=dict(source), decontaminate=None)
    assert (kept.sources[0].near_duplicates, kept.sources[0].contaminated) == (0, 0)

    manifest = run(tmp_path / "on", source=dict(source), dedup={"near": 0.8})
    (counts,) = manifest.sources
    assert (counts.rows_in, counts.duplicates, counts.test, counts.train) == (82, 1, kept.sources[0].test, 10)
    assert counts.accounted == 82
    test = read_rows(tmp_path / "on" / "test.jsonl")
    assert test == read_rows(tmp_path / "off" / "test.jsonl")
    duplicates = listing(tmp_path / "on" / "duplicates.jsonl")
    assert [each["kind"] for each in duplicates] == ["exact"] + ["near"] * counts.near_duplicates
    assert {each["line"] - each["copy_of_line"] for each in duplicates[1:]} == {40}
    leaks = listing(tmp_path / "on" / "leaks.jsonl")
    assert len(leaks) == counts.contaminated > 5
    assert manifest.leaks_by_rule == Counter(each["rule"] for each in leaks)
    by_item = {each["item"]: each for each in leaks}
    assert by_item["question 'Who wrote  HAMLET?'"]["rule"] == "exact"
    halves = {row.line % 40 for row in test}
    assert {each["line"] % 40 for each in leaks if each["rule"] != "exact"} <= halves
    told = "\n".join(manifest.warnings)
    assert "training rows nearly repeat another one and are dropped (duplicates.jsonl lists them)" in told
    assert "training rows contain what is held out and are dropped (leaks.jsonl lists them)" in told


SECRET = "ada@uni-ulm.de"
PRIVATE = [
    *[chat(f"What colour is thing {n}?") for n in range(20)],
    chat(f"Who is {SECRET} then?", mail=SECRET),
    chat("Who is it?", SECRET[:9]),
    f'{{"broken": "{SECRET}'.encode(),
]


@pytest.mark.parametrize(
    ("policy", "rejects", "flags"),
    [
        ("allow", 2, {}),
        ("flag", 2, {"personal data: email": 1}),
        ("mask", 2, {"masked email": 1}),
        ("drop", 3, {}),
    ],
)
def test_personal_data_is_flagged_masked_or_dropped(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path, policy: str, rejects: int, flags: dict[str, int]
) -> None:
    write_jsonl(PRIVATE)
    manifest = run(checks={"personal_data": policy})
    assert manifest.sources[0].rejects == rejects
    assert {reason: count for reason, count in manifest.flags_by_reason.items() if count} == flags
    assert len(manifest.flags_by_reason) == (7 if flags else 0), "every rule that was applied is named"
    assert len(listing(tmp_path / "out" / "flags.jsonl")) == sum(flags.values())
    write_page(tmp_path / "out")
    holding = {path.name for path in (tmp_path / "out").iterdir() if SECRET.encode() in path.read_bytes()}
    if policy in ("mask", "drop"):
        assert not holding
    else:
        assert "rejects.jsonl" in holding
        assert holding & {"train.jsonl", "validation.jsonl", "test.jsonl"}
    assert ("1 x personal data: email" in manifest.summary()) == (policy == "flag")


def test_rows_that_are_equal_once_masked_are_duplicates(run: Run, write_jsonl: WriteJsonl) -> None:
    write_jsonl([*PRIVATE[:20], *[chat(f"Who is {name}@uni-ulm.de?") for name in ("ada", "bob")]])
    assert run(checks={"personal_data": "mask"}).sources[0].duplicates == 1


def test_a_truncated_row_is_kept_and_flagged(run: Run, write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    long = chat("Say it all", "word " * 60)
    long["messages"] += chat("And shorter?")["messages"]
    write_jsonl([*PRIVATE[:20], long])
    manifest = run(checks={"max_tokens": 200, "on_too_long": "truncate_left", "personal_data": "allow"})
    assert manifest.flags_by_reason == {"cut to max_tokens 200": 1}
    rows = [row for side in SIDES for row in read_rows(tmp_path / "out" / f"{side}.jsonl")]
    (cut,) = [row for row in rows if row.line == 21]
    assert [message["content"] for message in cut.messages] == ["And shorter?", "It is certainly blue."]


def test_a_row_that_is_too_long_in_tokens_is_a_reject_and_no_flag(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    write_jsonl([*MESSY[:20], chat("Say it all", f"{'word ' * 60}\x07"), chat("Too short", "No.")])
    manifest = run(checks={"max_tokens": 200, "damaged_text": "flag"}, max_reject_fraction=0.5)
    assert manifest.rejects_by_reason.keys() == {
        "longer than max_tokens 200",
        "answer shorter than min_response_chars 10",
    }
    assert [each["line"] for each in listing(tmp_path / "out" / "rejects.jsonl")] == [21, 22]
    assert listing(tmp_path / "out" / "flags.jsonl") == []


@pytest.mark.parametrize("form", [None, "messages"])
def test_the_manifest_has_the_hash_of_a_file_however_its_format_is_known(
    run: Run, write_jsonl: WriteJsonl, tmp_path: Path, form: str | None
) -> None:
    write_jsonl(MESSY[:20])
    (file,) = run(source={"format": form}).sources[0].files
    assert file.sha256 == hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("num_rows", "advice"),
    [
        (49, "prompt instead"),
        (50, "weak"),
        (99, "weak"),
        (100, "between weak"),
        (499, "between weak"),
        (500, "are good"),
        (999, "are good"),
        (1000, "are strong"),
        (9999, "are strong"),
        (10_000, "full capability"),
    ],
)
def test_the_size_of_a_data_set_is_judged_by_the_tiers_of_the_field(num_rows: int, advice: str) -> None:
    assert advice in size_advice(num_rows)


def test_few_rows_to_train_on_are_a_warning_and_part_of_the_summary(run: Run, messy: dict[str, Any]) -> None:
    manifest = run(**messy)
    assert size_advice(30) in manifest.warnings
    assert manifest.summary().endswith(size_advice(30))


def test_a_source_that_only_repeats_the_test_is_refused(run: Run, write_jsonl: WriteJsonl) -> None:
    write_jsonl([chat(f"{SENTENCE} in colour {n}?") for n in range(2)])
    with pytest.raises(DataError, match=r"none of 1 training rows is left: .*data\.decontaminate"):
        run(source={"split": {"test": 0.5, "validation": 0}})


def test_token_tables_hold_the_rows_of_their_split_as_rendered(
    run: Run, messy: dict[str, Any], tmp_path: Path, renderer: Renderer
) -> None:
    manifest = run(**messy)
    for side in ("train", "validation"):
        rows = read_rows(tmp_path / "out" / f"{side}.jsonl")
        table = TokenTable.open(tmp_path / "out" / f"{side}.tokens.arrow")
        assert [table.row_id(i) for i in range(len(table))] == [row.id for row in rows]
        for i, row in enumerate(rows):
            rendered = renderer.render(row.messages)
            assert table.input_ids(i).tolist() == rendered.input_ids.tolist()
            assert table.loss_mask(i).tolist() == rendered.loss_mask.tolist()
        assert manifest.splits[side].tokens == len(table.all_input_ids)
    assert not (tmp_path / "out" / "test.tokens.arrow").exists()


def test_the_same_inputs_give_the_same_bytes_and_another_seed_another_split(
    run: Run, messy: dict[str, Any], make_row: Callable[..., Row], renderer: Renderer, tmp_path: Path
) -> None:
    pool = replay_pool(tmp_path / "replay", make_row, renderer)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, pool, seed, replay={"share": 0.2}, source=dict(messy["source"]))
        write_page(tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")["test.jsonl"] != digests(tmp_path / "c")["test.jsonl"]


def test_replay_joins_the_training_rows_alone(
    run: Run, messy: dict[str, Any], make_row: Callable[..., Row], renderer: Renderer, tmp_path: Path
) -> None:
    pool = replay_pool(tmp_path / "replay", make_row, renderer)
    manifest = run(replay_dir=pool, replay={"share": 0.3}, **messy)
    assert manifest.replay is not None
    train = manifest.splits["train"]
    assert 0.3 <= manifest.replay.share < 0.3 + 60 / train.tokens
    assert manifest.replay.held_out == 12 + 6 + 1, "the test's, the validation's and the suite's questions"
    rows = {side: read_rows(tmp_path / "out" / f"{side}.jsonl") for side in manifest.splits}
    assert [row.task for row in rows["train"]] == ["colour"] * 30 + ["replay"] * manifest.replay.rows
    assert {row.task for side in ("validation", "test") for row in rows[side]} == {"colour"}


def test_probes_carry_the_ids_that_a_server_must_read(
    run: Run, messy: dict[str, Any], tmp_path: Path, renderer: Renderer
) -> None:
    run(**messy)
    probes = read_probes(tmp_path / "out" / "probes.jsonl")
    assert len(probes) >= 4
    check_contract(probes, renderer.prompt_ids)

    def other(messages: Sequence[Message], _: object) -> list[int]:
        ids = renderer.prompt_ids(messages)
        return [*ids[:3], ids[3] + 1, *ids[4:]]

    with pytest.raises(
        IntegrityError, match=rf"row {probes[0].id}: .* token 3 is \d+ served and \d+ trained"
    ):
        check_contract(probes, other)
    with pytest.raises(IntegrityError, match=r"is absent served and \d+ trained"):
        check_contract(probes, lambda messages, _: renderer.prompt_ids(messages)[:-1])


def test_nothing_left_after_the_checks_is_told_by_reason(run: Run, write_jsonl: WriteJsonl) -> None:
    write_jsonl([chat("Hi", "No."), chat("Hello", "Yes."), b"broken"])
    with pytest.raises(DataError) as caught:
        run()
    message = str(caught.value)
    assert "source rows.jsonl (colour): no row of 3 is left" in message
    assert "2 x answer shorter than min_response_chars 10" in message
    assert "1 x not JSON" in message
    assert "for instance rows.jsonl:1: messages[1].content" in message


@pytest.mark.parametrize(("num_bad", "allowed", "stops"), [(4, 0.0, False), (5, 0.2, False), (6, 0.2, True)])
def test_too_many_rejects_stop_the_run_with_their_reasons(
    run: Run, write_jsonl: WriteJsonl, num_bad: int, allowed: float, stops: bool
) -> None:
    good = [chat(f"What colour is thing {n}?") for n in range(25 - num_bad)]
    bad = [b"broken", chat("Short", "No."), *[chat("Null", None) for _ in range(num_bad - 2)]]  # type: ignore[arg-type]
    write_jsonl([*good, *bad])
    if not stops:
        assert run(max_reject_fraction=allowed).sources[0].rejects == num_bad
        return
    with pytest.raises(DataError) as caught:
        run(max_reject_fraction=allowed)
    head, *lines = str(caught.value).splitlines()
    assert head == (
        "source rows.jsonl (colour): 6 of 25 rows are rejects, more than data.max_reject_fraction 0.2;"
        " mend them, or raise it:"
    )
    assert sorted(line.partition(",")[0] for line in lines) == [
        "  1 x answer shorter than min_response_chars 10",
        "  1 x not JSON",
        "  4 x content is not a string",
    ]
    assert "for instance rows.jsonl:22: messages[1].content: content is not a string (got 'None')" in lines[0]


def test_unreadable_rows_stop_the_run_before_the_others_are_checked(
    run: Run, write_jsonl: WriteJsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Renderer, "render")
    write_jsonl([*[chat(f"What colour is thing {n}?") for n in range(20)], *[b"broken"] * 6])
    with pytest.raises(DataError, match=r"6 x not JSON, for instance rows\.jsonl:21"):
        run()


def test_the_format_of_each_file_is_told(
    run: Run, write_jsonl: WriteJsonl, caplog: pytest.LogCaptureFixture
) -> None:
    write_jsonl([chat(f"What colour is thing {n}?") for n in range(3)], "a.jsonl")
    write_jsonl([{"prompt": f"Colour {n}?", "completion": "Certainly blue."} for n in range(4)], "b.jsonl")
    write_jsonl([b"", b"broken"], "c.jsonl")
    caplog.set_level("INFO", "tunebook_data")
    (source,) = run(source={"path": "*.jsonl"}).sources
    assert (source.source, source.rows_in) == ("*.jsonl", 8)
    assert [(file.file, file.format, file.rows_in) for file in source.files] == [
        ("a.jsonl", "messages", 3),
        ("b.jsonl", "prompt_completion", 4),
        ("c.jsonl", None, 1),
    ]
    assert "read b.jsonl: 4 rows, format prompt_completion" in caplog.text


def test_rows_of_a_table_can_be_prepared(run: Run, tmp_path: Path) -> None:
    lines = [f"thing {n},Certainly blue.,t{n % 9}" for n in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["thing,colour,topic", *lines]))
    columns = {"user": "What colour is {thing}?", "assistant": "{colour}"}
    manifest = run(source={"path": "rows.csv", "columns": columns, "split": {"group_by": "topic"}})
    assert manifest.splits["train"].groups + manifest.splits["test"].groups + 1 >= 9
    assert manifest.sources[0].files[0].format == "columns"
    assert manifest.sources[0].accounted == 40
    first = read_rows(tmp_path / "out" / "train.jsonl")[0]
    assert first.messages[0]["content"] == f"What colour is {first.meta['thing']}?"


def test_an_empty_file_is_told_as_such(run: Run, write_jsonl: WriteJsonl) -> None:
    write_jsonl([b"\n\n"])
    with pytest.raises(DataError, match="it holds no rows"):
        run()


def test_a_split_that_leaks_stops_the_run(
    run: Run, messy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def alternate(sources: list[SourceRows], seed: int, keys: Keys) -> list[Sides]:
        return [np.arange(len(each.rows), dtype=np.int8) % len(SIDES) for each in sources]

    monkeypatch.setattr(tunebook_data.assemble, "split_rows", alternate)
    with pytest.raises(IntegrityError, match=r"the same group 't\d+' is in train and"):
        run(**messy)


def test_a_row_that_fails_the_audit_stops_the_run_by_name(
    run: Run, messy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    render = Renderer.render

    def everything_supervised(self: Renderer, messages: tuple[Message, ...], **_: object) -> Rendered:
        input_ids = render(self, messages).input_ids
        return Rendered(input_ids, np.ones(len(input_ids), np.bool_))

    monkeypatch.setattr(Renderer, "render", everything_supervised)
    with pytest.raises(IntegrityError, match=r"rows\.jsonl:\d+: loss mask of row [0-9a-f]{16}: every token"):
        run(**messy)
