"""Errors as HTTP clients see them: a status and OpenAI's body, never a stack trace.

`ApiError` is what the server raises; `from_cpmv` maps the project's own errors, whose texts are written for the caller.
Anything else is our mistake: a 500 that says nothing but an id to look for in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import ContextLengthError, CpmvError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ApiError(Exception):
    """A refusal with its status. code: OpenAI's short word for programs; param: the field that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def encode(self) -> bytes:
        return msgspec.json.encode(self.body())


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def from_cpmv(error: CpmvError, param: str | None = "messages") -> ApiError:
    """The 400 that a caller's mistake deserves, with its one line."""
    code = "context_length_exceeded" if isinstance(error, ContextLengthError) else None
    return ApiError(400, str(error), code=code, param=param)


def overloaded(message: str, retry_after_s: float) -> ApiError:
    return ApiError(429, message, code="queue_full", headers={"retry-after": str(max(1, round(retry_after_s)))})
