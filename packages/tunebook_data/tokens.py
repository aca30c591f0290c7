"""Token tables: uncompressed Arrow IPC files that training maps into memory instead of loading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunebook_model.render import Rendered
from tunebook_spec.errors import DataError

SCHEMA = pa.schema(
    [("id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("loss_mask", pa.list_(pa.bool_()))]
)


def write_tokens(path: Path, rows: Iterable[tuple[str, Rendered]]) -> None:
    """Write row ids, token ids and loss masks as one record batch, in order.

    Byte for byte the same for the same rows. One batch keeps every column in one piece, so that a reader
    needs no copy; it bounds a table at 2^31 - 1 tokens.
    """
    ids, input_ids, masks = [], [], []
    for row_id, rendered in rows:
        ids.append(row_id)
        input_ids.append(np.asarray(rendered.input_ids, dtype=np.int32))
        masks.append(np.asarray(rendered.loss_mask, dtype=np.bool_))
    offsets = np.cumsum([0, *map(len, input_ids)], dtype=np.int64).astype(np.int32)
    lists = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([np.empty(0, kind), *each])))
        for kind, each in ((np.int32, input_ids), (np.bool_, masks))
    ]
    batch = pa.record_batch([pa.array(ids, pa.string()), *lists], schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)


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
