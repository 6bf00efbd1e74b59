"""MiniCPM-V 4.5 in one PyTorch package: `model = cpmv.load(path)`, then `model.ask("photo.jpg", "What is this?")`.

Names are imported on first use, so that `import cpmv` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "cpmv.api",
    "Model": "cpmv.api",
    "AutoModel": "cpmv.compat",
    "AutoTokenizer": "cpmv.compat",
    "VideoReader": "cpmv.compat",
    "cpu": "cpmv.compat",
    "Engine": "cpmv.engine.engine",
    "SamplingParams": "cpmv.engine.sampling",
    "Output": "cpmv.engine.output",
    "Message": "cpmv.inputs.messages",
    "Text": "cpmv.inputs.messages",
    "Image": "cpmv.inputs.messages",
    "Video": "cpmv.inputs.messages",
    "Pdf": "cpmv.inputs.messages",
    "encode_video": "cpmv.inputs.video",
    "CpmvError": "cpmv.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:  # type checkers cannot see through __getattr__
    from .api import Model as Model
    from .api import load as load
    from .compat import AutoModel as AutoModel
    from .compat import AutoTokenizer as AutoTokenizer
    from .compat import VideoReader as VideoReader
    from .compat import cpu as cpu
    from .engine.engine import Engine as Engine
    from .engine.output import Output as Output
    from .engine.sampling import SamplingParams as SamplingParams
    from .errors import CpmvError as CpmvError
    from .inputs.messages import Image as Image
    from .inputs.messages import Message as Message
    from .inputs.messages import Pdf as Pdf
    from .inputs.messages import Text as Text
    from .inputs.messages import Video as Video
    from .inputs.video import encode_video as encode_video


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'cpmv' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
