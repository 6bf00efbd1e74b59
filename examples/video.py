"""Ask what happens in a video.

    python examples/video.py MODEL VIDEO [QUESTION]

VIDEO: a file, or a folder of frames. Neighbouring frames are packed into 64 tokens each group, so that minutes fit.
"""

from __future__ import annotations

import sys

import cpmv


def show_progress(done: int, total: int) -> None:
    print(f"\rread {done} of {total} frames", end="" if done < total else "\n", file=sys.stderr)


def main(source: str, video: str, question: str = "What happens in this video?") -> None:
    model = cpmv.load(source)

    # 2 frames for each second, 3 frames a group: 40 seconds are 27 groups, 1728 tokens.
    answer = model.ask(video, question, fps=2, packing=3, greedy=True, max_new_tokens=128, progress=show_progress)
    print(answer)

    # What the model sees: the frames chosen, and their times in tenths of a second, group by group.
    frames, groups = cpmv.encode_video(video, choose_fps=2, force_packing=3)
    print(
        f"{len(frames)} frames of {frames[0].width} x {frames[0].height} in {len(groups)} groups, at {groups[:3]} ..."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
