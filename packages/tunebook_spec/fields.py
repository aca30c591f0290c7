"""What all parts of a spec are made of."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Share = Annotated[float, Field(ge=0, lt=1)]


def toml(text: str) -> str:
    """The text, if it is TOML.

    Raises:
        ValueError: it is not.
    """
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is no TOML: {error}") from None
    return text


def _without_nulls(named: Any) -> Any:
    return (
        {name: each for name, each in named.items() if each is not None} if isinstance(named, dict) else named
    )


def null_removes(with_nulls: Any) -> BeforeValidator:
    """Of a map whose keys users choose: null takes a key out again, as a profile needs.

    Args:
        with_nulls: the map's type, with None among its values.
    """
    return BeforeValidator(_without_nulls, json_schema_input_type=with_nulls)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
