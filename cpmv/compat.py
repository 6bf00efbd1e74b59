"""Look-alikes of the names that published scripts import, so that such scripts run with only their imports changed.

`AutoModel` and `AutoTokenizer` stand for those of transformers and modelscope, on top of `cpmv.load`; `VideoReader`,
`cpu` and `gpu` for decord's, on top of `inputs.video`.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from .errors import MessageError
from .inputs.video import Video

if TYPE_CHECKING:
    from .api import Model
    from .inputs.text import Tokenizer

log = logging.getLogger("cpmv")

# Arguments that published scripts pass to from_pretrained and that change nothing here, with the reason.
_NO_EFFECT = {
    "trust_remote_code": "no remote code is ever run",
    "attn_implementation": "the fastest exact attention of the device is chosen",
    "low_cpu_mem_usage": "loading never holds a second copy",
    "use_safetensors": "nothing else is loaded",
    "init_vision": "the vision tower is part of the model",
    "init_audio": "this model has no audio parts",
    "init_tts": "this model has no audio parts",
    "use_fast": "there is one tokenizer",
}


class AutoModel:
    """`AutoModel.from_pretrained(id, ...)` gives a `cpmv.Model`, whose `chat` takes the published arguments."""

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        torch_dtype: Any = None,
        dtype: Any = None,
        device_map: Any = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Model:
        """Load a checkpoint. torch_dtype (or dtype) and revision are honoured; device_map may name one device.

        Arguments without a meaning here are accepted with a reason in the log; an unknown one raises MessageError.
        """
        from .api import load

        _explain(kwargs)
        if device_map is not None and not isinstance(device_map, str):
            raise MessageError(f"device_map={device_map!r} is not supported; name one device, such as 'cuda:0'")
        device = None if device_map in (None, "auto") else device_map
        return load(name, device=device, dtype=torch_dtype if torch_dtype is not None else dtype, revision=revision)


class AutoTokenizer:
    """`AutoTokenizer.from_pretrained(id)` gives the checkpoint's `Tokenizer`."""

    @staticmethod
    def from_pretrained(name: str | Path, *, revision: str | None = None, **kwargs: Any) -> Tokenizer:
        """Read the tokenizer of a checkpoint; other arguments as in `AutoModel.from_pretrained`."""
        from .weights import checkpoint, hub

        _explain(kwargs)
        return checkpoint.open_catalogue(hub.resolve(name, revision=revision)).read_tokenizer()


def _explain(kwargs: dict[str, Any]) -> None:
    for argument, value in kwargs.items():
        if argument not in _NO_EFFECT:
            known = ", ".join(("torch_dtype", "device_map", "revision", *_NO_EFFECT))
            raise MessageError(f"from_pretrained does not know {argument}={value!r}; it takes {known}")
        log.info("%s=%r has no effect: %s", argument, value, _NO_EFFECT[argument])


@dataclass(frozen=True)
class DeviceContext:
    """Where decord decodes."""

    device_type: str
    device_id: int = 0


def cpu(device_id: int = 0) -> DeviceContext:
    """Decode on the CPU, the only place there is."""
    return DeviceContext("cpu", device_id)


def gpu(device_id: int = 0) -> DeviceContext:
    """Refuse with a reason: frames are decoded on the CPU only."""
    raise MessageError(f"gpu({device_id}) was asked for, but videos are decoded on the CPU here; use cpu(0)")


class Frames:
    """Decoded pixels, uint8, [h, w, 3] or [N, h, w, 3], with decord's way of getting at them."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def asnumpy(self) -> np.ndarray:
        return self._pixels

    @property
    def shape(self) -> tuple[int, ...]:
        return self._pixels.shape

    def __len__(self) -> int:
        return len(self._pixels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._pixels, dtype=dtype, copy=copy)


class VideoReader:
    """Random access to the frames of a video, with decord's signature.

    uri: path (bytes and folders too). width, height: size to give frames; -1 keeps the file's. num_threads: of the
    decoder; 0 chooses. Reading frames one after the other decodes the file once.
    """

    def __init__(
        self, uri: Any, ctx: DeviceContext | None = None, width: int = -1, height: int = -1, num_threads: int = 0
    ) -> None:
        if ctx is not None and ctx.device_type != "cpu":
            raise MessageError(f"ctx is {ctx.device_type}; videos are decoded on the CPU here; use cpu(0)")
        if (width < 1 and width != -1) or (height < 1 and height != -1):
            raise MessageError(
                f"frames of {width}x{height} were asked for; give positive sizes, or -1 to keep the file's"
            )
        self._video = Video(uri, num_threads=num_threads)
        own_width, own_height = self._video.size
        self._size = (own_width if width == -1 else width, own_height if height == -1 else height)
        self._ahead: Iterator[np.ndarray] = iter(())
        self._next = -1  # the frame that `_ahead` gives next

    def __len__(self) -> int:
        return len(self._video)

    def get_avg_fps(self) -> float:
        """Average frames per second."""
        return self._video.fps

    def get_batch(self, indices: Sequence[int]) -> Frames:
        """Return the frames at `indices` (negative ones count from the end) as one array [N, h, w, 3]."""
        chosen = [self._index(i) for i in indices]
        width, height = self._size
        out = np.empty((len(chosen), height, width, 3), dtype=np.uint8)
        for row, pixels in enumerate(self._pixels(chosen)):
            out[row] = pixels
        return Frames(out)

    def __getitem__(self, index: SupportsIndex | slice) -> Frames:
        if isinstance(index, slice):
            return self.get_batch(range(*index.indices(len(self))))
        i = self._index(index)
        if i != self._next:
            self._ahead = self._pixels(range(i, len(self)))
        pixels = next(self._ahead)
        self._next = i + 1
        return Frames(pixels)

    def _index(self, index: SupportsIndex) -> int:
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"frame {i} was asked for; the video has {len(self)} frames")
        return i + len(self) if i < 0 else i

    def _pixels(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for image in self._video.iter_frames(indices):
            yield np.asarray(image if image.size == self._size else image.resize(self._size))
