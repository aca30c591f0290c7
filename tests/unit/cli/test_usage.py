from __future__ import annotations

import pytest

from tunebook_cli.main import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("eval medical", "eval needs --endpoint and --model, or --from-log"),
        ("eval medical --from-log a.jsonl --model b", "--from-log asks no model: leave out --model"),
        (
            "eval medical --from-log a.jsonl --endpoint http://a/v1 --concurrency 2",
            "--from-log asks no model: leave out --endpoint, --concurrency",
        ),
        (
            "eval medical --endpoint http://a/v1 --model b --log-set glossary",
            "--log-set is of a log: give its file with --from-log",
        ),
        ("clean --until prepare", "No such option: --until"),
        ("serve --port 99999", "Invalid value for '--port'"),
        ("run medical --detach", "name its cluster by --address"),
        ("run medical --cancel", "name its cluster by --address"),
        ("run medical --address http://a --detach --cancel", "leave out one"),
    ],
    ids=[
        "nothing",
        "log and model",
        "log and requests",
        "set without a log",
        "clean stops nowhere",
        "port",
        "detach from nothing",
        "cancel nothing",
        "both",
    ],
)
def test_an_option_that_nothing_would_read_or_could_use_is_told(
    arguments: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    assert told in " ".join(capfd.readouterr().err.replace("\u2502", "").split())


def test_a_misspelt_setting_is_told_before_a_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNEBOOK_HUB_ONLIN", "true")
    main(["eval", "medical"])
    told = "TUNEBOOK_HUB_ONLIN is no setting and is not read; did you mean TUNEBOOK_HUB_ONLINE?"
    assert told in capfd.readouterr().err
