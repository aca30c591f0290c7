"""Built-in data set: Python functions in a house style, which ruff's configuration in the spec says.

Short public functions of eleven packages are cut out with the imports that they need, their docstring cut to
its first sentence, and brought to the house style by ruff; what ruff then still finds fault with is left out.

`write`: name, parameters and summary of a function; the answer is the function.

`restyle`: the function with faults of style, dealt by seed: annotations gone, the docstring a comment or
careless, double quotes, wide lines, messages inside of `raise`; the answer is the function in house style.
Some faults are ones that ruff can fix, and some are not.

Both tasks have a row for every function. Rows of one `folder` of modules are a group, since its functions are
often alike (`rgb_to_y`, `rgb_to_bgr`); a spec says `across_tasks` to keep them on one side in both.

Rows carry no system message; a spec's `data.system` adds it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain, islice, zip_longest
from pathlib import Path

from tunebook_data.datasets.card import DataCard
from tunebook_data.datasets.code_faults import with_faults
from tunebook_data.datasets.code_functions import HouseFunction, house_functions
from tunebook_data.rows import Row, content_id
from tunebook_model.conversation import Message
from tunebook_spec.errors import DataError

TASKS = ("write", "restyle")
CARD = DataCard(
    name="code_style",
    licence="MIT AND Apache-2.0 AND BSD-3-Clause",
    attribution=(
        "algorithms 1.0.1, Algorithms Team & Contributors, MIT",
        "kornia 0.9.0, Edgar Riba and others, Apache-2.0",
        "langchain-core 1.8.4, LangChain, MIT",
        "pydash 8.1.0, Derrick Gilland, MIT",
        "torchmetrics 1.9.0, Lightning-AI and others, Apache-2.0",
        "trimesh 5.2.0, Michael Dawson-Haggerty, MIT",
        "textual 8.2.8, Will McGugan, MIT",
        "narwhals 2.29.0, Marco Gorelli, MIT",
        "pint 0.25.3, Hernan E. Grecco and others, BSD-3-Clause",
        "sqlglot 30.30.0, Toby Mao, MIT",
        "werkzeug 3.1.9, Pallets, BSD-3-Clause",
    ),
    notice=(
        "Functions are cut out, shortened in their docstrings and restyled by a program: what they do has"
        " been tried only where a row has `examples`."
    ),
)


def rows(
    task: str, *, assets_dir: Path, house: str | None, rows: int | None = None, seed: int = 0
) -> Iterator[Row]:
    """The pool that a split divides by folder.

    Functions are dealt like cards: one of each folder, in shuffled order, then another of each that has more.
    So the first n rows, of the pool or of one side of a split, hold as many folders as can be.

    Args:
        task: "write" or "restyle".
        assets_dir: folder that set-up filled.
        house: the style, as `ruff.toml` has it.
        rows: how many; none: one for each function.
        seed: of the order, and of the faults.

    Raises:
        DataError: no such task, no house style or one that ruff refuses, more rows than there are functions,
            or the packages are not there.
    """
    if task not in TASKS:
        raise DataError(f"code_style has no task {task!r}; it has {', '.join(TASKS)}")
    if house is None:
        raise DataError(
            "code_style needs a house style: set `ruff` of the source to what `ruff.toml` would have"
        )
    functions = house_functions(assets_dir, house)
    if rows is not None and rows > len(functions):
        raise DataError(f"code_style: there are {len(functions)} functions in this house style (got {rows})")
    dealt = list(islice(_dealt(functions, random.Random(f"code_style/{task}/{seed}")), rows))
    asked = map(_request, dealt) if task == "write" else with_faults(dealt, seed)
    return (
        _row(task, function, prompt, line)
        for line, (function, prompt) in enumerate(zip(dealt, asked, strict=True), start=1)
    )


@cache
def tried_functions() -> frozenset[str]:
    """`module:name` of the functions whose doctest examples pass on them as they are cut out.

    Listed, so that rows do not depend on what a machine can run in time, and making them runs no code.
    """
    return frozenset(files(__package__).joinpath("code_tried.tsv").read_text(encoding="utf-8").split())


def _dealt(functions: Sequence[HouseFunction], rng: random.Random) -> Iterator[HouseFunction]:
    by_folder: dict[str, list[HouseFunction]] = defaultdict(list)
    for function in functions:
        by_folder[function.folder].append(function)
    hands = list(by_folder.values())
    for hand in hands:
        rng.shuffle(hand)
    rng.shuffle(hands)
    return (each for each in chain.from_iterable(zip_longest(*hands)) if each is not None)


def _request(function: HouseFunction) -> str:
    return f"Write the function `{function.signature}`. {function.cut.summary}"


def _row(task: str, function: HouseFunction, prompt: str, line: int) -> Row:
    messages: tuple[Message, ...] = (
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": function.code.strip()},
    )
    cut = function.cut
    tried = f"{cut.module}:{cut.name}" in tried_functions()
    meta = {
        "folder": function.folder,
        "module": cut.module,
        "package": cut.package,
        "signature": function.signature,
        "examples": cut.examples if tried else "",
    }
    return Row(content_id(task, messages), messages, task, function.folder, "code_style", line, meta)
