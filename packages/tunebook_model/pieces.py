"""Token ids as the pieces of text that a person can read, each as training sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from tunebook_model.render import Rendered, Renderer


@dataclass(frozen=True)
class Piece:
    """One token, or the few that make one character between them."""

    text: str
    supervised: bool
    special: bool
    """Whether it is a token of the chat template and not of the text."""


def pieces(rendered: Rendered, renderer: Renderer) -> Iterator[Piece]:
    """The pieces of a row in order; their texts together are what its ids decode to."""
    tokenizer = renderer.tokenizer
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    stream, held, was_supervised = _stream(), list[int](), False
    for id, supervised in zip(rendered.input_ids.tolist(), rendered.loss_mask.tolist(), strict=True):
        if held and (id in special or supervised != was_supervised):
            # What was held is no character after all, and none goes across such a border.
            yield Piece(tokenizer.decode(held), was_supervised, False)
            stream, held = _stream(), []
        held.append(id)
        was_supervised = supervised
        text = stream.step(tokenizer.backend_tokenizer, id)
        if text is not None:
            yield Piece(text, supervised, id in special)
            held = []
    if held:
        yield Piece(tokenizer.decode(held), was_supervised, False)


def _stream() -> Any:
    return DecodeStream(ids=[], skip_special_tokens=False)
