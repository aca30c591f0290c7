"""When two prompts are the same prompt: what leaks are told by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import orjson
from xxhash import xxh3_64_intdigest

from tunebook_model.conversation import Message, text_of

# Scripts without spaces between words, each character of which is a word of its own: Thai, Lao, kana, Han.
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
OPERATORS = "-+*/%=<>^~&|"
"""Count as words, since in sums and code they are what tells two texts apart; punctuation does not."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[{OPERATORS}]")

PromptKey = tuple[tuple[str, str], ...]
"""Role and normalised content of every message before an answer, system messages left out."""


def prompt_key(messages: Sequence[Message]) -> PromptKey:
    """Equal for prompts that differ in case, white space, Unicode form or system message alone."""
    return tuple((each["role"], normalised(text_of(each))) for each in messages if each["role"] != "system")


def asked(messages: Sequence[Message]) -> PromptKey:
    """The prompt of a conversation's last answer, which is the one that evaluation asks."""
    return prompt_key(messages[:-1])


def answered(messages: Sequence[Message]) -> Iterator[PromptKey]:
    """The prompts of all its answers, which are what training supervises."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            yield prompt_key(messages[:index])


def key_number(key: PromptKey) -> int:
    """Eight bytes for a prompt: among ten million, two different ones are equal with a chance of 1 in 10^5.

    What that would cost: two rows stay on one side of a split that need not, or one is left out of training.
    """
    return xxh3_64_intdigest(orjson.dumps(key))


def answered_numbers(messages: Sequence[Message]) -> list[int]:
    """The numbers of all prompts that a conversation answers, in order: the last one is what it `asked`."""
    said: list[tuple[str, str]] = []
    numbers = []
    for message in messages:
        if message["role"] == "assistant":
            numbers.append(key_number(tuple(said)))
        if message["role"] != "system" and message is not messages[-1]:
            said.append((message["role"], normalised(text_of(message))))
    return numbers


def normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """The words of a text's normal form, in order, without punctuation."""
    return _WORD.findall(normalised(text))
