"""Find a checkpoint: a folder or .gguf file here, or an id that Hugging Face or ModelScope knows.

What exists on disk wins over an id of the same name. Only the files that are needed are fetched: safetensors, JSON,
text and templates, or the named GGUF file with its vision half; never pickles, never code. Caches and their
variables (HF_HOME, HF_HUB_CACHE, MODELSCOPE_CACHE) are the hub libraries' own; HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE
and CPMV_OFFLINE keep everything to what is cached. CPMV_HUB=modelscope, or the prefix "modelscope:", changes the hub.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import CheckpointError
from .shards import is_pickle, pickle_message

log = logging.getLogger("cpmv")

BUNDLED = Path(__file__).parents[1] / "bundled"
PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.jinja"]
MODELSCOPE_PREFIX = "modelscope:"
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_KINDS = "a folder, a .gguf file, or an id such as openbmb/MiniCPM-V-4_5-int4"


@dataclass(frozen=True)
class Source:
    """Files of one checkpoint: a folder in the released layout, or a GGUF language file with its vision file."""

    kind: Literal["folder", "gguf"]
    path: Path
    mmproj: Path | None = None


def resolve(
    name: str | Path | None,
    *,
    mmproj: str | Path | None = None,
    revision: str | None = None,
    progress: bool = True,
) -> Source:
    """Turn what a person typed into files, fetching them if need be.

    name: folder, .gguf file, "owner/name", "owner/name/file.gguf", or either with the prefix "modelscope:"; None is
    the bundled tiny model (docs/tiny-model.md).
    mmproj: the vision half of a GGUF pair, by default the one beside it. revision: of an id. progress: show the hub
    library's bars. Raises CheckpointError when there is no such thing, or no way to reach it.
    """
    if name is None:
        if mmproj is not None or revision is not None:
            raise CheckpointError(f"mmproj and revision belong to a model, and none was named; give {_KINDS}")
        return Source("folder", BUNDLED)
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise CheckpointError(f"revision {revision!r} was given for {path}, which is local and has none; drop it")
        return _local(path, None if mmproj is None else Path(mmproj).expanduser())
    text = str(name)
    use_modelscope = text.startswith(MODELSCOPE_PREFIX) or _hub_setting() == "modelscope"
    repo, file = _parse_id(text.removeprefix(MODELSCOPE_PREFIX))
    if repo is None:
        raise CheckpointError(f"{text} does not exist; give {_KINDS}")
    fetch = _from_modelscope if use_modelscope else _from_huggingface
    if file is None:
        folder = fetch(repo, revision, PATTERNS, progress)
        if mmproj is not None:
            raise CheckpointError(f"mmproj was given for {text}, which names no .gguf file; drop it")
        return _fetched_folder(folder, repo)
    vision = str(mmproj) if mmproj is not None and not Path(mmproj).expanduser().exists() else None
    folder = fetch(repo, revision, [file, vision or "*mmproj*.gguf"], progress)
    if not (folder / file).is_file():
        raise CheckpointError(f"{repo} has no file {file}; look at its file list for the name")
    if vision is not None and not (folder / vision).is_file():
        raise CheckpointError(f"{vision} is neither a file here nor one of {repo}; give mmproj= one of them")
    found = folder / vision if vision else None if mmproj is None else Path(mmproj).expanduser()
    return _pair(folder / file, found)


def _hub_setting() -> str:
    setting = os.environ.get("CPMV_HUB", "huggingface").lower() or "huggingface"
    if setting not in ("huggingface", "modelscope"):
        raise CheckpointError(f"CPMV_HUB is {setting!r}; it can be 'huggingface' or 'modelscope'")
    return setting


def is_offline() -> bool:
    """Whether any of the offline switches is on."""
    switches = ("CPMV_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in switches)


def _parse_id(text: str) -> tuple[str | None, str | None]:
    """Split "owner/name" or "owner/name/file.gguf"; (None, None) if it is neither."""
    if _ID.fullmatch(text) and not text.endswith(".gguf"):
        return (None, None) if text.startswith(".") else (text, None)
    parts = text.split("/", 2)
    if text.endswith(".gguf") and len(parts) == 3 and _ID.fullmatch("/".join(parts[:2])) and ".." not in text:
        return "/".join(parts[:2]), parts[2]
    return None, None


def _local(path: Path, mmproj: Path | None) -> Source:
    if path.is_dir():
        languages = [p for p in sorted(path.glob("*.gguf")) if "mmproj" not in p.name.lower()]
        if (path / "config.json").exists() or not languages:
            if mmproj is not None:
                raise CheckpointError(f"mmproj was given for {path}, which holds no .gguf file; drop it")
            return Source("folder", path)
        if len(languages) > 1:
            names = ", ".join(p.name for p in languages[:8])
            raise CheckpointError(f"{path} holds several .gguf files ({names}); give the path of one of them")
        return _pair(languages[0], mmproj)
    if path.suffix == ".gguf":
        return _pair(path, mmproj)
    if is_pickle(path.name):
        raise CheckpointError(pickle_message(f"{path} is"))
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is one file of a checkpoint; give its folder, which holds config.json as well")
    raise CheckpointError(f"{path} is no checkpoint; give {_KINDS}")


def _pair(language: Path, mmproj: Path | None) -> Source:
    if mmproj is not None:
        if not mmproj.is_file():
            raise CheckpointError(f"mmproj {mmproj} does not exist; give the vision half of the GGUF pair")
        return Source("gguf", language, mmproj)
    others = [p for p in sorted(language.parent.glob("*.gguf")) if p != language]
    named = [p for p in others if "mmproj" in p.name.lower()]
    found = named or [p for p in others if _is_vision(p)]
    if not found:
        raise CheckpointError(
            f"{language} needs its vision half (mmproj-*.gguf) to see; none is beside it, give its path as mmproj="
        )
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:8])
        raise CheckpointError(f"several vision files are beside {language.name} ({names}); give one as mmproj=")
    return Source("gguf", language, found[0])


def _is_vision(path: Path) -> bool:
    from .gguf import read_gguf

    try:
        return read_gguf(path).architecture == "clip"
    except CheckpointError as error:
        log.warning("looking for the vision half, skipped %s", error)
        return False


def _fetched_folder(folder: Path, repo: str) -> Source:
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{repo} has no safetensors files at hand; if it holds GGUF files, name one as {repo}/FILE.gguf, and if it "
            "holds pickle files (*.bin), use a repository with safetensors"
        )
    return Source("folder", folder)


def _from_huggingface(repo: str, revision: str | None, patterns: list[str], progress: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            # Fine-tuning leftovers and other runtimes live in subfolders; a named GGUF file may as well.
            ignore_patterns=["*/*"] if patterns is PATTERNS else None,
            local_files_only=is_offline(),
            tqdm_class=None if progress else Quiet,
        )
    except Exception as error:  # of many libraries below: HTTP, cache, validation
        raise _unreachable(repo, revision, "Hugging Face", error) from error
    return Path(str(folder))


def _from_modelscope(repo: str, revision: str | None, patterns: list[str], progress: bool) -> Path:
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"fetching {repo} from ModelScope needs its library; install it with: pip install 'cpmv[modelscope]'"
        ) from error
    if not progress:
        log.info("ModelScope's library shows its progress bars regardless")
    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=is_offline())
    except Exception as error:  # as above
        raise _unreachable(repo, revision, "ModelScope", error) from error
    return Path(str(folder))


def _unreachable(repo: str, revision: str | None, hub: str, error: Exception) -> CheckpointError:
    """Say in one line why a repository did not come, whatever the library raised."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if is_offline():
        return CheckpointError(f"{repo} is not in the local cache and offline mode is on; fetch it once while online")
    if "GatedRepoError" in kinds:
        return CheckpointError(f"{repo} on {hub} asks for consent; accept its terms there and log in, then try again")
    if "RevisionNotFoundError" in kinds:
        return CheckpointError(f"{repo} on {hub} has no revision {revision!r}; leave it out or name one that exists")
    if kinds & {"RepositoryNotFoundError", "NotExistError", "HFValidationError", "InvalidParameter"}:
        return CheckpointError(f"{repo} is neither a folder here nor a model on {hub}; give {_KINDS}")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return CheckpointError(f"{repo} could not be fetched from {hub} ({reason}); check the name and the network")
