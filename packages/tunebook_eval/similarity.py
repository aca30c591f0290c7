"""Which texts are most like a text, by the words that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import norm

from tunebook_data.prompts import words

DIGITS = 9
"""Of a likeness, so that rounding in its last bits breaks no tie."""


@dataclass(frozen=True, eq=False)
class TfIdf:
    """Texts as vectors of word weights, count x (ln((1 + n) / (1 + df)) + 1), as scikit-learn has them.

    Case, white space and punctuation make no difference.
    """

    columns: dict[str, int]
    """Of each word that a text has."""
    idf: NDArray[np.float64]
    """By column."""
    weights: csr_array
    """A row for each text."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> TfIdf:
        counted = [Counter(words(text)) for text in texts]
        columns = {word: n for n, word in enumerate(dict.fromkeys(chain.from_iterable(counted)))}
        found = np.fromiter((columns[word] for each in counted for word in each), np.int64)
        counts = np.fromiter((count for each in counted for count in each.values()), np.float64)
        ends = np.cumsum([0, *map(len, counted)])
        idf = np.log((1 + len(texts)) / (1 + np.bincount(found, minlength=len(columns)))) + 1
        weights = csr_array((counts * idf[found], found, ends), shape=(len(texts), len(columns)))
        return cls(columns, idf, weights)

    def nearest(self, text: str, k: int) -> list[int]:
        """The indices of the k texts of the highest cosine with this one, by it; of equal ones the first.

        Words that no text has do not count: they tell none from another.
        """
        query = np.zeros(len(self.columns))
        for word, count in Counter(words(text)).items():
            if (column := self.columns.get(word)) is not None:
                query[column] = count * self.idf[column]
        lengths = norm(self.weights, axis=1) * np.linalg.norm(query)
        cosines = (self.weights @ query) / np.where(lengths, lengths, 1)
        return best(cosines, k)


def best(cosines: NDArray[np.floating[Any]], k: int) -> list[int]:
    """The indices of the k highest, by them; of equal ones the first."""
    return [int(n) for n in np.argsort(-cosines.round(DIGITS), kind="stable")[:k]]
