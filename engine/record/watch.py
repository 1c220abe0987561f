"""What is known of each stream while it is recorded: duplicates, holes, silence, and whether a book can be linked."""

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from engine.record.wire import Id

TRADES, DEPTH, BEST, MARKS, OTHER = "trades", "depth", "best", "marks", "other"
# how long a stream may be silent; of one that is slow by nature, SLOWNESS times its mean interval where that is longer
SILENT_S = {TRADES: 60.0, DEPTH: 10.0, BEST: 30.0, MARKS: 10.0}
SLOWNESS = 30.0
LONGEST_S = 300.0              # interval that is learnt from; a longer one is an outage
LONGEST_RETRY_S = 600.0
HELD_S = 0.25                  # a frame that is ahead of the older socket waits for it no longer
HELD = 4096                    # such frames a stream
BUFFERED = 4096                # diffs remembered for judging a snapshot
MISSING_RANGES = 256           # a stream, of which a late frame is still taken
BEHIND_S = 2.0                 # how long the least that a stream was behind stands for it
BACKWARD = 200                 # frames in a row behind the last id: the venue has begun its ids anew
KEEP, DROP, HOLD = range(3)
_NAMED = re.compile(rb'"stream"\s*:\s*"([^"]{1,200})"')
_HEAD = b'{"stream":"'

PushMs = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]        # a longer number cannot be reckoned with


class TradeId(msgspec.Struct, gc=False):
    """The id of a trade frame: `t` of a raw trade."""

    t: Id
    E: PushMs | None = None


class AggregateId(msgspec.Struct, gc=False):
    """The id of an aggTrade frame."""

    a: Id
    E: PushMs | None = None


class DepthIds(msgspec.Struct, gc=False):
    """First and last update id of a diff, and on USD-M the last of the diff before."""

    U: Id
    u: Id
    pu: Id | None = None
    E: PushMs | None = None


class BestId(msgspec.Struct, gc=False):
    """The update id of a best quote."""

    u: Id
    E: PushMs | None = None


class PushTime(msgspec.Struct, gc=False):
    """When the venue pushed a frame that has no id."""

    E: PushMs | None = None


@dataclass
class Hole:
    """Ids that never came: those after `from_id` and before `to_id`."""

    table: str
    symbol: str
    from_id: int
    to_id: int
    stream: str = ""
    detail: str = ""
    tries: int = 0             # to fetch what is missing


@dataclass(slots=True)
class Stream:
    """One stream: what it has delivered."""

    name: str
    kind: str
    symbol: str
    limit_s: float | None = None
    frames: int = 0
    duplicates: int = 0
    late: int = 0              # came after a frame that should follow it
    holes: int = 0
    stale: int = 0             # times found silent
    last_id: int | None = None
    last_s: float = 0.0        # monotonic
    mean_s: float = 0.0        # between frames
    silent: bool = False
    heard: bool = False        # since it connected
    behind_ms: float = math.nan        # monotonic arrival less the venue's push time, the least of BEHIND_S; no absolute value
    behind_s: float = 0.0      # monotonic, of that frame
    recovered: bool = False    # heard again after silence, not yet marked
    retry_s: float = 0.0       # when a silent one gets a new socket again
    backward: int = 0
    seen: set[int] | None = None       # ids since two sockets deliver, until the younger one is past them
    seen_from: int | None = None
    held: deque = field(default_factory=deque)         # frames of the younger socket: id before, id, when, frame
    missing: deque = field(default_factory=lambda: deque(maxlen=MISSING_RANGES))   # (id before, last id) of holes

    def take_late(self, before: int, last: int) -> bool:
        """Take ids out of what is missing; return False when they are not missing."""
        for at, (low, high) in enumerate(self.missing):
            if low <= before and last <= high:
                del self.missing[at]
                self.missing += [piece for piece in ((low, before), (last, high)) if piece[0] < piece[1]]
                return True
        return False


@dataclass
class Book:
    """Whether one symbol's book can be rebuilt from what is recorded."""

    symbol: str
    synced: bool = False
    wanted: bool = True        # a snapshot is to be fetched
    snapshot_id: int | None = None
    tries: int = 0             # since a snapshot was last accepted
    next_s: float = 0.0        # not fetched before
    refresh_s: float = 0.0     # fetched again then, so that the depth covered follows the price
    diffs: deque = field(default_factory=lambda: deque(maxlen=BUFFERED))   # (id before, last id) since the chain began

    @property
    def due_s(self) -> float:
        """When the next snapshot is to be fetched."""
        return self.next_s if self.wanted else self.refresh_s

    def follow(self, before: int, last: int) -> None:
        """Take one diff of the chain; where the snapshot proves to be too old for it, another is wanted."""
        self.diffs.append((before, last))
        if self.snapshot_id is not None and not self.synced and last > self.snapshot_id:
            self.synced = before <= self.snapshot_id
            if not self.synced:
                self.snapshot_id, self.wanted = None, True

    def restart(self) -> None:
        """Forget the chain: a diff is missing, or who reads the recording has to think so."""
        self.synced, self.wanted, self.snapshot_id = False, True, None
        self.diffs.clear()

    def judge(self, snapshot_id: int) -> bool:
        """Take a snapshot's id; return False when diffs between it and the first one recorded are missing.

        Spot steps 2 to 4 and USD-M steps 3 and 4: the first diff kept must begin at or before the snapshot.
        """
        later = [before for before, last in self.diffs if last > snapshot_id]
        if not self.diffs or (later and later[0] > snapshot_id):
            return False
        self.snapshot_id, self.wanted, self.tries = snapshot_id, False, 0
        self.synced = self.synced or bool(later)
        return True


class Watch:
    """Judges every frame at the mouth of the recorder, before it is journaled."""

    def __init__(self, streams: Iterable[str], strict: bool, silent_s: dict[str, float] | None = None):
        limits = SILENT_S | (silent_s or {})
        self.streams = {name: Stream(name, kind_of(name), name.partition("@")[0].upper()) for name in streams}
        for stream in self.streams.values():
            stream.limit_s = limits.get(stream.kind)
        self.books = {stream.symbol: Book(stream.symbol) for stream in self.streams.values() if stream.kind is DEPTH}
        self.offset_ms: float | None = None        # venue clock less ours, when measured
        self.strict = strict       # USD-M: pu must equal the last u; spot: U may not pass u + 1
        self.unknown = self.malformed = self.holding = 0
        self._known = {name.encode(): (self.streams[name], _decoder(name)) for name in self.streams}

    def judge(self, frame: bytes, now_s: float, newest: bool | None = None) -> tuple[Stream | None, list[Hole], int]:
        """Return the stream, the holes this frame reveals, and what is to be done with it; an unreadable frame is kept.

        `newest` tells, while two sockets deliver, whether the younger one brought it; None while there is one.
        """
        name = frame[11:max(11, frame.find(b'"', 11))] if frame.startswith(_HEAD) else _stream_of(frame)
        found = self._known.get(name)
        if found is None:
            if name:
                self.unknown += 1
                return None, (), KEEP
            return self._unreadable(None)
        stream, decoder = found
        try:
            ids = decoder.decode(frame).data
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._unreadable(stream)
        if stream.frames:
            stream.mean_s += (min(now_s - stream.last_s, LONGEST_S) - stream.mean_s) / 64
        stream.last_s, stream.heard = now_s, True
        if stream.silent:
            stream.silent, stream.recovered = False, True
        kind = stream.kind
        if kind is TRADES:
            last = ids.t if type(ids) is TradeId else ids.a
            holes, what = self._chain(stream, last - 1, last, frame, now_s, newest)
        elif kind is DEPTH:
            before = ids.pu if self.strict and ids.pu is not None else ids.U - 1
            holes, what = self._chain(stream, before, ids.u, frame, now_s, newest)
        else:
            holes, what = (), _loose(stream, ids.u if kind is BEST else ids.E, newest)
        if what == DROP:
            stream.duplicates += 1
            return stream, holes, what
        if what == KEEP:
            stream.frames += 1
        sent_ms = ids.E
        if sent_ms is not None:
            behind_ms = now_s * 1e3 - sent_ms
            if not behind_ms > stream.behind_ms or now_s - stream.behind_s > BEHIND_S:
                stream.behind_ms, stream.behind_s = behind_ms, now_s
        return stream, holes, what

    def _unreadable(self, stream: Stream | None) -> tuple[Stream | None, list[Hole], int]:
        """Count a frame that is kept as it is; who reads the recording loses the books it may have been of."""
        self.malformed += 1
        for book in self.books.values():
            if stream is None or (stream.kind is DEPTH and stream.symbol == book.symbol):
                book.restart()
        return stream, (), KEEP

    def _chain(self, stream: Stream, before: int, last: int, frame: bytes, now_s: float,
               newest: bool | None) -> tuple[list[Hole], int]:
        """Hold the ids of a stream that leaves none out against its last one."""
        if stream.last_id is not None:
            if last <= stream.last_id:
                if stream.take_late(before, last):
                    stream.late += 1
                    return (), KEEP
                stream.backward += newest is None
                if stream.backward < BACKWARD:
                    return (), DROP
                stream.missing.clear()
                return self._take(stream, before, last, "the venue began its ids anew"), KEEP
            if newest and before > stream.last_id and len(stream.held) < HELD:
                stream.held.append((before, last, now_s, frame))
                self.holding += 1
                return (), HOLD
        return self._take(stream, before, last), KEEP

    def _take(self, stream: Stream, before: int, last: int, anew: str = "") -> list[Hole]:
        """Put a frame at the end of its stream; return the hole before it."""
        holes, at = (), stream.last_id
        exact = stream.kind is TRADES or self.strict
        if at is not None and (before != at if exact else before > at or anew):
            holes = [Hole(stream.kind, stream.symbol, at, last, stream.name, anew)]
            stream.holes += 1
            if at < before:
                stream.missing.append((at, before))
        if stream.kind is DEPTH:
            book = self.books[stream.symbol]
            if holes:
                book.restart()
            book.follow(before, last)
        stream.last_id, stream.backward = last, 0
        return holes

    def released(self, stream: Stream, now_s: float, all_of_them: bool = False) -> Iterator[tuple[bytes, list[Hole]]]:
        """Yield the frames held back that can be journaled now, with the hole before each; doubles are dropped."""
        while stream.held:
            before, last, since_s, frame = stream.held[0]
            due = all_of_them or now_s - since_s > HELD_S or stream.last_id is None
            if not due and before > stream.last_id:
                return
            stream.held.popleft()
            self.holding -= 1
            if stream.last_id is not None and last <= stream.last_id and not stream.take_late(before, last):
                stream.duplicates += 1
                continue
            stream.frames += 1
            late = stream.last_id is not None and last <= stream.last_id
            stream.late += late
            yield frame, () if late else self._take(stream, before, last)

    def overlap(self, names: Iterable[str], begins: bool) -> None:
        """Two sockets deliver these streams from now on, or one does again, which may still bring what both had."""
        for name in names:
            stream = self.streams[name]
            if begins:
                stream.seen, stream.seen_from = set(), stream.last_id
            elif not stream.seen:
                stream.seen = None

    def connection(self, stream: Stream, now_s: float) -> None:
        """Begin to wait for a stream whose socket was opened; at 0 nobody waits, the socket is lost."""
        stream.last_s, stream.silent, stream.recovered = now_s, False, False
        stream.heard, stream.behind_ms = False, math.nan

    def silent(self, now_s: float) -> list[tuple[Stream, bool]]:
        """Return the streams silent too long and whether that is news; again when another socket is to be tried."""
        found = []
        for stream in self.streams.values():
            if stream.limit_s is None or not stream.last_s:
                continue
            limit_s = max(stream.limit_s, SLOWNESS * stream.mean_s)
            if not stream.silent:
                stream.retry_s = stream.last_s + limit_s
            if now_s < stream.retry_s:
                continue
            stream.retry_s = now_s + min(LONGEST_RETRY_S, 2 * max(limit_s, now_s - stream.last_s))
            found.append((stream, not stream.silent))
            if not stream.silent:
                stream.silent = True
                stream.stale += 1
                if stream.kind is DEPTH:
                    self.books[stream.symbol].restart()
        return found


def kind_of(stream: str) -> str:
    """Return what a stream carries, by its name."""
    kind = stream.partition("@")[2]
    if kind in ("trade", "aggTrade"):
        return TRADES
    if kind.startswith("depth") and not kind[5:6].isdigit():
        return DEPTH
    return BEST if kind == "bookTicker" else MARKS if kind.startswith("markPrice") else OTHER


def _decoder(stream: str) -> msgspec.json.Decoder:
    """Return what reads the fields of a whole frame that prove a stream's continuity."""
    kind = kind_of(stream)
    trades = AggregateId if stream.endswith("aggTrade") else TradeId
    header = {TRADES: trades, DEPTH: DepthIds, BEST: BestId}.get(kind, PushTime)
    return msgspec.json.Decoder(msgspec.defstruct("Framed", [("data", header)], gc=False))


def _stream_of(frame: bytes) -> bytes:
    """Return the name of a frame's stream wherever it stands, empty where there is none."""
    found = _NAMED.search(frame[:400]) or _NAMED.search(frame[-400:])
    return found[1] if found else b""


def _loose(stream: Stream, number: int | None, newest: bool | None) -> int:
    """Judge a frame of a stream whose ids prove nothing of those before: a double has the id of the last one, or of one
    that the other socket brought.
    """
    if number is None:
        return KEEP
    if stream.seen is not None:
        before = newest is not False and stream.seen_from is not None and number <= stream.seen_from
        if before or number in stream.seen:
            stream.backward += newest is None
            if stream.backward < BACKWARD:
                return DROP
            stream.seen, stream.last_id = None, None
        elif newest is not None:
            stream.seen.add(number)
        elif number > stream.last_id:      # the younger one has come past all that the older one brought
            stream.seen = None
    if number == stream.last_id and stream.kind is not OTHER:
        return DROP
    stream.last_id, stream.backward = number if stream.last_id is None else max(number, stream.last_id), 0
    return KEEP
