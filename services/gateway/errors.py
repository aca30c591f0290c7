"""Errors as the protocol tells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

_UNION_TAGS = ("literal['auto']", "int", "float", "constrained-int", "constrained-float", "str")
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "greater_than_equal": "integer_below_min_value",
    "greater_than": "decimal_below_min_value",
    "less_than_equal": "integer_above_max_value",
    "too_long": "object_above_max_properties",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "json_invalid": "invalid_json",
}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class ApiError(Exception):
    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message=message, type=type, param=param, code=code)
        self.headers = headers

    def body(self) -> ErrorBody:
        return ErrorBody(error=self.detail)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body().model_dump(), self.status, self.headers)


def not_found(what: str, id: str, param: str = "id") -> ApiError:
    return ApiError(404, f"No such {what}: {id}", param=param)


def model_not_found(name: str) -> ApiError:
    message = f"The model '{name}' does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def install(app: FastAPI) -> None:
    """Let every error of the app be told in the protocol's way."""

    @app.exception_handler(ApiError)
    def of_ours(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    def of_a_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return _of_validation(error.errors()).response()

    @app.exception_handler(HTTPException)
    def of_routing(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail} ({request.method} {request.url.path})"
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    def of_a_defect(request: Request, error: Exception) -> JSONResponse:
        message = "The server had an error while processing your request."
        return ApiError(500, message, type="server_error").response()


def _of_validation(errors: Sequence[dict[str, Any]]) -> ApiError:
    """The most telling of the problems: of a union, not that it is not `auto`."""
    telling = [each for each in errors if each["type"] != "literal_error"] or list(errors)
    first = telling[0]
    places = [str(part) for part in first["loc"][1:] if part not in _UNION_TAGS]
    if first["type"] == "json_invalid":
        message = f"We could not parse the JSON body of your request: {first['ctx']['error']}"
        return ApiError(400, message, code="invalid_json")
    param = ".".join(places)
    message = str(first["msg"]).removeprefix("Value error, ")
    kind = first["type"]
    code = _CODES.get(kind, "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value")
    if kind == "missing":
        told = f"Missing required parameter: '{param}'."
    elif kind == "extra_forbidden":
        told = f"Unknown parameter: '{param}'."
    else:
        told = f"Invalid '{param}': {message}."
    return ApiError(400, told, param=param or None, code=code)
