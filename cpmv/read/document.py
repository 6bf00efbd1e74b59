"""A whole document as JSON that fits a schema: all pages in one question, every token held to the schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CpmvError, MediaError
from .page import PageReader

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "Read the document and fill in this JSON schema with what it says. Schema: {0}"
LONGEST = 4096  # tokens of the JSON


class SchemaError(CpmvError):
    """A schema file that is no JSON Schema of an object or list."""


def load_schema(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON Schema. Raises SchemaError for what is no JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SchemaError(f"{where} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise SchemaError(f"{where} holds a {type(value).__name__}; a JSON Schema is an object")
    return value


def read_document(pictures: Sequence[Image.Image], schema: dict[str, Any], reader: PageReader) -> Any:
    """Read pages into a value that fits a schema.

    Raises MediaError when the answer did not end, MessageError for a schema that cannot be compiled, and
    ContextLengthError when the pages do not fit.
    """
    pending = reader.asker.submit(
        pictures,
        QUESTION.format(json.dumps(schema, ensure_ascii=False)),
        max_slice_nums=reader.max_slice_nums,
        max_new_tokens=LONGEST,
        constraint=reader.constraint_for(schema),
    )
    reading = pending.result()
    try:
        return json.loads(reading.text)
    except ValueError:
        why = reading.problem or "the answer is not whole"
        raise MediaError(
            f"no JSON came of {len(pictures)} pages: {why}; try fewer --pages or a simpler schema"
        ) from None
