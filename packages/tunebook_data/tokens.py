"""Token tables: uncompressed Arrow IPC files that training maps into memory instead of loading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunebook_model.render import Rendered, SoftTargets
from tunebook_spec.errors import DataError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        # Supervised tokens times alternatives, flattened; empty where each token is its own target.
        ("target_ids", pa.list_(pa.int32())),
        ("target_probabilities", pa.list_(pa.float32())),
        ("weight", pa.float32()),
    ]
)


def write_tokens(path: Path, rows: Iterable[tuple[str, Rendered]]) -> None:
    """Write row ids, token ids, loss masks, soft targets and weights as one record batch, in order.

    Byte for byte the same for the same rows. One batch keeps every column in one piece, so that a reader
    needs no copy; it bounds a table at 2^31 - 1 tokens.
    """
    pairs = list(rows)
    each = [rendered for _, rendered in pairs]
    soft = [rendered.soft_targets for rendered in each]
    columns = [
        pa.array([row_id for row_id, _ in pairs], pa.string()),
        _lists(np.int32, [rendered.input_ids for rendered in each]),
        _lists(np.bool_, [rendered.loss_mask for rendered in each]),
        _lists(np.int32, [targets.ids_NK.ravel() if targets else () for targets in soft]),
        _lists(np.float32, [targets.probabilities_NK.ravel() if targets else () for targets in soft]),
        pa.array([rendered.weight for rendered in each], pa.float32()),
    ]
    batch = pa.record_batch(columns, schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)


def _lists(kind: type[np.generic], rows: Sequence[npt.ArrayLike]) -> pa.ListArray:
    arrays = [np.asarray(row, dtype=kind) for row in rows]
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([np.empty(0, kind), *arrays])))


@dataclass(frozen=True)
class TokenTable:
    """A token table mapped into memory; its token ids are views of the file."""

    batch: pa.RecordBatch

    @classmethod
    def open(cls, path: Path) -> TokenTable:
        """Map a file that `write_tokens` wrote.

        Raises:
            DataError: it is another kind of file.
        """
        try:
            # The map stays open as long as a view of it lives: Arrow's buffers hold it.
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            fits = reader.schema.equals(SCHEMA) and reader.num_record_batches == 1
            if not fits:
                raise DataError(f"{path}: not a token table of this version; run prepare again")
            return cls(reader.get_batch(0))
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a token table ({error}); run prepare again") from None

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int32]:
        """Row i holds tokens `offsets[i]` to `offsets[i + 1]`; length: rows + 1."""
        view: npt.NDArray[np.int32] = self.batch["input_ids"].offsets.to_numpy(zero_copy_only=True)
        return view

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        return np.diff(self.offsets)

    @cached_property
    def all_input_ids(self) -> npt.NDArray[np.int32]:
        """The token ids of all rows, one after the other; read-only."""
        view: npt.NDArray[np.int32] = self.batch["input_ids"].values.to_numpy(zero_copy_only=True)
        return view

    @cached_property
    def _mask_bits(self) -> npt.NDArray[np.uint8]:
        buffer = self.batch["loss_mask"].values.buffers()[1]
        return np.frombuffer(buffer, dtype=np.uint8)

    def row_id(self, row: int) -> str:
        row_id: str = self.batch["id"][row].as_py()
        return row_id

    def input_ids(self, row: int) -> npt.NDArray[np.int32]:
        """A read-only view."""
        return self.all_input_ids[self.offsets[row] : self.offsets[row + 1]]

    def loss_mask(self, row: int) -> npt.NDArray[np.bool_]:
        """True where a token is supervised; Arrow packs masks into bits, so these are unpacked here."""
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        bits = np.unpackbits(self._mask_bits[start // 8 : (end + 7) // 8], bitorder="little")
        return bits[start % 8 : start % 8 + end - start].view(np.bool_)

    def soft_targets(self, row: int) -> SoftTargets | None:
        """None where each supervised token is its own target."""
        ids, probabilities = (self.batch[name][row].values for name in ("target_ids", "target_probabilities"))
        if not len(ids):
            return None
        shape = int(self.loss_mask(row).sum()), -1
        return SoftTargets(ids.to_numpy().reshape(shape), probabilities.to_numpy().reshape(shape))

    def weight(self, row: int) -> float:
        """How much each supervised token of the row counts in the loss."""
        weight: float = self.batch["weight"][row].as_py()
        return weight

    def rendered(self, row: int) -> Rendered:
        """A row as it was written; its ids are a view."""
        return Rendered(self.input_ids(row), self.loss_mask(row), self.soft_targets(row), self.weight(row))
