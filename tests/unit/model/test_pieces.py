from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tunebook_model.conversation import Message
from tunebook_model.pieces import Piece, pieces
from tunebook_model.render import Rendered, Renderer


@pytest.fixture(scope="module")
def renderer(tiny_llama: Path) -> Renderer:
    return Renderer.load(tiny_llama, {})


def chat(question: str, answer: str) -> tuple[Message, ...]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


@pytest.mark.parametrize("answer", ["It is blue.", "日本 \U0001f98a", "a\n\n  b", "\ufffd", "<i>&amp;"])
def test_the_pieces_of_a_row_are_all_that_it_says(renderer: Renderer, answer: str) -> None:
    rendered = renderer.render(chat("What \U0001f98a colour\ufffd?", answer))
    made = list(pieces(rendered, renderer))
    assert "".join(piece.text for piece in made) == renderer.tokenizer.decode(rendered.input_ids)
    assert "".join(piece.text for piece in made if piece.supervised) == f"{answer}<|eot_id|>"
    assert made[-1] == Piece("<|eot_id|>", supervised=True, special=True)
    assert made[0] == Piece("<|begin_of_text|>", supervised=False, special=True)


def test_a_character_of_several_tokens_is_one_piece(renderer: Renderer) -> None:
    made = list(pieces(renderer.render(chat("Hi", "\U0001f98a")), renderer))
    assert Piece("\U0001f98a", supervised=True, special=False) in made


def test_a_row_may_end_within_a_character(renderer: Renderer) -> None:
    whole = renderer.tokenizer("ok \U0001f98a", add_special_tokens=False)["input_ids"]
    cut = Rendered(np.array(whole[:-1]), np.ones(len(whole) - 1, np.bool_))
    assert "".join(piece.text for piece in pieces(cut, renderer)) == "ok \ufffd"
