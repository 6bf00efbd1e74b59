"""Decode chosen frames of one video file with PyAV: frame-exact, in flat memory, no more than is needed.

Opening reads every packet's timestamp once, without decoding (the container's own frame count is not trusted).
Sorted timestamps are the presentation order, so frame i is the frame with the i-th timestamp, however it is reached:
by seeking to the keyframe before it, or by decoding through. Streams whose timestamps are missing, repeated or
not kept by their decoder are counted by decoding once, and always decoded through.

Colours follow the stream's own tags, as libswscale reads them (BT.601 when untagged). Rotation metadata is applied,
as a player would. Pixels are not stretched for a non-square aspect ratio.
"""

from __future__ import annotations

import logging
import struct
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from ..errors import MediaError
from .media import describe, one_line
from .packets import NO_PTS, READ_AHEAD, PacketIndex, Run

if TYPE_CHECKING:
    from av.video.stream import VideoStream

logger = logging.getLogger("cpmv")

# What may be opened. Playlists and concat scripts are left out: they name other files and addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,h264,hevc,m4v,yuv4mpegpipe"
)
LIBAV_ERRORS = (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError, RuntimeError)
# Pictures that no other picture refers to may be left undecoded, exactly; these decoders know them by their headers.
SKIPS_NONREF_EXACTLY = {"h264", "mpeg4", "mpeg2video", "mpeg1video"}
# libavcodec's frame-threaded VP9 decoder, reused after it was emptied, can crash the process on a damaged keyframe
# (seen with FFmpeg 7.1 to 8.1 on three threads or more); a new decoder does not.
NEEDS_NEW_DECODER = {"vp9"}


class _SeekFailedError(Exception):
    """The decoder did not start at the keyframe that was asked for."""


class FileFrames:
    """The frames of one video file, given as a path or as its bytes. Holds no open file between calls.

    num_frames: frames that decoding will show. fps: average rate. size: (w, h) as shown, after rotation.
    seekable: frames are reached by seeking where that pays; cleared when the stream turns out not to allow it.
    Raises MediaError for anything that is not a video, holds no decodable frame, or exceeds a limit.
    """

    def __init__(self, source: Path | bytes, *, max_pixels: int, max_frames: int, num_threads: int = 0) -> None:
        self.source = source
        self.name = describe(source)
        self.max_pixels, self.max_frames, self.num_threads = max_pixels, max_frames, num_threads
        self.seekable = True
        self.index: PacketIndex | None = None
        self._warned: set[str] = set()
        self._local = threading.local()  # each thread that converts frames has its own scaler
        self._scan()

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Callable[[], Image.Image]]]:
        """Yield (index, what makes its RGB image) for each of `wanted`, ascending and without repeats.

        The frame is decoded by then; converting it to RGB is left to whoever calls, in any thread. A frame that will
        not decode is replaced by the one before it, with a warning.
        """
        done = 0
        while done < len(wanted):
            try:
                with _Reader(self) as reader:
                    for rank, picture in self._read(reader, wanted[done:]):
                        yield rank, picture
                        done += 1
            except _SeekFailedError:
                if not self.seekable:
                    raise MediaError(f"{self.name} reads differently each time; is it still being written?") from None
                self.seekable = False
                self.warn("seek", "seeking is not exact in this file; decoding it from the start, which is slower")

    def _read(self, reader: _Reader, wanted: Sequence[int]) -> Iterator[tuple[int, Callable[[], Image.Image]]]:
        if self.index is None:
            runs = [Run(0, self._num_packets, list(wanted))]
        else:
            runs = self.index.runs(wanted, self.seekable)
        last: av.VideoFrame | None = None
        for run in runs:
            waiting = iter(run.wanted)
            rank: int | None = next(waiting)
            for shown, frame in reader.decode(run):
                while rank is not None and rank < shown:
                    yield rank, self._substitute(rank, last or frame)
                    rank = next(waiting, None)
                if rank == shown:
                    yield rank, partial(self._to_image, frame)
                    rank = next(waiting, None)
                last = frame
                if rank is None:
                    break
            while rank is not None:
                if last is None:
                    raise MediaError(f"{self.name}: no frame could be decoded; the file is damaged")
                yield rank, self._substitute(rank, last)
                rank = next(waiting, None)

    def _substitute(self, rank: int, frame: av.VideoFrame) -> Callable[[], Image.Image]:
        self.warn("missing", f"frame {rank} of {self.num_frames} cannot be decoded; the nearest before stands in")
        return partial(self._to_image, frame)

    def _to_image(self, frame: av.VideoFrame) -> Image.Image:
        width, height = self._coded_size
        scaler = getattr(self._local, "scaler", None)
        if scaler is None:
            scaler = self._local.scaler = VideoReformatter()
        try:
            rgb = scaler.reformat(
                frame, width, height, format="rgb24", interpolation=Interpolation.BICUBIC
            ).to_ndarray()
        except LIBAV_ERRORS as error:
            raise MediaError(f"{self.name}: frames of format {frame.format.name} cannot be shown ({error})") from error
        image = Image.fromarray(rgb)
        return image if self._turn is None else image.transpose(self._turn)

    def warn(self, kind: str, detail: str) -> None:
        """Log a warning about this file, once for each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s: %s", self.name, detail)

    def _scan(self) -> None:
        """Read all timestamps, decode the first frame, and settle size, rate, rotation and frame count."""
        pts, key, shown = array("q"), bytearray(), bytearray()
        first: av.VideoFrame | None = None
        with _Reader(self) as reader:
            stream = reader.stream
            codec = stream.codec_context.codec.canonical_name
            is_vp8, is_gif = codec == "vp8", codec == "gif"
            for packet in reader.packets():
                if len(pts) >= self.max_frames:
                    raise MediaError(f"{self.name} has over {self.max_frames} frames; cut it into shorter clips")
                pts.append(NO_PTS if packet.pts is None else packet.pts)
                key.append(packet.is_keyframe and not is_gif)  # a GIF draws each picture over the last
                # A VP8 packet can hold a picture that is only referred to; bit 4 of its first byte says so.
                shown.append(not packet.is_discard and not (is_vp8 and not memoryview(packet)[0] & 0x10))
                first = first or next(iter(reader.feed(packet)), None)
            first = first or next(iter(reader.feed(None)), None)
            declared, rate = stream.frames, stream.average_rate or stream.guessed_rate
        if first is None:
            raise MediaError(f"{self.name} has no frame that can be decoded; the file is empty or damaged")
        self._num_packets = len(pts)
        if declared > len(pts):
            self.warn("short", f"the file is cut short: it announces {declared} frames and holds {len(pts)}")
        self._settle_geometry(first)
        self.index = PacketIndex.build(pts, key, shown, first.pts)
        if self.index is None:
            self.warn("count", "timestamps are missing or repeat; counting the frames by decoding all of them")
            with _Reader(self) as reader:
                self.num_frames = sum(1 for _ in reader.decode(Run(0, self._num_packets, [])))
        else:
            self.num_frames = int(self.index.order.size)
        self.fps = float(rate) if rate else 0.0
        if self.fps <= 0:
            self.fps = self._measured_rate(float(stream.time_base or 0))

    def _measured_rate(self, time_base: float) -> float:
        """Frames per second from the timestamps, for containers that state no rate."""
        if self.index is not None and self.num_frames > 1:
            span = float(self.index.shown_pts[-1] - self.index.shown_pts[0]) * time_base
            if span > 0:
                return (self.num_frames - 1) / span
        self.warn("rate", "no frame rate is stated; 25 frames a second are assumed")
        return 25.0

    def _settle_geometry(self, frame: av.VideoFrame) -> None:
        width, height = self._coded_size = frame.width, frame.height
        side_data: Any = frame.side_data
        matrix = next((bytes(data) for data in side_data if data.type == SideData.DISPLAYMATRIX), None)
        self._turn = None if matrix is None else self._turn_from(matrix)
        swaps = self._turn in (
            Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270, Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE
        )  # fmt: skip
        self.size = (height, width) if swaps else (width, height)

    def _turn_from(self, matrix: bytes) -> Image.Transpose | None:
        """Return the quarter turn or flip of a display matrix: (x, y) is shown at (a*x + c*y, b*x + d*y)."""
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            upright, exact = True, abs(b) + abs(c) <= 0.02 * (abs(a) + abs(d))
        else:
            upright, exact = False, abs(a) + abs(d) <= 0.02 * (abs(b) + abs(c))
        if not exact:
            self.warn("turn", "its rotation is not a quarter turn; the nearest quarter turn is taken")
        turns = Image.Transpose
        if upright:
            flips = {(True, False): turns.FLIP_LEFT_RIGHT, (False, True): turns.FLIP_TOP_BOTTOM}
            return turns.ROTATE_180 if a < 0 and d < 0 else flips.get((a < 0, d < 0))
        if b < 0:
            return turns.TRANSVERSE if c < 0 else turns.ROTATE_90
        return turns.ROTATE_270 if c < 0 else turns.TRANSPOSE


class _Reader:
    """One opened container: reads packets, seeks, decodes runs. Used as a context manager."""

    def __init__(self, file: FileFrames) -> None:
        self.file = file
        self._open()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.container.close()

    def _open(self) -> None:
        file = self.file
        limits = {"max_pixels": str(file.max_pixels), "protocol_whitelist": "file", "format_whitelist": FORMATS}
        where = BytesIO(file.source) if isinstance(file.source, bytes) else f"file:{file.source.absolute()}"
        try:
            self.container = av.open(where, "r", options=limits, metadata_errors="ignore", buffer_size=1 << 18)
        except LIBAV_ERRORS as error:
            raise MediaError(
                f"{file.name} cannot be opened as a video ({_reason(error)}); "
                "mp4, mov, mkv, webm, avi, gif, ts and their like are supported"
            ) from error
        try:
            self.stream: VideoStream = self._choose_stream()
            self._prepare()
        except BaseException:
            self.container.close()
            raise

    def _choose_stream(self) -> VideoStream:
        """Return the first video stream that is not a cover picture."""
        streams = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = sorted({str(stream.type) for stream in self.container.streams})
            raise MediaError(f"{self.file.name} has no video stream, only {', '.join(kinds) or 'nothing'}")
        if streams[0].codec_context is None:
            raise MediaError(f"{self.file.name} holds video in a codec that this build of FFmpeg cannot decode")
        return streams[0]

    def _prepare(self) -> None:
        context = self.stream.codec_context
        if context.width * context.height > self.file.max_pixels:
            raise MediaError(
                f"{self.file.name} has frames of {context.width}x{context.height} = {context.width * context.height} "
                f"pixels; at most {self.file.max_pixels} are supported; scale it down first"
            )
        context.thread_type = "AUTO"
        context.thread_count = self.file.num_threads
        context.options = {"max_pixels": str(self.file.max_pixels)}  # for frames larger than the header says
        self._iterator = self._demux()
        self._next = 0  # decode position of the packet read next

    def _demux(self) -> Iterator[av.Packet]:
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet
        except LIBAV_ERRORS as error:
            self.file.warn("read", f"reading stops early ({_reason(error)}); what was read is used")

    def packets(self) -> Iterator[av.Packet]:
        """Yield the packets from here on, in decode order."""
        for packet in self._iterator:
            self._next += 1
            yield packet

    def feed(self, packet: av.Packet | None) -> Sequence[av.VideoFrame]:
        """Decode one packet (None: empty the decoder); damaged ones give nothing."""
        try:
            return self.stream.codec_context.decode(packet)
        except LIBAV_ERRORS as error:
            self.file.warn("packet", f"a damaged packet is skipped ({_reason(error)})")
            return []

    def decode(self, run: Run) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode one run and yield (presentation position, frame); empties the decoder at its end."""
        index = self.file.index
        if index is None:
            yield from enumerate(self._frames(run, None, None))
            return
        self._go_to(run.start, index)
        key_rank = index.rank(int(index.pts[run.start])) if run.start else None
        targets = set(index.order[run.wanted].tolist())
        for frame in self._frames(run, index, targets):
            rank = index.rank(frame.pts)
            if rank is None:
                continue
            if key_rank is not None:
                if rank < key_rank:  # leading pictures of an open GOP, not decodable from here
                    continue
                if rank > key_rank or not (index.intra_only or frame.pict_type == PictureType.I):
                    raise _SeekFailedError
                key_rank = None
            yield rank, frame
        if key_rank is not None:
            raise _SeekFailedError

    def _frames(self, run: Run, index: PacketIndex | None, targets: set[int] | None) -> Iterator[av.VideoFrame]:
        """Feed the packets of a run that matter to its targets, which are decode positions; None feeds them all."""
        context = self.stream.codec_context
        skips = context.codec.canonical_name in SKIPS_NONREF_EXACTLY
        for packet in self._span(run, index):
            if targets is not None and index is not None:
                matters = self._next - 1 in targets or self._next - 1 == run.start
                if index.intra_only and not matters:
                    continue
                if skips:
                    context.skip_frame = "DEFAULT" if matters else "NONREF"
            yield from self.feed(packet)
        yield from self.feed(None)

    def _span(self, run: Run, index: PacketIndex | None) -> Iterator[av.Packet]:
        """Yield the packets run.start..run.stop, checking that each is the one the index knows at that place."""
        for packet in self.packets():
            position = self._next - 1
            if index is not None and (
                position >= index.pts.size or index.pts[position] != (NO_PTS if packet.pts is None else packet.pts)
            ):
                raise _SeekFailedError
            if position >= run.start:
                yield packet
            if position >= run.stop:
                return

    def _go_to(self, start: int, index: PacketIndex) -> None:
        """Bring the reader to a packet at or before `start`, with an empty decoder."""
        if self._next > 0 and self.stream.codec_context.codec.canonical_name in NEEDS_NEW_DECODER:
            self.container.close()
            self._open()
        if self._next <= start and (start - self._next <= READ_AHEAD or not self.file.seekable):
            self.stream.codec_context.flush_buffers()
            return
        at = int(np.searchsorted(index.keys, start))
        for back in (0, 1, 2, 4, 8):
            if at - back <= 0:
                break
            if self._seek(int(index.pts[index.keys[at - back]]), start, index):
                return
        self.container.close()
        self._open()

    def _seek(self, pts: int, start: int, index: PacketIndex) -> bool:
        try:
            self.container.seek(pts, stream=self.stream)
        except LIBAV_ERRORS:
            return False
        self._iterator = self._demux()
        first = next(self._iterator, None)
        position = None if first is None else index.position(first.pts)
        if first is None or position is None or position > start:
            return False
        self._iterator = _chain(first, self._iterator)
        self._next = position
        return True


def _chain(first: av.Packet, rest: Iterable[av.Packet]) -> Iterator[av.Packet]:
    yield first
    yield from rest


def _reason(error: BaseException) -> str:
    """libav's own words, without its error number and the name of the call."""
    return getattr(error, "strerror", None) or one_line(error)
