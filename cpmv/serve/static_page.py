"""The page at `/`: its static files, with a content-security policy under which nothing foreign can load or run."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from .errors import ApiError

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self'; font-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


async def page(request: Request) -> Response:
    """Serve `/` and `/page/NAME`; only files that lie in the package's page folder, by their plain name."""
    name = request.path_params.get("name", "index.html")
    folder = resources.files("cpmv.serve") / "page"
    suffix = "." + name.rpartition(".")[2]
    entry = next((one for one in folder.iterdir() if one.name == name), None) if folder.is_dir() else None
    if entry is None or suffix not in TYPES or not entry.is_file():
        raise ApiError(404, "there is no such page")
    data = entry.read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
    headers = {
        "content-security-policy": POLICY,
        "cache-control": "no-cache",
        "etag": tag,
        "x-frame-options": "DENY",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=TYPES[suffix])
