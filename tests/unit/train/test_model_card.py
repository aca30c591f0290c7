from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tunebook_data.manifest import Attribution, DatasetManifest, SourceCounts, SplitCounts
from tunebook_model import builtin
from tunebook_model.resolve import ReadyModel
from tunebook_spec.method import EarlyStopping, FullMethod, LoraMethod
from tunebook_train.inputs import TrainInputs
from tunebook_train.model_card import ModelFacts, model_card
from tunebook_train.result import TrainResult

SPLIT = SplitCounts(rows=40, groups=4, tokens=900, supervised_tokens=321, longest_tokens=50)
MANIFEST = DatasetManifest(
    sources=(
        SourceCounts(
            source="rows.jsonl",
            task="colour",
            rows_in=60,
            rejects=1,
            duplicates=2,
            capped=0,
            train=40,
            validation=5,
            test=12,
        ),
    ),
    rejects_by_reason={},
    splits={"train": SPLIT, "validation": SPLIT, "test": SPLIT},
    replay=None,
    attribution=(
        Attribution(name="glossary", licence="MIT", attribution=("terms 1.0, A. Author",), notice=""),
    ),
)
TRAINED = TrainResult(
    trainable_parameters=1000,
    parameters=50000,
    trainable_share=0.02,
    steps=30,
    tokens=2700,
    seconds=3.0,
    tokens_per_s=900.0,
    mfu=0.41,
    peak_memory_gib=1.5,
    loss=0.1234,
    validation_loss_before=4.5678,
    validation_loss=0.4321,
    best_step=20,
    num_workers=1,
    dtype="float32",
)


def facts(base: ReadyModel, method: FullMethod | LoraMethod) -> ModelFacts:
    digests = {"prepare": "aa11", "train": "bb22"}
    return ModelFacts("tiny", base, TrainInputs(method=method, seed=7), TRAINED, MANIFEST, digests)


LORA = LoraMethod(kind="lora", r=8, target_modules=("q_proj",), early_stopping=EarlyStopping(patience=4))


@pytest.mark.parametrize(
    ("is_adapter", "library", "relation"),
    [(True, "peft", "adapter"), (False, "transformers", "finetune")],
    ids=["adapter", "merged"],
)
def test_the_hub_reads_the_card_of_a_tuned_hub_model(
    tmp_path: Path, is_adapter: bool, library: str, relation: str
) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: llama3.2\n---\n# Base\n")
    base = ReadyModel(tmp_path, "owner/name", "cc33", "0123456")
    card = ModelCard(model_card(facts(base, LORA), is_adapter=is_adapter))
    assert card.data.to_dict() == {
        "base_model": "owner/name",
        "base_model_relation": relation,
        "library_name": library,
        "license": "llama3.2",
        "pipeline_tag": "text-generation",
        "tags": ["tunebook", "lora"],
    }
    for line in (
        "Licence of the base: llama3.2.",
        "| rows.jsonl | colour | 60 | 40 | 5 | 12 |",
        "Trained on 40 rows of 900 tokens, 321 of them learnt.",
        "glossary, MIT: terms 1.0, A. Author",
        "| r | 8 |",
        "| target_modules | ['q_proj'] |",
        "| seed | 7 |",
        "| validation loss before | 4.5678 |",
        "| validation loss of these weights | 0.4321 |",
        "| step of these weights | 20 |",
        "| base model | cc33 |",
        "| train | bb22 |",
    ):
        assert line in card.text


@pytest.mark.parametrize("front", ["model-index: 7", "license: [", "license: mit\nmodel-index: [{name: a}]"])
def test_a_card_of_a_base_that_cannot_be_read_costs_no_training(tmp_path: Path, front: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# Base\n")
    base = ReadyModel(tmp_path, "owner/name", "cc33", "0123456")
    assert "# tiny" in model_card(facts(base, LORA), is_adapter=True)


def test_a_licence_of_its_own_is_told_by_name_and_place(tmp_path: Path) -> None:
    front = "license: other\nlicense_name: gemma\nlicense_link: https://a.example/terms"
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# Base\n")
    card = ModelCard(
        model_card(facts(ReadyModel(tmp_path, "owner/name", "cc33", "01"), LORA), is_adapter=True)
    )
    assert card.data.license == "other"
    assert "Licence of the base: other gemma https://a.example/terms." in card.text


def test_the_built_in_model_has_its_licence_and_a_folder_without_one_says_so(tmp_path: Path) -> None:
    full = FullMethod(kind="full")
    shipped = model_card(facts(ReadyModel(tmp_path, builtin.TITLE, "cc33", None), full), is_adapter=False)
    assert ModelCard(shipped).data.license == "apache-2.0"
    assert ModelCard(shipped).data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    unknown = model_card(facts(ReadyModel(tmp_path, "mine", "cc33", None), full), is_adapter=False)
    assert "license" not in ModelCard(unknown).data.to_dict()
    assert "base_model" not in ModelCard(unknown).data.to_dict()
    assert "Licence of the base: not stated in its folder" in unknown
