from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.preparing import prepared
from tunebook_data.card import DataCard, read_card
from tunebook_data.card_page import write_page
from tunebook_data.rows import Row, read_rows, write_rows
from tunebook_data.shown_rows import ShownRow
from tunebook_data.tokens import write_tokens
from tunebook_model.render import Rendered, Renderer, SoftTargets

WriteJsonl = Callable[..., Path]
MakeCard = Callable[..., tuple[DataCard, str]]
SCRIPT = "<script>alert('x')</script>"
SECRET = "ada@uni-ulm.de"


def chat(question: str, answer: str = "It is certainly blue.", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **fields}


def colours(num_rows: int) -> list[dict[str, Any]]:
    return [
        chat(f"What colour is thing {n}, of all the things here?", topic=f"t{n % 20}")
        for n in range(num_rows)
    ]


@pytest.fixture
def make_card(tiny_llama: Path, tmp_path: Path) -> MakeCard:
    def make(replay_dir: Path | None = None, **data: Any) -> tuple[DataCard, str]:
        """The card of rows.jsonl, and its page."""
        split = {"group_by": "topic", "test": 0.2, "validation": 0.1}
        source = {"kind": "file", "path": "rows.jsonl", "task": "colour", "split": split}
        given = {"sources": [{**source, **data.pop("source", {})}], **data}
        inputs = {"questions": ("Who wrote Hamlet?",)}
        prepared(tmp_path, tiny_llama, given, inputs=inputs, replay_dir=replay_dir)
        write_page(tmp_path / "out")
        return read_card(tmp_path / "out"), (tmp_path / "out" / "card.html").read_text(encoding="utf-8")

    return make


def words(page: str) -> str:
    """What a reader reads."""
    body = page[page.index("<body>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def near_copies(before: str = "") -> list[dict[str, Any]]:
    """Pairs of rows that differ in their last word, each pair in a group of its own."""
    return [
        chat(f"{before}{' '.join(f'w{n}x{k}' for k in range(100))} {each}?", topic=f"k{n}")
        for n in range(6)
        for each in ("first", "second")
    ]


def leaks(before: str = "") -> list[dict[str, Any]]:
    """Conversations that ask in passing what the evaluation asks."""
    asked = chat("who wrote HAMLET? ", f"{before} did, I say.")["messages"]
    return [
        {"messages": [*chat(f"Hello, I am number {n}.")["messages"], *asked], "topic": f"l{n}"}
        for n in range(6)
    ]


def test_the_order_is_told_with_counts_that_follow_from_one_another(
    make_card: MakeCard, write_jsonl: WriteJsonl
) -> None:
    rows = colours(60)
    short = chat("Too short", "No.", topic="t1")
    write_jsonl([*rows, rows[0], *near_copies(), *leaks(), short, b"broken"])
    card, page = make_card(dedup={"near": 0.9}, source={"max_train_rows": 10, "max_test_rows": 5})
    assert [step.name for step in card.steps] == [
        "parse",
        "check",
        "exact duplicates",
        "group",
        "split",
        "near duplicates",
        "decontaminate",
        "cap",
        "quality",
        "augment",
        "distill",
        "repeat",
        "rehearse",
        "tokenise",
        "pack",
    ]
    by_name = {step.name: step for step in card.steps}
    assert [
        (by_name[name].rows_in, by_name[name].rows_out) for name in ("parse", "check", "exact duplicates")
    ] == [
        (81, 80),
        (80, 79),
        (79, 78),
    ]
    for before, after in zip(card.steps, card.steps[1:], strict=False):
        if before.sees == after.sees and after.name != "tokenise":
            assert before.rows_out == after.rows_in
    (source,) = card.manifest.sources
    lost = {name: step.rows_in - (step.rows_out or 0) for name, step in by_name.items()}
    assert lost["near duplicates"] == source.near_duplicates > 0
    assert lost["decontaminate"] == source.contaminated > 0
    assert lost["split"] + lost["cap"] == source.capped > 0
    assert by_name["cap"].rows_out == source.train == 10
    assert by_name["tokenise"].rows_out == source.train + source.validation + source.test
    assert by_name["pack"].rows_out is None
    assert "1. parse all rows 81 80 -1" in words(page)
    assert "off in this spec" in by_name["rehearse"].note


def test_nothing_of_a_row_is_run_by_the_page(make_card: MakeCard, write_jsonl: WriteJsonl) -> None:
    hostile = [
        chat(f"{SCRIPT} {row['messages'][0]['content']}", f"{SCRIPT} it is.", topic=row["topic"])
        for row in colours(60)
    ]
    short = chat("Short", "<b>", topic="t1")
    write_jsonl([*hostile, hostile[0], *near_copies(SCRIPT), *leaks(SCRIPT), short, SCRIPT.encode()])
    card, page = make_card(dedup={"near": 0.9}, system=f"</div>{SCRIPT}")
    assert {pair.kind for pair in card.pairs} == {"exact", "near"}
    assert card.leaks
    assert len(card.rejects) == 2
    assert "<script" not in page
    assert "<b>" not in page.replace("<b>", "", page.count('class="tile"'))
    assert words(page).count(SCRIPT) >= 4


@pytest.mark.parametrize(("licence", "told"), [("CC-BY-4.0", "CC-BY-4.0"), (None, "not said")])
def test_a_file_is_told_with_its_licence_and_digest(
    make_card: MakeCard, write_jsonl: WriteJsonl, licence: str | None, told: str
) -> None:
    digest = hashlib.sha256(write_jsonl(colours(40)).read_bytes()).hexdigest()
    card, page = make_card(source={"licence": licence})
    assert card.manifest.sources[0].licence == licence
    assert f"rows.jsonl messages 40 {told} {digest}" in words(page)


def test_the_page_needs_nothing_else(make_card: MakeCard, write_jsonl: WriteJsonl) -> None:
    write_jsonl(colours(40))
    _, page = make_card()
    assert not re.search(r"<(link|img|iframe|object|script)\b|\bsrc=|@import|url\((?!#)", page)
    assert [ref for ref in re.findall(r'href="([^"]*)"', page) if not ref.startswith("#")] == []
    assert page.count("<svg") == 2


@pytest.mark.parametrize("policy", ["allow", "flag", "mask", "drop"])
def test_secrets_are_masked_whatever_the_spec_does_with_them(
    make_card: MakeCard, write_jsonl: WriteJsonl, policy: str, tmp_path: Path
) -> None:
    private = [chat(f"Ask {SECRET} about thing {n} of these?", topic=f"t{n % 20}") for n in range(40)]
    leak = chat("Who wrote Hamlet?", f"It was {SECRET}, I say.", topic="t0")
    cut = f'{{"{"x" * 185} {SECRET}'.encode()
    write_jsonl([*colours(40), *private, private[0], leak, chat("Short", f"{SECRET[:9]}", topic="t1"), cut])
    card, page = make_card(checks={"personal_data": policy}, max_reject_fraction=0.9)
    assert SECRET not in page
    assert SECRET not in (tmp_path / "out" / "card.json").read_text()
    assert SECRET[:6] not in page.replace(SECRET[:9], "", 1), "nor the part of it that an excerpt was cut in"
    assert len(card.rows) == 10
    if policy in ("allow", "flag"):
        assert any("[EMAIL]" in pair.excerpt for pair in card.pairs)
        assert SECRET in (tmp_path / "out" / "train.jsonl").read_text(), "the rows hold it all the same"


def text(row: ShownRow, *, supervised: bool) -> str:
    return "".join(piece for span in row.spans if span.supervised == supervised for piece in span.pieces)


def test_rows_are_shown_with_what_is_supervised(
    make_card: MakeCard, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    rows = colours(40)
    for n, row in enumerate(rows):
        row["messages"][1]["content"] = f"Blau \U0001f98a für {n}."
    write_jsonl(rows)
    card, page = make_card()
    train = {row.line: row for row in read_rows(tmp_path / "out" / "train.jsonl")}
    assert len({row.line for row in card.rows}) == 10
    for shown in card.rows:
        row = train[shown.line]
        assert text(shown, supervised=True) == f"{row.reference}<|eot_id|>"
        assert text(shown, supervised=False).startswith("<|begin_of_text|><|start_header_id|>user")
        assert shown.supervised_tokens < shown.tokens
        assert shown.alternatives is None
    assert '<span class="s">' in page
    assert '<span class="s t"><i>&lt;|eot_id|&gt;</i></span>' in page


def test_of_a_long_row_the_beginning_and_the_end_are_shown(
    make_card: MakeCard, write_jsonl: WriteJsonl
) -> None:
    write_jsonl([chat(f"{n} {'qz ' * 400}?", "Yes, it is blue.", topic=f"t{n}") for n in range(20)])
    card, page = make_card(checks={"max_tokens": 4096}, decontaminate=None)
    for shown in card.rows:
        num_shown = sum(len(span.pieces) for span in shown.spans)
        assert num_shown == 400
        assert num_shown + sum(span.omitted for span in shown.spans) == shown.tokens
        assert text(shown, supervised=True) == "Yes, it is blue.<|eot_id|>"
    assert re.search(r"\.\.\. [\d,]+ tokens \.\.\.", page)


def test_rehearsed_rows_are_shown_with_their_kind_of_target(
    make_card: MakeCard,
    write_jsonl: WriteJsonl,
    make_row: Callable[..., Row],
    renderer: Renderer,
    tmp_path: Path,
) -> None:
    write_jsonl(colours(60))
    (tmp_path / "replay").mkdir()
    pool = []
    for n in range(20):
        row = make_row(f"What is {n}?", task="replay")
        plain = renderer.render(row.messages)
        shape = sum(plain.loss_mask), 7
        soft = SoftTargets(np.ones(shape, np.int32), np.full(shape, 1 / 7, np.float32))
        pool.append((row, Rendered(plain.input_ids, plain.loss_mask, soft)))
    write_rows(tmp_path / "replay" / "rows.jsonl", (row for row, _ in pool))
    write_tokens(tmp_path / "replay" / "tokens.arrow", ((row.id, rendered) for row, rendered in pool))
    card, page = make_card(tmp_path / "replay", replay={"share": 0.3})
    assert {row.task: row.alternatives for row in card.rows} == {"colour": None, "replay": 7}
    assert "the base model's probabilities of 7 tokens, not the token alone" in words(page)


def test_lengths_are_those_of_the_rows(
    make_card: MakeCard, write_jsonl: WriteJsonl, renderer: Renderer, tmp_path: Path
) -> None:
    write_jsonl(colours(60))
    card, _ = make_card()
    for side, lengths in card.lengths["tokens"].items():
        counted = [
            len(renderer.render(row.messages).input_ids)
            for row in read_rows(tmp_path / "out" / f"{side}.jsonl")
        ]
        assert sum(lengths.rows) == len(counted)
        assert (lengths.shortest, lengths.longest) == (min(counted), max(counted))
        assert lengths.median == round(float(np.median(counted)))
    supervised = card.lengths["supervised tokens"]["train"]
    assert supervised.longest < card.lengths["tokens"]["train"].shortest
    assert set(card.lengths["tokens"]) == {"train", "validation", "test"}


def test_a_card_of_many_rows_stays_small(make_card: MakeCard, write_jsonl: WriteJsonl) -> None:
    rows = colours(1000)
    write_jsonl([*rows, *rows[:300], *[chat("Short", "No.", topic="t1")] * 300])
    card, page = make_card(max_reject_fraction=1)
    assert [len(reason.examples) for reason in card.rejects] == [3]
    assert (len(card.pairs), card.duplicates["exact"]) == (5, 300)
    assert card.rejects[0].rows == 300
    assert len(page.encode()) < 150_000


def test_a_spec_that_looks_for_no_leaks_is_told_from_one_that_finds_none(
    make_card: MakeCard, write_jsonl: WriteJsonl
) -> None:
    write_jsonl(colours(40))
    card, page = make_card(decontaminate=None)
    assert card.leaks is None
    assert "None was looked for" in page


def test_near_copies_are_shown_where_they_differ(make_card: MakeCard, write_jsonl: WriteJsonl) -> None:
    write_jsonl([*colours(60), *near_copies()])
    card, _ = make_card(dedup={"near": 0.9})
    assert card.pairs
    for pair in card.pairs:
        assert "second" in pair.excerpt
        assert "first" in pair.copied_excerpt


def test_a_row_of_garbage_has_the_highest_loss(
    talking_llama: Path, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    garbage = chat("Why 17?", f"zq#~ <b>{SECRET}</b> 0x9f@@|", topic="garbage")
    write_jsonl([*(chat(f"Why {n}?", "Yes.", topic=f"t{n}") for n in range(20)), garbage])
    split = {"group_by": "topic", "test": 0, "validation": 0}
    source = {"kind": "file", "path": "rows.jsonl", "task": "yes", "split": split, "weight": 2}
    checks = {"min_response_chars": 1}
    prepared(tmp_path, talking_llama, {"sources": [source], "checks": checks, "loss_outliers": 3})
    write_page(tmp_path / "out")
    found = read_card(tmp_path / "out").loss_outliers
    assert found is not None
    assert (found.scored, len(found.rows)) == (21, 3), "copies by weight are not scored again"
    worst, second, third = found.rows
    assert worst.place == "rows.jsonl:21"
    assert worst.loss > 5 > second.loss >= third.loss >= found.median
    page = (tmp_path / "out" / "card.html").read_text(encoding="utf-8")
    assert f"{worst.loss:.2f}" in words(page)
    assert "[EMAIL]" in worst.excerpt
    assert SECRET not in page


def test_the_loss_of_a_row_is_the_mean_over_its_supervised_tokens(
    talking_llama: Path, write_jsonl: WriteJsonl, renderer: Renderer, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    write_jsonl([chat(f"What is thing {n}?", f"It is number {n}, in blue.", topic=f"t{n}") for n in range(5)])
    split = {"test": 0, "validation": 0}
    source = {"kind": "file", "path": "rows.jsonl", "task": "yes", "split": split}
    prepared(tmp_path, talking_llama, {"sources": [source], "loss_outliers": 5})
    found = read_card(tmp_path / "out").loss_outliers
    assert found is not None
    model = AutoModelForCausalLM.from_pretrained(talking_llama)
    for row in read_rows(tmp_path / "out" / "train.jsonl"):
        rendered = renderer.render(row.messages)
        ids = torch.from_numpy(rendered.input_ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(rendered.loss_mask)[None], ids, -100)
        (mine,) = (each for each in found.rows if each.place == f"{row.source}:{row.line}")
        assert mine.loss == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), abs=1e-3)
        assert mine.supervised_tokens == int(rendered.loss_mask.sum())
