"""Routes of files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from fastapi.responses import StreamingResponse
from pyarrow import NativeFile
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from gateway.errors import ApiError, not_found
from gateway.paging import page
from gateway.state import CallerOf, Lock, State, StateOf
from gateway.wire import Deleted, FileObject, Listed, Purpose, listed
from tunebook_jobs.ids import new_id
from tunebook_jobs.queue import UNFINISHED
from tunebook_jobs.stored_files import content_key, file_folder
from tunebook_jobs.tables import File, Job
from tunebook_jobs.training_file import TrainingFile, TrainingFileError, check_training_file

MAX_FILE_BYTES = 512 * 2**20
_CHUNK_BYTES = 2**20
_SWEPT_AT_ONCE = 100

router = APIRouter(tags=["Files"])


@router.post("/files")
def create_file(
    caller: CallerOf,
    state: StateOf,
    file: UploadFile,
    purpose: Annotated[Purpose, Form()],
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2592000)] = None,
) -> FileObject:
    if (anchor is None) != (seconds is None):
        raise ApiError(400, "'expires_after' needs 'anchor' and 'seconds'.", param="expires_after")
    now = int(time.time())
    row = File(
        id=new_id("file-"),
        project=caller.project,
        filename=_safe_name(file.filename),
        purpose=purpose,
        created_at=now,
        expires_at=None if seconds is None else now + seconds,
    )
    with NamedTemporaryFile() as copy:
        while chunk := file.file.read(_CHUNK_BYTES):
            copy.write(chunk)
        copy.flush()
        row.num_bytes = copy.tell()
        if row.num_bytes > MAX_FILE_BYTES:
            raise ApiError(413, f"File is larger than {MAX_FILE_BYTES} bytes.", param="file")
        if purpose == "fine-tune":
            checked = _checked(Path(copy.name), row.filename)
            row.row_format, row.num_rows = checked.row_format, checked.num_rows
        _delete_expired(state)
        state.store.put(Path(copy.name), content_key(row.id))
    with state.database.write() as session:
        session.add(row)
    return _shown(row)


def _delete_expired(state: State) -> None:
    """What no job needs any more; looked for as files come, which is when room is wanted."""
    needed = select(Job.training_file).where(Job.status.in_(UNFINISHED))
    needed_too = select(Job.validation_file).where(
        Job.status.in_(UNFINISHED), Job.validation_file.is_not(None)
    )
    old = select(File).where(
        File.expires_at <= int(time.time()), File.id.not_in(needed), File.id.not_in(needed_too)
    )
    with state.database.write() as session:
        rows = list(session.scalars(old.limit(_SWEPT_AT_ONCE).with_for_update(skip_locked=True)))
        for row in rows:
            session.delete(row)
    for row in rows:
        state.store.delete(file_folder(row.id))


def _safe_name(given: str | None) -> str:
    """What a file is called in answers alone: in the store it lies under its id."""
    name = (given or "").replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(char for char in name if char.isprintable())[:255]
    return kept or "file"


def _checked(path: Path, name: str) -> TrainingFile:
    if not name.endswith(".jsonl"):
        message = f"Invalid extension of '{name}': training data is a .jsonl file."
        raise ApiError(400, message, param="file", code="unsupported_file")
    try:
        return check_training_file(path)
    except TrainingFileError as error:
        raise ApiError(400, str(error), param="file", code="invalid_file_format") from None


@router.get("/files")
def list_files(
    caller: CallerOf,
    state: StateOf,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Listed[FileObject]:
    query = _of_project(caller.project)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    with state.database.read() as session:
        rows, more = page(session, query, File, after=after, limit=limit, ascending=order == "asc")
    return Listed[FileObject].model_validate(listed([_shown(row) for row in rows], more))


@router.get("/files/{file_id}")
def retrieve_file(caller: CallerOf, state: StateOf, file_id: str) -> FileObject:
    with state.database.read() as session:
        return _shown(find_file(session, caller.project, file_id))


@router.get(
    "/files/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
def file_content(caller: CallerOf, state: StateOf, file_id: str) -> StreamingResponse:
    with state.database.read() as session:
        row = find_file(session, caller.project, file_id)
    try:
        stream = state.store.filesystem.open_input_stream(state.store.path(content_key(row.id)))
    except FileNotFoundError:  # it was deleted since
        raise not_found("File object", file_id) from None
    return StreamingResponse(_chunks(stream), media_type="application/octet-stream")


def _chunks(stream: NativeFile) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


@router.delete("/files/{file_id}")
def delete_file(caller: CallerOf, state: StateOf, file_id: str) -> Deleted:
    """Refused with `file_in_use` where a job needs it that has not ended."""
    with state.database.write() as session:
        row = find_file(session, caller.project, file_id, lock="delete")
        uses = or_(Job.training_file == file_id, Job.validation_file == file_id)
        if job := session.scalar(select(Job.id).where(Job.status.in_(UNFINISHED), uses).limit(1)):
            told = f"File {file_id} cannot be deleted: {job} needs it. Wait for its end, or cancel the job."
            raise ApiError(400, told, param="file_id", code="file_in_use")
        session.delete(row)
    state.store.delete(file_folder(file_id))
    return Deleted(id=file_id, object="file")


def find_file(
    session: Session, project: str, file_id: str, param: str = "id", *, lock: Lock | None = None
) -> File:
    """A file of a project.

    Args:
        session: of a transaction.
        project: of the caller.
        file_id: as the caller gave it.
        param: where the caller gave it.
        lock: until the end of the transaction, so that no file is deleted that a new job is to use.

    Raises:
        ApiError: 404, there is none, or it is another project's.
    """
    query = _of_project(project).where(File.id == file_id)
    row = session.scalar(query if lock is None else query.with_for_update(read=lock == "use"))
    if row is None:
        raise not_found("File object", file_id, param)
    return row


def _of_project(project: str) -> Select[File]:
    lives = or_(File.expires_at.is_(None), File.expires_at > int(time.time()))
    return select(File).where(File.project == project, lives)


def _shown(row: File) -> FileObject:
    return FileObject(
        id=row.id,
        bytes=row.num_bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        purpose=row.purpose,
    )
