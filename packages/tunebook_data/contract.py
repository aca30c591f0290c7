"""The rendering contract: for the same chat, training and serving read the same ids.

`prepare` writes probes: chats with the ids that training reads before their answers. Whoever has vLLM at hand
checks them against the renderer of vLLM's own OpenAI server, which reads nothing but the model folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from tunebook_data.shown_rows import drawn_by_task
from tunebook_data.stored_rows import StoredRows
from tunebook_inference.vllm_engine import set_environment
from tunebook_model.conversation import FunctionTool, Message
from tunebook_model.render import Renderer
from tunebook_spec.errors import IntegrityError, MissingExtraError

PROBES = "probes.jsonl"
_DRAWN_PER_TASK = 4

Serve = Callable[[Sequence[Message], Sequence[FunctionTool]], list[int]]
"""A chat and its tools to the ids that a server hands to its model."""


@dataclass(frozen=True)
class Probe:
    id: str
    """The row's."""
    messages: tuple[Message, ...]
    """The row without its answer."""
    prompt_ids: tuple[int, ...]
    """What training reads before the answer."""
    tools: tuple[FunctionTool, ...] = ()


def choose_probes(rows: StoredRows, renderer: Renderer) -> list[Probe]:
    """A few rows of every task, by the hash of their id, and its longest."""
    longest: dict[str, tuple[int, bytes, int]] = {}
    for i, (row, num_tokens) in enumerate(zip(rows, map(int, rows.lengths), strict=True)):
        if num_tokens >= -longest.get(row.task, (0,))[0]:
            mine = -num_tokens, hashlib.sha256(row.id.encode()).digest(), i
            longest[row.task] = min(mine, longest.get(row.task, mine))
    chosen: dict[str, Probe] = {}
    for task, each in sorted(drawn_by_task(rows, _DRAWN_PER_TASK).items()):
        for i in [*each, longest[task][2]]:
            row = rows[i]
            asked = row.messages[:-1]
            read = rows.rendered(i).input_ids[: len(renderer.prompt_ids(asked, row.tools))].tolist()
            chosen[row.id] = Probe(row.id, asked, tuple(read), row.tools)
    return list(chosen.values())


def write_probes(path: Path, probes: Iterable[Probe]) -> None:
    lines = (orjson.dumps(asdict(probe), option=orjson.OPT_APPEND_NEWLINE) for probe in probes)
    path.write_bytes(b"".join(lines))


def read_probes(path: Path) -> list[Probe]:
    fields = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [
        Probe(each["id"], tuple(each["messages"]), tuple(each["prompt_ids"]), tuple(each["tools"]))
        for each in fields
    ]


def check_contract(probes: Iterable[Probe], serve: Serve) -> None:
    """Prove that serving reads what training read.

    Raises:
        IntegrityError: names the row and the first position that differs.
    """
    for probe in probes:
        served = serve(probe.messages, probe.tools)
        if tuple(served) != probe.prompt_ids:
            pairs = enumerate(zip_longest(probe.prompt_ids, served))
            at, (trained, other) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
            raise IntegrityError(
                f"row {probe.id}: serving renders its prompt otherwise than training: token {at} is"
                f" {_token(other)} served and {_token(trained)} trained, so a served model is"
                " asked what it did not learn. Does its folder hold the base's tokenizer and chat template?"
            )


def serving_renderer(model_dir: Path, chat_template_kwargs: Mapping[str, str | bool]) -> Serve:
    """The rendering of vLLM's OpenAI server for a model folder, without an engine.

    Importing vLLM costs seconds, so call this in a process that is about to start its engine anyway.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    set_environment()
    try:
        from vllm.config import ModelConfig, VllmConfig
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.renderers import renderer_from_config
    except ModuleNotFoundError as error:
        message = "vLLM is not installed; install the extra of this machine: "
        message += "`pip install 'tunebook[cpu]'` or `pip install 'tunebook[gpu]'`"
        raise MissingExtraError(message) from error
    config = ModelConfig(model=str(model_dir))
    renderer = renderer_from_config(VllmConfig(model_config=config))

    def serve(messages: Sequence[Message], tools: Sequence[FunctionTool]) -> list[int]:
        request = ChatCompletionRequest(
            messages=list(messages),
            tools=list(tools) or None,
            chat_template_kwargs=dict(chat_template_kwargs),
        )
        shown = [tool.model_dump() for tool in request.tools] if request.tools else None
        params = request.build_chat_params(None, "auto").with_defaults({"tools": shown, "tokenize": False})
        _, (prompt,) = renderer.render_chat([messages], params, request.build_tok_params(config))
        ids: list[int] = prompt["prompt_token_ids"]
        return ids

    return serve


def _token(token: Any) -> str:
    return "absent" if token is None else str(token)
