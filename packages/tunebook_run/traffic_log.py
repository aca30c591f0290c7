"""One answer to a client, as a server logs it and an evaluation reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunebook_spec.errors import DataError


class LoggedMessage(BaseModel):
    """The text of a message; what else a client sends with it is not kept."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


class LoggedAnswer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Of the request: the same for an answer and those of its shadows."""
    at: str
    """Time of the request, ISO 8601, UTC."""
    asked: str
    """The name that the client asked for."""
    model: str
    """The served model that answered."""
    is_shadow: bool
    """Its answer was only logged."""
    messages: tuple[LoggedMessage, ...] = Field(min_length=1)
    text: str
    finish_reason: str
    prompt_tokens: int | None
    """None: a stream whose client did not ask for the usage; so of the answer's."""
    completion_tokens: int | None
    seconds: float
    """From the request to the end of the answer."""
    masked: tuple[str, ...] = ()
    """Rules by which personal data were masked in it: in the messages, the text and the error."""
    error: str | None = None
    """Why there is no answer."""


def read_log(path: Path) -> list[LoggedAnswer]:
    """Answers in the order in which they ended; a last line that is half written is left out.

    Raises:
        DataError: the file cannot be read, or a line is no logged answer.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(LoggedAnswer.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise DataError(f"{path}:{number}: is no answer that a server logged ({told})") from None
    return found
