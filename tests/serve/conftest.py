"""One server for the tests that only ask; those that break or stop one start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serve_process import ROOT, Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The bundled model, with the pictures of the examples open to file: addresses."""
    with serving("--allowed-local-media-path", str(ROOT / "examples" / "pictures")) as running:
        yield running
