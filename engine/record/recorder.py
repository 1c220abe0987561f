"""The recorder: the only door into a session. Every frame, answer and marker gets its seq here, as it is read."""

import asyncio
import contextlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine import clock
from engine.errors import SourceFailed, TapeguardError
from engine.instruments import Instrument
from engine.record.frames import Marker, Request, rest_payload
from engine.record.journal import JournalWriter, recording_folder
from engine.record.segment import CONTROL, FRAME, INSTRUMENTS, REST, TIMER, Origin
from engine.record.status import Counters, status_of
from engine.record.watch import DEPTH, DROP, HOLD, KEEP, MARKS, OTHER, TRADES, Book, Hole, Stream, Watch
from engine.sources.binance import LIFETIME_S, OVERLAP_S, SNAPSHOT_LIMIT, Budget, Endpoint, Group, Rest, stream_groups

TIMER_NS = 100_000_000
SNAPSHOT_RETRY_S = (1.0, 2.0, 5.0, 10.0)
REFRESH_S = 300.0              # a snapshot holds so many levels only, and the price moves
REFILL_ROWS = 1000
REFILL_MOST = 100_000          # ids; a longer hole is marked and left
REFILL_WAITING = 256           # holes
REFILL_AGAIN_S = (1.0, 5.0, 30.0)      # the network is just back, or REST behind the socket
WATCH_S = 1.0
REACH_S = 30.0
CLOCK_S = 600.0                # between two looks at the venue's clock


@dataclass
class Options:
    """What is recorded, and how."""

    endpoint: Endpoint
    symbols: list[str]
    trades: str = "trade"      # trade | aggTrade
    seed: int = 1
    lifetime_s: float = LIFETIME_S
    overlap_s: float = OVERLAP_S
    duration_s: float | None = None
    ssl: object = None
    reach_s: float | None = None       # no frame at all within this time of the start: give up
    refill: bool = True
    refresh_s: float = REFRESH_S
    silent_s: dict[str, float] | None = None       # by kind of stream; the usual limits where not given
    watch_s: float = WATCH_S
    given: tuple[Instrument, ...] = ()             # broker symbols that other threads bring, for the live loop


class Recorder:
    """Runs the sockets of one venue into a journal until told to stop; `tap` sees each frame after it has its seq."""

    def __init__(self, options: Options, journal: JournalWriter, tap: Callable | None = None):
        self.options, self.journal, self.tap = options, journal, tap
        self.counters = Counters()
        venue = options.endpoint.venue
        self.rest = Rest(options.endpoint)
        names = stream_groups(venue, options.symbols, options.trades)
        every = [name for group in names.values() for name in group]
        self.watch = Watch(every, venue == "binance_usdm", options.silent_s)
        budget = Budget()
        self.groups = [Group(options.endpoint, name, streams, self._frame, self._event, budget, options.seed * 101 + n,
                             options.lifetime_s, options.overlap_s, options.ssl)
                       for n, (name, streams) in enumerate(names.items())]
        origins = [Origin(f"{venue} {group.name}".strip(), venue, group.name, group.url) for group in self.groups]
        self.sources = {origin.group: journal.source(origin) for origin in origins}
        self.rest_source = journal.source(Origin(f"{venue} rest", venue, "rest", options.endpoint.rest))
        self.began_s = clock.monotonic_s()
        self._put_back_s = clock.put_back_s()
        self.instruments: dict[str, tuple[str, str]] = {}
        self.jitter = random.Random(options.seed)
        self._failure: TapeguardError | None = None
        self.started = asyncio.Event()     # the step sizes are known and journaled
        self._stop = asyncio.Event()
        self._wanted = asyncio.Event()
        self._holes: asyncio.Queue[Hole] = asyncio.Queue(REFILL_WAITING)

    def stop(self) -> None:
        """Ask `run` to end cleanly."""
        self._stop.set()

    async def run(self) -> None:
        """Record until stopped, the duration is over, or something cannot be mended."""
        tasks = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._open())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._failure:
                raise self._failure
            if self._stop.is_set():
                return
            tasks.pop().result()
            work = [group.run() for group in self.groups]
            work += [self._timers(), self._snapshots(), self._refills(), self._watchdog(), self._clock()]
            tasks += [asyncio.create_task(each) for each in work]
            done, _ = await asyncio.wait(tasks, timeout=self.options.duration_s, return_when=asyncio.FIRST_COMPLETED)
            if self._failure:
                raise self._failure
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.rest.close()

    async def _open(self) -> None:
        """Ask the venue what has to be known before anything else."""
        body, recv_ns, self.instruments = await self.rest.instruments(self.options.symbols)
        self._answer("exchangeInfo", {}, body, recv_ns, recv_ns)
        # the steps a live loop counts in, and so will its replay
        self.take(self.rest_source, INSTRUMENTS, json.dumps([i.as_dict() for i in self._instruments()]).encode())
        self.started.set()
        await self._measure_clock()

    def _instruments(self) -> list[Instrument]:
        venue = self.options.endpoint.venue
        return [Instrument(symbol, venue, *steps, *(len(step.partition(".")[2]) for step in steps), "venue")
                for symbol, steps in self.instruments.items()] + list(self.options.given)

    def take(self, source: int, kind: int, payload: bytes) -> None:
        """Journal a frame that came by another way than a socket; a journal that fails ends the recording."""
        if self._failure:
            return
        try:
            self._take(source, kind, payload, clock.now_ns())
        except TapeguardError as error:
            self._fail(error)

    def status(self) -> dict:
        """Return what is going on, for the screen and for JSON lines."""
        return status_of(self)

    def _take(self, source: int, kind: int, payload: bytes, recv_ns: int) -> None:
        seq = self.journal.append(source, kind, payload, recv_ns)
        if self.tap:
            self.tap(seq, self.journal.last_recv_ns, source, kind, payload)

    def _frame(self, group: Group, number: int, frame: bytes, recv_ns: int) -> None:
        """Journal one socket frame; a journal that fails ends the recording: nothing can be raised in a socket."""
        if self._failure:
            return
        began_s = clock.monotonic_s()
        self.counters.frames += 1
        try:
            self._judge(group, number, frame, recv_ns, began_s)
        except TapeguardError as error:
            self._fail(error)
        took_ms = (clock.monotonic_s() - began_s) * 1e3
        if took_ms > self.counters.slowest_take_ms:
            self.counters.slowest_take_ms = took_ms

    def _judge(self, group: Group, number: int, frame: bytes, recv_ns: int, now_s: float) -> None:
        """Journal one socket frame, the holes it reveals before it; what another socket brought already is left out."""
        newest = number == max(group.alive) if len(group.alive) > 1 else None
        stream, holes, what = self.watch.judge(frame, now_s, newest)
        if stream is not None and stream.recovered:
            self._recovered(stream, recv_ns)
        for hole in holes:
            self._hole(hole, recv_ns)
        if what == KEEP:
            self.counters.kept += 1
            self._take(self.sources[group.name], FRAME, frame, recv_ns)
        elif what == DROP:
            self.counters.duplicates += 1
        if stream is None:
            if b"serverShutdown" in frame[:200]:
                group.rotate()
            return
        if stream.held and what != HOLD:
            self._release(group, stream, recv_ns)
        if stream.kind is DEPTH and self.watch.books[stream.symbol].wanted:
            self._wanted.set()

    def _release(self, group: Group, stream: Stream, recv_ns: int, all_of_them: bool = False) -> None:
        """Journal the frames of a younger socket that waited for the older one to come so far."""
        before = stream.duplicates
        for frame, holes in self.watch.released(stream, clock.monotonic_s(), all_of_them):
            for hole in holes:
                self._hole(hole, recv_ns)
            self.counters.kept += 1
            self._take(self.sources[group.name], FRAME, frame, recv_ns)
        self.counters.duplicates += stream.duplicates - before

    def _recovered(self, stream: Stream, recv_ns: int) -> None:
        stream.recovered = False
        if stream.kind not in (DEPTH, MARKS, OTHER):       # a book needs a snapshot first
            self._mark(Marker("resync", stream.symbol, stream.kind), recv_ns)

    def _fail(self, error: TapeguardError) -> None:
        """End the recording with an error."""
        self._failure = self._failure or error
        self._stop.set()

    def _hole(self, hole: Hole, recv_ns: int) -> None:
        self.counters.holes += 1
        self._mark(Marker("gap", hole.symbol, hole.table, hole.from_id, hole.to_id, hole.detail), recv_ns)
        if hole.table == TRADES and self.options.refill and self._refill_path():
            self._to_refill(hole)

    def _to_refill(self, hole: Hole) -> None:
        try:
            self._holes.put_nowait(hole)
        except asyncio.QueueFull:
            self.counters.not_refilled += 1

    def _mark(self, marker: Marker, recv_ns: int | None = None, group: str | None = None) -> None:
        source = self.rest_source if group is None else self.sources[group]
        self._take(source, CONTROL, msgspec.json.encode(marker), clock.now_ns() if recv_ns is None else recv_ns)

    def _event(self, group: Group, code: str, detail: str) -> None:
        """Count what happens to sockets; a journal that fails ends the recording."""
        counters = self.counters
        counters.connections += code == "connected"
        counters.losses += code == "lost"
        if code == "failed":
            counters.failures += 1
            counters.last_failure = f"{group.name or 'socket'}: {detail}"
            return
        try:
            self._turned(group, code, detail)
        except TapeguardError as error:
            self._fail(error)

    def _turned(self, group: Group, code: str, detail: str) -> None:
        """Write connected and lost for each stream of a socket; neither while another socket of the group delivers."""
        # what a younger socket brought still waits for the older one when the younger one is lost
        if code == "lost" and (not group.alive or group.connections in group.alive):
            for name in group.streams:
                self._release(group, self.watch.streams[name], clock.now_ns(), all_of_them=True)
        self.watch.overlap(group.streams, len(group.alive) > 1)
        if len(group.alive) > (code == "connected"):
            return
        for name in group.streams:
            stream = self.watch.streams[name]
            self.watch.connection(stream, clock.monotonic_s() if code == "connected" else 0.0)
            if stream.kind in (MARKS, OTHER):
                continue
            self._mark(Marker(code, stream.symbol, stream.kind, detail=detail), group=group.name)
            if stream.kind is DEPTH and code == "lost":
                self.watch.books[stream.symbol].restart()

    def _answer(self, path: str, params: dict, body: bytes, asked_ns: int, recv_ns: int, **ids) -> None:
        request = Request(self.rest.address(path, params), asked_ns, 200, **ids)
        self._take(self.rest_source, REST, rest_payload(request, body), recv_ns)

    async def _timers(self) -> None:
        """Journal a timer row at every 100 ms of wall time, and frames that have waited long enough."""
        while True:
            now_ns = clock.now_ns()
            due_ns = (now_ns // TIMER_NS + 1) * TIMER_NS
            await asyncio.sleep((due_ns - now_ns) / 1e9)
            self._take(self.rest_source, TIMER, b"", max(due_ns, clock.now_ns()))
            if self.watch.holding:
                for group in self.groups:
                    for name in group.streams:
                        self._release(group, self.watch.streams[name], clock.now_ns())

    async def _snapshots(self) -> None:
        """Fetch a depth snapshot for every book that wants one, until it links, and now and then for the others."""
        while True:
            now_s = clock.monotonic_s()
            waiting = [book for book in self.watch.books.values() if book.diffs or not book.wanted]
            for book in waiting:
                if now_s >= book.due_s:
                    await self._snapshot(book)
            due_s = min((book.due_s for book in waiting), default=math.inf) - clock.monotonic_s()
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, max(0.0, due_s))):
                    await self._wanted.wait()

    async def _snapshot(self, book: Book) -> None:
        params = {"symbol": book.symbol, "limit": SNAPSHOT_LIMIT[self.options.endpoint.venue]}
        wanted = book.wanted
        book.tries += 1
        pause_s = SNAPSHOT_RETRY_S[min(book.tries, len(SNAPSHOT_RETRY_S)) - 1] * (0.75 + self.jitter.random() / 2)
        book.next_s = book.refresh_s = clock.monotonic_s() + pause_s
        try:
            body, asked_ns, _ = await self.rest.get("depth", **params)
            number = msgspec.json.decode(body)["lastUpdateId"]
        except (SourceFailed, msgspec.DecodeError, KeyError, TypeError) as error:
            self.counters.failures += 1
            self.counters.last_failure = str(error)
            return
        if not book.diffs:         # lost meanwhile: nobody could tell what this snapshot is followed by
            self.counters.refused_snapshots += 1
            return
        self._answer("depth", params, body, asked_ns, clock.now_ns())
        if not book.judge(number):
            self.counters.refused_snapshots += 1
            return
        self.counters.snapshots += 1
        book.next_s, book.refresh_s = 0.0, clock.monotonic_s() + self.options.refresh_s
        if wanted:
            self._mark(Marker("resync", book.symbol, DEPTH, None, number))

    def _refill_path(self) -> str:
        """Return what gives missing trades by id without a key, empty where nothing does."""
        if self.options.trades == "aggTrade":
            return "aggTrades"
        return "historicalTrades" if self.options.endpoint.venue == "binance_spot" else ""

    async def _refills(self) -> None:
        """Fetch the trades of holes, one hole after the other; what cannot be had is asked for again later."""
        while True:
            hole = await self._holes.get()
            long = hole.to_id - hole.from_id > REFILL_MOST
            if not long and await self._refill(hole):
                continue
            if long or hole.tries == len(REFILL_AGAIN_S):
                self.counters.not_refilled += 1
                continue
            asyncio.get_running_loop().call_later(REFILL_AGAIN_S[hole.tries], self._to_refill, hole)
            hole.tries += 1

    async def _refill(self, hole: Hole) -> bool:
        """Fetch the trades of a hole by id, return whether that went well; what has not come meanwhile is journaled."""
        path, stream, at = self._refill_path(), self.watch.streams[hole.stream], hole.from_id + 1
        name = "a" if path == "aggTrades" else "id"
        while at < hole.to_id:
            params = {"symbol": hole.symbol, "fromId": at, "limit": min(REFILL_ROWS, hole.to_id - at)}
            try:
                body, asked_ns, _ = await self.rest.get(path, **params)
                given = [row[name] for row in msgspec.json.decode(body) if at <= row[name] < hole.to_id]
            except (SourceFailed, msgspec.DecodeError, KeyError, TypeError) as error:
                self.counters.last_failure = str(error)
                return False
            if not given:
                return False
            for low, high in list(stream.missing):
                pieces = [number for number in given if low < number <= high]
                if pieces and stream.take_late(pieces[0] - 1, pieces[-1]):
                    self._answer(path, params, body, asked_ns, clock.now_ns(), from_id=pieces[0], to_id=pieces[-1])
                    self.counters.refilled += len(pieces)
            at = given[-1] + 1
        return True

    async def _clock(self) -> None:
        """Measure the venue's clock now and then."""
        while True:
            await asyncio.sleep(CLOCK_S)
            try:
                await self._measure_clock()
            except SourceFailed as error:
                self.counters.last_failure = str(error)

    async def _measure_clock(self) -> None:
        """Note how far the venue's clock is from ours."""
        offset_ns, way_ns = await self.rest.clock_offset_ns()
        self.counters.offset_ms = self.watch.offset_ms = round(offset_ns / 1e6, 3)
        text = f"venue clock less ours {offset_ns / 1e6:.3f} ms, known to {way_ns / 2e6:.3f} ms"
        self._mark(Marker("note", detail=text))

    async def _watchdog(self) -> None:
        """Mark streams that went silent, and replace their socket: an accepted subscription may deliver nothing."""
        began, reach_s = clock.monotonic_s(), REACH_S if self.options.reach_s is None else self.options.reach_s
        while True:
            await asyncio.sleep(self.options.watch_s)
            now = clock.monotonic_s()
            self._watch_clock()
            if not self.counters.frames and now - began > reach_s:
                why = self.counters.last_failure or "connected, but silent"
                raise SourceFailed(f"{self.options.endpoint.venue} sent nothing within {reach_s:.0f} s of the start "
                                   f"({why}); check network, name server and path")
            for stream, news in self.watch.silent(now):
                for group in self.groups:
                    if stream.name in group.streams:
                        group.rotate()
                if news:
                    self._stale(stream, now)

    def _watch_clock(self) -> None:
        """Say in the recording when this machine's clock was put back."""
        put_back_s = clock.put_back_s() - self._put_back_s - self.counters.clock_put_back_s
        if put_back_s > 0:
            self.counters.clock_put_back_s += put_back_s
            self._mark(Marker("note", detail=f"this machine's clock was put back by {put_back_s:.3f} s; receive times go on at their own "
                                             "pace and come back to it by one percent"))

    def _stale(self, stream: Stream, now_s: float) -> None:
        self.counters.stale += 1
        detail = f"{stream.name} is silent for {now_s - stream.last_s:.0f} s"
        if stream.kind is MARKS:       # no feed the kernel folds
            self._mark(Marker("note", stream.symbol, "", detail=f"stale: {detail}"))
        else:
            self._mark(Marker("stale", stream.symbol, stream.kind, detail=detail))


def open_journal(data: Path, name: str, **options) -> JournalWriter:
    """Start the journal of a new recording under a data root."""
    return JournalWriter(recording_folder(data, name), name, **options)
