"""Sample 540 frames of a ten-minute 720p clip and cut them into patches: time, frames a second, peak memory.

    python benchmarks/video_decode.py [--clip FILE] [--size 1280 720] [--preset ultrafast]
                                       [--keyint 250] [--repeats 3]

Without --clip, a synthetic H.264 clip is encoded once and kept in the temporary folder. Each way runs in a fresh
process: ours (with and without the patches), plain sequential decoding of every frame with PyAV, and OpenCV and
decord where they are installed. "source frames/s" is the clip's length over the time, for ways that decode through as
for ways that do not. Peak memory is that of the whole process, imports included. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FPS, SECONDS = 30, 600
MEMORY_LIMIT_GB = 1.5


def ours_with_patches(clip: str) -> int:
    from cpmv.inputs.messages import Video
    from cpmv.inputs.visuals import Visuals
    from cpmv.model.config import ImageConfig

    visuals = Visuals(ImageConfig(), limit=(1 << 20, "the benchmark"))
    visuals.add(Video(clip))
    return len(visuals.load().tgt_sizes)


def ours_in_one_thread(clip: str) -> int:
    """The same, decoding included, in the caller's thread alone."""
    from cpmv.inputs.messages import Video as Part
    from cpmv.inputs.video import Video
    from cpmv.inputs.visuals import Visuals
    from cpmv.model.config import ImageConfig

    visuals = Visuals(ImageConfig(), limit=(1 << 20, "the benchmark"))
    visuals.add(Part(Video(clip, num_threads=1)))
    return len(visuals.load().tgt_sizes)


def ours_frames_only(clip: str) -> int:
    from cpmv.inputs.video import sample_video

    return sum(1 for _ in sample_video(clip).frames())


def sequential(clip: str) -> int:
    """Decode every frame, convert none: the least that any way of decoding straight through must do."""
    import av

    with av.open(clip) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def opencv(clip: str) -> int:
    """Grab every frame, convert those that are sampled."""
    import cv2

    capture = cv2.VideoCapture(clip)
    wanted = set(_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)))
    position = found = 0
    while capture.grab():
        if position in wanted:
            found += capture.retrieve()[0]
        position += 1
    return found


def decord(clip: str) -> int:
    """As the guide's script has it: all sampled frames in one array."""
    import decord

    reader = decord.VideoReader(clip, ctx=decord.cpu(0))
    return len(reader.get_batch(_indices(len(reader), reader.get_avg_fps())).asnumpy())


def _indices(num_frames: int, fps: float) -> list[int]:
    from cpmv.inputs.frames import plan_frames

    return plan_frames(num_frames, fps).indices


WAYS: dict[str, tuple[str, Callable[[str], int], str | None]] = {
    "ours": ("cpmv: 540 frames to patches, torch imported", ours_with_patches, None),
    "ours_one": ("cpmv: the same in one thread", ours_in_one_thread, None),
    "ours_frames": ("cpmv: 540 frames as RGB", ours_frames_only, None),
    "sequential": ("PyAV: every frame, none converted", sequential, None),
    "opencv": ("OpenCV: grab all, convert 540", opencv, "cv2"),
    "decord": ("decord: get_batch of 540", decord, "decord"),
}


def peak_memory_gb() -> float:
    """Highest resident size of this process. VmHWM, because ru_maxrss remembers the process before exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / 1e9
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure(way: str, clip: str) -> None:
    """Run one way in this process and print its result as JSON."""
    start, cpu = time.perf_counter(), time.process_time()
    frames = WAYS[way][1](clip)
    seconds = time.perf_counter() - start
    print(json.dumps({
        "frames": frames, "seconds": seconds, "cpu_seconds": time.process_time() - cpu, "peak_gb": peak_memory_gb()
    }))  # fmt: skip


def in_fresh_process(*arguments: str) -> str:
    return subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout


def report(clip: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Measure all ways turn by turn, so that a busy minute falls on all of them; print the table."""
    ways = [way for way, (_, _, needs) in WAYS.items() if needs is None or importlib.util.find_spec(needs)]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            runs[way].append(json.loads(in_fresh_process("--measure", way, "--clip", str(clip)).splitlines()[-1]))
    out: dict[str, dict[str, float]] = {}
    print("| way | frames | seconds (min to max) | CPU seconds | frames/s | source frames/s | peak memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way in ways:
        seconds = [run["seconds"] for run in runs[way]]
        middle = statistics.median(seconds)
        out[way] = {
            "frames": runs[way][0]["frames"],
            "seconds": middle,
            "seconds_min": min(seconds),
            "seconds_max": max(seconds),
            "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs[way]),
            "peak_gb": max(run["peak_gb"] for run in runs[way]),
        }
        row = out[way]
        print(
            f"| {WAYS[way][0]} | {row['frames']:.0f} | {middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
            f"| {row['cpu_seconds']:.2f} | {row['frames'] / middle:.1f} | {FPS * SECONDS / middle:.0f} "
            f"| {row['peak_gb']:.2f} GB |"
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, help="a ten-minute clip at 30 frames a second")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), help="of the clip that is made")
    parser.add_argument("--preset", default="ultrafast", help="of x264, for the clip that is made")
    parser.add_argument("--keyint", type=int, default=250, help="frames between keyframes of the clip that is made")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    clip = args.clip or Path(tempfile.gettempdir()) / f"cpmv-{args.size[1]}p-{args.preset}-{args.keyint}.mp4"
    if args.measure:
        return measure(args.measure, str(clip))
    if args.make:
        from cpmv.bench.clip import make_clip

        return make_clip(clip, *args.size, SECONDS, FPS, args.preset, args.keyint)
    if not clip.exists():
        size = [str(side) for side in args.size]
        options = ["--preset", args.preset, "--keyint", str(args.keyint), "--size", *size]
        in_fresh_process("--make", "--clip", str(clip), *options)
    print(
        f"{clip.name}, {clip.stat().st_size / 1e6:.0f} MB; Python {platform.python_version()}, {os.cpu_count()} cores"
    )
    results = report(clip, args.repeats)
    peak = results["ours"]["peak_gb"]
    print(f"peak memory {peak:.2f} GB, limit {MEMORY_LIMIT_GB} GB: {'held' if peak <= MEMORY_LIMIT_GB else 'EXCEEDED'}")
    print(json.dumps({"preset": args.preset, "keyint": args.keyint, "clip_mb": clip.stat().st_size / 1e6, **results}))


if __name__ == "__main__":
    main()
