"""Has every compiled loop made that `prepare` runs, which takes seconds: `python -m tunebook_data.loops`."""

from __future__ import annotations

from tunebook_data.minhash import band_keys, shingle_sets, similarity
from tunebook_data.ngrams import Filter, grams_of
from tunebook_data.plain_lines import plain_lines

_LINE = b"""{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}\n"""


def main() -> None:
    """Hand each loop what `prepare` hands it: one is made for each kind of array."""
    plain_lines(_LINE, None, 1, 100)
    documents = [["a text of some words"], ["another text of words"]]
    band_keys(documents)
    similarity(*shingle_sets(documents))
    for grams, _ in grams_of(documents, 2):
        known = Filter(len(grams.hashes_G))
        known.add(grams.hashes_G)
        known.finds(grams.hashes_G)


if __name__ == "__main__":
    main()
