"""What the process of one stage does."""

from __future__ import annotations

import logging
import tempfile
import time

from tunebook_cli.request import Request
from tunebook_cli.stages.answers import answer_stage, judge_stage
from tunebook_cli.stages.data import prepare_stage, replay_stage
from tunebook_cli.stages.training import merge_stage, train_hosted_stage, train_stage
from tunebook_cli.stages.verdict import decide_stage, evaluate_stage
from tunebook_cli.stages.work import Outcome, Work
from tunebook_run import log
from tunebook_run.progress import progress
from tunebook_run.settings import Settings
from tunebook_run.stages import commit, find, writing
from tunebook_run.store import Store, is_disk_full
from tunebook_spec.errors import TunebookError

logger = logging.getLogger(__name__)


def main(request: Request) -> int:
    """Run the stage, and return the process's exit status."""
    settings = Settings.read()
    log.configure(settings.log, settings.log_level)
    try:
        run_stage(request, settings)
    except TunebookError as error:
        logger.error("stage %s: %s", request.stage.name, error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if is_disk_full(error):
            place = f"no space left under {settings.storage_url.split('?')[0]} or {tempfile.gettempdir()}"
            logger.error("stage %s: %s; free some and run again", request.stage.name, place)
        else:
            logger.exception("stage %s: this is a defect of Tunebook", request.stage.name)
        return 1
    return 0


def run_stage(request: Request, settings: Settings) -> None:
    started = time.monotonic()
    store = Store(settings.storage_url, settings.cache_dir)
    with writing(store, request.stage) as out, progress(request.stage.name) as advance:
        if find(store, request.stage) is not None:
            return
        parents = {name: store.download(key) for name, key in request.parents.items()}
        outcome = _dispatch(Work(request, settings, store, parents, out, advance))
        result = {"summary": outcome.summary, **outcome.result}
        commit(store, request.stage, result, time.monotonic() - started)


def _dispatch(work: Work) -> Outcome:
    name = work.request.stage.name
    match name.partition("-")[0]:
        case "replay":
            return replay_stage(work)
        case "prepare":
            return prepare_stage(work)
        case "train":
            return (
                train_hosted_stage(work) if work.fields["method"]["kind"] == "hosted" else train_stage(work)
            )
        case "merge":
            return merge_stage(work)
        case "answer":
            return answer_stage(work)
        case "judge":
            return judge_stage(work)
        case "evaluate":
            return evaluate_stage(work)
        case "decide":
            return decide_stage(work)
    raise AssertionError(name)
