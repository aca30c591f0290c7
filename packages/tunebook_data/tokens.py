"""Token tables: uncompressed Arrow IPC files that training maps into memory instead of loading."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunebook_model.render import Rendered, SoftTargets
from tunebook_spec.errors import DataError

_BUFFER_BYTES = 1 << 20
MAX_TOKENS = (1 << 31) - 1
"""In one list column of Arrow."""
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
    """Write a token table of rows that are in memory, by id."""
    pairs = list(rows)
    write_table(path, pa.array([row_id for row_id, _ in pairs], pa.string()), [each for _, each in pairs])


def write_table(path: Path, ids: pa.StringArray, rendered: Iterable[Rendered]) -> None:
    """Write row ids, token ids, loss masks, soft targets and weights as one record batch, in order.

    Rows need not fit into memory, and are gone through twice.

    Byte for byte the same for the same rows. One batch keeps every column in one piece, so that a reader
    needs no copy; it bounds a table at 2^31 - 1 tokens. How long all rows are decides where each column lies:
    a file with zeros for tokens is written first, and then filled.
    """
    lengths, soft, weights = array("i"), array("i"), array("f")
    for each in rendered:
        lengths.append(len(each.input_ids))
        soft.append(each.soft_targets.ids_NK.size if each.soft_targets else 0)
        weights.append(each.weight)
    kinds = {"input_ids": lengths, "loss_mask": lengths, "target_ids": soft, "target_probabilities": soft}
    lists = [_zeros(SCHEMA.field(name).type, each) for name, each in kinds.items()]
    batch = pa.record_batch([ids, *lists, pa.array(np.array(weights), pa.float32())], schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    with pa.memory_map(str(path)) as file:
        start = file.read_buffer().address
        written = pa.ipc.open_file(file).get_batch(0)
        values = [written[name].values.buffers()[1] for name in kinds]
        places = [each.address - start if each else 0 for each in values]
        del written, values
    with ExitStack() as stack:
        columns = [stack.enter_context(path.open("r+b", buffering=_BUFFER_BYTES)) for _ in places]
        for column, place in zip(columns, places, strict=True):
            column.seek(place)
        mask = np.empty(0, np.bool_)
        for each in rendered:
            columns[0].write(np.asarray(each.input_ids, np.int32).tobytes())
            # Arrow packs masks into bits, of which a row may end in the midst of a byte.
            mask = np.concatenate([mask, each.loss_mask])
            whole = len(mask) // 8 * 8
            columns[1].write(np.packbits(mask[:whole], bitorder="little").tobytes())
            mask = mask[whole:]
            if each.soft_targets:
                columns[2].write(each.soft_targets.ids_NK.astype(np.int32).tobytes())
                columns[3].write(each.soft_targets.probabilities_NK.astype(np.float32).tobytes())
        columns[1].write(np.packbits(mask, bitorder="little").tobytes())


def _zeros(kind: pa.ListType, lengths: array[int]) -> pa.ListArray:
    """Lists of zeros, which take no memory."""
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    num = int(offsets[-1])
    if num > MAX_TOKENS:
        raise DataError(
            f"the rows of one side have {num} tokens, and a token table holds {MAX_TOKENS}: cap them"
            " (`max_train_rows` of a source), or train on the parts one after another"
        )
    # A page of zeros that is only read is the same for all.
    values = pa.py_buffer(np.zeros(-(-num * kind.value_type.bit_width // 8), np.uint8))
    items = pa.Array.from_buffers(kind.value_type, num, [None, values])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items)


@dataclass(frozen=True)
class TokenTable:
    """A token table mapped into memory; its token ids are views of the file."""

    batch: pa.RecordBatch
    mapped: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> TokenTable:
        """Map a file that `write_tokens` wrote.

        Raises:
            DataError: it is another kind of file.
        """
        try:
            with path.open("rb") as file:
                # It stays as long as a view of it lives: Arrow's buffers hold it.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(mapped))
            fits = reader.schema.equals(SCHEMA) and reader.num_record_batches == 1
            if not fits:
                raise DataError(f"{path}: not a token table of this version; run prepare again")
            return cls(reader.get_batch(0), mapped)
        except (pa.ArrowInvalid, ValueError) as error:  # a ValueError: it is empty
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

    def forget(self) -> None:
        """Keep nothing of the file in memory; what is looked at next is read again, and views stay good."""
        self.mapped.madvise(mmap.MADV_DONTNEED)

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
