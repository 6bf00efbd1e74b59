"""The packets of a video stream as an index: which frame is shown when, and where decoding must start to reach it.

Built from timestamps and keyframe flags alone, in one pass over the file without decoding; `decode.py` follows it.
Positions are places in decode order (as stored); ranks are places in presentation order (as shown).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NO_PTS = -(2**63)  # stands for a packet without a timestamp
SEEK_COST = 8  # packets: decoding this many takes about as long as emptying and refilling the decoder (measured)
READ_AHEAD = 64  # packets that are read and dropped rather than seeked over


@dataclass(frozen=True)
class Run:
    """Packets start..stop (decode order), fed in one go; start is a keyframe. wanted: frames, ascending."""

    start: int
    stop: int
    wanted: list[int]


class PacketIndex:
    """Every packet's timestamp, in decode order, and the order in which the frames are shown.

    pts: decode order. keys: decode positions where decoding can start. order: presentation -> decode position.
    """

    def __init__(self, pts: array[int], key: bytearray, shown: bytearray, first_pts: int) -> None:
        self.pts = np.frombuffer(pts, dtype=np.int64)
        # Frames before the first decodable one (a recording begun mid-way) are not part of the clip.
        visible = np.flatnonzero(np.frombuffer(shown, dtype=bool) & (self.pts >= first_pts))
        self.order = visible[np.argsort(self.pts[visible], kind="stable")]
        self.shown_pts = self.pts[self.order]
        keys = np.flatnonzero(np.frombuffer(key, dtype=bool))
        keys = keys[np.isin(keys, visible)]
        self.keys = keys if keys.size and keys[0] == 0 else np.concatenate(([0], keys))
        self.intra_only = self.keys.size == self.pts.size

    @classmethod
    def build(cls, pts: array[int], key: bytearray, shown: bytearray, first_pts: int | None) -> PacketIndex | None:
        """Return the index, or None when the timestamps cannot be relied on.

        pts, key, shown: timestamp, keyframe flag and visibility of each packet, in decode order. first_pts: timestamp
        of the first frame that decodes. Every shown packet must have its own timestamp, and decoding must keep them.
        """
        visible = np.frombuffer(pts, dtype=np.int64)[np.frombuffer(shown, dtype=bool)]
        if first_pts is None or not visible.size or visible.min() == NO_PTS or np.unique(visible).size != visible.size:
            return None
        index = cls(pts, key, shown, first_pts)
        return index if index.rank(first_pts) == 0 else None

    def rank(self, pts: int | None) -> int | None:
        """Return the presentation position of the frame shown at `pts`, or None when no packet says so."""
        if pts is None:
            return None
        i = int(np.searchsorted(self.shown_pts, pts))
        return i if i < self.shown_pts.size and self.shown_pts[i] == pts else None

    def position(self, pts: int | None) -> int | None:
        """Return the decode position of the packet with this timestamp."""
        rank = self.rank(pts)
        return None if rank is None else int(self.order[rank])

    def key_before(self, position: int) -> int:
        """Return the last keyframe from which the packet at `position` decodes exactly.

        A frame shown before a keyframe but stored after it (an open GOP) may need the keyframe before that one.
        """
        i = int(np.searchsorted(self.keys, position, side="right")) - 1
        while i > 0 and self.pts[self.keys[i]] > self.pts[position]:
            i -= 1
        return int(self.keys[i])

    def runs(self, wanted: Sequence[int], seekable: bool) -> list[Run]:
        """Cut ascending frames into runs: a new one wherever seeking saves more decoding than it costs."""
        out: list[Run] = []
        cost = READ_AHEAD if self.intra_only else SEEK_COST
        for rank in wanted:
            position = int(self.order[rank])
            start = self.key_before(position) if seekable else 0
            if out and start <= out[-1].stop + cost:
                last = out.pop()
                out.append(Run(last.start, max(last.stop, position), [*last.wanted, rank]))
            else:
                out.append(Run(start, position, [rank]))
        return out
