"""The recorder: the only door into a session. Every frame, answer and marker gets its seq here, in the order it was read."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine import clock
from engine.errors import SourceFailed
from engine.record.frames import Marker, Request, rest_payload
from engine.record.journal import JournalWriter
from engine.record.segment import CONTROL, FRAME, REST, TIMER, Origin
from engine.record.watch import DEPTH, TRADES, Book, Hole, Stream, Watch
from engine.sources.binance import SNAPSHOT_LIMIT, Budget, Endpoint, Group, Rest, stream_groups

TIMER_NS = 100_000_000
SNAPSHOT_RETRY_S = 1.0
REFILL_ROWS = 1000
REFILL_MOST = 100_000          # ids; a longer hole is marked and left
WATCH_S = 1.0


@dataclass
class Options:
    """What is recorded, and how."""

    endpoint: Endpoint
    symbols: list[str]
    trades: str = "trade"      # trade | aggTrade
    seed: int = 1
    lifetime_s: float | None = None
    overlap_s: float | None = None
    duration_s: float | None = None
    ssl: object = None
    reach_s: float = 30.0      # no frame at all within this time of the start: give up
    refill: bool = True


@dataclass
class Counters:
    """What the recorder has done, for the screen."""

    frames: int = 0
    kept: int = 0
    duplicates: int = 0
    holes: int = 0
    refilled: int = 0
    snapshots: int = 0
    refused_snapshots: int = 0
    connections: int = 0
    failures: int = 0
    last_failure: str = ""
    slowest_take_ms: float = 0.0
    offset_ms: float | None = None
    stale: list[str] = field(default_factory=list)


class Recorder:
    """Runs the sockets of one venue into a journal until told to stop; `tap` sees each journaled frame after it has its seq."""

    def __init__(self, options: Options, journal: JournalWriter, tap: Callable | None = None):
        self.options, self.journal, self.tap = options, journal, tap
        self.counters = Counters()
        self.rest = Rest(options.endpoint)
        strict = options.endpoint.venue == "binance_usdm"
        names = stream_groups(options.endpoint.venue, options.symbols, options.trades)
        self.watch = Watch([name for group in names.values() for name in group], strict)
        budget = Budget()
        extra = {key: value for key, value in (("lifetime_s", options.lifetime_s), ("overlap_s", options.overlap_s)) if value is not None}
        self.groups = [Group(options.endpoint, name, streams, self._frame, self._event, budget, options.seed * 101 + n, ssl=options.ssl,
                             **extra) for n, (name, streams) in enumerate(names.items())]
        self.sources = {group.name: journal.source(Origin(f"{options.endpoint.venue} {group.name}".strip(), options.endpoint.venue, group.name, group.url))
                        for group in self.groups}
        self.rest_source = journal.source(Origin(f"{options.endpoint.venue} rest", options.endpoint.venue, "rest", options.endpoint.rest))
        self.began_s = clock.monotonic_s()
        self.instruments: dict[str, tuple[str, str]] = {}
        self._stop = asyncio.Event()
        self._work: set[asyncio.Task] = set()
        self._wanted = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to end cleanly."""
        self._stop.set()

    async def run(self) -> None:
        """Record until stopped, the duration is over, or something cannot be mended."""
        body, recv_ns, self.instruments = await self.rest.instruments(self.options.symbols)
        self._answer("exchangeInfo", {}, body, recv_ns, recv_ns)
        self.counters.offset_ms = await self.rest.clock_offset_ns() / 1e6
        tasks = [asyncio.create_task(group.run()) for group in self.groups]
        tasks += [asyncio.create_task(work) for work in (self._timers(), self._snapshots(), self._watchdog())]
        ending = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait({*tasks, ending}, timeout=self.options.duration_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ending}:
                task.result()
        finally:
            for task in (*tasks, ending, *self._work):
                task.cancel()
            await asyncio.gather(*tasks, ending, *self._work, return_exceptions=True)
            await self.rest.close()

    def status(self) -> dict:
        """Return what is going on, for the screen and for JSON lines; rates are over the whole recording."""
        now, counters, journal = clock.monotonic_s(), self.counters, self.journal
        span_s = max(1e-9, now - self.began_s)
        streams = {stream.name: {"frames": stream.frames, "per_s": round(stream.frames / span_s, 2), "duplicates": stream.duplicates,
                                 "holes": stream.holes, "age_s": round(now - stream.last_s, 3) if stream.last_s else None,
                                 "state": "silent" if stream.silent else "ok" if stream.frames else "waiting"}
                   for stream in self.watch.streams.values()}
        books = {book.symbol: "synced" if book.synced else "linked" if book.snapshot_id is not None else "waiting for a snapshot"
                 for book in self.watch.books.values()}
        return {"time_ns": clock.now_ns(), "seconds": round(span_s, 1), "frames": counters.frames, "kept": counters.kept,
                "duplicates": counters.duplicates, "holes": counters.holes, "refilled": counters.refilled, "snapshots": counters.snapshots,
                "connections": counters.connections, "failures": counters.failures, "last_failure": counters.last_failure,
                "slowest_take_ms": round(counters.slowest_take_ms, 2), "clock_offset_ms": counters.offset_ms,
                "malformed": self.watch.malformed, "unknown": self.watch.unknown, "last_seq": journal.last_seq,
                "not_synced": journal.last_seq - journal.synced_seq, "journal_bytes": journal.bytes, "books": books, "streams": streams}

    def _take(self, source: int, kind: int, payload: bytes, recv_ns: int) -> int:
        seq = self.journal.append(source, kind, payload, recv_ns)
        if self.tap:
            self.tap(seq, self.journal.last_recv_ns, source, kind, payload)
        return seq

    def _frame(self, group: Group, connection: int, frame: bytes, recv_ns: int) -> None:
        """Journal one socket frame, the holes it reveals before it; a frame another socket brought already is left out."""
        counters = self.counters
        counters.frames += 1
        began = clock.monotonic_s()
        stream, holes, keep = self.watch.judge(frame, began, len(group.alive) > 1)
        if stream is not None and stream.recovered:
            stream.recovered = False
            if stream.kind != DEPTH:           # a book needs a snapshot; its hole, if any, is found by the ids
                self._mark(Marker("resync", stream.symbol, stream.kind), recv_ns)
        for hole in holes:
            self._hole(hole, recv_ns)
        if keep:
            counters.kept += 1
            self._take(self.sources[group.name], FRAME, bytes(frame), recv_ns)
        else:
            counters.duplicates += 1
        if stream is None and b"serverShutdown" in frame[:200]:
            group.rotate()
        if stream is not None and stream.kind == DEPTH and self.watch.books[stream.symbol].wanted:
            self._wanted.set()
        counters.slowest_take_ms = max(counters.slowest_take_ms, (clock.monotonic_s() - began) * 1e3)

    def _hole(self, hole: Hole, recv_ns: int) -> None:
        self.counters.holes += 1
        self._mark(Marker("gap", hole.symbol, hole.table, hole.from_id, hole.to_id), recv_ns)
        if hole.table == TRADES and self.options.refill:
            self._spawn(self._refill(hole))

    def _mark(self, marker: Marker, recv_ns: int | None = None, group: str | None = None) -> None:
        source = self.rest_source if group is None else self.sources[group]
        self._take(source, CONTROL, msgspec.json.encode(marker), clock.now_ns() if recv_ns is None else recv_ns)

    def _event(self, group: Group, code: str, detail: str) -> None:
        """Write connected and lost for each stream of a socket; lost only when no other socket of the group still delivers."""
        if code == "failed":
            self.counters.failures += 1
            self.counters.last_failure = f"{group.name or 'socket'}: {detail}"
            return
        if code == "connected":
            self.counters.connections += 1
        if len(group.alive) > (1 if code == "connected" else 0):
            return
        for name in group.streams:
            stream = self.watch.streams[name]
            stream.last_s = clock.monotonic_s()
            if stream.kind == "other":
                continue
            self._mark(Marker(code, stream.symbol, stream.kind, detail=detail), group=group.name)
            if stream.kind == DEPTH and code == "lost":
                self.watch.books[stream.symbol].restart()

    def _answer(self, path: str, params: dict, body: bytes, asked_ns: int, recv_ns: int, **ids) -> None:
        request = Request(self.rest.address(path, params), asked_ns, 200, **ids)
        self._take(self.rest_source, REST, rest_payload(request, body), recv_ns)

    def _spawn(self, work) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _timers(self) -> None:
        """Journal a timer row at every 100 ms of wall time."""
        while True:
            now = clock.now_ns()
            due = (now // TIMER_NS + 1) * TIMER_NS
            await asyncio.sleep((due - now) / 1e9)
            self._take(self.rest_source, TIMER, b"", max(due, clock.now_ns()))

    async def _snapshots(self) -> None:
        """Fetch a depth snapshot for every book that wants one, until it links; a hole makes it want one again."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for book in self.watch.books.values():
                if book.wanted and book.diffs:
                    await self._snapshot(book)
            if any(book.wanted and book.diffs for book in self.watch.books.values()):
                await asyncio.sleep(SNAPSHOT_RETRY_S)
                self._wanted.set()

    async def _snapshot(self, book: Book) -> None:
        params = {"symbol": book.symbol, "limit": SNAPSHOT_LIMIT[self.options.endpoint.venue]}
        try:
            body, asked_ns, recv_ns = await self.rest.get("depth", **params)
            number = msgspec.json.decode(body)["lastUpdateId"]
        except (SourceFailed, msgspec.DecodeError, KeyError) as error:
            self.counters.failures += 1
            self.counters.last_failure = str(error)
            return
        self._answer("depth", params, body, asked_ns, clock.now_ns())
        if book.judge(number):
            self.counters.snapshots += 1
            self._mark(Marker("resync", book.symbol, DEPTH, None, number))
        else:
            self.counters.refused_snapshots += 1

    async def _refill(self, hole: Hole) -> None:
        """Fetch the trades of a hole by id where the venue gives them without a key; they are journaled as refilled."""
        if self.options.trades == "aggTrade":
            path = "aggTrades"
        elif self.options.endpoint.venue == "binance_spot":
            path = "historicalTrades"
        else:
            return
        at = hole.from_id + 1
        while at < hole.to_id and hole.to_id - hole.from_id <= REFILL_MOST:
            params = {"symbol": hole.symbol, "fromId": at, "limit": REFILL_ROWS}
            try:
                body, asked_ns, _ = await self.rest.get(path, **params)
                rows = msgspec.json.decode(body)
            except (SourceFailed, msgspec.DecodeError) as error:
                self.counters.last_failure = str(error)
                return
            last = min(hole.to_id - 1, at + REFILL_ROWS - 1)
            self._answer(path, params, body, asked_ns, clock.now_ns(), from_id=at, to_id=last)
            self.counters.refilled += min(len(rows), last - at + 1)
            at = last + 1

    async def _watchdog(self) -> None:
        """Mark streams that went silent while others flow, and replace their socket: an accepted subscription may deliver nothing."""
        began = clock.monotonic_s()
        while True:
            await asyncio.sleep(WATCH_S)
            now = clock.monotonic_s()
            if not self.counters.frames and now - began > self.options.reach_s:
                raise SourceFailed(f"{self.options.endpoint.venue} sent nothing within {self.options.reach_s:.0f} s of the start "
                                   f"({self.counters.last_failure or 'connected, but silent'}); check network, name server and path")
            for stream in self.watch.silent(now):
                self._stale(stream)

    def _stale(self, stream: Stream) -> None:
        self.counters.stale.append(stream.name)
        self._mark(Marker("stale", stream.symbol, stream.kind, detail=f"{stream.name} is silent while other streams flow"))
        for group in self.groups:
            if stream.name in group.streams:
                group.rotate()


def open_journal(data: Path, name: str, **options) -> JournalWriter:
    """Start the journal of a new recording under a data root."""
    from engine.record.journal import recording_folder
    return JournalWriter(recording_folder(data, name), name, **options)
