"""Imported by the process that stages which read or write tokens are forked from."""

from tunebook_run.importing import no_collection

with no_collection():
    from transformers import AutoTokenizer  # noqa: F401

    import tunebook_cli.stage_process  # noqa: F401
    import tunebook_data.contract  # noqa: F401
    import tunebook_eval.answer  # noqa: F401
