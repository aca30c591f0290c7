"""Asks an endpoint for the model that it is to be evaluated by."""

from __future__ import annotations

import hashlib

import openai
from pydantic import ValidationError

from tunebook_inference.served import ROLE, Served
from tunebook_run.settings import ModelSettings
from tunebook_spec.errors import InputError


def find_served(
    url: str, model: str, settings: ModelSettings, *, concurrency: int | None, revision: str | None
) -> Served:
    """Ask an endpoint for the model.

    Args:
        url: Base URL of the OpenAI protocol.
        model: The name that it is served under.
        settings: The key and the time-out.
        concurrency: Most requests under way at once.
        revision: What tells two models apart that were served under one name, one after the other.

    Raises:
        InputError: the URL cannot be asked, or it serves no such model.
    """
    try:
        base_url = ModelSettings(base_url=url).base_url
    except ValidationError as error:
        raise InputError(f"--endpoint {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    assert base_url is not None
    root = _root(base_url, model, settings)
    who = f"{model} at {base_url.partition('://')[2]}"
    if root is not None:
        who += f" ({hashlib.sha256(root.encode()).hexdigest()[:12]})"
    who += f" revision {revision}" if revision else ""
    return Served(base_url=base_url, model=model, who=who, concurrency=concurrency)


def _root(base_url: str, model: str, settings: ModelSettings) -> str | None:
    """What lies behind the name, in the endpoint's words; None where it does not say."""
    key = settings.api_key.get_secret_value() if settings.api_key else "none"
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=2, timeout=settings.timeout_s) as client:
        try:
            answer = client.models.with_raw_response.list()
        except openai.NotFoundError:
            return None  # not all list their models
        except openai.APIStatusError as error:
            way_out = (
                f"; set TUNEBOOK_MODELS__{ROLE.upper()}__API_KEY" if error.status_code in (401, 403) else ""
            )
            raise InputError(
                f"{base_url} does not say what it serves: HTTP {error.status_code}{way_out}"
            ) from None
        except openai.APIConnectionError as error:
            raise InputError(f"{base_url} cannot be reached: {error.__cause__ or error}") from None
    try:
        known = {each.id: each for each in answer.parse()}
    except (AttributeError, TypeError, ValueError):  # it is no JSON, or no list of models
        raise InputError(
            f"{base_url} does not speak the OpenAI protocol: it answers {base_url}/models with"
            f" {answer.text[:40]!r}; see whether the URL ends as it should, mostly in /v1"
        ) from None
    if model not in known:
        raise InputError(
            f"{base_url} serves no {model!r}; it serves: {', '.join(sorted(known)) or 'nothing'}"
        )
    root = getattr(known[model], "root", None)
    return root if isinstance(root, str) else None
