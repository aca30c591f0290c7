"""Who gets in, and that nobody gets at what is another's."""

from __future__ import annotations

import logging

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import select
from starlette.testclient import TestClient

from gateway import doorway
from gateway.app import make_app
from tests.gateway_client import ROWS, Gateway, Project, finish
from tunebook_cli.main import main
from tunebook_jobs.keys import caller_of, revoke_key
from tunebook_jobs.tables import AuditEntry


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of all that the service answers to."""
    found = [each for each in app.routes if isinstance(each, APIRoute)]
    return [(method, each.path) for each in found for method in sorted(each.methods)]


def test_no_route_answers_without_a_key_that_is_known(gateway: Gateway) -> None:
    keys = ("", "Bearer", "Bearer ", "Bearer sk-tb-000000000000-" + "a" * 43, "Basic abc", "Bearer é")
    listed = routes(gateway.app)
    assert len(listed) > 15
    for method, path in listed:
        for key in keys:
            headers = {"Authorization": key.encode()} if key else {}
            answer = TestClient(gateway.app).request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path, key)
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert answer.headers["x-request-id"].startswith("req_")
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_another_projects_ids_are_not_found_on_any_route(gateway: Gateway, acme: Project) -> None:
    file = acme.upload(ROWS)["id"]
    done, waiting = (acme.create(file).json()["id"] for _ in range(2))
    model = finish(gateway, done)
    ids = {"{file_id}": file, "{job_id}": waiting, "{model:path}": model}
    rival = gateway.project("rival")
    with_ids = [each for each in routes(gateway.app) if "{" in each[1]]
    assert {part for _, path in with_ids for part in path.split("/") if "{" in part} == set(ids)
    for method, path in with_ids:
        for name, id in ids.items():
            path = path.replace(name, id)
        answer = rival.client.request(method, path)
        assert (path, answer.status_code) == (path, 404)
        # It is there, and says no more to a stranger than one that is not.
        absent = path.replace(file, "file-no").replace(waiting, "ftjob-no").replace(model, "ft:no")
        told = rival.client.request(method, absent).text
        named = {"file-no": file, "ftjob-no": waiting, "ft:no": model}
        for no, id in named.items():
            told = told.replace(no, id)
        assert answer.text == told
        assert acme.client.get(path.removesuffix("/cancel")).status_code != 404 or path.endswith(
            ("/pause", "/resume")
        )
    for answer in (
        rival.create(file),
        rival.create(rival.upload(ROWS)["id"], validation_file=file),
        rival.create(rival.upload(ROWS)["id"], model=model),
        rival.client.post(
            "/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": "a"}]}
        ),
        rival.client.get("/v1/files", params={"after": file}),
        rival.client.get("/v1/fine_tuning/jobs", params={"after": waiting}),
    ):
        assert answer.status_code == 404
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/models"):
        assert not {file, done, waiting, model} & {
            each["id"] for each in rival.client.get(path).json()["data"]
        }


def test_a_key_is_made_listed_and_revoked_by_the_command(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNEBOOK_STORAGE_URL", gateway.settings.storage_url)
    if url := gateway.settings.gateway.database_url:
        monkeypatch.setenv("TUNEBOOK_GATEWAY__DATABASE_URL", url.get_secret_value())
    assert main(["keys", "create", "--project", "paint"]) == 0
    key = capsys.readouterr().out.strip()
    client = TestClient(gateway.app, headers={"Authorization": f"Bearer {key}"})
    assert client.get("/v1/files").status_code == 200
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    id = key.split("-")[2]
    assert f"{id}  paint" in listed
    assert key.split("-", 3)[3] not in listed
    assert main(["keys", "revoke", id]) == 0
    assert client.get("/v1/files").status_code == 401
    capsys.readouterr()
    assert main(["keys", "revoke", id]) == 2
    assert "no key" in capsys.readouterr().err
    assert main(["keys", "create", "--project", "a:b"]) == 2


def test_a_right_id_with_a_wrong_secret_opens_nothing(gateway: Gateway, acme: Project) -> None:
    wrong = acme.key[:-1] + ("a" if acme.key[-1] != "a" else "b")
    assert caller_of(gateway.state.database, acme.key) is not None
    assert caller_of(gateway.state.database, wrong) is None
    revoke_key(gateway.state.database, acme.key.split("-")[2])
    assert caller_of(gateway.state.database, acme.key) is None


def test_what_changes_something_is_in_the_audit_log_and_no_secret_is(
    gateway: Gateway, acme: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = acme.upload(ROWS)["id"]
    job = acme.create(file).json()["id"]
    acme.client.get("/v1/files")
    acme.client.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    acme.client.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    acme.client.delete("/v1/files/file-no")
    with gateway.state.database.read() as session:
        mine = select(AuditEntry).where(AuditEntry.project == acme.name).order_by(AuditEntry.number)
        entries = list(session.scalars(mine))
    assert [(each.action, each.target, each.status) for each in entries] == [
        ("POST /v1/files", None, 200),
        ("POST /v1/fine_tuning/jobs", None, 200),
        ("POST /v1/fine_tuning/jobs/{job_id}/cancel", job, 200),
        ("POST /v1/fine_tuning/jobs/{job_id}/cancel", job, 400),
        ("DELETE /v1/files/{file_id}", "file-no", 404),
    ]
    assert {each.key for each in entries} == {acme.key.split("-")[2]}
    secret = acme.key.split("-", 3)[3]
    assert "POST /v1/fine_tuning/jobs/{job_id}/cancel" in caplog.text
    assert secret not in caplog.text


def test_refused_keys_leave_a_trace_without_their_secret_that_does_not_grow_with_their_number(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, revoked = gateway.project("guessed"), gateway.project("gone")
    id, gone = (each.key.split("-")[2] for each in (mine, revoked))
    revoke_key(gateway.state.database, gone)
    unknown = [f"sk-tb-{number:012x}-{'s' * 43}" for number in range(5)]
    wrong = [f"sk-tb-{id}-{letter * 43}" for letter in "abc"]
    before = refusals(gateway)
    app = make_app(gateway.settings)
    client = TestClient(app, client=("203.0.113.9", 5))

    def ask() -> list[AuditEntry]:
        for key in (*unknown, *wrong, revoked.key, revoked.key, "no key of ours"):
            for method, path in (("GET", "/v1/files"), ("DELETE", "/v1/files/s"), ("POST", "/v1/nowhere")):
                answer = client.request(method, path, headers={"Authorization": f"Bearer {key}"})
                assert answer.status_code == 401
        return refusals(gateway)[len(before) :]

    made = ask()
    assert [(each.key, each.project, each.action, each.target, each.status) for each in made] == [
        (None, None, "refused", "203.0.113.9", 401),
        (id, "guessed", "refused", "203.0.113.9", 401),
        (gone, "gone", "refused", "203.0.113.9", 401),
    ]
    assert len(ask()) == 3, "a minute has not passed"
    monkeypatch.setattr(doorway, "_REFUSAL_EVERY_S", 0.0)
    assert len(ask()) > 3
    app.state.gateway.database.engine.dispose()


def refusals(gateway: Gateway) -> list[AuditEntry]:
    with gateway.state.database.read() as session:
        of_keys = select(AuditEntry).where(AuditEntry.action == "refused").order_by(AuditEntry.number)
        return list(session.scalars(of_keys))


def test_a_key_that_asks_too_often_waits_and_others_do_not(gateway: Gateway, acme: Project) -> None:
    seldom = gateway.settings.gateway.model_copy(update={"requests_per_minute": 3})
    app = make_app(gateway.settings.model_copy(update={"gateway": seldom}))
    client = TestClient(app, headers={"Authorization": f"Bearer {acme.key}"})
    answers = [client.get("/v1/models") for _ in range(4)]
    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in answers] == ["2", "1", "0", "0"]
    assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[3].headers["retry-after"]) <= 20
    other = gateway.project("other").key
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {other}"}).status_code == 200
    app.state.gateway.database.engine.dispose()
