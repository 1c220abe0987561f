"""What is known of each stream while it is recorded: duplicates, holes in ids, silence, and whether a book can be linked."""

from collections import deque
from dataclasses import dataclass, field

import msgspec

TRADES, DEPTH, BEST, OTHER = "trades", "depth", "best", "other"
SILENT_S = {TRADES: 60.0, DEPTH: 10.0, BEST: 30.0, OTHER: 30.0}
BUFFERED = 4096                # diffs remembered for judging a snapshot


class TradeId(msgspec.Struct, gc=False):
    """The id of a trade frame: `t` of a raw trade."""

    t: int


class AggregateId(msgspec.Struct, gc=False):
    """The id of an aggTrade frame."""

    a: int


class DepthIds(msgspec.Struct, gc=False):
    """First and last update id of a diff, and on USD-M the last of the diff before."""

    U: int
    u: int
    pu: int | None = None


class BestId(msgspec.Struct, gc=False):
    """The update id of a best quote."""

    u: int


class Envelope(msgspec.Struct, gc=False):
    """A combined-stream frame, its payload left as it is."""

    stream: str
    data: msgspec.Raw


@dataclass
class Hole:
    """Ids that never came."""

    table: str
    symbol: str
    from_id: int
    to_id: int


@dataclass
class Stream:
    """One stream: what it has delivered."""

    name: str
    kind: str
    symbol: str
    frames: int = 0
    duplicates: int = 0
    holes: int = 0
    last_id: int | None = None
    last_s: float = 0.0        # monotonic
    lag_ms: float | None = None
    silent: bool = False
    recovered: bool = False    # heard again after silence, not yet marked


@dataclass
class Book:
    """Whether one symbol's book can be rebuilt from what is recorded."""

    symbol: str
    strict: bool               # USD-M: pu must equal the last u; spot: U may not pass u + 1
    synced: bool = False
    wanted: bool = True        # a snapshot is to be fetched
    snapshot_id: int | None = None
    diffs: deque = field(default_factory=lambda: deque(maxlen=BUFFERED))   # (id before, last id) since the chain began

    def follow(self, before: int, last: int) -> bool:
        """Take one diff of the chain; return False when the snapshot proves to be too old for it."""
        self.diffs.append((before, last))
        if self.snapshot_id is not None and not self.synced and last > self.snapshot_id:
            if before > self.snapshot_id:
                self.snapshot_id, self.wanted = None, True
                return False
            self.synced = True
        return True

    def restart(self) -> None:
        """Forget the chain: a diff is missing."""
        self.synced, self.wanted, self.snapshot_id = False, True, None
        self.diffs.clear()

    def judge(self, snapshot_id: int) -> bool:
        """Take a snapshot's id; return False when diffs between it and the first one recorded are missing.

        Spot steps 2 to 4 and USD-M steps 3 and 4: the first diff kept must begin at or before the snapshot.
        """
        later = [before for before, last in self.diffs if last > snapshot_id]
        if later and later[0] > snapshot_id:
            return False
        self.snapshot_id, self.wanted = snapshot_id, False
        self.synced = bool(later)
        return True


class Watch:
    """Judges every frame at the mouth of the recorder, before it is journaled."""

    def __init__(self, streams: list[str], strict: bool):
        self.streams = {name: Stream(name, kind_of(name), name.partition("@")[0].upper()) for name in streams}
        self.books = {stream.symbol: Book(stream.symbol, strict) for stream in self.streams.values() if stream.kind == DEPTH}
        self.strict = strict
        self.unknown = 0
        self.malformed = 0
        self._envelope = msgspec.json.Decoder(Envelope)
        self._headers = {name: msgspec.json.Decoder(_header_of(name)) for name in self.streams if _header_of(name)}

    def judge(self, frame: bytes, now_s: float, overlapping: bool) -> tuple[Stream | None, list[Hole], bool]:
        """Return the stream, the holes this frame reveals, and whether it is to be kept; frames that cannot be read are kept and counted."""
        try:
            envelope = self._envelope.decode(frame)
            stream = self.streams.get(envelope.stream)
            if stream is None:
                self.unknown += 1
                return None, [], True
            decoder = self._headers.get(envelope.stream)
            header = decoder.decode(envelope.data) if decoder else None
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            self.malformed += 1
            return None, [], True
        stream.last_s = now_s
        stream.recovered = stream.recovered or stream.silent
        stream.silent = False
        holes, keep = self._follow(stream, header, overlapping)
        if keep:
            stream.frames += 1
        else:
            stream.duplicates += 1
        return stream, holes, keep

    def _follow(self, stream: Stream, header, overlapping: bool) -> tuple[list[Hole], bool]:
        """Hold a frame's ids against the last ones of its stream."""
        if stream.kind == BEST:
            keep = not (overlapping and stream.last_id is not None and header.u <= stream.last_id)
            stream.last_id = header.u if keep else stream.last_id
            return [], keep
        if header is None:
            return [], True
        if stream.kind == DEPTH:
            before, last = (header.pu if self.strict and header.pu is not None else header.U - 1), header.u
        else:
            last = header.t if isinstance(header, TradeId) else header.a
            before = last - 1
        if stream.last_id is not None and last <= stream.last_id:
            return [], False
        exact = stream.kind == TRADES or self.strict
        holes = []
        if stream.last_id is not None and (before != stream.last_id if exact else before > stream.last_id):
            holes.append(Hole(stream.kind, stream.symbol, stream.last_id, last))
            stream.holes += 1
        if stream.kind == DEPTH:
            book = self.books[stream.symbol]
            if holes:
                book.restart()
            book.follow(before, last)
        stream.last_id = last
        return holes, True

    def silent(self, now_s: float) -> list[Stream]:
        """Return the streams that went silent, each once, although some other stream of theirs is heard."""
        heard = max((stream.last_s for stream in self.streams.values()), default=0.0)
        found = []
        for stream in self.streams.values():
            if stream.kind != OTHER and not stream.silent and heard > 0 and now_s - stream.last_s > SILENT_S[stream.kind] and now_s - heard < 5.0:
                stream.silent = True
                found.append(stream)
        return found


def kind_of(stream: str) -> str:
    """Return what a stream carries, by its name."""
    kind = stream.partition("@")[2]
    if kind in ("trade", "aggTrade"):
        return TRADES
    if kind.startswith("depth") and not kind[5:6].isdigit():
        return DEPTH
    return BEST if kind == "bookTicker" else OTHER


def _header_of(stream: str) -> type | None:
    """Return the fields that prove a stream's continuity, None where it has none."""
    kind = kind_of(stream)
    if kind == TRADES:
        return AggregateId if stream.endswith("aggTrade") else TradeId
    return {DEPTH: DepthIds, BEST: BestId}.get(kind)
