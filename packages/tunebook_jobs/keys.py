"""API keys: shown once, kept as a hash, each for one project."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import select, update

from tunebook_jobs.database import Database
from tunebook_jobs.tables import ApiKey
from tunebook_spec.errors import InputError

_PREFIX = "sk-tb-"
_FORM = re.compile(r"sk-tb-([0-9a-f]{12})-([\w-]{43})", re.ASCII)
_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,30}", re.ASCII)


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    project: str
    key: str
    """The part of the key that may be shown."""


def create_key(database: Database, project: str) -> str:
    """A new key of a project; this is the only time that it can be read.

    Raises:
        InputError: models could not be named after such a project.
    """
    if not _PROJECT.fullmatch(project):
        raise InputError(f"project {project!r}: up to 31 of a-z, 0-9 and -, as it is a part of models' names")
    id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    with database.write() as session:
        session.add(ApiKey(id=id, project=project, secret_sha256=_hash(secret), created_at=int(time.time())))
    return f"{_PREFIX}{id}-{secret}"


def list_keys(database: Database) -> list[ApiKey]:
    with database.read() as session:
        return list(session.scalars(select(ApiKey).order_by(ApiKey.number)))


def revoke_key(database: Database, id: str) -> None:
    """Let a key open nothing any more.

    Raises:
        InputError: there is no such key, or it is revoked already.
    """
    with database.write() as session:
        known = update(ApiKey).where(ApiKey.id == id, ApiKey.revoked_at.is_(None))
        done = session.execute(known.values(revoked_at=int(time.time())))
        if not done.rowcount:  # type: ignore[attr-defined]
            raise InputError(f"no key {id!r} that is in use; `tunebook keys list` shows those that are")


def caller_of(database: Database, key: str) -> Caller | None:
    """Whose key it is; None if it is nobody's."""
    form = _FORM.fullmatch(key)
    if form is None:
        return None
    id, secret = form.groups()
    with database.read() as session:
        found = session.scalar(select(ApiKey).where(ApiKey.id == id))
    # A key that is not there takes as long as one whose secret is wrong.
    expected = found.secret_sha256 if found else _hash("")
    is_right = hmac.compare_digest(_hash(secret), expected)
    if found is None or found.revoked_at is not None or not is_right:
        return None
    return Caller(found.project, found.id)


def find_key(database: Database, key: str) -> ApiKey | None:
    """What is kept of a key, be its secret right or wrong and it in use or not; None: it was never made."""
    form = _FORM.fullmatch(key)
    if form is None:
        return None
    with database.read() as session:
        return session.scalar(select(ApiKey).where(ApiKey.id == form[1]))


def _hash(secret: str) -> str:
    # 256 random bits cannot be guessed, so a slow hash would protect nothing.
    return hashlib.sha256(secret.encode()).hexdigest()
