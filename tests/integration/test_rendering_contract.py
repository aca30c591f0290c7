from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.unit.model.test_tool_templates import ANSWERED, ASKED, FOUND, TOOLS, TWO_CALLS
from tests.unit.model.test_trl_templates import TEMPLATES
from tunebook_data.contract import Probe, write_probes
from tunebook_model.conversation import Message
from tunebook_model.render import Renderer

# vLLM reads its environment at import, so that each use gets a process of its own.
CHECK = """
import sys
from pathlib import Path
from tunebook_data.contract import check_contract, read_probes, serving_renderer
from tunebook_spec.errors import IntegrityError
for folder in sys.argv[2:]:
    try:
        check_contract(read_probes(Path(sys.argv[1])), serving_renderer(Path(folder), {}))
        print("kept")
    except IntegrityError as error:
        print(f"broken: {error}")
"""


def test_vllms_server_reads_what_training_read_unless_the_template_differs(
    tiny_llama: Path, tmp_path: Path
) -> None:
    renderer = Renderer.load(tiny_llama, {})
    chats = (
        ({"role": "user", "content": "What colour is the sky?"},),
        (
            {"role": "system", "content": "Be brief.\n\n1."},
            {"role": "user", "content": "  Is it blue?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Sûr? 😀"},
        ),
    )
    probes = [Probe(f"row{i}", chat, tuple(renderer.prompt_ids(chat))) for i, chat in enumerate(chats)]
    write_probes(tmp_path / "probes.jsonl", probes)
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end_header_id|>\\n\\n", "<|end_header_id|>\\n"))
    done = subprocess.run(
        [sys.executable, "-c", CHECK, tmp_path / "probes.jsonl", tiny_llama, other],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept, broken = done.stdout.splitlines()[-2:]
    assert kept == "kept"
    assert broken.startswith("broken: row row0: serving renders its prompt otherwise than training: token ")


def test_vllms_server_shows_tools_calls_and_their_answers_as_training_read_them(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "tools")
    shutil.copy(TEMPLATES / "qwen2_5.jinja", folder / "chat_template.jinja")
    for name in (
        "config.json",
        "tokenizer_config.json",
    ):  # a prompt with tools is longer than the tiny context
        (folder / name).write_text((folder / name).read_text().replace(": 512", ": 4096"))
    renderer = Renderer.load(folder, {})
    found: list[Message] = [{**FOUND, "tool_call_id": call["id"]} for call in TWO_CALLS["tool_calls"]]
    chats: list[tuple[Message, ...]] = [
        (ASKED,),
        (ASKED, TWO_CALLS, *found),
        (ASKED, {**TWO_CALLS, "weight": 0}, *found, ANSWERED, ASKED),
    ]
    probes = [
        Probe(f"row{i}", chat, tuple(renderer.prompt_ids(chat, TOOLS)), tuple(TOOLS))
        for i, chat in enumerate(chats)
    ]
    write_probes(tmp_path / "probes.jsonl", probes)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, tmp_path / "probes.jsonl", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "kept"
