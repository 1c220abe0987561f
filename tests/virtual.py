"""A venue, its sockets and its REST in virtual time: hours pass in a second, the same each time for a seed."""

import asyncio
import json
import random
import selectors
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import httpx

from engine import clock
from engine.sources import binance

START_NS = 1_795_000_000_000_000_000
SYMBOL = "BTCUSDT"


class _NoWaiting(selectors.DefaultSelector):
    """A selector that never sleeps: the time it would have slept is over at once."""

    loop: "VirtualLoop"

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing is left to wait for")
            self.loop.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everybody waits."""

    def __init__(self):
        selector = _NoWaiting()
        super().__init__(selector)
        selector.loop = self
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s


def run_virtual(monkeypatch, work: Callable):
    """Run a coroutine function in virtual time; the program's clocks show that time."""
    loop = VirtualLoop()
    with monkeypatch.context() as patch:
        patch.setattr(clock, "monotonic_s", loop.time)
        patch.setattr(clock, "now_ns", lambda: START_NS + round(loop.time() * 1e9))
        try:
            return loop.run_until_complete(work())
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.close()


@dataclass
class FakeSocket:
    """One connection of the recorder; frames reach it in order, each after the latency of the moment."""

    venue: "Venue"
    group: str
    streams: list[str]
    muted: set[str] = field(default_factory=set)
    latency_s: float = 0.005
    close_code: int | None = None
    close_reason: str = ""

    def __post_init__(self):
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._take = None
        self._ready_s = 0.0
        self._way: deque[bytes] = deque()

    def hand_over(self, take) -> None:
        self._take = take

    def push(self, stream: str, frame: bytes) -> None:
        """Send a frame; it is lost when the connection is cut before it arrives."""
        if stream in self.muted or stream not in self.streams or self._over.done():
            return
        self.send(frame)

    def send(self, frame: bytes) -> None:
        self._ready_s = max(self._ready_s, self._loop.time() + self.latency_s * (0.5 + self.venue.rng.random()))
        self._way.append(frame)
        self._loop.call_at(self._ready_s, self._arrive)

    def _arrive(self) -> None:
        frame = self._way.popleft()
        if not self._over.done():
            self.venue.delivered.append(frame)
            self._take(frame)

    def cut(self, code: int = 1006, reason: str = "") -> None:
        """End the connection from the venue's side; what is on the way is lost."""
        if not self._over.done():
            self.close_code, self.close_reason = code, reason
            self._over.set_result(None)

    async def close(self) -> None:
        """Close from our side: what arrives until the venue has answered still counts."""
        await asyncio.sleep(0.01 if self.streams else 2.0)
        self.cut(1000)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._over)


class Venue:
    """A market with every id it ever gave, and what it sent to whom."""

    def __init__(self, seed: int, venue: str = "binance_usdm", pace_s: float = 0.06):
        self.rng, self.venue, self.pace_s = random.Random(seed), venue, pace_s
        self.usdm = venue == "binance_usdm"
        mid = 600_000
        self.bids = {mid - k: self.rng.randint(1, 900) for k in range(1, 16)}
        self.asks = {mid + k: self.rng.randint(1, 900) for k in range(1, 16)}
        self.update_id, self.trade_id, self.agg_id = 9_000_000, 700_000, 300_000
        self.diff_id = self.update_id
        self.changes: dict[tuple[str, int], int] = {}
        self.first_id = 0
        self.truth: dict[int, tuple] = {}
        self.trades: list[dict] = []
        self.diffs: list[tuple[int, int]] = []
        self.bodies: list[bytes] = []
        self.delivered: list[bytes] = []
        self.sockets: list[FakeSocket] = []
        self.requests: dict[str, int] = defaultdict(int)
        self.connects: list[float] = []
        self.refuse_until_s = self.misroute_until_s = 0.0
        self.refusal: Exception = OSError("refused")
        self.status: list[int] = []  # of the next REST answers
        self.garbage = self.stale_by = 0
        self.trade_faults: list[str] = []  # of the next requests for trades: refused or empty
        self.rest_latency_s = 0.03
        self.drop: dict[str, int] = defaultdict(int)
        self.twice: dict[str, int] = defaultdict(int)
        self.late: dict[str, int] = defaultdict(int)
        self.broken: dict[str, int] = defaultdict(int)
        self._kept_back: dict[str, bytes] = {}
        self.dark = False
        self.remember()

    def remember(self) -> None:
        self.truth[self.update_id] = (max(self.bids), min(self.asks), len(self.bids), len(self.asks))

    def now_ms(self) -> int:
        return clock.now_ns() // 1_000_000

    # what happens on the market

    async def live(self) -> None:
        """Trade, move the book and push, for ever."""
        due_diff = due_mark = 0.0
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / self.pace_s))
            now_s = clock.monotonic_s()
            self.rng.choice((self.change, self.change, self.trade))()
            if now_s >= due_diff:
                due_diff = now_s + 0.1
                self.push_diff()
            if self.usdm and now_s >= due_mark:
                due_mark = now_s + 1.0
                self.publish(
                    "markPrice@1s",
                    {
                        "e": "markPriceUpdate",
                        "E": self.now_ms(),
                        "s": SYMBOL,
                        "p": "60000.10",
                        "i": "60000.00",
                        "r": "0.00010000",
                        "T": self.now_ms() + 60_000,
                    },
                )

    def change(self) -> None:
        """Change one level, never crossing, and quote the touch when it moved."""
        touch = max(self.bids), min(self.asks)
        before = touch, self.bids[touch[0]], self.asks[touch[1]]
        side, own, best = self.rng.choice((("b", self.bids, touch[0]), ("a", self.asks, touch[1])))
        away = -1 if side == "b" else 1
        price = best + away * self.rng.randint(-1, 12)
        if (side == "b" and price >= touch[1]) or (side == "a" and price <= touch[0]):
            return
        lots = 0 if price in own and len(own) > 8 and self.rng.random() < 0.5 else self.rng.randint(1, 900)
        if lots:
            own[price] = lots
        else:
            own.pop(price, None)
        self.update_id += self.rng.randint(1, 4) if self.usdm else 1
        self.first_id = self.first_id or self.update_id
        self.changes[side, price] = lots
        self.remember()
        touch = max(self.bids), min(self.asks)
        if (touch, self.bids[touch[0]], self.asks[touch[1]]) != before:
            self.publish(
                "bookTicker",
                {
                    **({"e": "bookTicker"} if self.usdm else {}),
                    "u": self.update_id,
                    "s": SYMBOL,
                    "b": price_text(touch[0]),
                    "B": qty_text(self.bids[touch[0]]),
                    "a": price_text(touch[1]),
                    "A": qty_text(self.asks[touch[1]]),
                    **({"T": self.now_ms(), "E": self.now_ms()} if self.usdm else {}),
                },
            )

    def push_diff(self) -> None:
        if not self.changes:
            return
        sides = {
            side: [[price_text(p), qty_text(q)] for (s, p), q in self.changes.items() if s == side] for side in "ba"
        }
        # a diff begins at the id after the last one's on spot; on USD-M it may begin later, and names the last one
        ids = (
            {"U": self.first_id, "u": self.update_id, "pu": self.diff_id}
            if self.usdm
            else {"U": self.diff_id + 1, "u": self.update_id}
        )
        self.diffs.append((self.diff_id, self.update_id))
        self.diff_id, self.first_id = self.update_id, 0
        self.changes.clear()
        self.publish(
            "depth@100ms",
            {
                "e": "depthUpdate",
                "E": self.now_ms(),
                **({"T": self.now_ms()} if self.usdm else {}),
                "s": SYMBOL,
                **ids,
                **sides,
            },
        )
        self.bodies.append(self.book())
        del self.bodies[:-200]

    def trade(self) -> None:
        buy = self.rng.random() < 0.5
        fills = self.rng.choice((1, 1, 2, 4))
        price = min(self.asks) if buy else max(self.bids)
        self.agg_id += 1
        first = self.trade_id + 1
        total = 0
        for _ in range(fills):
            self.trade_id += 1
            lots = self.rng.randint(1, 500)
            total += lots
            row = {
                "e": "trade",
                "E": self.now_ms(),
                "T": self.now_ms(),
                "s": SYMBOL,
                "t": self.trade_id,
                "p": price_text(price),
                "q": qty_text(lots),
                **({"X": "MARKET"} if self.usdm else {}),
                "m": not buy,
            }
            self.trades.append(row)
            self.publish("trade", row)
        self.publish(
            "aggTrade",
            {
                "e": "aggTrade",
                "E": self.now_ms(),
                "s": SYMBOL,
                "a": self.agg_id,
                "p": price_text(price),
                "q": qty_text(total),
                "f": first,
                "l": self.trade_id,
                "T": self.now_ms(),
                "m": not buy,
            },
        )

    def publish(self, kind: str, data: dict) -> None:
        """Send an event to everybody who asked for it, with the faults under way."""
        name = f"{SYMBOL.lower()}@{kind}"
        frame = json.dumps({"stream": name, "data": data}, separators=(",", ":")).encode()
        if self.dark or self.drop[name] > 0:
            self.drop[name] -= not self.dark
            return
        frames = [frame]
        if self.broken[name] > 0:
            self.broken[name] -= 1
            frames = [frame[: self.rng.randint(5, len(frame) - 1)]]
        elif self.twice[name] > 0:
            self.twice[name] -= 1
            frames = [frame, frame]
        elif self.late[name] > 0 and name not in self._kept_back:
            self.late[name] -= 1
            self._kept_back[name] = frame
            return
        elif name in self._kept_back:
            frames.append(self._kept_back.pop(name))
        for socket in self.sockets:
            for each in frames:
                socket.push(name, each)

    def begin_anew(self) -> None:
        """Let the update ids begin anew, as after a restart of the venue's matching."""
        self.update_id = self.diff_id = 1000
        self.first_id = 0
        self.changes.clear()
        self.bodies[:] = [self.book()]

    # how it is reached

    async def connect(self, url: str, **_) -> FakeSocket:
        """Stand in for the library's connect."""
        now_s = clock.monotonic_s()
        self.connects.append(now_s)
        await asyncio.sleep(0.02)
        if now_s < self.refuse_until_s:
            raise self.refusal
        parts = urlsplit(url)
        group = parts.path.strip("/").split("/")[0] if self.usdm else ""
        names = parse_qs(parts.query)["streams"][0].split("/")
        socket = FakeSocket(self, group, names, latency_s=self.rng.choice((0.002, 0.01, 0.05)))
        if now_s < self.misroute_until_s:
            socket.muted |= set(names)
        self.sockets = [other for other in self.sockets if not other._over.done()] + [socket]
        return socket

    def book(self) -> bytes:
        bids = [[price_text(p), qty_text(self.bids[p])] for p in sorted(self.bids, reverse=True)]
        asks = [[price_text(p), qty_text(self.asks[p])] for p in sorted(self.asks)]
        return json.dumps({"lastUpdateId": self.update_id, "bids": bids, "asks": asks}).encode()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a REST request as the venue would."""
        name = request.url.path.rpartition("/")[2]
        self.requests[name] += 1
        await asyncio.sleep(self.rest_latency_s * self.rng.random())
        query = request.url.params
        body = self._body(name, query)
        await asyncio.sleep(self.rest_latency_s * self.rng.random())
        if self.status and name != "exchangeInfo":
            status = self.status.pop()
            if status == 0:
                raise httpx.ConnectError("unreachable")
            return httpx.Response(status, headers={"Retry-After": "1"} if status == 429 else {}, content=b"{}")
        if self.trade_faults and name == "historicalTrades":
            if self.trade_faults.pop() == "refused":
                raise httpx.ConnectError("unreachable")
            return httpx.Response(200, content=b"[]")
        if self.garbage and name != "exchangeInfo":
            self.garbage -= 1
            return httpx.Response(200, content=b"<html>")
        return httpx.Response(200, content=body)

    def _body(self, name: str, query) -> bytes:
        if name == "exchangeInfo":
            return json.dumps(
                {
                    "symbols": [
                        {
                            "symbol": SYMBOL,
                            "filters": [
                                {"filterType": "PRICE_FILTER", "tickSize": "0.10"},
                                {"filterType": "LOT_SIZE", "stepSize": "0.001"},
                            ],
                        }
                    ]
                }
            ).encode()
        if name == "time":
            return json.dumps({"serverTime": self.now_ms() + 70}).encode()
        if name == "depth":
            stale, self.stale_by = self.stale_by, 0
            return self.bodies[max(-len(self.bodies), -1 - stale)] if stale and self.bodies else self.book()
        rows = [row for row in self.trades if row["t"] >= int(query["fromId"])][: int(query["limit"])]
        return json.dumps(
            [
                {"id": row["t"], "price": row["p"], "qty": row["q"], "time": row["T"], "isBuyerMaker": row["m"]}
                for row in rows
            ]
        ).encode()

    def install(self, monkeypatch, recorder) -> None:
        """Let a recorder reach this venue and no other."""
        monkeypatch.setattr(binance, "connect", self.connect)
        recorder.rest.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))


def price_text(ticks: int) -> str:
    return f"{ticks // 10}.{ticks % 10}0"


def qty_text(lots: int) -> str:
    return f"{lots // 1000}.{lots % 1000:03d}"


def of_group(venue: Venue, group: str | None) -> list[FakeSocket]:
    return [socket for socket in venue.sockets if group is None or socket.group == group]
