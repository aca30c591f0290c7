"""The items of a JSON list one at a time, from a document that need not fit into memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from tunebook_spec.errors import DataError

_CHUNK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
# A whole string, else one byte that gives structure; a lone quote is a string that goes on.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_CUT_OFF = "it is cut off, or a bracket is missing"
_DEPTH = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


def items(name: str, stream: BinaryIO) -> Iterator[bytes]:
    """Each item as it is written, of a list, or of the one list in an object; whether it is JSON is not seen.

    Raises:
        DataError: the document is something else, or its brackets do not match.
    """
    pieces = _pieces(stream)
    gap, token = next(pieces)
    if gap.removeprefix(_BOM).strip() or token not in (b"[", b"{"):
        raise DataError(f"{name}: is neither a JSON list nor a JSON object with a list")
    yield from _list(name, pieces) if token == b"[" else _only_list(name, pieces)
    gap, token = next(pieces)
    if gap.strip() or token:
        raise DataError(f"{name}: goes on after its first JSON value; call a file of one row a line .jsonl")


def _list(name: str, pieces: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    depth, number, parts = 0, 0, []
    for gap, token in pieces:
        parts.append(gap)
        if depth == 0 and token in (b",", b"]"):
            item = b"".join(parts).strip()
            if item or number or token == b",":
                number += 1
                yield item
            if token == b"]":
                return
            parts = []
        else:
            depth += _DEPTH.get(token, 0)
            parts.append(token)
    raise DataError(f"{name}: ends inside the list, after row {number}; {_CUT_OFF}")


def _only_list(name: str, pieces: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    depth, key = 0, ""
    found: list[str] = []
    for _, token in pieces:
        if depth == 0 and token == b"[":
            found.append(key)
            if len(found) > 1:
                raise DataError(f"{name}: has two lists, {' and '.join(found)}; keep the one with the rows")
            yield from _list(name, pieces)
        elif depth == 0 and token == b"}":
            if not found:
                raise DataError(f"{name}: is an object without a list of rows; call a file of one row .jsonl")
            return
        else:
            key = token.decode(errors="replace") if token.startswith(b'"') else key
            depth += _DEPTH.get(token, 0)
    raise DataError(f"{name}: ends inside the object; {_CUT_OFF}")


def _pieces(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """What stands before each token, and the token; the last one is empty and is the end."""
    rest, num_bytes = b"", _CHUNK_BYTES
    while chunk := stream.read(num_bytes):
        rest += chunk
        end = 0
        for match in _TOKEN.finditer(rest):
            if match[0] == b'"':
                break
            yield rest[end : match.start()], match[0]
            end = match.end()
        rest = rest[end:]
        num_bytes = max(_CHUNK_BYTES, len(rest))  # so that a long string is not searched over and over
    yield rest, b""
