"""The real built-in model, where set-up has put it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunebook_model import builtin
from tunebook_model.render import Renderer
from tunebook_run.settings import Settings

ASSETS = Settings.read().assets_dir
pytestmark = pytest.mark.skipif(
    not (ASSETS / "models" / builtin.NAME).is_dir(), reason="make setup has not run"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return builtin.require(ASSETS)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\n\n1.", [81, 1116, 33, 30]),
        ("2024", [34, 32, 34, 36]),
        ("in 2024\n\n12 of 3", [254, 216, 34, 32, 34, 36, 1116, 33, 34, 282, 216, 35]),
        ("x  7", [104, 256, 39]),
        ("\n\n\n5", [16506, 37]),
    ],
)
def test_text_becomes_the_ids_that_the_model_was_trained_on(folder: Path, text: str, ids: list[int]) -> None:
    assert Renderer.load(folder, {}).tokenizer(text)["input_ids"] == ids


def test_it_pads_with_a_token_that_ends_no_turn_and_keeps_its_context_length(folder: Path) -> None:
    renderer = Renderer.load(folder, {})
    assert (renderer.tokenizer.pad_token, renderer.tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert renderer.end_of_turn == {2}
    assert renderer.tokenizer.model_max_length == 8192


def test_its_weights_are_bf16_with_tied_embeddings(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)


def test_a_chat_is_rendered_with_the_default_system_turn_unsupervised(folder: Path) -> None:
    renderer = Renderer.load(folder, {})
    rendered = renderer.render(
        [
            {"role": "user", "content": "What does BP mean?"},
            {"role": "assistant", "content": "Blood pressure.\n\n1. It is measured."},
        ]
    )
    supervised = [i for i, on in zip(rendered.input_ids, rendered.loss_mask, strict=True) if on]
    assert renderer.tokenizer.decode(supervised) == "Blood pressure.\n\n1. It is measured.<|im_end|>"
    assert "named SmolLM" in renderer.tokenizer.decode(rendered.input_ids)
    assert renderer.audit(rendered) is None
