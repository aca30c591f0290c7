"""Scores a server's log by the metrics of a spec."""

from __future__ import annotations

import logging
from pathlib import Path

from tunebook_cli.planning import plan
from tunebook_cli.stages.work import embedder
from tunebook_eval.from_log import describe, score_log
from tunebook_eval.inputs import AnswerInputs, EvaluateInputs
from tunebook_eval.sets import build_items
from tunebook_run.settings import Settings
from tunebook_run.stages import find
from tunebook_run.store import Store
from tunebook_run.traffic_log import read_log
from tunebook_spec import LoadedSpec, Spec
from tunebook_spec.errors import InputError
from tunebook_spec.evaluation import TaskSet

logger = logging.getLogger(__name__)


def score_log_file(loaded: LoadedSpec, settings: Settings, path: Path, log_set: str | None) -> str:
    """The scores of a log, for people.

    Args:
        loaded: the spec, whose test rows' references are known where its data set is made.
        settings: of this machine.
        path: the log.
        log_set: whose metrics score questions that are no test rows; none: those of the spec's only task.

    Raises:
        InputError: the log is empty or damaged, or it is not clear which set its questions are of.
    """
    rows = read_log(path)
    if not rows:
        raise InputError(f"{path} holds no answer")
    other_set = _set(loaded.spec, log_set)
    prepare = plan(loaded, settings).stages["prepare"]
    store = Store(settings.storage_url, settings.cache_dir)
    items = []
    if find(store, prepare) is not None:
        items = build_items(AnswerInputs.of(loaded.spec, "tuned").sets, store.download(prepare.key))
    else:
        message = (
            "the data set of %s is not made, so no reference is known; tunebook run SPEC --until prepare"
        )
        logger.warning(message, loaded.spec.name)
    metrics = EvaluateInputs.of(loaded.spec).metrics
    return describe(score_log(metrics, rows, items, other_set=other_set, embed=embedder(settings.assets_dir)))


def _set(spec: Spec, named: str | None) -> str:
    sets = spec.evaluation.sets
    if named is not None and named not in sets:
        raise InputError(f"--log-set {named}: no such set; {spec.name} has: {', '.join(sets)}")
    of_tasks = [name for name, each in sets.items() if isinstance(each, TaskSet)]
    if named is None and len(of_tasks) != 1:
        told = ", ".join(of_tasks) or "none"
        raise InputError(f"say with --log-set which set logged questions are of; of tasks there are: {told}")
    return named or of_tasks[0]
