"""file: addresses: inside the folder, nothing else, by no trick."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cpmv.serve.errors import ApiError
from cpmv.serve.local_files import read_local


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    (folder / "a b.png").write_bytes(b"inside")
    (folder / "sub" / "c.png").write_bytes(b"deeper")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "media-other").mkdir()
    (tmp_path / "media-other" / "x").write_bytes(b"outside")
    return folder


def read(url: str, root: Path | None, max_bytes: int = 1000) -> bytes:
    return read_local(url, None if root is None else str(root), max_bytes)


def status(url: str, root: Path | None, max_bytes: int = 1000) -> int:
    with pytest.raises(ApiError) as refusal:
        read(url, root, max_bytes)
    return refusal.value.status


def test_files_below_the_folder_are_read(root: Path) -> None:
    assert read((root / "a b.png").as_uri(), root) == b"inside"
    assert read(f"file://localhost{root}/sub/./c.png", root) == b"deeper"


def test_without_a_folder_nothing_is_read(root: Path) -> None:
    assert status((root / "a b.png").as_uri(), None) == 403


@pytest.mark.parametrize(
    "path", ["/../secret", "/sub/../../secret", "/%2e%2e/secret", "/sub/%2E%2E/%2E%2E/secret", "-other/x", "/", ""]
)
def test_paths_that_lead_out_are_refused(root: Path, path: str) -> None:
    assert status(f"file://{root}{path}", root) == 403


@pytest.mark.parametrize("url", ["file:///etc/passwd", "file://evil.org/etc/passwd", "file:relative", "file:///a\0b"])
def test_other_places_are_refused(root: Path, url: str) -> None:
    assert status(url, root) in (400, 403)


def test_symbolic_links_are_not_followed(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "secret")
    (root / "up").symlink_to(root.parent)
    (root / "inner.png").symlink_to(root / "a b.png")
    for path in ("link.png", "up/secret", "inner.png"):
        assert status((root / path).as_uri(), root) == 403


def test_only_regular_files_are_read_and_nothing_blocks(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert status((root / "pipe").as_uri(), root) == 400
    assert status((root / "sub").as_uri(), root) == 400
    assert status((root / "absent.png").as_uri(), root) == 400


def test_sizes_are_bounded(root: Path) -> None:
    (root / "big").write_bytes(b"x" * 1001)
    assert status((root / "big").as_uri(), root) == 413
