"""The formats people bring, read as they are into `Record`s: CookBook, LLaMA-Factory, ms-swift, RLPR and RLAIF-V.

A file's format is told by the fields of its first rows; a forced one is taken as given. A row that does not fit is a
`Problem` with its line. A `dataset_info.json`, given itself or lying beside a file that it names, says how that file
names its columns and roles, as LLaMA-Factory reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CpmvError, MediaError
from ..inputs.messages import Message, Text
from .records import BadSample, MediaRoot, MissingMedia, Placer, Problem, Record, turns_of
from .rows import Row, kind_of, read_object, read_rows

INFO_FILE = "dataset_info.json"
_LOOK_AT = 50  # rows that may be torn before the format is given up


@dataclass(frozen=True)
class Layout:
    """How a file names things: LLaMA-Factory's `columns` and `tags`, with its defaults where they are silent."""

    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    ranking: bool = False

    def column(self, name: str, otherwise: str | None = None) -> str:
        return self.columns.get(name, otherwise or name)


@dataclass
class Source:
    """A file read: its format, its samples, and what was wrong with others. weight: how often an epoch shows it."""

    path: Path
    format: str
    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    weight: float = 1.0

    @property
    def num_rows(self) -> int:
        return len(self.records) + len(self.problems)


def cookbook(row: Mapping[str, Any], media: MediaRoot, layout: Layout) -> Record:
    """`image`: a path, or an object from tags <image_NN> to paths; `conversations`: turns of role and content.

    A single picture without a tag goes before the first turn.
    """
    turns = row.get("conversations")
    if not isinstance(turns, (list, tuple)) or len(turns) < 2:
        raise BadSample("conversations must be a list of at least two turns, user first")
    given = row.get("image")
    text = "".join(str(turn.get("content", "")) for turn in turns if isinstance(turn, Mapping))
    if isinstance(given, Mapping) and not {"bytes", "path"} & set(given):
        named = {str(tag): media.image(value) for tag, value in given.items()}
        order = re.findall(r"<image_\d+>|<image>", text)
        unknown = [tag for tag in order if tag not in named]
        if unknown:
            raise BadSample(f"{unknown[0]} stands in the turns but image has only {', '.join(named)}")
        unused = [tag for tag in named if tag not in order]
        if unused:
            raise BadSample(f"image has {unused[0]} but no turn says where it stands; add the tag")
        turns = [{**turn, "content": re.sub(r"<image_\d+>", "<image>", turn.get("content", ""))} for turn in turns]
        return Record(_placed(turns, [named[tag] for tag in order], []), extra=_rest(row, "image", "conversations"))
    pictures = [] if given is None or given == "" else [media.image(given)]
    if pictures and "<image>" not in text:
        turns = _with_tags(turns, "<image>")
    return Record(_placed(turns, pictures, []), extra=_rest(row, "image", "conversations"))


def llama_factory(row: Mapping[str, Any], media: MediaRoot, layout: Layout) -> Record:
    """`messages` or `conversations`, `images`, `videos`, a tag for each; ranking: `chosen` and `rejected` answers."""
    column = layout.column("messages", "messages" if "messages" in row else "conversations")
    turns = list(_turn_list(row, column))
    keys, roles = _turn_names(turns, layout)
    system = row.get(layout.column("system"))
    names = [layout.column(name) for name in ("images", "videos", "chosen", "rejected", "system")]
    images, videos = _listed(row, names[0], media.image), _videos(row, names[1], media)
    if images and videos:
        raise BadSample("images and videos in one sample; LLaMA-Factory's layout has one kind, split the sample")

    def conversation(answer: Any) -> list[Message]:
        placer = Placer(images, videos)
        tail = [] if answer is None else [_answer(answer, keys)]
        messages = turns_of(turns + tail, placer, role_key=keys[0], content_key=keys[1], roles=roles)
        placer.end()
        return _with_system(messages, system)

    chosen, rejected = row.get(names[2]), row.get(names[3])
    if (chosen is None) != (rejected is None) or (layout.ranking and chosen is None):
        raise BadSample("a preference pair needs both chosen and rejected")
    worse = None if rejected is None else conversation(rejected)
    return Record(conversation(chosen), worse, extra=_rest(row, column, *names, "fps", "packing"))


def ms_swift(row: Mapping[str, Any], media: MediaRoot, layout: Layout) -> Record:
    """`messages` (or query, response, history), `images`, `videos`, `system`; `rejected_response` or
    `rejected_messages` with `rejected_images`; every other column reaches rewards."""
    turns = _swift_turns(row)
    images, videos = _listed(row, "images", media.image), _videos(row, "videos", media)
    rejected = _swift_rejected(row, turns)
    used = (
        "messages query response history images videos system rejected_response rejected_messages rejected_images "
        "solution fps packing"
    )
    system = row.get("system")
    worse = None
    if rejected is not None:
        others = _listed(row, "rejected_images", media.image) or images
        worse = _with_system(_placed(_swift_tags(rejected, others, videos), others, videos), system)
    messages = _with_system(_placed(_swift_tags(turns, images, videos), images, videos), system)
    return Record(messages, worse, row.get("solution"), _rest(row, *used.split()))


def rlpr(row: Mapping[str, Any], media: MediaRoot, layout: Layout) -> Record:
    """`prompt`: turns that end with the user; `reward_model.ground_truth`: what is right; `images`, `videos` if any."""
    model = row.get("reward_model")
    if not isinstance(model, Mapping) or model.get("ground_truth") is None:
        raise BadSample("reward_model.ground_truth is missing; a prompt for rewards needs what is right")
    turns = _turn_list(row, "prompt")
    images, videos = _listed(row, "images", media.image), _videos(row, "videos", media)
    messages = _placed(_swift_tags(turns, images, videos), images, videos)
    if messages[-1].role != "user":
        raise BadSample(f"prompt ends with the {messages[-1].role}; it must end with the user")
    return Record(messages, None, model["ground_truth"], _rest(row, "prompt", "images", "videos"))


def rlaif_v(row: Mapping[str, Any], media: MediaRoot, layout: Layout) -> Record:
    """`image`, `question`, `chosen`, `rejected`."""
    texts = {name: row.get(name) for name in ("question", "chosen", "rejected")}
    for name, text in texts.items():
        if not isinstance(text, str) or not text:
            raise BadSample(f"{name} is {text!r}; a preference pair needs question, chosen and rejected as strings")
    given = row.get("image")
    pictures = [] if given is None else [media.image(given)]
    question = str(texts["question"]).replace("<image>\n", "").replace("<image>", "")

    def conversation(answer: str) -> list[Message]:
        return [Message("user", [*pictures, Text(question)]), Message("assistant", [Text(answer)])]

    extra = _rest(row, "image", *texts)
    return Record(conversation(str(texts["chosen"])), conversation(str(texts["rejected"])), extra=extra)


Reader = Callable[[Mapping[str, Any], MediaRoot, Layout], Record]
FORMATS: dict[str, Reader] = {
    "cookbook": cookbook,
    "llama-factory": llama_factory,
    "ms-swift": ms_swift,
    "rlpr": rlpr,
    "rlaif-v": rlaif_v,
}


def format_of(row: Mapping[str, Any], kind: str) -> str | None:
    """Tell a row's format by its fields; kind: of its file, as `rows.kind_of` has it."""
    has = set(row).__contains__
    if has("prompt") and has("reward_model"):
        return "rlpr"
    if has("question") and has("chosen") and has("rejected"):
        return "rlaif-v"
    if has("conversations"):
        first = row["conversations"][0] if row["conversations"] else {}
        with_role = isinstance(first, Mapping) and "role" in first
        listed = any(has(name) for name in ("images", "videos", "chosen", "rejected"))
        return "cookbook" if with_role and not listed else "llama-factory"
    if has("query") or any(has(name) for name in ("rejected_response", "rejected_messages", "rejected_images")):
        return "ms-swift"
    if has("messages"):
        return "ms-swift" if kind == "lines" or has("solution") else "llama-factory"
    return None


def read_source(
    spec: str | Path, *, format: str | None = None, media_root: str | Path | None = None, strict: bool = False
) -> Source:
    """Read `FILE`, `FILE:WEIGHT`, `dataset_info.json` or `dataset_info.json#NAME`.

    format: one of FORMATS instead of telling it by content. media_root: folder of relative media paths, by default the
    file's own. strict: the first problem is raised. Raises CpmvError for a file that cannot be read at all.
    """
    path, weight = split_weight(str(spec))
    path, layout, described = _described(path)
    if format is not None and format not in FORMATS:
        raise CpmvError(f"format {format!r} is unknown; use {', '.join(FORMATS)}")
    chosen = format or ("llama-factory" if described else None)
    media = MediaRoot(Path(media_root) if media_root is not None else path.parent)
    kind = kind_of(path)
    source = Source(path, chosen or "?", weight=weight)
    waiting: list[Row] = []
    for row in read_rows(path):
        if isinstance(row, Problem):
            _add_problem(source, row, strict)
            continue
        waiting.append(row)
        if source.format == "?":
            source.format = (format_of(row[1], kind) if isinstance(row[1], Mapping) else None) or "?"
            if source.format == "?" and len(waiting) < _LOOK_AT:
                continue
        for line, value in waiting:
            _add(source, line, value, media, layout, strict)
        waiting = []
    for line, value in waiting:
        _add(source, line, value, media, layout, strict)
    source.problems.sort(key=lambda problem: problem.line)
    return source


def _add(source: Source, line: int, value: Any, media: MediaRoot, layout: Layout, strict: bool) -> None:
    try:
        if not isinstance(value, Mapping):
            raise BadSample(f"a sample is a {type(value).__name__}; give an object")
        if source.format == "?":
            raise BadSample(
                f"fields {', '.join(map(str, value))} fit no known format; give --format {'|'.join(FORMATS)}"
            )
        record = FORMATS[source.format](value, media, layout)
    except CpmvError as error:
        kind = "missing" if isinstance(error, MissingMedia) else "media" if isinstance(error, MediaError) else "sample"
        _add_problem(source, Problem(source.path, line, str(error), kind), strict)
        return
    source.records.append(Record(record.messages, record.rejected, record.solution, record.extra, line))


def _add_problem(source: Source, problem: Problem, strict: bool) -> None:
    if strict:
        raise CpmvError(f"{problem} (the first bad sample, and --strict was given)")
    source.problems.append(problem)


def split_weight(spec: str) -> tuple[Path, float]:
    """Take the weight off `FILE:WEIGHT`; a file whose own name looks so wins."""
    found = re.fullmatch(r"(.+):(\d+(?:\.\d+)?)", spec)
    if found is None or Path(spec).exists():
        return Path(spec), 1.0
    weight = float(found[2])
    if weight <= 0:
        raise CpmvError(f"{spec} has weight 0; leave the file out instead")
    return Path(found[1]), weight


def _described(path: Path) -> tuple[Path, Layout, bool]:
    """Follow a dataset_info.json, given or beside the file; return the file, its layout, and whether there was one."""
    name, _, fragment = path.name.partition("#")
    if name == INFO_FILE:
        info = path.with_name(INFO_FILE)
        entries = _entries(info)
        chosen = fragment or (next(iter(entries)) if len(entries) == 1 else "")
        if chosen not in entries:
            raise CpmvError(f"{info} describes {', '.join(entries) or 'no local file'}; give {INFO_FILE}#NAME")
        return info.parent / entries[chosen]["file_name"], _layout(info, chosen, entries[chosen]), True
    info = path.with_name(INFO_FILE)
    if info.is_file():
        for entry_name, entry in _entries(info).items():
            if (info.parent / entry["file_name"]).resolve() == path.resolve():
                return path, _layout(info, entry_name, entry), True
    return path, Layout(), False


def _entries(info: Path) -> dict[str, Mapping[str, Any]]:
    value = read_object(info)
    if not isinstance(value, Mapping):
        raise CpmvError(f"{info} is no JSON object of data sets; correct it")
    return {k: v for k, v in value.items() if isinstance(v, Mapping) and isinstance(v.get("file_name"), str)}


def _layout(info: Path, name: str, entry: Mapping[str, Any]) -> Layout:
    if entry.get("formatting", "alpaca") != "sharegpt":
        raise CpmvError(f"{info}: {name} has formatting {entry.get('formatting', 'alpaca')!r}; only sharegpt is read")
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    return Layout({"messages": "conversations", **columns}, tags, bool(entry.get("ranking")))


def _turn_names(turns: Sequence[Any], layout: Layout) -> tuple[tuple[str, str], dict[str, str]]:
    """The keys of a turn and what its roles mean, from the tags or from the first turn."""
    first = turns[0] if isinstance(turns[0], Mapping) else {}
    default = ("from", "value") if "from" in first else ("role", "content")
    tags = layout.tags
    keys = (tags.get("role_tag", default[0]), tags.get("content_tag", default[1]))
    named = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system", "observation_tag": "tool"}
    return keys, {tags[tag]: role for tag, role in named.items() if tag in tags}


def _answer(value: Any, keys: tuple[str, str]) -> Mapping[str, Any]:
    """A chosen or rejected answer as a turn: it is one already, or its words, or a list of one."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        return value
    return {keys[0]: "assistant", keys[1]: value}


def _swift_turns(row: Mapping[str, Any]) -> list[Any]:
    if "messages" in row:
        return _turn_list(row, "messages")
    if not isinstance(row.get("query"), str):
        raise BadSample("there are neither messages nor a query")
    turns: list[Any] = []
    for pair in row.get("history") or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadSample("history must be a list of pairs: what the user said, what the assistant answered")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    turns.append({"role": "user", "content": row["query"]})
    if row.get("response") is not None:
        turns.append({"role": "assistant", "content": row["response"]})
    return turns


def _swift_rejected(row: Mapping[str, Any], turns: list[Any]) -> list[Any] | None:
    if row.get("rejected_messages") is not None:
        return _turn_list(row, "rejected_messages")
    answer = row.get("rejected_response")
    if answer is None:
        return None
    if not turns or not isinstance(turns[-1], Mapping) or turns[-1].get("role") != "assistant":
        raise BadSample("rejected_response is given, but the conversation has no last answer that it is worse than")
    return [*turns[:-1], {"role": "assistant", "content": answer}]


def _swift_tags(turns: Sequence[Any], images: Sequence[Any], videos: Sequence[Any]) -> list[Any]:
    """Media without any tags go before the first user turn."""
    text = "".join(str(turn.get("content", "")) for turn in turns if isinstance(turn, Mapping))
    missing = "<image>" * len(images) if "<image>" not in text else ""
    missing += "<video>" * len(videos) if "<video>" not in text else ""
    return _with_tags(turns, missing) if missing else list(turns)


def _with_tags(turns: Sequence[Any], tags: str) -> list[Any]:
    out = [dict(turn) if isinstance(turn, Mapping) else turn for turn in turns]
    first = next((t for t in out if isinstance(t, dict) and t.get("role") in ("user", "human")), None)
    if first is None:
        raise BadSample("there is no user turn to show the pictures in")
    first["content"] = f"{tags}\n{first.get('content', '')}"
    return out


def _placed(turns: Sequence[Any], images: Sequence[Any], videos: Sequence[Any]) -> list[Message]:
    placer = Placer(images, videos)
    messages = turns_of(turns, placer)
    placer.end()
    return messages


def _with_system(messages: list[Message], system: Any) -> list[Message]:
    if not system:
        return messages
    if not isinstance(system, str):
        raise BadSample("system is no string")
    if messages[0].role == "system":
        raise BadSample("there are two system prompts: the column's and the first turn's; keep one")
    return [Message("system", [Text(system)]), *messages]


def _turn_list(row: Mapping[str, Any], name: str) -> list[Any]:
    turns = row.get(name)
    if not isinstance(turns, (list, tuple)) or not turns:
        raise BadSample(f"{name} is missing or empty; give a list of turns")
    return list(turns)


def _listed(row: Mapping[str, Any], name: str, read: Callable[[Any], Any]) -> list[Any]:
    value = row.get(name)
    if value is None:
        return []
    return [read(one) for one in (value if isinstance(value, (list, tuple)) else [value])]


def _videos(row: Mapping[str, Any], name: str, media: MediaRoot) -> list[Any]:
    """Clips of a row. A sample's own fps and packing hold for those that do not say."""
    return _listed(row, name, lambda value: media.video(value, row.get("fps"), row.get("packing")))


def _rest(row: Mapping[str, Any], *used: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in used}
