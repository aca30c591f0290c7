import re
from pathlib import Path
from typing import Any

import orjson
from contender import compete
from datasketch import MinHash, MinHashLSH


def work(folder: Path) -> list[int]:
    """As its documentation shows it, with `update_batch` and the integer hash that are its fast way."""
    index = MinHashLSH(num_perm=112, params=(14, 8))
    dropped = []
    with (folder / "documents.jsonl").open("rb") as file:
        for line in file:
            document = orjson.loads(line)
            words = re.findall(r"\w+", document["completion"].lower())
            shingles = {" ".join(each).encode() for each in zip(words, words[1:], words[2:], strict=False)}
            sketch = MinHash(num_perm=112)
            sketch.update_batch(shingles)
            number = int(document["id"])
            if index.query(sketch):
                dropped.append(number)
            index.insert(number, sketch, check_duplication=False)
    return dropped


def answer(dropped: list[int]) -> dict[str, Any]:
    return {"dropped": dropped}


if __name__ == "__main__":
    compete(work, answer, "datasketch")
