"""A recorded capture as the schedule of an exchange: raw frames in order of receipt, by stream."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from engine.errors import BadInput
from engine.record import wire
from engine.record.decode import SPOT, USDM
from engine.sim.aggregates import derive
from engine.sources.captures import STAMP_UNIT_NS, capture_symbol, probe_venue, seconds_ns
from engine.sources.files import RecordedFile
from engine.sources.formats import CRYPTOFEED, HFTBACKTEST, sniff

REST = "rest:"  # begins the name under which a symbol's recorded REST depth bodies are kept
SKIP_LIMIT = 100
_REST_LINE = re.compile(rb"https?://\S+[?&]symbol=([^&\s]+)\S* -> ([0-9.]+): ?")
_EVENT_MS = re.compile(rb'"E":(\d{13})\b')
_DEPTH = re.compile(r"@depth(@\d+ms)?$")
_MARK = re.compile(r"@markPrice(@1s)?$")
Line = tuple[int, int, str, bytes]  # line number, receive time, stream, frame


class Tape:
    """Frames in the order they were received; `stream[i]` is a place in `streams`."""

    def __init__(
        self,
        venue: str,
        recv_ns: list[int],
        stream: list[int],
        frames: list[bytes],
        streams: list[str],
        skipped: int = 0,
    ):
        self.venue = venue
        self.recv_ns, self.stream, self.frames, self.streams = recv_ns, stream, frames, streams
        self.skipped = skipped
        self.prefixes = [head(name) for name in streams]
        self.number = {name: place for place, name in enumerate(streams)}
        self.symbols = sorted({name.partition("@")[0].upper() for name in streams if "@" in name and name[0] != "!"})
        self.venue_ahead_ns = self._venue_ahead_ns()
        codes = np.array(stream)
        self.places = [np.flatnonzero(codes == place).tolist() for place in range(len(streams))]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last."""
        return (self.recv_ns[-1] - self.recv_ns[0]) / 1e9

    def _venue_ahead_ns(self) -> int:
        """Return what to add to a receive time to have a venue time no stamp sent by then is after."""
        ahead = [
            int(found[1]) * 1_000_000 - recv_ns
            for recv_ns, frame in zip(self.recv_ns, self.frames)
            if (found := _EVENT_MS.search(frame, 0, 200))
        ]
        return max(ahead, default=0)

    def place_at(self, at_s: float) -> int:
        """Return the first frame received `at_s` seconds after the first one, or later."""
        return bisect_left(self.recv_ns, self.recv_ns[0] + round(at_s * 1e9))

    def data(self, place: int) -> bytes:
        """Return the payload of a frame without its envelope, byte for byte."""
        frame, prefix = self.frames[place], self.prefixes[self.stream[place]]
        if frame.startswith(prefix):
            return frame[len(prefix) : -1]
        return bytes(wire.ENVELOPE.decode(frame).data)

    def find(self, name: str) -> int | None:
        """Return the recorded stream that serves a requested one: itself, or the same data at another speed."""
        if name in self.number:
            return None if name.startswith(REST) else self.number[name]
        for speeds in (_DEPTH, _MARK):
            if found := speeds.search(name):
                for other, place in self.number.items():
                    if speeds.search(other) and other.partition("@")[0] == name[: found.start()]:
                        return place
        return None

    def of(self, symbol: str, kind: str) -> list[int]:
        """Return the places of a symbol's frames of one stream, `depth` at whatever speed it was recorded."""
        number = self.number.get(REST + symbol) if kind == REST else self.find(f"{symbol.lower()}@{kind}")
        return [] if number is None else self.places[number]


def head(name: str) -> bytes:
    """Return how the combined envelope of a stream begins."""
    return b'{"stream":"' + name.encode() + b'","data":'


def load_tape(paths: Sequence[Path | str], venue: str | None = None, aggregates: bool = True) -> Tape:
    """Read captures of one venue and merge them by receive time; the order within a file stays.

    Where a capture holds raw trades but no aggregate ones, these are derived as the venue's rule says.
    """
    if not paths:
        raise BadInput("no capture was named; give one or more hftbacktest or cryptofeed capture files")
    found, numbers, names, frames, times, skipped = set(), {}, [], [], [], 0
    for path in paths:
        file = RecordedFile(path)
        found.add(probe_venue(file, venue))
        if len(found) > 1:
            raise BadInput(f"{file.path} is of another venue than the captures before it; simulate one venue at a time")
        before = len(times)
        for number, recv_ns, name, frame in _lines(file, next(iter(found))):
            if not name:
                skipped += 1
                if skipped > SKIP_LIMIT:
                    raise BadInput(
                        f"{file.path} line {number} is no frame, a depth body or a control answer; "
                        f"more than {SKIP_LIMIT} such lines, so this is no capture to replay"
                    )
                continue
            names.append(numbers.setdefault(name, len(numbers)))
            frames.append(frame)
            times.append(recv_ns)
        times[before:] = np.maximum.accumulate(np.array(times[before:], np.int64)).tolist()
    if not any(not name.startswith(REST) for name in numbers):
        raise BadInput(f"{', '.join(str(p) for p in paths)}: no line holds a frame of a stream")
    venue = found.pop()
    if aggregates:
        derive(venue, numbers, names, frames, times)
    order = np.argsort(np.array(times, np.int64), kind="stable").tolist()
    return Tape(
        venue, [times[i] for i in order], [names[i] for i in order], [frames[i] for i in order], list(numbers), skipped
    )


def _lines(file: RecordedFile, venue: str) -> Iterator[Line]:
    """Yield the stream and frame of every line; an empty stream is a line that is not understood."""
    form = sniff(file)
    if form not in (HFTBACKTEST, CRYPTOFEED):
        raise BadInput(
            f"{file.path} is a {form.name} file; the exchange replays raw frames, as hftbacktest and "
            "cryptofeed captures hold them"
        )
    symbol = capture_symbol(file, venue) if form is HFTBACKTEST else ""
    for number, line in file.lines():
        try:
            if form is HFTBACKTEST:
                stamp, _, frame = line.partition(b" ")
                recv_ns = int(stamp) * STAMP_UNIT_NS[len(stamp)]
                named = symbol
            elif line.startswith(b"configuration: ") or b" <-> " in line[:4096] and line.startswith((b"ws", b"http")):
                continue
            elif rest := _REST_LINE.match(line):
                recv_ns, frame, named = seconds_ns(rest[2]), line[rest.end() :], rest[1].decode().upper()
            else:
                stamp, _, frame = line.partition(b": ")
                recv_ns, named = seconds_ns(stamp), ""
            outer = wire.ENVELOPE.decode(frame)
        except (ValueError, KeyError, msgspec.DecodeError):
            yield number, 0, "", b""
            continue
        if outer.stream:
            yield number, recv_ns, outer.stream, frame
        elif outer.lastUpdateId is not None and named:
            yield number, recv_ns, REST + named, frame
        elif not (outer.result or outer.id or outer.error or outer.code is not None):
            yield number, 0, "", b""


def category(venue: str, name: str) -> str:
    """Return the USD-M path that serves a stream; spot has one path for all."""
    if venue == SPOT:
        return "public"
    kind = name.partition("@")[2].partition("@")[0]
    return (
        "public"
        if kind in ("bookTicker", "trade", "rpiDepth") or kind.startswith("depth") or name == "!bookTicker"
        else "market"
    )


VENUES = {"usdm": USDM, "spot": SPOT, USDM: USDM, SPOT: SPOT}
