"""Answers on disk by the content of their questions, written as they arrive: none is paid for twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from tunebook_inference.generator import Completion
from tunebook_spec.errors import StoreError

_WAIT_FOR_OTHERS_S = 30.0


class KeptAnswers:
    """An SQLite database in WAL mode, which several processes of one machine can share.

    Args:
        path: its file; made where there is none.

    Raises:
        StoreError: the file cannot be used, from any method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=_WAIT_FOR_OTHERS_S, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers"
                " (key TEXT PRIMARY KEY, who TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP, completion BLOB)"
            )
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def find(self, keys: Iterable[str]) -> dict[str, Completion]:
        """Those that are there; the id of each is its key."""
        found = {}
        try:
            for key in keys:
                row = self._database.execute(
                    "SELECT completion FROM answers WHERE key = ?", (key,)
                ).fetchone()
                if row is not None:
                    fields = orjson.loads(row[0])
                    fields["choice_logprobs"] = tuple(fields.get("choice_logprobs", ()))
                    found[key] = Completion(**fields)
        except (sqlite3.Error, orjson.JSONDecodeError, TypeError) as error:
            raise self._failure(error) from None
        return found

    def keep(self, key: str, who: str, completion: Completion) -> None:
        """Durable on return. Token ids and probabilities are not kept, but for those of choices."""
        bare = replace(completion, id=key, token_ids=(), top_logprobs=())
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO answers (key, who, completion) VALUES (?, ?, ?)",
                (key, who, orjson.dumps(asdict(bare))),
            )
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def close(self) -> None:
        self._database.close()

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path}, which keeps the answers of supporting models, cannot be used ({error}); if it is"
            " damaged, move it away: its answers are then asked for, and paid for, again"
        )
