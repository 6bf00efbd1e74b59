"""Read media files named by file: addresses, only below the one folder that the operator opened.

The path is walked a component at a time from an open folder, each without following symbolic links, so neither `..`
nor a link, nor one put there between check and use, leads out.
"""

from __future__ import annotations

import os
import stat
from urllib.parse import unquote, urlsplit

from .errors import ApiError, bad_request


def read_local(url: str, root: str | None, max_bytes: int) -> bytes:
    """Return the file that a file: URL names below `root`. Raises ApiError: 403 outside, 400 not a file, 413 large."""
    if root is None:
        raise ApiError(
            403,
            "this server reads no local files; send a data: URI, or start it with --allowed-local-media-path",
            code="media_not_allowed",
        )
    fd = _open_below(_components(url, root), root)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise bad_request("the file: address does not name a regular file")
        if info.st_size > max_bytes:
            raise ApiError(413, f"the file has {info.st_size} bytes; at most {max_bytes} are read")
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(max_bytes + 1)  # it may have grown
        if len(data) > max_bytes:
            raise ApiError(413, f"the file has more than {max_bytes} bytes")
        return data
    finally:
        os.close(fd)


def _components(url: str, root: str) -> list[str]:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or parts.query or "\0" in path or not path.startswith("/"):
        raise bad_request("the file: address cannot be read; write file:///folder/name")
    top = [part for part in os.path.abspath(root).split("/") if part]
    components = [part for part in path.split("/") if part and part != "."]
    if ".." in components or components[: len(top)] != top or len(components) == len(top):
        raise _outside()
    return components[len(top) :]


def _open_below(components: list[str], root: str) -> int:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for i, name in enumerate(components):
            is_last = i == len(components) - 1
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_NONBLOCK if is_last else os.O_DIRECTORY)
            inner = os.open(name, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        return fd
    except FileNotFoundError:
        os.close(fd)
        raise bad_request("the file: address names no file") from None
    except OSError:  # a link, a folder that is none, no permission
        os.close(fd)
        raise _outside() from None


def _outside() -> ApiError:
    return ApiError(403, "the file: address is not below the allowed folder", code="media_not_allowed")
