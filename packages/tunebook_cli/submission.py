"""Runs as jobs of a Ray cluster: submitted, followed, left alone, found again, stopped."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import httpx
import typer

from tunebook_cli.parcel import Parcel, environment_to_send, pack, parcel
from tunebook_cli.runner import git_commit
from tunebook_cli.submitted import take_environment
from tunebook_run.settings import Settings
from tunebook_run.stages import sha256
from tunebook_spec import LoadedSpec
from tunebook_spec.errors import InputError, StageError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

STOP_S = 20
"""So long a job that is stopped may take to end by itself."""
LOST_S = 60.0
"""So long a cluster may be out of reach before it is given up."""
QUIET_S = 60.0
"""After so long without a line, a connection may be dead and nobody know it."""
AGAIN = "the same command goes on from what it left"


@dataclass(frozen=True)
class Submission:
    """A run that belongs on a cluster."""

    loaded: LoadedSpec
    settings: Settings
    address: str
    """URL of the cluster's dashboard, which takes jobs."""
    overrides: Sequence[str]
    options: Sequence[str]
    """Of the command that runs there, beside profile and overrides."""

    def run(self, *, detach: bool) -> int:
        """Submit it, or find the job that it is already, and print its log to its end; its exit status.

        Raises:
            InputError: the cluster cannot be reached or refuses us, or what is sent is not complete.
            StageError: the job ended without a status of ours, or the cluster was lost.
        """
        self._check_storage()
        sent = parcel(self.loaded)
        name = self._name(sent)
        with _connected(self.address) as client:
            job = _under_way(client, name)
            if job is None:
                job = self._submit(client, name, sent)
                _say(f"submitted as job {job} of {self.address}")
            else:
                _say(f"this is job {job} of {self.address} already")
            if detach:
                _say("it runs on; the same command without --detach follows it, with --cancel stops it")
                return 0
            _say("Ctrl-C leaves it running; the same command follows it again, with --cancel stops it")
            try:
                return exit_status(job, follow(client, job))
            except KeyboardInterrupt:
                _say(f"left job {job} running; the same command follows it, with --cancel stops it")
                return 130

    def cancel(self) -> None:
        """Stop the job; what it has made stays in the store.

        Raises:
            InputError: it is not under way, or the cluster cannot be reached or refuses us.
            StageError: it does not end.
        """
        self._check_storage()
        name = self._name(parcel(self.loaded))
        with _connected(self.address) as client:
            job = _under_way(client, name)
            if job is None:
                raise InputError(f"no job {name} is under way at {self.address}")
            client.stop_job(job)
            deadline = time.monotonic() + 2 * STOP_S
            while not client.get_job_status(job).is_terminal():
                if time.monotonic() > deadline:
                    raise StageError(f"job {job} was told to stop and has not ended; see {self.address}")
                time.sleep(0.5)
        _say(f"stopped job {job}; {AGAIN}")

    def _check_storage(self) -> None:
        url = self.settings.storage_url
        if "storage_url" not in self.settings.model_fields_set or not ("://" in url or url.startswith("/")):
            raise InputError(
                "what a job makes has to outlive its cluster: set TUNEBOOK_STORAGE_URL to s3://bucket/prefix,"
                f" or to the absolute path of a folder that all its hosts share (it is {url!r})"
            )

    def _name(self, sent: Parcel) -> str:
        """The same for the same work: what is asked for, of which data, and where it is kept."""
        contents = {place: sha256(path) for place, path in sent.files.items()}
        spec = self.loaded.spec
        work = [spec.model_dump(mode="json"), self.loaded.profile, [*self.options], contents]
        digest = hashlib.sha256(json.dumps([*work, self.settings.storage_url], sort_keys=True).encode())
        return f"tunebook-{spec.name}-{digest.hexdigest()[:12]}"

    def _submit(self, client: JobSubmissionClient, name: str, sent: Parcel) -> str:
        environment = environment_to_send() | {"TUNEBOOK_RAY_ADDRESS": "auto"}
        if commit := git_commit(self.loaded.path.parent):
            environment["TUNEBOOK_GIT_COMMIT"] = commit
        profile = () if self.loaded.profile is None else ("--profile", self.loaded.profile)
        changes = (part for override in self.overrides for part in ("--set", override))
        command = ("python", "-m", "tunebook_cli.submitted", "run", sent.spec)
        last = max((int(job.rpartition("-")[2]) for job in _attempts(client, name)), default=0)
        job = f"{name}-{last + 1}"
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "parcel.zip"
            pack(sent.files, environment, archive)
            client.submit_job(
                entrypoint=shlex.join([*command, *profile, *changes, *self.options]),
                submission_id=job,
                runtime_env={
                    "working_dir": str(archive),
                    "worker_process_setup_hook": f"{take_environment.__module__}.{take_environment.__name__}",
                    # Ray reads these before our code can say them.
                    "env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
                },
            )
        return job


@contextmanager
def _connected(address: str) -> Iterator[JobSubmissionClient]:
    """The cluster's job server; what it refuses is told as an error of ours."""
    mode = _authentication_mode(address)
    if mode != "token" and os.environ.get("RAY_AUTH_MODE") != "disabled":
        raise InputError(
            f"{address} asks for no token, so that whoever reaches it runs what he likes on it: start it with"
            " RAY_AUTH_MODE=token, or set RAY_AUTH_MODE=disabled here to submit to it all the same"
        )
    os.environ["RAY_AUTH_MODE"] = mode  # which Ray reads once, as it is loaded
    for other in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray would go there instead
        os.environ.pop(other, None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        yield JobSubmissionClient(address)
    except AuthenticationError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{address} refuses us ({reason}): set RAY_AUTH_TOKEN to the cluster's token, or write it into"
            " ~/.ray/auth_token; `ray get-auth-token` on its head shows it"
        ) from None
    except StageError:
        raise
    except (OSError, RuntimeError) as error:
        raise StageError(f"{address}: {error}") from error


def _authentication_mode(address: str) -> str:
    way_out = "--address is the URL of a Ray cluster's dashboard, such as http://head:8265"
    try:
        answer = httpx.get(f"{address.rstrip('/')}/api/authentication_mode", timeout=10.0)
        return str(answer.raise_for_status().json()["authentication_mode"])
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise InputError(f"{address!r} is no http:// or https:// URL; {way_out}") from None
    except httpx.TransportError as error:
        raise InputError(f"no Ray cluster answers at {address} ({error}); {way_out}") from None
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        raise InputError(f"{address} answers, but not as Ray does; {way_out}") from None


def _attempts(client: JobSubmissionClient, name: str) -> dict[str, JobStatus]:
    """Jobs that were submitted under a name; Ray takes no id twice."""
    found = ((str(each.submission_id), each.status) for each in client.list_jobs())
    return {job: status for job, status in found if job.rpartition("-")[0] == name}


def _under_way(client: JobSubmissionClient, name: str) -> str | None:
    living = [job for job, status in _attempts(client, name).items() if not status.is_terminal()]
    return living[0] if living else None


def follow(client: JobSubmissionClient, job: str) -> JobDetails:
    """Print a job's log as it grows, over lost connections, and return what became of the job.

    Raises:
        StageError: the cluster is out of reach for too long, or was started anew and does not know the job.
    """
    log, lost_at, has_ended = _Log(client, job), None, False
    while True:
        is_whole = asyncio.run(log.print_on())
        try:
            details = client.get_job_info(job)
        except (OSError, RuntimeError) as error:
            if "status code 404" in str(error):
                raise StageError(
                    f"{client.get_address()} was started anew and knows no job {job}; {AGAIN}"
                ) from None
            if lost_at is None:
                lost_at = time.monotonic()
                _say(f"{client.get_address()} is out of reach; trying again for {LOST_S:.0f} s")
            if time.monotonic() - lost_at > LOST_S:
                raise StageError(
                    f"lost the cluster at {client.get_address()} ({error}); once it answers, the same command"
                    f" follows job {job} if it lives, or goes on from what it left"
                ) from None
            time.sleep(1.0)
            continue
        if details.status.is_terminal() and (is_whole or has_ended):
            return details
        lost_at, has_ended = None, details.status.is_terminal()
        time.sleep(0.2)


@dataclass
class _Log:
    """The log of a job, and how much of it is printed; a new connection begins at its beginning."""

    client: JobSubmissionClient
    job: str
    num_printed: int = 0

    async def print_on(self) -> bool:
        """Print what is new until the job has ended; False: the connection was lost, or may have been."""
        num_read, chunks = 0, self.client.tail_job_logs(self.job)
        try:
            while (text := await asyncio.wait_for(anext(chunks, None), QUIET_S)) is not None:
                typer.echo(text[max(0, self.num_printed - num_read) :], nl=False)
                num_read += len(text)
                self.num_printed = max(self.num_printed, num_read)
        except (TimeoutError, OSError, RuntimeError, aiohttp.ClientError):
            return False
        return True


def exit_status(job: str, details: JobDetails) -> int:
    """The run's own, where it had one."""
    code = details.driver_exit_code
    if details.status.value == "STOPPED" or code == 130:
        _say(f"job {job} was stopped; {AGAIN}")
        return 130
    if code is None or not 0 <= code <= 4:
        reason = (details.message or "").partition(", last available logs")[0]
        raise StageError(f"job {job} ended before its run did: {reason}; {AGAIN}")
    return int(code)


def _say(text: str) -> None:
    typer.echo(text, err=True)
