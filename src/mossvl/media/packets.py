"""The packet table of a video stream, read without decoding, and the runs of packets to decode."""

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
    """The packets of a video stream.

    A packet's *position* is its place in decoding order, in which packets are stored. A frame's *index* is its place in
    presentation order. Packets that an edit list hides are decoded, but have no index.

    Attributes:
        pts: (packets,) int64 presentation timestamps in ticks, corrected where missing or discontinuous.
        dts: (packets,) int64 decoding timestamps in ticks, missing ones extrapolated.
        index: (packets,) int64 index of the packet's frame, -1 for a hidden packet.
        position: (frames,) int64 position of each frame's packet.
        keyframes: (keyframes,) int64 ascending positions at which decoding can begin; the first is 0.
        times: (frames,) float64 seconds since the first frame, ascending.
        start, end: seconds; timestamp of the first frame, and of the last frame plus its duration.
        ordered: whether the file has presentation timestamps. Otherwise frames are numbered in decoder output order.
        unique: whether pts are the file's own and distinct, so that a packet can be found by its pts after a seek.
        sizes: (packets,) int64 bytes; tell a whole packet from the rest of a packet that a seek has cut.
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
        """Build the table from all packets of a stream.

        Args:
            rate: frames per second, for packets without timestamps or durations.
            reordered: whether decoding order differs from presentation order; ascending pts are then wrong guesses.

        Raises:
            ValueError: there are no packets, or all are hidden.
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
        # Subtract first: ticks may exceed float64's exact integers. View as uint64: the difference may overflow int64.
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
        """Return the position of a packet read after a seek, None if the table lacks it. Needs `unique`."""
        if packet.pts is None:
            return None
        sorted_pts, order = self._sorted
        position = int(order[min(int(np.searchsorted(sorted_pts, packet.pts)), len(order) - 1)])
        return position if self.pts[position] == packet.pts and self.sizes[position] == packet.size else None

    def keyframe_before(self, index: int) -> int:
        """Return the place in `keyframes` of the last keyframe from which frame `index` can be decoded.

        A leading frame (stored after a keyframe, shown before it) may refer to earlier packets, so the keyframe must
        come first in both decoding and presentation order.
        """
        position = self.position[index]
        place = int(np.searchsorted(self.keyframes, position, side="right")) - 1
        while place > 0 and self.pts[self.keyframes[place]] > self.pts[position]:
            place -= 1
        return place


@dataclass
class Run:
    """Packets to decode without a seek: positions `start` to `stop`, for the frames `wanted` (ascending indices)."""

    start: int
    stop: int
    wanted: deque[int]


def plan_runs(table: PacketTable, indices: Sequence[int], bridged: int) -> list[Run]:
    """Return the runs to decode for the frames `indices` (strictly ascending).

    A frame needs the packets from its keyframe on. Packets between a frame and the next frame's keyframe are skipped if
    they are more than `bridged`: a seek drains the decoder's pipeline, about one frame for each of its threads.
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
