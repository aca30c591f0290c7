"""Imported by the process that a stage which prepares data, and its workers, are forked from."""

import gc

from tunebook_run.importing import no_collection

# Rows are millions of objects in no cycle; looking for one among them takes a tenth of the time of reading.
gc.set_threshold(50_000, 50, 50)

with no_collection():
    from tunebook_data.minhash import word_hashes

    # At its first loop Numba loads what all need, which would take every process half a second.
    word_hashes([])
