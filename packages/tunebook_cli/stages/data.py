"""From sources to a data set."""

from __future__ import annotations

import contextlib
import logging

from tunebook_cli.stages.work import Outcome, Work, open_engine, supporting

logger = logging.getLogger(__name__)


def replay_stage(work: Work) -> Outcome:
    from tunebook_data.inputs import ReplayInputs
    from tunebook_data.replay import replay

    inputs = ReplayInputs.model_validate(work.fields)
    model = work.request.model.path
    engine = open_engine(work, model, inputs.chat_template_kwargs)
    done = replay(inputs, renderer=engine.renderer, generator=engine, out=work.out, advance=work.advance)
    return Outcome(done.model_dump(mode="json"), done.summary())


def prepare_stage(work: Work) -> Outcome:
    from tunebook_data.card_page import write_page
    from tunebook_data.inputs import PrepareInputs
    from tunebook_data.kept_tokens import KeptTokens, rendering_key
    from tunebook_data.prepare import prepare
    from tunebook_data.workers import open_workers

    inputs = PrepareInputs.model_validate(work.fields)
    cache_dir, model_dir, checks = work.settings.cache_dir, work.request.model.path, inputs.data.checks
    key = rendering_key(
        model_dir,
        inputs.chat_template_kwargs,
        checks,
        format=work.request.stage.inputs["format"],
        cache_dir=cache_dir,
    )
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(supporting(work, inputs.models)) if inputs.models else {}
        # What is kept of a row is one answer's tokens.
        kept = None if inputs.learns_preferences else KeptTokens(cache_dir, key, checks)
        done = prepare(
            inputs,
            model_dir=model_dir,
            spec_dir=work.request.spec_dir,
            assets_dir=work.settings.assets_dir,
            replay_dir=work.parents.get("replay"),
            out=work.out,
            advance=work.advance,
            models=models,
            workers=stack.enter_context(open_workers(work.request.ray_address)),
            kept_tokens=stack.enter_context(kept) if kept else None,
        )
    write_page(work.out)
    return Outcome(done.model_dump(mode="json"), done.summary())
