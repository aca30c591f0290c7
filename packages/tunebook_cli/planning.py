"""What a run of a spec would make, and of what, before any of it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tunebook_cli.graph import EarlierRun, stages
from tunebook_data.fingerprint import preflight, source_digests
from tunebook_data.inputs import files_asked
from tunebook_eval.golden import golden_digests, golden_problems, judged_metrics
from tunebook_eval.scorers import metric_problems
from tunebook_inference.served import Served
from tunebook_inference.supporting import identity
from tunebook_model.resolve import ReadyModel, resolve
from tunebook_plan.pin import unpinned
from tunebook_run.record import find_run
from tunebook_run.settings import Settings
from tunebook_run.stages import Stage, find, read_artifact
from tunebook_run.store import Store
from tunebook_spec import LoadedSpec
from tunebook_spec.base_model import (
    AnyBaseModel,
    BaseModelReference,
    EndpointModel,
    FolderModel,
    GgufModel,
    is_same_model,
)
from tunebook_spec.errors import InputError, Problem, SpecError
from tunebook_spec.evaluation import RunArm
from tunebook_spec.method import AdapterMethod, HostedMethod
from tunebook_train.targets import target_problems


def base_model(loaded: LoadedSpec, settings: Settings) -> ReadyModel:
    """The base model made ready on this machine."""
    return _ready(loaded.spec.base_model, loaded, settings)


def supporting_models(loaded: LoadedSpec, settings: Settings) -> dict[str, ReadyModel]:
    """The supporting models that vLLM runs on this machine, made ready, by role."""
    used = {role: loaded.spec.models[role] for role in loaded.spec.roles}
    return {
        role: _ready(reference, loaded, settings)
        for role, reference in used.items()
        if isinstance(reference, BaseModelReference)
    }


def _ready(reference: AnyBaseModel, loaded: LoadedSpec, settings: Settings) -> ReadyModel:
    if isinstance(reference, FolderModel | GgufModel):
        reference = reference.model_copy(update={"path": str(loaded.relative(reference.path))})
    return resolve(
        reference,
        assets_dir=settings.assets_dir,
        cache_dir=settings.cache_dir,
        hub_online=settings.hub_online,
        hf_token=settings.hf_token.get_secret_value() if settings.hf_token else None,
    )


@dataclass(frozen=True)
class Plan:
    """Every stage of a spec, and the models that they need."""

    stages: Mapping[str, Stage]
    model: ReadyModel
    supporting: dict[str, ReadyModel]
    runs: dict[str, str]
    """Store key of the model that each earlier run has made, by the name of its arm."""
    served: Served | None
    """What answers in the place of the tuned model."""


def plan(loaded: LoadedSpec, settings: Settings, served: Served | None = None) -> Plan:
    """Where the output of every stage lives, with nothing run.

    Args:
        loaded: the spec.
        settings: of this machine.
        served: answers as the tuned model, and nothing is trained.

    Raises:
        SpecError: a hub model is at no commit, or what only a look at the machine can tell, a missing file
            for one.
    """
    if not settings.allow_unpinned and (moving := tuple(unpinned(loaded))):
        raise SpecError(str(loaded.path), moving)
    model = base_model(loaded, settings)
    problems = [*preflight(loaded, assets_dir=settings.assets_dir), *_unknown_endpoints(loaded, settings)]
    if isinstance(method := loaded.spec.method, AdapterMethod):
        found = target_problems(method, model.path)
        problems += [loaded.problem(("method", field), message) for field, message in found]
    folder = loaded.path.parent
    of_metrics = (*metric_problems(loaded.spec), *golden_problems(loaded.spec, folder))
    problems += [loaded.problem(at, message) for at, message in of_metrics]
    if problems:
        raise SpecError(str(loaded.path), tuple(problems))
    ready = supporting_models(loaded, settings)
    if itself := [*_own_judges(loaded, ready, model, served)]:
        raise SpecError(str(loaded.path), tuple(itself))
    who = {
        role: identity(loaded.spec.models[role], settings.of_model(role), ready.get(role), folder)
        for role in loaded.spec.roles
    }
    sources = source_digests(
        loaded.spec.data,
        suite_files=files_asked(loaded.spec),
        spec_dir=folder,
        assets_dir=settings.assets_dir,
    )
    runs = _earlier_runs(loaded, settings)
    made = stages(
        loaded.spec,
        base_model=model.digest,
        sources=sources,
        supporting=who,
        golden=golden_digests(loaded.spec, folder),
        runs=runs,
        served=served,
        provider=_provider(loaded, settings),
        price_per_hour=settings.local_price_per_hour,
    )
    return Plan(made, model, ready, {arm: run.key for arm, run in runs.items()}, served)


def _earlier_runs(loaded: LoadedSpec, settings: Settings) -> dict[str, EarlierRun]:
    """What earlier runs have made that answers as an arm, by its name.

    Raises:
        SpecError: there is no such run, it has made no model, or that was cleaned away.
    """
    store = Store(settings.storage_url, settings.cache_dir)
    found: dict[str, EarlierRun] = {}
    problems = []
    for index, arm in enumerate(loaded.spec.evaluation.arms):
        if isinstance(arm, RunArm):
            try:
                record = find_run(store, arm.run)
                merged = record.merged
                if read_artifact(store, merged.key) is None:
                    raise InputError(f"the model of run {arm.run} was cleaned away; run its spec again")
                found[arm.name] = EarlierRun(merged.key, merged.digest, record.chat_template_kwargs)
            except InputError as error:
                problems.append(loaded.problem(("evaluation", "arms", index, "run"), str(error)))
    if problems:
        raise SpecError(str(loaded.path), tuple(problems))
    return found


def _own_judges(
    loaded: LoadedSpec, ready: Mapping[str, ReadyModel], model: ReadyModel, served: Served | None
) -> Iterator[Problem]:
    """Judges with the base model's weights, or the name of the served one, whatever the spec calls these."""
    for at, metric in judged_metrics(loaded.spec):
        judge, reference = ready.get(metric.judge), loaded.spec.models[metric.judge]
        is_base = judge is not None and judge.digest == model.digest
        is_served = served is not None and is_same_model(reference, served.reference)
        if (is_base or is_served) and not metric.may_judge_itself:
            what = "has the weights of the model that is tuned" if is_base else "is the model that is served"
            itself = f"{metric.judge!r} {what}, which likes its own answers"
            way_out = "name another model, or set `may_judge_itself: true`"
            yield loaded.problem((*at, "judge"), f"{itself}: {way_out}")


def _unknown_endpoints(loaded: LoadedSpec, settings: Settings) -> Iterator[Problem]:
    for role in loaded.spec.roles:
        is_endpoint = isinstance(loaded.spec.models[role], EndpointModel)
        if is_endpoint and settings.of_model(role).base_url is None:
            message = f"is an endpoint, and nothing says where: set TUNEBOOK_MODELS__{role.upper()}__BASE_URL"
            yield loaded.problem(("models", role), message)
    if isinstance(loaded.spec.method, HostedMethod) and settings.hosted.base_url is None:
        message = "is trained by a provider, and nothing says where: set TUNEBOOK_HOSTED__BASE_URL"
        yield loaded.problem(("method", "model"), message)


def _provider(loaded: LoadedSpec, settings: Settings) -> str | None:
    """What is tuned elsewhere, and where; None where it is tuned here."""
    method = loaded.spec.method
    if not isinstance(method, HostedMethod):
        return None
    return identity(
        EndpointModel(kind="endpoint", model=method.model), settings.hosted, None, loaded.path.parent
    )


def describe(loaded: LoadedSpec, settings: Settings, until: str | None) -> str:
    """The resolved spec, and for each stage, up to `until`, whether it would run."""
    whole = plan(loaded, settings)
    planned = (up_to(until, whole) if until is not None else whole).stages
    store = Store(settings.storage_url, settings.cache_dir)
    lines = [
        f"{name:<16} {'skip: made' if find(store, stage) else 'run'} {stage.key}"
        for name, stage in planned.items()
    ]
    return "\n".join([loaded.spec.model_dump_json(indent=2), *lines])


def up_to(last: str, planned: Plan) -> Plan:
    names = list(planned.stages)
    if last not in names:
        raise InputError(f"--until {last}: no such stage; this spec has, in this order: {', '.join(names)}")
    wanted = names[: names.index(last) + 1]
    return replace(planned, stages={name: planned.stages[name] for name in wanted})


def needed_for(stage: str, planned: Plan) -> Plan:
    needed, missing = set[str](), [stage]
    while missing:
        name = missing.pop()
        needed.add(name)
        missing += planned.stages[name].parents
    return replace(planned, stages={name: each for name, each in planned.stages.items() if name in needed})
