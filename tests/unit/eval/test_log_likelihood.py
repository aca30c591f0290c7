from pathlib import Path

import pytest
import torch

from tunebook_eval.log_likelihood import score_texts


def test_mean_over_all_tokens_but_the_first_as_the_model_itself_counts_it(tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "What colour is the sky? It is blue."
    ids = torch.tensor(
        [AutoTokenizer.from_pretrained(tiny_llama)(text, add_special_tokens=False)["input_ids"]]
    )
    loss = AutoModelForCausalLM.from_pretrained(tiny_llama)(input_ids=ids, labels=ids).loss
    (scored,) = score_texts(tiny_llama, [text])
    assert scored.num_tokens == ids.shape[1] - 1
    assert scored.mean == pytest.approx(-loss.item(), rel=1e-5)
