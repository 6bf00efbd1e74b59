"""Run a server over the bundled model with settings that have no flag: python serve_custom.py JSON."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys

import cpmv
from cpmv.engine.engine import Engine
from cpmv.serve.app import Service
from cpmv.serve.run import serve
from cpmv.serve.settings import MediaLimits, Settings


def main() -> int:
    given = json.loads(sys.argv[1])
    media = dataclasses.replace(MediaLimits(), **given.pop("media", {}))
    settings = Settings(served_names=("cpmv-tiny",), port=0, media=media, num_decoders=1, **given)
    model = cpmv.load()
    engine = Engine(model.network, model.tokenizer, max_batch=settings.max_num_seqs, cache_bytes=256 << 20)
    logging.basicConfig(level=logging.WARNING)
    return serve(
        Service(settings, model.config, model.tokenizer, [engine]),
        announce=f"cpmv: serving at http://{settings.host}:{{port}}",
    )


if __name__ == "__main__":
    sys.exit(main())
