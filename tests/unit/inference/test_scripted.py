from pathlib import Path

import pytest

from tunebook_inference.generator import ChatRequest, Completion
from tunebook_inference.scripted import Script, ScriptedGenerator
from tunebook_spec.base_model import ScriptedModel
from tunebook_spec.errors import DataError

COLOURS = """\
{"pattern": "colour of (the )?(?P<thing>\\\\w+)", "answers": ["$thing is blue", "$thing costs $$5"]}

{"pattern": "colour", "answers": ["all are red"]}
"""


def ask(id: str, content: str, max_tokens: int = 8) -> ChatRequest:
    return ChatRequest(id, ({"role": "user", "content": content},), max_tokens)


def test_answers_keep_the_order_asked_and_arrive_one_by_one() -> None:
    seen: list[Completion] = []
    generator = ScriptedGenerator({"a?": "a", "b?": "b"})
    answers = generator.generate([ask("2", "b?"), ask("1", "a?")], seen.append)
    assert [(each.id, each.text, each.finish_reason) for each in answers] == [
        ("2", "b", "stop"),
        ("1", "a", "stop"),
    ]
    assert seen == answers


def test_an_unscripted_request_is_an_error_row_and_the_others_go_on() -> None:
    failed, answered = ScriptedGenerator({"a?": "a"}).generate(
        [ask("1", "z?"), ask("2", "a?")], lambda _: None
    )
    assert (failed.finish_reason, failed.error) == ("error", "no answer is scripted for 'z?'")
    assert (answered.text, answered.error) == ("a", None)


def test_an_answer_longer_than_asked_is_cut_and_says_so() -> None:
    (cut,) = ScriptedGenerator(lambda request: "one two three").generate([ask("1", "?", 2)], lambda _: None)
    assert (cut.text, cut.finish_reason, cut.completion_tokens) == ("one two", "length", 2)


def script(folder: Path, text: str) -> Script:
    (folder / "colours.jsonl").write_text(text)
    return Script.read(ScriptedModel(kind="scripted", path="colours.jsonl"), folder)


@pytest.mark.parametrize(
    ("asked", "sample", "answer"),
    [
        ("Which colour of the sea?", 0, "sea is blue"),
        ("Which colour of grass?", 1, "grass costs $5"),
        ("Which colour of grass?", 2, "grass is blue"),
        ("Which colours?", 1, "all are red"),
        ("Why?", 0, None),
    ],
    ids=["group", "second sample", "third sample", "second pattern", "none"],
)
def test_the_first_pattern_that_is_found_answers(
    tmp_path: Path, asked: str, sample: int, answer: str | None
) -> None:
    request = ChatRequest("1", ({"role": "user", "content": asked},), 8, sample=sample)
    assert script(tmp_path, COLOURS)(request) == answer


def test_a_script_is_told_by_what_it_says_and_not_by_where_it_stands(tmp_path: Path) -> None:
    read = script(tmp_path, COLOURS)
    inline = Script.read(ScriptedModel(kind="scripted", script=read.replies), tmp_path)
    assert read.digest == inline.digest
    assert script(tmp_path, COLOURS.replace("red", "pink")).digest != read.digest


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"pattern": "(", "answers": ["a"]}', r":4: pattern '\(' is no regular expression"),
        ('{"pattern": "a", "answers": ["$b"]}', r":4: '\$b': the pattern has no group 'b'; write \(\?P<b>"),
        ('{"pattern": "a", "answers": ["5 $"]}', r":4: '5 \$' has a \$ that names nothing"),
        ('{"pattern": "a", "answers": []}', ":4: answers: Tuple should have at least 1 item"),
        ('{"pattern": "a", "answer": "b"}', ":4: answers: Field required"),
        ("colour", ":4: Invalid JSON"),
    ],
    ids=["expression", "group", "dollar", "no answer", "key", "prose"],
)
def test_a_line_that_is_no_reply_is_named(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(DataError, match=rf"^script colours\.jsonl{told}.*; write lines such as "):
        script(tmp_path, COLOURS + line)


def test_a_script_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^script absent\.jsonl: cannot be read"):
        Script.read(ScriptedModel(kind="scripted", path="absent.jsonl"), tmp_path)
    with pytest.raises(DataError, match=r"^script colours\.jsonl: has no line"):
        script(tmp_path, " \n")
