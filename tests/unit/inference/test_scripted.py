from tunebook_inference.generator import ChatRequest, Completion
from tunebook_inference.scripted import ScriptedGenerator


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
