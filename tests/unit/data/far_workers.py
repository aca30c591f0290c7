"""Workers that share nothing with who hands them chunks, without a cluster: all goes through pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tunebook_data.workers import Chunk, Made


@dataclass
class FarWorkers:
    chunks: dict[str, int] = field(default_factory=dict)
    """How many were handed to each function."""
    are_here = False

    def map(
        self, function: Callable[[Chunk], Made], chunks: Iterable[Chunk], *, pool_from: int
    ) -> Iterator[Made]:
        sent = [*map(pickle.dumps, chunks)]
        name = getattr(function, "func", function).__name__
        self.chunks[name] = self.chunks.get(name, 0) + len(sent)
        far = pickle.loads(pickle.dumps(function))
        return (pickle.loads(pickle.dumps(far(pickle.loads(chunk)))) for chunk in sent)
