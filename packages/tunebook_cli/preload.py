"""Imported by the process that stages which generate are forked from."""

import contextlib

from tunebook_run.importing import no_collection

with no_collection():
    import tunebook_cli.stage_process  # noqa: F401
    from tunebook_inference.vllm_engine import import_vllm
    from tunebook_spec.errors import MissingExtraError

    with contextlib.suppress(MissingExtraError):  # the stage that needs it will say so
        import_vllm()
