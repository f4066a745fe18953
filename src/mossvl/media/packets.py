"""What the packets of a video stream tell before anything is decoded, and which of them to decode."""

import math
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mossvl.media.stamps import UNKNOWN, filled, joined

if TYPE_CHECKING:
    VideoPacket = Packet[VideoStream]
else:
    VideoPacket = Packet  # Generic in PyAV's annotations only.


@dataclass(frozen=True)
class PacketTable:
    """The packets of a video stream in the order in which they are stored and decoded: their *position*.

    A frame's *index* is its place in presentation order. Packets that an edit list hides are decoded but no frames.

    Attributes:
        pts: (packets,) int64 presentation times in ticks; those that are missing, start again or leap are put right.
        dts: (packets,) int64 decoding times in ticks, those of the file; gaps are filled with the next best guess.
        index: (packets,) int64 index of the packet's frame, -1 for a hidden one.
        position: (frames,) int64 position of each frame's packet.
        keyframes: (keyframes,) int64 ascending positions at which decoding can begin; the first is 0.
        times: (frames,) float64 seconds since the first frame, ascending.
        start, end: seconds; time of the first frame, and of the last one plus its duration.
        ordered: the file says when each frame is shown. If not, frames are counted as the decoder gives them.
        unique: pts are those of the file and no two packets share one, so that it tells where one is after seeking.
        sizes: (packets,) int64 bytes; tell a whole packet from the rest of one, cut by seeking into it.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    index: NDArray[np.int64]
    position: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    times: NDArray[np.float64]
    start: float
    end: float
    ordered: bool
    unique: bool
    sizes: NDArray[np.int64]
    _sorted: tuple[NDArray[np.int64], NDArray[np.int64]]

    @classmethod
    def build(
        cls, packets: Iterable[VideoPacket], time_base: Fraction, rate: Fraction | None, reordered: bool
    ) -> "PacketTable":
        """From all packets of a stream.

        Args:
            rate: frames per second, standing in for what the packets do not say.
            reordered: frames are stored in another order than shown, so that pts which ascend are not to be trusted.

        Raises:
            ValueError: no packet is shown.
        """
        columns = array("q"), array("q"), array("q"), array("q"), array("b"), array("b")
        add_pts, add_dts, add_duration, add_size, add_keyframe, add_hidden = (column.append for column in columns)
        for packet in packets:
            add_pts(UNKNOWN if packet.pts is None else packet.pts)
            add_dts(UNKNOWN if packet.dts is None else packet.dts)
            add_duration(packet.duration or 0)
            add_size(packet.size)
            add_keyframe(packet.is_keyframe)
            add_hidden(packet.is_discard)
        pts, dts, durations, sizes, keyframe, hidden = (np.array(column) for column in columns)
        if hidden.all():
            raise ValueError("no packet is shown")
        step = max(round(1 / (time_base * (rate or 25))), 1)
        ordered = not (pts == UNKNOWN).any() and not (reordered and len(pts) > 1 and (np.diff(pts) > 0).all())
        dts = filled(dts if (dts != UNKNOWN).any() else pts, step)
        pts = np.where(pts == UNKNOWN, dts, pts)
        corrected = joined(pts, dts, durations, keyframe, step, time_base)
        pts = pts if corrected is None else corrected

        order = np.argsort(pts, kind="stable")
        position = order[hidden[order] == 0]
        index = np.full(len(pts), -1, dtype=np.int64)
        index[position] = np.arange(len(position))
        shown = pts[position]
        # A tick count can be beyond what float64 counts exactly: subtract first. A difference can be beyond int64.
        times = (shown - shown[0]).view(np.uint64) * time_base.numerator / time_base.denominator
        gap = int(shown[-1]) - int(shown[-2]) if len(shown) > 1 else 0
        duration = int(durations[position[-1]]) or gap or step
        start, end = float(int(shown[0]) * time_base), float((int(shown[-1]) + duration) * time_base)
        return cls(
            pts=pts,
            dts=dts,
            index=index,
            position=position,
            keyframes=np.union1d([0], np.flatnonzero(keyframe)) if ordered else np.array([0]),
            times=times,
            start=start,
            end=max(end, math.nextafter(start, math.inf)),
            ordered=ordered,
            unique=ordered and corrected is None and bool((np.diff(pts[order]) > 0).all()),
            sizes=sizes,
            _sorted=(pts[order], order),
        )

    def find(self, packet: VideoPacket) -> int | None:
        """Position of a packet met after seeking, or None if it is none of these. Needs `unique`."""
        if packet.pts is None:
            return None
        sorted_pts, order = self._sorted
        position = int(order[min(int(np.searchsorted(sorted_pts, packet.pts)), len(order) - 1)])
        return position if self.pts[position] == packet.pts and self.sizes[position] == packet.size else None

    def keyframe_before(self, index: int) -> int:
        """Place in `keyframes` from where frame `index` can be decoded.

        Frames stored after a keyframe but shown before it may need what comes before it, so the keyframe must come
        first in both orders.
        """
        position = self.position[index]
        place = int(np.searchsorted(self.keyframes, position, side="right")) - 1
        while place > 0 and self.pts[self.keyframes[place]] > self.pts[position]:
            place -= 1
        return place


@dataclass
class Run:
    """Packets to decode in one go: positions `start` to `stop`, for the frames `wanted` (ascending indices)."""

    start: int
    stop: int
    wanted: deque[int]


def plan_runs(table: PacketTable, indices: Sequence[int], bridged: int) -> list[Run]:
    """What to decode for the frames `indices` (ascending, each once).

    Each frame needs the packets from the keyframe before it. What lies between one frame and the keyframe of the next
    is left out, unless it is no more than `bridged` packets: breaking off costs the decoder about one frame for each of
    its threads, which run dry.
    """
    if not table.ordered:
        return [Run(0, len(table.pts) - 1, deque(indices))] if indices else []
    runs: list[Run] = []
    for index in indices:
        start = int(table.keyframes[table.keyframe_before(index)])
        position = int(table.position[index])
        if runs and runs[-1].start <= start <= runs[-1].stop + 1 + bridged:
            runs[-1].stop = max(runs[-1].stop, position)
            runs[-1].wanted.append(index)
        else:
            runs.append(Run(start, position, deque([index])))
    return runs
