"""One engine on a host of a Ray cluster, a stage of a pipeline of `ray.data.llm`."""

from __future__ import annotations

import pickle
from typing import Any
from uuid import UUID

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from tunebook_inference.generator import Decoding
from tunebook_inference.vllm_requests import MAX_NUM_SEQS, engine_arguments
from tunebook_model.shared_model import SharedModel
from tunebook_run.settings import Settings
from tunebook_run.store import Store


class HostEngine(vLLMEngineStageUDF):  # type: ignore[misc]
    """Finds the model on its host; what is asked and said passes through Arrow as bytes.

    Arrow would put all rows into one schema, and there is none for a dictionary with token ids as its keys.
    """

    def __init__(
        self,
        *args: Any,
        shared: SharedModel,
        storage_url: str,
        decoding: Decoding,
        takes_schemas: bool,
        engine_kwargs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        folder = shared.on_this_host(Store(storage_url, Settings.read().cache_dir))
        arguments = engine_arguments(
            folder,
            engine_kwargs["dtype"],
            decoding,
            max_num_seqs=MAX_NUM_SEQS,
            takes_schemas=takes_schemas,
        )
        kwargs |= {"model": arguments.pop("model"), "expected_input_keys": ["asked"]}
        super().__init__(*args, engine_kwargs=engine_kwargs | arguments, **kwargs)

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: UUID) -> dict[str, Any]:
        said = await super()._generate_with_error_handling(row | pickle.loads(row["asked"]), batch_uuid)
        # A row with an error would pass by what unpacks it; who asked reads the error out of what was said.
        index = self.IDX_IN_BATCH_COLUMN
        return {index: said[index], "__inference_error__": "", "said": pickle.dumps(said)}
