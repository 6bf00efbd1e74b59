"""What a server may do and how much of it: every limit and permission in one frozen object.

The defaults are the safe ones: this machine only, no remote media, no local files. `cli/serve.py` makes it from flags;
everything in this folder reads it and nothing changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import CpmvError

MEDIA_KINDS = ("image", "video", "pdf")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class MediaLimits:
    """Bounds on what one request may make the server read and decode.

    num_per_kind: most images, videos and PDFs of one request. Sizes in bytes, times in seconds. max_image_pixels:
    width x height from the header, before anything is decoded. max_decode_memory_bytes: what a decoding process may
    allocate. max_frame_rate: of a video's header; cameras reach 960, damaged and hostile files claim more.
    """

    num_per_kind: Mapping[str, int] = field(default_factory=lambda: {"image": 64, "video": 4, "pdf": 8})
    max_bytes: int = 128 << 20
    max_image_pixels: int = 64_000_000
    max_frame_pixels: int = 4096 * 2304
    max_video_duration_s: float = 2 * 3600
    max_video_frames: int = 1_000_000
    max_frame_rate: float = 1000
    fetch_timeout_s: float = 20
    decode_timeout_s: float = 120
    max_decode_memory_bytes: int = 3 << 30


@dataclass(frozen=True)
class Settings:
    """How one server behaves.

    served_names: model names that requests may use; the first is reported. api_keys: empty means no key is asked for.
    max_model_len: most tokens of prompt and answer; None takes the model's own. max_queue: requests that may wait
    beyond `max_num_seqs` that run; more get a 429. media_domains: hosts media may come from, see `addresses.Domains`.
    media_networks: private networks (CIDR) these hosts may be in. media_path: folder that file: addresses may name.
    hosts: names by which clients may call this server besides its own address; origins: of foreign pages that may.
    """

    served_names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    max_model_len: int | None = None
    max_num_seqs: int = 32
    max_queue: int = 128
    media: MediaLimits = field(default_factory=MediaLimits)
    media_domains: tuple[str, ...] = ()
    media_networks: tuple[str, ...] = ()
    media_path: str | None = None
    num_decoders: int = 2
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_request_bytes: int = 64 << 20
    max_buffered_bytes: int = 1 << 30
    max_connections: int = 2048
    head_timeout_s: float = 15
    body_timeout_s: float = 30
    write_timeout_s: float = 60
    drain_s: float = 30
    video_packing: int | None = None

    def __post_init__(self) -> None:
        if not self.served_names or not all(self.served_names):
            raise CpmvError("the served model has no name; give --served-model-name at least one")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise CpmvError(f"max_model_len is {self.max_model_len}; give at least 2, one token of prompt and one more")
        unknown = [kind for kind in self.media.num_per_kind if kind not in MEDIA_KINDS]
        if unknown:
            raise CpmvError(f"{unknown[0]!r} is no kind of media to limit; there are {', '.join(MEDIA_KINDS)}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK
