"""Answers that are JSON of a given shape."""

from __future__ import annotations

from typing import Any

import orjson
from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from tunebook_spec.errors import DataError

Schema = dict[str, Any]


def schema_problem(schema: Schema) -> str | None:
    """What is wrong with a JSON Schema itself; its draft is that of `$schema`, else 2020-12."""
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"is no JSON Schema: {error.json_path}: {error.message}"
    return None


def answer_problem(answer: str, schema: Schema) -> str | None:
    """Why an answer is not JSON that matches a schema, at its most telling place; None if it is.

    Raises:
        DataError: the schema refers to what is not in it; nothing is fetched.
    """
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    try:
        worst = best_match(validator.iter_errors(value))
    except Unresolvable as error:
        raise DataError(f"data.checks.answer_schema: {error}; refer to places of the schema alone") from None
    except RecursionError:
        return "nests too deeply to be checked"
    return f"{worst.json_path}: {worst.message}" if worst else None
