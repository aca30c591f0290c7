from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.model.hub_server import Hub, serving
from tunebook_cli.main import main
from tunebook_cli.planning import plan
from tunebook_plan.pin import unpinned
from tunebook_run.settings import Settings
from tunebook_spec import load
from tunebook_spec.errors import SpecError

COMMIT = "ab" * 20
SPEC = """\
# A spec with comments.
version: 1
name: notes   # odd   spacing
base_model: {kind: hub, repo: owner/name}  # no revision
data:
  sources: [{kind: file, path: notes.jsonl, task: note}]
models:
  judge:
    repo: "owner/name-large" # quoted
    kind: hub

  teacher: {kind: endpoint, model: gpt-x}
method: {kind: lora}
evaluation:
  sets: {notes: {task: note, metrics: [exact_match]}}
  gates: [{metric: notes.exact_match, at_least: 0.5}]
profiles:
  big:
    base_model:
      kind: hub
      repo: owner/name
      revision: 'v2' # a tag
  pinned:
    base_model: {kind: hub, repo: owner/name, revision: cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd}
  local:
    base_model: {kind: builtin, name: smollm2-135m-instruct}
"""
PINNED = (
    SPEC.replace("repo: owner/name}  #", f"repo: owner/name, revision: {COMMIT}}}  #")
    .replace('large" # quoted\n', f'large" # quoted\n    revision: {COMMIT}\n')
    .replace("'v2'", COMMIT)
)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "model").mkdir()
    with serving(tmp_path / "model", tmp_path / "hub") as server:
        server.commit = COMMIT
        yield server


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.yaml").write_text(SPEC)
    monkeypatch.setenv("TUNEBOOK_HUB_ONLINE", "true")

    def run(*arguments: str) -> tuple[int, str, str]:
        return main([*arguments]), *capfd.readouterr()

    return run


def test_every_hub_model_is_pinned_and_nothing_else_is_touched(
    hub: Hub, command: Command, tmp_path: Path
) -> None:
    status, out, err = command("pin", "notes.yaml")
    assert (status, err) == (0, "")
    assert (tmp_path / "notes.yaml").read_text() == PINNED
    assert out.splitlines() == [
        f"notes.yaml:4: base_model: owner/name main -> {COMMIT}",
        f"notes.yaml:9: models.judge: owner/name-large main -> {COMMIT}",
        f"notes.yaml:22: profiles.big.base_model: owner/name v2 -> {COMMIT}",
        f"notes.yaml:24: profiles.pinned.base_model: owner/name is at {'cd' * 20} already",
    ]
    asked = [path for path in hub.asked if path.startswith("/api/models/")]
    assert asked == [
        "/api/models/owner/name/revision/main",
        "/api/models/owner/name-large/revision/main",
        "/api/models/owner/name/revision/v2",
    ]
    load(tmp_path / "notes.yaml")
    hub.asked.clear()
    assert command("pin", "notes.yaml")[0] == 0
    assert not [path for path in hub.asked if path.startswith("/api/models/")], (
        "what is a commit is not asked for again"
    )


@pytest.mark.parametrize(
    ("online", "repo", "told"),
    [
        ("false", "owner/name", "set TUNEBOOK_HUB_ONLINE=true"),
        ("true", "other/name", "check the repository's name"),
    ],
    ids=["offline", "unknown"],
)
def test_where_the_hub_tells_no_commit_nothing_is_written(
    hub: Hub,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    online: str,
    repo: str,
    told: str,
) -> None:
    monkeypatch.setenv("TUNEBOOK_HUB_ONLINE", online)
    text = SPEC.replace("repo: owner/name\n", f"repo: {repo}\n")
    (tmp_path / "notes.yaml").write_text(text)
    status, out, err = command("pin", "notes.yaml")
    assert (status, out) == (2, "")
    assert told in err
    assert (tmp_path / "notes.yaml").read_text() == text
    assert sorted(path.name for path in tmp_path.glob("*.yaml*")) == ["notes.yaml"]


def test_a_spec_without_hub_models_has_nothing_to_pin(command: Command, tmp_path: Path) -> None:
    text = SPEC[: SPEC.index("models:")] + SPEC[SPEC.index("method:") : SPEC.index("profiles:")]
    text = text.replace("{kind: hub, repo: owner/name}", "{kind: folder, path: model}")
    (tmp_path / "notes.yaml").write_text(text)
    assert command("pin", "notes.yaml") == (0, "notes.yaml: names no hub model\n", "")


def test_a_run_refuses_a_model_that_may_be_another_tomorrow(
    hub: Hub, command: Command, tmp_path: Path
) -> None:
    status, _, err = command("run", "notes.yaml", "--dry-run")
    assert status == 2
    assert "line 4, base_model.revision: 'main' of owner/name is no commit" in err
    assert "`tunebook pin notes.yaml` writes the commit; TUNEBOOK_ALLOW_UNPINNED=true" in err
    assert not hub.asked, "nothing is downloaded first"


def test_a_pinned_or_allowed_model_and_one_that_no_hub_has_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.yaml").write_text(SPEC)
    for profile in ("pinned", "local"):
        assert list(unpinned(load(tmp_path / "notes.yaml", profile=profile))) == []
    monkeypatch.setenv("TUNEBOOK_ALLOW_UNPINNED", "true")
    with pytest.raises(ValueError, match="not complete in the local cache"):
        plan(load(tmp_path / "notes.yaml"), Settings.read())


def test_a_supporting_model_that_the_spec_asks_is_refused_too(tmp_path: Path) -> None:
    judged = "{kind: judge, judge: judge, criteria: {kind: Is it kind?}}"
    (tmp_path / "notes.yaml").write_text(SPEC.replace("[exact_match]", f"[exact_match, {judged}]"))
    loaded = load(tmp_path / "notes.yaml", profile="local")
    assert [problem.where for problem in unpinned(loaded)] == ["models.judge.revision"]
    with pytest.raises(SpecError, match=r"models\.judge\.revision"):
        plan(loaded, Settings.read())
