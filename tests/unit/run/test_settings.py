from __future__ import annotations

import pytest

from tunebook_run.settings import Settings, misspelt
from tunebook_spec.errors import SettingsError

TEACHER = "TUNEBOOK_MODELS__TEACHER__"


def test_the_models_of_a_machine_are_told_by_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{TEACHER}BASE_URL", "https://api.example.com/v1/")
    monkeypatch.setenv(f"{TEACHER}API_KEY", "sk-secret")
    monkeypatch.setenv(f"{TEACHER}CONCURRENCY", "3")
    settings = Settings.read()
    teacher = settings.of_model("teacher")
    assert (teacher.base_url, teacher.concurrency) == ("https://api.example.com/v1", 3)
    assert settings.of_model("judge").base_url is None
    assert "sk-secret" not in repr(settings)


def test_fewer_workers_than_all_go_on_but_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBOOK_NUM_WORKERS", "4")
    monkeypatch.setenv("TUNEBOOK_MIN_WORKERS", "4")
    assert Settings.read().min_workers == 4
    monkeypatch.setenv("TUNEBOOK_MIN_WORKERS", "5")
    with pytest.raises(SettingsError, match=r"MIN_WORKERS: is more than TUNEBOOK_NUM_WORKERS 4 \(got '5'\)"):
        Settings.read()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CONCURRENCY", "0", "CONCURRENCY: Input should be greater than or equal to 1 (got '0')"),
        ("BASE_URL", "api.example.com", "BASE_URL: is no http:// or https:// URL"),
        ("BASE_URL", "https://me:sk-secret@a/v1", "BASE_URL: holds a user, password or query"),
        ("BASE_URL", "https://a/v1?key=sk-secret", "BASE_URL: holds a user, password or query"),
        ("APIKEY", "sk-secret", "APIKEY: unknown; known: BASE_URL, API_KEY, "),
        ("BUDGET_COST", "5", "TEACHER: BUDGET_COST needs PRICE_IN and PRICE_OUT"),
        ("PRICE_IN", "5", "TEACHER: PRICE_IN and PRICE_OUT go together"),
    ],
)
def test_a_bad_setting_of_a_model_is_named_and_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"{TEACHER}API_KEY", "sk-secret")
    monkeypatch.setenv(f"{TEACHER}{name}", value)
    with pytest.raises(SettingsError) as caught:
        Settings.read()
    assert expected in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_a_price_is_told_only_where_this_machine_does_all_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBOOK_PRICE_PER_HOUR", "1.5")
    assert Settings.read().local_price_per_hour == 1.5
    monkeypatch.setenv("TUNEBOOK_RAY_ADDRESS", "host:6379")
    assert Settings.read().local_price_per_hour is None
    monkeypatch.setenv("TUNEBOOK_PRICE_PER_HOUR", "-1")
    with pytest.raises(SettingsError, match=r"PRICE_PER_HOUR: .* greater than or equal to 0 \(got '-1'\)"):
        Settings.read()


def test_the_tuned_model_of_a_provider_may_have_prices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BASE_URL", "https://a/v1"), ("PRICE_IN", "1"), ("PRICE_OUT", "2")):
        monkeypatch.setenv(f"TUNEBOOK_HOSTED__{name}", value)
    assert Settings.read().hosted.of_answers(is_tuned=True).price_out == 2
    monkeypatch.setenv("TUNEBOOK_HOSTED__TUNED_PRICE_IN", "3")
    with pytest.raises(SettingsError, match="HOSTED: TUNED_PRICE_IN and TUNED_PRICE_OUT go together"):
        Settings.read()
    monkeypatch.setenv("TUNEBOOK_HOSTED__TUNED_PRICE_OUT", "4")
    hosted = Settings.read().hosted
    prices = [hosted.of_answers(is_tuned=is_tuned).price_out for is_tuned in (False, True)]
    assert (prices, hosted.of_answers(is_tuned=True).base_url) == ([2, 4], "https://a/v1")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TRAINING_BUDGET_COST", "5", "HOSTED: TRAINING_BUDGET_COST needs TRAINING_PRICE"),
        ("BASE_URL", "https://me:sk-secret@a/v1", "BASE_URL: holds a user, password or query"),
        ("POLL", "5", "POLL: unknown; known: BASE_URL, API_KEY, .*TRAINING_PRICE"),
    ],
)
def test_a_bad_setting_of_the_provider_is_named_and_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"TUNEBOOK_HOSTED__{name}", value)
    with pytest.raises(SettingsError, match=expected) as caught:
        Settings.read()
    assert "sk-secret" not in str(caught.value)


def test_an_unknown_setting_of_the_gateway_lists_those_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBOOK_GATEWAY__BASE_URL", "a")
    with pytest.raises(SettingsError, match=r"GATEWAY__BASE_URL: unknown; known: .*BASE_MODELS"):
        Settings.read()


def test_a_variable_that_is_nearly_a_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    set_ = ("NUM_WORKER", "MODEL__JUDGE__BASE_URL", "LOG", "GATEWAY__LEASE_S", "GATEWAY_PORT", "EXTRA")
    for name in set_:
        monkeypatch.setenv(f"TUNEBOOK_{name}", "1")
    monkeypatch.setenv("NUM_WORKER", "1")
    assert list(misspelt()) == [
        ("TUNEBOOK_MODEL__JUDGE__BASE_URL", "TUNEBOOK_MODELS__JUDGE__BASE_URL"),
        ("TUNEBOOK_NUM_WORKER", "TUNEBOOK_NUM_WORKERS"),
    ]
