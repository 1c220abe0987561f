"""Quotes of a simulated broker that follow a venue's best quotes: later, wider, and on the broker's own grid."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable

import msgspec

from engine import clock
from engine.errors import TapeguardError
from engine.gateway.terminal import SimulatedTerminal
from engine.gateway.terminal_books import Spec
from engine.gateway.terminal_settings import Follow
from engine.sources.binance import Budget, Endpoint, Group


class _Data(msgspec.Struct):
    b: str
    a: str


class _Frame(msgspec.Struct):
    stream: str
    data: _Data


_DECODER = msgspec.json.Decoder(_Frame)


def broker_quote(follow: Follow, spec: Spec, bid: float, ask: float) -> tuple[int, int]:
    """Return bid and ask of the broker in points, on its tick grid, at least one tick apart."""
    tick = spec.tick_points
    middle = (bid + ask) / 2 * (1 + follow.basis_bps / 1e4) * spec.scale
    spread = max(round(middle * follow.spread_bps / 1e4 / tick), 1) * tick
    points = round((middle - spread / 2) / tick) * tick
    return points, points + spread


class _Follower:
    """Carries the changes of one symbol to the terminal, each after the lag."""

    def __init__(self, follow: Follow, terminal: SimulatedTerminal):
        self.follow, self.terminal, self.spec = follow, terminal, terminal.book.specs[follow.symbol]
        self.last: tuple[int, int] | None = None
        self.waiting: asyncio.Queue = asyncio.Queue()

    def take(self, bid: float, ask: float) -> None:
        """Take a best quote of the venue."""
        quote = broker_quote(self.follow, self.spec, bid, ask)
        if quote != self.last and quote[0] > 0:
            self.last = quote
            self.waiting.put_nowait((clock.monotonic_s() + self.follow.lag_ms / 1000, *quote))

    async def deliver(self) -> None:
        """Push each quote at its time."""
        while True:
            due_s, bid, ask = await self.waiting.get()
            await asyncio.sleep(max(0.0, due_s - clock.monotonic_s()))
            self.terminal.push(self.follow.symbol, bid, ask)


class Feed:
    """All that follows, in a thread of its own; sockets that are cut come again by themselves."""

    def __init__(self, terminal: SimulatedTerminal, follows: list[Follow], note: Callable[[str], None]):
        self.terminal, self.follows, self.note = terminal, follows, note
        self.loop = self.task = self.thread = None

    def start(self) -> None:
        """Begin to follow."""
        if self.follows:
            self.loop = asyncio.new_event_loop()
            self.task = self.loop.create_task(self._run())
            self.thread = threading.Thread(target=self._turn, daemon=True)
            self.thread.start()

    def _turn(self) -> None:
        try:
            self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            return
        finally:
            self.loop.close()

    def stop(self) -> None:
        """End, and wait for it."""
        if self.thread is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)
            self.thread.join()

    async def _run(self) -> None:
        streams, sockets = defaultdict(list), defaultdict(list)
        for follow in self.follows:
            follower = _Follower(follow, self.terminal)
            streams[follow.ws, follow.path, follow.stream].append(follower)
            sockets[follow.ws, follow.path].append(follow.stream)
        async with asyncio.TaskGroup() as tasks:
            for follower in sum(streams.values(), []):
                tasks.create_task(follower.deliver())
            for number, ((ws, path), names) in enumerate(sockets.items()):
                tasks.create_task(self._follow(ws, path, sorted(set(names)), streams, number))

    async def _follow(self, ws: str, path: str, names: list[str], streams: dict, seed: int) -> None:
        def sink(group, number, frame, recv_ns):
            try:
                read = _DECODER.decode(frame)
                bid, ask = float(read.data.b), float(read.data.a)
            except (msgspec.DecodeError, ValueError):
                return                 # not a best quote
            if number == min(group.alive, default=number):         # of two sockets at a rotation the older one is followed
                for follower in streams.get((ws, path, read.stream), ()):
                    follower.take(bid, ask)

        def event(group, code, detail):
            self.note(f"{' '.join(names)} at {ws}: {code} ({detail})")
        try:
            await Group(Endpoint("follow", ws, ""), path.strip("/"), names, sink, event, Budget(), seed).run()
        except TapeguardError as error:
            self.note(f"{' '.join(names)} is not followed any more: {error}")
