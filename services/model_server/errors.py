"""Errors as the OpenAI protocol has them."""

from __future__ import annotations

from starlette.responses import JSONResponse

_KINDS = {404: "NotFoundError", 503: "ServiceUnavailableError"}


def error(status: int, message: str, param: str | None = None) -> JSONResponse:
    kind = _KINDS.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    told = {"message": message, "type": kind, "param": param, "code": status}
    return JSONResponse({"error": told}, status)
