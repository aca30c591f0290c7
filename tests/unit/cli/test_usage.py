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
        ("serve --replicas 2", "--replicas are of the models of runs: name them"),
        ("serve medical --replicas 2", "--replicas are of a Ray cluster: set TUNEBOOK_RAY_ADDRESS"),
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
        "replicas of the service",
        "replicas here",
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


def test_what_a_cluster_does_not_do_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNEBOOK_RAY_ADDRESS", "127.0.0.1:1")
    assert main(["serve", "medical", "--traffic", "traffic.yaml"]) == 2
    assert (
        "no requests are split, shadowed or logged, for no one process sees them all"
        in capfd.readouterr().err
    )


def test_a_misspelt_setting_is_told_before_a_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNEBOOK_HUB_ONLIN", "true")
    main(["eval", "medical"])
    told = "TUNEBOOK_HUB_ONLIN is no setting and is not read; did you mean TUNEBOOK_HUB_ONLINE?"
    assert told in capfd.readouterr().err
