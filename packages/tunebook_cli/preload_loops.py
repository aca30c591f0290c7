"""Imported by the process that a stage which prepares data, and its workers, are forked from."""

from tunebook_run.importing import no_collection

with no_collection():
    from tunebook_data.minhash import word_hashes

    # At its first loop Numba loads what all need, which would take every process half a second.
    word_hashes([])
