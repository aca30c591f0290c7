"""Why a provider trains nothing for us, in one sentence, if possible before anything is uploaded."""

from __future__ import annotations

from tunebook_spec.errors import StageError
from tunebook_spec.method import HostedMethod
from tunebook_train.hosted.provider import FAILED, Provider, Refusal

PROBE_FILE = "file-tunebookprobe"
"""No provider has a file of this id."""


def probe(provider: Provider, method: HostedMethod) -> None:
    """Ask for a job on a file that is not there: whoever may create jobs is told that, and others why not.

    Nothing is uploaded, and nothing costs. A provider that takes the job all the same is told to cancel it.

    Raises:
        StageError: this key, organisation or model cannot train there.
    """
    try:
        job = provider.patiently(
            lambda: provider.create(PROBE_FILE, model=method.model, training_file=PROBE_FILE)
        )
    except Refusal as refusal:
        if _is_of_model(refusal) or not _is_of_file(refusal):
            raise cannot_train(provider, method, refusal) from None
        return
    try:
        provider.cancel(job.id)
    except Refusal as refusal:
        if provider.job(job.id).status not in FAILED:
            raise StageError(
                f"{provider.host} took job {job.id}, on a file that is not there ({PROBE_FILE}), and does not"
                f" cancel it: it says {refusal.detail!r}; end that job there, and run the same command again"
            ) from None


def cannot_train(provider: Provider, method: HostedMethod, refusal: Refusal) -> StageError:
    """The sentence for a job that was refused."""
    host, said = provider.host, f"it says {refusal.detail!r}"
    if refusal.status == 401:
        return StageError(f"{host} does not know this key: {said}; set TUNEBOOK_HOSTED__API_KEY")
    if _is_of_model(refusal):
        return StageError(f"{host} cannot tune {method.model!r}: {said}; name another `method.model`")
    if refusal.status == 403:
        way_out = "take a provider that lets you, by TUNEBOOK_HOSTED__BASE_URL, or train here"
        return StageError(f"this organisation cannot create fine-tuning jobs at {host}: {said}; {way_out}")
    if refusal.status in (404, 405):
        return StageError(f"{host} serves no fine-tuning: {said}; check TUNEBOOK_HOSTED__BASE_URL")
    return StageError(f"{host} refuses the job: {said}")


def _is_of_file(refusal: Refusal) -> bool:
    """Whether all that is wrong is the file; who may not train at all can be told of the file too."""
    names_it = refusal.param == "training_file" or any(
        name in refusal.detail for name in (PROBE_FILE, "training_file")
    )
    return names_it and refusal.status not in (401, 403)


def _is_of_model(refusal: Refusal) -> bool:
    return refusal.param == "model" or "model" in (refusal.code or "")
