"""`/openapi.json`: the server's routes and shapes, from the structs that read them."""

from __future__ import annotations

from typing import Any

import msgspec

import cpmv

from .protocol import ChatRequest, PreviewRequest, TokenizeRequest
from .settings import Settings

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_COUNT = {"type": "integer", "minimum": 0}
_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": _COUNT,
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "message", "finish_reason"],
                "properties": {
                    "index": _COUNT,
                    "message": {"type": "object", "required": ["role", "content"]},
                    "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
                    "logprobs": {"type": ["object", "null"]},
                },
            },
        },
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
            "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _COUNT),
        },
    },
}
_TOKENS = {
    "type": "object",
    "required": ["count", "max_model_len", "tokens"],
    "properties": {"count": _COUNT, "max_model_len": _COUNT, "tokens": {"type": "array", "items": _COUNT}},
}
_PREVIEW = {
    "type": "object",
    "required": ["parts", "visual_tokens"],
    "properties": {"parts": {"type": "array", "items": {"type": "object"}}, "visual_tokens": _COUNT},
}
_MODELS = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
}
_REFUSALS = {
    "400": "The request is wrong; the message says how",
    "401": "A valid key is needed",
    "403": "Not allowed",
    "404": "There is no such model",
    "408": "The body came too slowly",
    "413": "The body or its media are too large",
    "415": "The body must be JSON",
    "421": "Not the host name of this server",
    "429": "The queue is full; see Retry-After",
    "503": "The server is shutting down",
}


def document(settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of one server; model names are those it serves."""
    kinds = (ChatRequest, TokenizeRequest, PreviewRequest)
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for kind in kinds:
        components[kind.__name__]["properties"]["model"] = {"enum": [*settings.served_names, None]}
    components["Error"] = _ERROR
    secured: list[Any] = [{"key": []}] if settings.api_keys else []
    paths: dict[str, Any] = {
        "/v1/chat/completions": _post("ChatRequest", _COMPLETION, "Answer a conversation", streams=True),
        "/v1/preview": _post("PreviewRequest", _PREVIEW, "What the model sees of pictures, pages and videos"),
        "/tokenize": _post("TokenizeRequest", _TOKENS, "Token ids of a text or a conversation"),
        "/v1/models": _get(_MODELS, "The models served"),
        "/health": _get({"type": "object"}, "Whether the process lives"),
        "/ready": _get({"type": "object"}, "Whether it takes requests"),
        "/version": _get({"type": "object", "required": ["version"]}, "The version"),
        "/metrics": _get(None, "Prometheus metrics"),
    }
    for methods in paths.values():
        for operation in methods.values():
            operation["security"] = secured
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cpmv",
            "version": cpmv.__version__,
            "description": "MiniCPM-V 4.5 behind OpenAI's chat protocol.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _post(request: str, answer: dict[str, Any], summary: str, streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {}
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}}}
    responses = {"200": {"description": "Done", "content": content}, **_refused(_REFUSALS)}
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def _get(answer: dict[str, Any] | None, summary: str) -> dict[str, Any]:
    kind = "application/json" if answer is not None else "text/plain"
    content = {kind: {"schema": answer or {"type": "string"}}}
    few = {status: said for status, said in _REFUSALS.items() if status in ("401", "403", "421", "503")}
    return {
        "get": {"summary": summary, "responses": {"200": {"description": "Done", "content": content}, **_refused(few)}}
    }


def _refused(statuses: dict[str, str]) -> dict[str, Any]:
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": said, "content": schema} for status, said in statuses.items()}
