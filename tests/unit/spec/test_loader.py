from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tunebook_spec import load
from tunebook_spec.errors import SpecError
from tunebook_spec.method import DpoObjective, HostedMethod

SPEC = """\
version: 1
name: tiny
base_model: {kind: folder, path: models/tiny}
data:
  sources:
    - {kind: file, path: rows.jsonl, task: chat}
method: {kind: full, epochs: 2, learning_rate: 1e-4}
evaluation:
  sets:
    chat: {task: chat, metrics: [exact_match]}
  gates:
    - {metric: chat.exact_match, at_least: 0.5}
profiles:
  local:
    method: {epochs: 1}
  cluster:
    base_model: {kind: hub, repo: owner/name}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, **options: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(write(folder, text), **options)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = SPEC.replace("name: tiny", "name: no").replace("version: 1\n", "version: 1\nproblem: off\n")
    spec = load(write(tmp_path, text)).spec
    assert spec.method.learning_rate == 1e-4
    assert (spec.name, spec.problem) == ("no", "off")


def test_profile_merges_maps_and_a_changed_kind_replaces_the_object(tmp_path: Path) -> None:
    path = write(tmp_path, SPEC)
    local = load(path, profile="local").spec
    assert (local.method.epochs, local.method.learning_rate) == (1, 1e-4)
    assert load(path, profile="cluster").spec.base_model.model_dump() == {
        "kind": "hub",
        "repo": "owner/name",
        "revision": "main",
        "chat_template_kwargs": {},
    }


def test_an_override_changes_no_other_profile(tmp_path: Path) -> None:
    evaluation = (
        "evaluation={sets: {a: {task: other, metrics: [exact_match]}},"
        " gates: [{metric: a.exact_match, at_least: 0.5}]}"
    )
    overrides = ["data.sources.0.task=other", evaluation]
    assert (
        load(write(tmp_path, SPEC), profile="local", overrides=overrides).spec.data.sources[0].task == "other"
    )


def test_overrides_come_after_the_profile(tmp_path: Path) -> None:
    overrides = ["method.epochs=7", "evaluation.gates.0.at_least=0.25", "data.system=Be brief."]
    spec = load(write(tmp_path, SPEC), profile="local", overrides=overrides).spec
    assert spec.method.epochs == 7
    assert spec.evaluation.gates[0].at_least == 0.25
    assert spec.data.system == "Be brief."


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("epochs: 2", "epoch: 2"), ["line 7, method.epoch: unknown key; did you mean 'epochs'?"]),
        (
            ("epochs: 2", "epochs: two"),
            [
                "line 7, method.epochs: Input should be a valid integer, unable to parse string as an "
                "integer (got 'two')"
            ],
        ),
        (("{kind: file,", "{kind: fiel,"), ["line 6, data.sources.0: Input tag 'fiel' found using 'kind'"]),
        (
            ("metric: chat.exact_match", "metric: chat.f1"),
            ["line 12, evaluation.gates.0.metric: no set declares 'chat.f1'; declared: chat.answer_tokens"],
        ),
        (
            ("chat: {task: chat", "chat: {task: talk"),
            ["line 10, evaluation.sets.chat.task: no source has task 'talk'; sources have: chat"],
        ),
        (
            ("chat: {task: chat", "chat: {task: chat, learns_from: talk"),
            ["line 10, evaluation.sets.chat.learns_from: no source has task 'talk'; sources have: chat"],
        ),
        (
            ("chat: {task: chat", "chat: {task: chat, response_format: json_schema"),
            ["line 10, evaluation.sets.chat.response_format: needs a schema for 'chat' under"],
        ),
        (
            ("chat: {task: chat", "chat: {tsk: chat"),
            ["line 10, evaluation.sets.chat: a set names its rows by"],
        ),
        (
            ("at_least: 0.5", "max_drop: 0.1, at_least: 0.5"),
            ["line 12, evaluation.gates.0: a gate states exac"],
        ),
        (
            ("method: {epochs: 1}", "method: {epoks: 1}"),
            ["line 15, method.epoks: unknown key; did you mean 'ep"],
        ),
        (
            ("[exact_match]", "[log_likelihood]"),
            ["line 10, evaluation.sets.chat.metrics.0: 'log_likelihood' cannot score"],
        ),
        (
            ("[exact_match]", "[exact_match, regex]"),
            ["line 10, evaluation.sets.chat.metrics.1.pattern: is required"],
        ),
        (
            ("[exact_match]", "[exact_match, {kind: regex, patern: a}]"),
            [
                "line 10, evaluation.sets.chat.metrics.1.pattern: is required",
                "line 10, evaluation.sets.chat.metrics.1.patern: unknown key; did you mean 'pattern'?",
            ],
        ),
        (
            ("[exact_match]", "[exact_match, {kind: regex, pattern: '('}]"),
            ["line 10, evaluation.sets.chat.metrics.1.pattern: '(' is no regular expression"],
        ),
        (
            ("[exact_match]", "[exact_match, exact_match]"),
            ["line 10, evaluation.sets.chat: two metrics are called 'exact_match'; give one a `name`"],
        ),
        (
            ("[exact_match]", "[exact_match, json_schema]"),
            ["line 10, evaluation.sets.chat.metrics.1: needs `answer_schema`, or one for the set's task"],
        ),
        (
            ("[exact_match]", "[exact_match, {kind: numeric, name: stop_rate}]"),
            ["line 10, evaluation.sets.chat.metrics.1: 'stop_rate' is a measure that every set has"],
        ),
        (
            ("[exact_match]", "[exact_match, exact_mach]"),
            ["line 10, evaluation.sets.chat.metrics.1: no metric 'exact_mach'; did you mean 'exact_match'?"],
        ),
        (
            ("metric: chat.exact_match", "metric: chat.exact_match.recall"),
            ["line 12, evaluation.gates.0.metric: no set declares 'chat.exact_match.recall'"],
        ),
        (("version: 1\n", ""), ["version: is required"]),
        (
            ("kind: full, epochs: 2", "kind: full, epochs: 0, lerning_rate: 1"),
            [
                "line 7, method.epochs: Input should be greater than or equal to 1 (got 0)",
                "line 7, method.lerning_rate: unknown key; did you mean 'learning_rate'?",
            ],
        ),
        (
            ("kind: full", "kind: qlora, parallel_strategy: fsdp"),
            ["line 7, method.parallel_strategy: fsdp cannot cut the 4-bit weights of qlora: set ddp, where"],
        ),
        (
            ("kind: full", "kind: full, parallel_strategy: fsdp, optim: adamw_8bit"),
            ["line 7, method: fsdp cannot cut the moments of `optim: adamw_8bit`, whose blocks"],
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_bad_field_is_named_with_its_line_and_the_way_out(
    tmp_path: Path, change: tuple[str, str], expected: list[str]
) -> None:
    found = problems(tmp_path, SPEC.replace(*change))
    for want in expected:
        assert any(problem.startswith(want) for problem in found), found
    assert len(found) <= len(expected) + 1


PLAIN = "may hold plain field names alone, such as {question}"


@pytest.mark.parametrize(
    ("source", "where", "expected"),
    [
        (
            "path: 'ftp://a/b.csv'",
            ".path",
            "'ftp://a/b.csv' is no path and no http://, https:// or s3:// URL",
        ),
        ("path: 'S3://a/b.csv'", ".path", "'S3://a/b.csv' is no path"),
        ("path: 's3:///b.csv'", ".path", "'s3:///b.csv' is no path"),
        ("path: 'https://me:pass@a/b.csv'", ".path", "a URL in a spec holds no user or password; set AWS_"),
        ("path: ''", ".path", "String should have at least 1 character"),
        (
            "path: a.csv, format: openai",
            ".format",
            "Input should be 'messages', 'preference', 'alpaca', 'sh",
        ),
        (
            "path: a.csv, format: alpaca, columns: {user: '{a}', assistant: '{b}'}",
            "",
            "`columns` says all of the format: leave `format` out, or `columns`",
        ),
        ("path: a.csv, columns: {user: '{a}'}", ".columns.assistant", "is required"),
        ("path: a.csv, columns: {user: '{a.b}', assistant: '{b}'}", ".columns.user", f"'{{a.b}}' {PLAIN}"),
        ("path: a.csv, columns: {user: '{a[0]}', assistant: '{b}'}", ".columns.user", f"'{{a[0]}}' {PLAIN}"),
        ("path: a.csv, columns: {user: '{a!r}', assistant: '{b}'}", ".columns.user", f"'{{a!r}}' {PLAIN}"),
        ("path: a.csv, columns: {user: '{a:5}', assistant: '{b}'}", ".columns.user", f"'{{a:5}}' {PLAIN}"),
        ("path: a.csv, columns: {user: '{a}{}', assistant: '{b}'}", ".columns.user", f"'{{a}}{{}}' {PLAIN}"),
        (
            "path: a.csv, columns: {user: '{a}{0}', assistant: '{b}'}",
            ".columns.user",
            f"'{{a}}{{0}}' {PLAIN}",
        ),
        (
            "path: a.csv, columns: {user: '{a', assistant: '{b}'}",
            ".columns.user",
            "'{a': expected '}' before",
        ),
        (
            "path: a.csv, columns: {user: '{a}', assistant: 'b'}",
            ".columns.assistant",
            "'b' names no field, so every row would say the same; write {question}",
        ),
        (
            "path: a.csv, columns: {system: '{', user: '{a}', assistant: '{b}'}",
            ".columns.system",
            "'{': Single '{' encountered in format string; write {{ for a brace",
        ),
    ],
)
def test_a_source_that_cannot_be_read_is_told(tmp_path: Path, source: str, where: str, expected: str) -> None:
    found = problems(tmp_path, SPEC.replace("{kind: file, path: rows.jsonl,", f"{{kind: file, {source},"))
    assert len(found) == 1
    assert found[0].startswith(f"line 6, data.sources.0{where}: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SPEC + "name: again\n", "line 18: duplicate key"),
        ("- a\n- b\n", "is a list; a spec is a map"),
        ("", "is empty; a spec is a map"),
        ("version: 1\nname: [\n", "line 3: is not YAML"),
        ("version: 1\nname: {a: b\nc: d\n", "is not YAML"),
    ],
    ids=["duplicate key", "list", "empty", "unclosed list", "unclosed map"],
)
def test_a_file_that_is_no_spec_is_one_clear_problem(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = problems(tmp_path, text)
    assert expected in found


def test_yaml_errors_say_line_and_column(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "version: 1\nname: 'tiny\n")
    assert "line" in found
    assert "column" in found


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.epochs", "is not FIELD=VALUE"),
        ("method.epochz=3", "unknown key; did you mean 'epochs'?"),
        ("evaluation.gates.9.at_least=1", "nothing at 'evaluation.gates.9'"),
        ("method.epochs=[", "value is not YAML"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    (found,) = problems(tmp_path, SPEC, overrides=[override])
    assert expected in found


def test_an_unknown_profile_lists_those_there_are(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SPEC, profile="gpu")
    assert found == "profiles: no profile 'gpu'; this spec has: cluster, local"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(SpecError, match="is a folder"):
        load(tmp_path)


def test_errors_survive_pickling(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(write(tmp_path, "- a\n"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_role_that_no_model_plays_is_named(tmp_path: Path) -> None:
    text = SPEC.replace("task: chat}\n", "task: chat}\n  augment: {teacher: teacher}\n", 1)
    models = "models: {writer: {kind: endpoint, model: gpt-x}}\n"
    (found,) = problems(tmp_path, text.replace("method:", f"{models}method:", 1))
    assert found == "line 7, data.augment.teacher: no model 'teacher' under `models`; there are: writer"


def test_a_key_of_an_endpoint_in_a_spec_is_refused(tmp_path: Path) -> None:
    models = "models: {teacher: {kind: endpoint, model: gpt-x, api_key: sk-1}}\n"
    (found,) = problems(tmp_path, SPEC.replace("method:", f"{models}method:", 1))
    assert "models.teacher.api_key: unknown key" in found


def asking(data: str, models: str) -> str:
    """The spec with more under `data`, and models."""
    text = SPEC.replace("task: chat}\n", f"task: chat}}\n{data}", 1)
    return text.replace("method:", f"models:\n{models}method:", 1)


CHOOSE = """\
  distill:
    teacher: teacher
    samples: 2
    choose: {judge: judge, criteria: Is it true?}
"""
TEACHER = "  teacher: {kind: builtin, name: smollm2-135m-instruct}\n"


@pytest.mark.parametrize(
    ("data", "models"),
    [
        (CHOOSE.replace("judge: judge", "judge: teacher"), TEACHER),
        (
            CHOOSE,
            TEACHER + TEACHER.replace("teacher", "judge").replace("}", ", chat_template_kwargs: {a: b}}"),
        ),
    ],
    ids=["same role", "same model"],
)
def test_a_model_is_its_own_judge_only_where_the_spec_says_so(tmp_path: Path, data: str, models: str) -> None:
    (found,) = problems(tmp_path, asking(data, models))
    assert found.startswith("line 10, data.distill.choose.judge: '")
    assert found.endswith("name another model, or set `may_judge_itself: true`")
    allowed = data.replace("true?}", "true?, may_judge_itself: true}")
    load(write(tmp_path, asking(allowed, models)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (CHOOSE, "data.distill.choose.judge: no model 'judge' under `models`"),
        (
            "  quality: {judge: judge, criteria: a, at_least: 5}\n",
            "data.quality.judge: no model 'judge' under `models`",
        ),
        (CHOOSE.replace("samples: 2", "samples: 1"), "data.distill: a judge cannot choose among one answer"),
        ("  quality: {judge: judge, criteria: a, at_least: 11}\n", "data.quality.at_least: Input should be"),
    ],
    ids=["choose", "quality", "one sample", "eleven"],
)
def test_what_no_judge_could_do_is_refused(tmp_path: Path, data: str, told: str) -> None:
    (found,) = problems(tmp_path, asking(data, TEACHER))
    assert told in found


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("{kind: scripted}", "has either a `script` or the `path` of one"),
        ("{kind: scripted, path: a, script: [{pattern: a, answers: [b]}]}", "has either a `script` or"),
        ("{kind: scripted, script: [{pattern: a, answers: [$b]}]}", "the pattern has no group 'b'"),
    ],
    ids=["neither", "both", "group"],
)
def test_a_script_that_says_nothing_is_refused(tmp_path: Path, model: str, told: str) -> None:
    (found,) = problems(tmp_path, asking("", f"  teacher: {model}\n"))
    assert "models.teacher" in found
    assert told in found


def test_columns_lack_the_answer_only_where_a_teacher_gives_it(tmp_path: Path) -> None:
    text = asking("", TEACHER).replace("task: chat}", "task: chat, columns: {user: '{q}'}}", 1)
    (found,) = problems(tmp_path, text)
    assert "columns.assistant: is required, since no `data.distill`" in found
    answered = asking("  distill: {teacher: teacher}\n", TEACHER)
    load(write(tmp_path, answered.replace("task: chat}", "task: chat, columns: {user: '{q}'}}", 1)))


DPO = SPEC.replace("kind: full,", "kind: full, objective: {kind: dpo},", 1)


@pytest.mark.parametrize(
    ("source", "at"),
    [
        (
            "{kind: dataset, name: medical_glossary, task: chat}",
            "name: 'medical_glossary' has single answers",
        ),
        ("{kind: file, path: a.csv, task: chat, columns: {user: '{q}', assistant: '{a}'}}", "columns: dpo"),
        ("{kind: file, path: a.jsonl, task: chat, format: messages}", "format: dpo"),
    ],
)
def test_dpo_learns_from_no_source_of_single_answers(tmp_path: Path, source: str, at: str) -> None:
    text = DPO.replace("{kind: file, path: rows.jsonl, task: chat}", source, 1)
    (found,) = problems(tmp_path, text)
    assert f"data.sources.0.{at}" in found
    assert "learns from rows of `format: preference` alone" in found
    assert found.endswith("leave it out, or method.objective dpo")


@pytest.mark.parametrize("more", ["replay: {}", "augment: {teacher: teacher}", "distill: {teacher: teacher}"])
def test_dpo_learns_from_no_row_of_one_answer_that_a_model_writes(tmp_path: Path, more: str) -> None:
    models = "models: {teacher: {kind: endpoint, model: gpt-x}}\nmethod:"
    text = DPO.replace("data:\n", f"data:\n  {more}\n", 1).replace("method:", models, 1)
    (found,) = problems(tmp_path, text)
    assert f"data.{more.partition(':')[0]}: makes rows of one answer" in found


def test_dpo_takes_preferences(tmp_path: Path) -> None:
    text = DPO.replace("task: chat}", "task: chat, format: preference}", 1)
    assert load(write(tmp_path, DPO)).spec.method.objective.kind == "dpo"
    assert load(write(tmp_path, text)).spec.method.objective == DpoObjective(kind="dpo", beta=0.1)


def judging(metric: str, models: str = "  judge: {kind: endpoint, model: gpt-x}\n") -> str:
    """The spec with one more metric, and models."""
    text = SPEC.replace("[exact_match]", f"[exact_match, {{{metric}}}]", 1)
    return text.replace("method:", f"models:\n{models}method:", 1)


JUDGE = "kind: judge, judge: judge, criteria: {truth: Is it true?}"
PAIRWISE = JUDGE.replace("judge", "pairwise", 1)
ITSELF = "'judge' is the model that is tuned, which tends to like its own answers: name another model, or set"


@pytest.mark.parametrize(
    ("metric", "models", "told"),
    [
        (JUDGE, "  other: {kind: endpoint, model: gpt-x}\n", "no model 'judge' under `models`"),
        (JUDGE, "  judge: {kind: folder, path: models/tiny, chat_template_kwargs: {a: b}}\n", ITSELF),
        (JUDGE, "  judge: {kind: endpoint, model: tiny@3}\n", ITSELF),
        (
            f"{JUDGE}, repeats: 2, temperature: 1",
            "  judge: {kind: folder, path: models/big}\n",
            "'judge' runs on this machine: its probabilities are read, and repeats are the same",
        ),
    ],
    ids=["no role", "base", "tuned", "repeats"],
)
def test_a_metric_that_cannot_be_judged_is_told(tmp_path: Path, metric: str, models: str, told: str) -> None:
    (found,) = problems(tmp_path, judging(metric, models))
    assert found.startswith(f"line 12, evaluation.sets.chat.metrics.1.judge: {told}")
    if told == ITSELF:
        load(write(tmp_path, judging(f"{metric}, may_judge_itself: true", models)))


def test_a_served_base_model_is_no_judge_of_what_was_made_of_it(tmp_path: Path) -> None:
    """Of the profile `cluster`, that is; every profile is looked at."""
    text = judging(JUDGE, "  judge: {kind: endpoint, model: owner/name}\n")
    (found,) = problems(tmp_path, text)
    assert ITSELF in found
    without = text.replace("    base_model: {kind: hub, repo: owner/name}", "    method: {epochs: 3}")
    assert load(write(tmp_path, without)).spec.roles == ("judge",)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (f"{JUDGE}, repeats: 3", "at temperature 0 all repeats are the same: raise it, or ask once"),
        (JUDGE.replace("truth: Is it true?", ""), "criteria: Dictionary should have at least 1 item"),
        (JUDGE.replace("truth", "unscored"), "criterion name 'unscored' is taken; name it otherwise"),
        (f"{JUDGE}, min_agreement: 0.7", "min_agreement: unknown key; known here: name, judge, criteria"),
    ],
    ids=["repeats", "no criteria", "reserved", "another's bound"],
)
def test_options_of_a_judge_that_make_no_sense_are_told(tmp_path: Path, metric: str, told: str) -> None:
    (found,) = problems(tmp_path, judging(metric))
    assert told in found


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("{metric: chat.pairwise, at_least: 0.5}", None),
        ("{metric: chat.pairwise.win, at_least: 0.5}", None),
        (
            "{metric: chat.pairwise, arm: base, at_least: 0.5}",
            "base has no chat.pairwise; it is there for: tuned",
        ),
        ("{metric: chat.pairwise, max_drop: 0.1}", "base has no chat.pairwise; it is there for: tuned"),
        ("{metric: chat.pairwise.best, at_least: 0.5}", "no set declares 'chat.pairwise.best'"),
    ],
    ids=["score", "part", "base", "drop", "no part"],
)
def test_a_comparison_is_of_the_tuned_model_alone(tmp_path: Path, gate: str, told: str | None) -> None:
    text = judging(PAIRWISE).replace("{metric: chat.exact_match, at_least: 0.5}", gate)
    if told is None:
        load(write(tmp_path, text))
    else:
        (found,) = problems(tmp_path, text)
        assert told in found


def test_what_few_shot_does_not_answer_is_not_compared_with_it(tmp_path: Path) -> None:
    metric = f"{PAIRWISE}, against: few_shot"
    load(write(tmp_path, judging(metric)))
    text = judging(metric).replace("  sets:", "  arms: [base, tuned]\n  sets:")
    (found,) = problems(tmp_path, text)
    assert found.endswith("few_shot does not answer this set; compare `against: base`")


@pytest.mark.parametrize(
    ("arms", "complaint"),
    [
        ("[base, tuned, {model: nobody}]", "no model 'nobody' under `models`; there are: "),
        ("[base, tuned, {run: tiny}]", "evaluation.arms.2.run: String should match pattern"),
        ("[base, tuned, {runs: tiny@1}]", "an arm is a name, `{run: SCENARIO@NUMBER}` or `{model: ROLE}`"),
        ("[base, tuned, {run: a@1}, {run: a@1}]", "an arm is listed twice: base, tuned, a@1, a@1"),
        ("[base, tuned, bass]", "Input should be 'base', 'few_shot', 'retrieval' or 'tuned' (got 'bass')"),
    ],
    ids=["unknown role", "no number", "unknown key", "twice", "unknown name"],
)
def test_arms_that_cannot_be_are_refused(tmp_path: Path, arms: str, complaint: str) -> None:
    text = SPEC.replace("evaluation:\n", f"evaluation:\n  arms: {arms}\n")
    assert any(complaint in problem for problem in problems(tmp_path, text))


def test_a_judge_is_no_arm_unless_it_may_judge_itself(tmp_path: Path) -> None:
    text = judging(PAIRWISE).replace("  sets:", "  arms: [base, tuned, {model: judge}]\n  sets:")
    (found,) = problems(tmp_path, text)
    assert "answers as an arm, and tends to like its own answers" in found


@pytest.mark.parametrize(
    ("written", "spelt_out"),
    [("5", (5, "seeded")), ("{k: 3, choose: similar}", (3, "similar")), ("{k: 8}", (8, "seeded"))],
)
def test_few_shot_is_a_number_of_rows_or_says_how_they_are_chosen(
    tmp_path: Path, written: str, spelt_out: tuple[int, str]
) -> None:
    text = SPEC.replace("evaluation:\n", f"evaluation:\n  few_shot: {written}\n")
    few_shot = load(write(tmp_path, text)).spec.evaluation.few_shot
    assert (few_shot.k, few_shot.choose) == spelt_out


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{choose: similar}", "line 9, evaluation.few_shot.k: is required"),
        ("0", "line 9, evaluation.few_shot.k: Input should be greater than or equal to 1 (got 0)"),
        (
            "{k: 3, choose: likest}",
            "line 9, evaluation.few_shot.choose: Input should be 'seeded' or 'similar' (got 'likest')",
        ),
    ],
    ids=["how many is not said", "none", "unknown way"],
)
def test_few_shot_that_cannot_be_is_refused_with_its_place(
    tmp_path: Path, written: str, problem: str
) -> None:
    text = SPEC.replace("evaluation:\n", f"evaluation:\n  few_shot: {written}\n")
    assert problems(tmp_path, text) == [problem]


HOSTED = SPEC.replace("{kind: full, epochs: 2, learning_rate: 1e-4}", "{kind: hosted, model: gpt-x}")
HOSTED = HOSTED[: HOSTED.index("profiles:")]


def test_a_provider_trains_what_the_method_names(tmp_path: Path) -> None:
    method = load(write(tmp_path, HOSTED)).spec.method
    assert isinstance(method, HostedMethod)
    assert method.hyperparameters.model_dump() == {
        "n_epochs": "auto",
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            ("path: models/tiny}", "path: models/tiny, chat_template_kwargs: {a: b}}"),
            "base_model.chat_template_kwargs: a provider renders chats by its own template",
        ),
        (("method:", "  replay: {share: 0.1}\nmethod:"), "data.replay: rehearses answers of `base_model`"),
        (("method:", "  loss_outliers: 5\nmethod:"), "data.loss_outliers: ranks by the loss of `base_model`"),
        (
            ("  gates:", "    texts: {texts: fixed_texts, metrics: [log_likelihood]}\n  gates:"),
            "evaluation.sets.texts: an endpoint tells no likelihood",
        ),
        (
            ("model: gpt-x}", "model: gpt-x, parallel_strategy: fsdp}"),
            "method.parallel_strategy: unknown key",
        ),
        (("model: gpt-x}", "model: gpt-x, hyperparameters: {n_epochs: 51}}"), "less than or equal to 50"),
        (
            ("model: gpt-x}", "model: gpt-x, hyperparameters: {batch_size: fast}}"),
            "method.hyperparameters.batch_size",
        ),
        (("model: gpt-x}", "model: gpt-x, suffix: ''}"), "method.suffix: String should have at least 1"),
        (
            ("model: gpt-x}", "model: gpt-x, objective: {kind: dpo, beta: 3}}"),
            "method.objective: beta is at most 2 where a provider trains (got 3.0)",
        ),
    ],
    ids=["kwargs", "replay", "losses", "texts", "optim", "epochs", "batch", "suffix", "beta"],
)
def test_what_needs_the_weights_is_refused_where_a_provider_has_them(
    tmp_path: Path, changed: tuple[str, str], told: str
) -> None:
    found = problems(tmp_path, HOSTED.replace(*changed))
    assert any(told in problem for problem in found), found


def test_a_profile_leaves_a_set_out_by_null(tmp_path: Path) -> None:
    text = SPEC.replace("  gates:", "    own: {suite: general, metrics: [contains]}\n  gates:")
    path = write(tmp_path, text + "  less:\n    evaluation: {sets: {own: null}}\n")
    assert set(load(path).spec.evaluation.sets) == {"chat", "own"}
    assert set(load(path, profile="less").spec.evaluation.sets) == {"chat"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("base_model.chat_template_kwargs.a", "b"),
        ("models.told", "{kind: endpoint, model: gpt-x}"),
        ("data.checks.answer_schema.chat", "{type: object}"),
    ],
)
def test_null_takes_a_key_out_of_a_map_of_the_users(tmp_path: Path, place: str, value: str) -> None:
    path, (parent, _, key) = write(tmp_path, SPEC), place.rpartition(".")

    def keys(*overrides: str) -> set[str]:
        found: Any = load(path, overrides=overrides).spec
        for name in parent.split("."):
            found = getattr(found, name)
        return set(found)

    assert key in keys(f"{place}={value}")
    assert key not in keys(f"{place}={value}", f"{place}=null")


def test_the_model_that_a_provider_tunes_does_not_judge_itself(tmp_path: Path) -> None:
    judged = "metrics: [{kind: judge, judge: same, criteria: {a: Is it so?}}]"
    text = HOSTED.replace("metrics: [exact_match]", judged).replace("chat.exact_match", "chat.judge")
    text += "models:\n  same: {kind: endpoint, model: gpt-x}\n"
    (problem,) = problems(tmp_path, text)
    assert "is the model that is tuned, which tends to like its own answers" in problem


@pytest.mark.parametrize("expected", ['""', '" "', "[]", '["4", ""]'])
def test_an_item_of_a_suite_expects_something(expected: str, tmp_path: Path) -> None:
    own = f"    own: {{items: [{{q: What is 2+2?, expected_contains: {expected}}}], metrics: [contains]}}\n"
    (told,) = problems(tmp_path, SPEC.replace("  gates:\n", f"{own}  gates:\n"))
    assert "own.items.0.expected_contains" in told
    assert "an empty text is in every answer: say what it must contain" in told


def test_an_item_of_a_suite_is_asked_once(tmp_path: Path) -> None:
    item = '{q: What is 2+2?, expected_contains: "4"}'
    own = f"    own: {{items: [{item}, {item}], metrics: [contains]}}\n"
    (told,) = problems(tmp_path, SPEC.replace("  gates:\n", f"{own}  gates:\n"))
    assert "'What is 2+2?' is asked twice, and would count as two pieces of evidence: keep one" in told
