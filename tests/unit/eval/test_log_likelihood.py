from pathlib import Path

import pytest
import torch

from tunebook_eval.log_likelihood import BATCH, score_texts


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


def test_texts_beside_one_another_score_as_they_do_alone(tiny_llama: Path) -> None:
    texts = [f"It is {'very ' * n}cold." for n in range(BATCH + 3)]
    together = list(score_texts(tiny_llama, texts))
    alone = [score for text in texts for score in score_texts(tiny_llama, [text])]
    assert [score.num_tokens for score in together] == [score.num_tokens for score in alone]
    assert [score.mean for score in together] == pytest.approx([score.mean for score in alone], rel=1e-5)
