"""Where the content of files lies in the store."""

from __future__ import annotations

from tunebook_jobs.database import FOLDER

CONTENT = "content"


def file_folder(file: str) -> str:
    """The key of a file's folder, which holds its content alone."""
    return f"{FOLDER}/files/{file}"


def content_key(file: str) -> str:
    return f"{file_folder(file)}/{CONTENT}"
