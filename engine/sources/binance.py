"""Binance over its own sockets: which streams lie on which path, connections that outlive every cut, and REST within its weights."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from engine import clock
from engine.errors import BadInput, SourceFailed, nearest

_MS = 1_000_000


@dataclass(frozen=True)
class Endpoint:
    """Where a venue is reached: bases of WebSocket and REST addresses."""

    venue: str                 # binance_usdm | binance_spot
    ws: str
    rest: str


LIVE = {"binance_usdm": Endpoint("binance_usdm", "wss://fstream.binance.com", "https://fapi.binance.com"),
        "binance_spot": Endpoint("binance_spot", "wss://stream.binance.com:9443", "https://api.binance.com")}
REST_PATH = {"binance_usdm": "/fapi/v1", "binance_spot": "/api/v3"}
SNAPSHOT_LIMIT = {"binance_usdm": 1000, "binance_spot": 5000}
LIFETIME_S = 23 * 3600.0       # the venue cuts at 24 h; its own client rotates at 23
OVERLAP_S = 5.0                # both sockets deliver this long, so that a rotation makes no hole
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ATTEMPTS, ATTEMPTS_S = 250, 300.0   # the venue allows 300 connections in 5 minutes
FRAME_BYTES = 16 << 20


def stream_groups(venue: str, symbols: Iterable[str], trades: str = "trade") -> dict[str, list[str]]:
    """Return the streams of each socket. USD-M splits them by path: depth, bookTicker and the raw trades on /public, the rest on /market."""
    names = [symbol.lower() for symbol in symbols]
    if venue == "binance_spot":
        return {"": [f"{name}@{kind}" for name in names for kind in (trades, "depth@100ms", "bookTicker")]}
    public = ["depth@100ms", "bookTicker"] + (["trade"] if trades == "trade" else [])
    market = ["markPrice@1s", "forceOrder"] + (["aggTrade"] if trades == "aggTrade" else [])
    return {"public": [f"{name}@{kind}" for name in names for kind in public],
            "market": [f"{name}@{kind}" for name in names for kind in market]}


def group_url(endpoint: Endpoint, group: str, streams: list[str]) -> str:
    """Return the combined-stream address of one socket: streams in the URL are not rate-limited."""
    return f"{endpoint.ws}{'/' + group if group else ''}/stream?streams={'/'.join(streams)}"


class Budget:
    """Spaces connection attempts so that the venue's limit is never met."""

    def __init__(self, most: int = ATTEMPTS, per_s: float = ATTEMPTS_S):
        self.most, self.per_s = most, per_s
        self._made: list[float] = []

    async def take(self) -> None:
        """Wait until one more attempt is allowed."""
        while True:
            now = clock.monotonic_s()
            self._made = [at for at in self._made if now - at < self.per_s]
            if len(self._made) < self.most:
                self._made.append(now)
                return
            await asyncio.sleep(self._made[0] + self.per_s - now)


class Group:
    """One socket that is always there: reconnects with backoff and jitter, and is replaced with an overlap before its lifetime ends.

    `sink(group, connection number, frame, recv_ns)` is called for each frame right at the read; `event(group, code, detail)` for connected and
    lost. The socket's own bounded buffer holds the venue back while the sink is slow: nothing is dropped here.
    """

    def __init__(self, endpoint: Endpoint, name: str, streams: list[str], sink: Callable, event: Callable, budget: Budget, seed: int,
                 lifetime_s: float = LIFETIME_S, overlap_s: float = OVERLAP_S, ssl=None):
        self.endpoint, self.name, self.streams = endpoint, name, streams
        self.url = group_url(endpoint, name, streams)
        self.sink, self.event, self.budget = sink, event, budget
        self.lifetime_s, self.overlap_s, self.ssl = lifetime_s, overlap_s, ssl
        self.jitter = random.Random(seed)
        self.alive: set[int] = set()
        self.connections = 0
        self._rotate = asyncio.Event()
        self._sockets: dict[int, ClientConnection] = {}

    async def run(self) -> None:
        """Keep the socket up until cancelled."""
        failures = 0
        while True:
            try:
                socket = await self._open()
            except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as error:
                self.event(self, "failed", _reason(error))
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)] * (0.5 + self.jitter.random()))
                failures += 1
                continue
            failures = 0
            await self._live(socket)
            if not self.alive:
                await asyncio.sleep(BACKOFF_S[0] * self.jitter.random())

    async def _open(self) -> ClientConnection:
        await self.budget.take()
        options = {"ssl": self.ssl} if self.ssl else {}
        return await connect(self.url, compression=None, max_size=FRAME_BYTES, max_queue=4096, ping_interval=20, ping_timeout=20,
                             open_timeout=10, close_timeout=2, **options)

    async def _live(self, socket: ClientConnection) -> None:
        """Read a socket until it ends; when its time is up, read its successor beside it for a while."""
        reader = asyncio.create_task(self._read(socket))
        while True:
            turn = asyncio.create_task(self._rotate.wait())
            done, _ = await asyncio.wait({reader, turn}, timeout=self.lifetime_s, return_when=asyncio.FIRST_COMPLETED)
            turn.cancel()
            if reader in done:
                return
            self._rotate.clear()
            try:
                successor = await self._open()
            except (OSError, InvalidHandshake, TimeoutError) as error:
                self.event(self, "failed", f"no successor before the cut: {_reason(error)}")
                continue
            fresh = asyncio.create_task(self._read(successor))
            await asyncio.sleep(self.overlap_s)
            await socket.close()
            await reader
            socket, reader = successor, fresh

    async def _read(self, socket: ClientConnection) -> None:
        self.connections += 1
        number = self.connections
        self.alive.add(number)
        self._sockets[number] = socket
        self.event(self, "connected", f"connection {number}")
        why = "closed"
        try:
            while True:
                frame = await socket.recv(decode=False)
                self.sink(self, number, frame, clock.now_ns())
        except ConnectionClosed as error:
            why = _reason(error)
        finally:
            self.alive.discard(number)
            self._sockets.pop(number, None)
            self.event(self, "lost", f"connection {number}: {why}")
            with contextlib.suppress(Exception):
                await socket.close()

    def rotate(self) -> None:
        """Replace the socket now: the venue announced a shutdown, or a stream of it is silent."""
        self._rotate.set()

    async def cut(self) -> None:
        """Close the sockets; `run` opens another."""
        for socket in list(self._sockets.values()):
            await socket.close()


def _reason(error: BaseException) -> str:
    """Say in a few words why a connection failed."""
    if isinstance(error, ConnectionClosed):
        frame = error.rcvd or error.sent
        return f"closed {frame.code} {frame.reason}".strip() if frame else "cut without a close"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class Rest:
    """REST of a venue: every answer raw with its times, weights kept, bans obeyed and explained."""

    def __init__(self, endpoint: Endpoint, client: httpx.AsyncClient | None = None):
        self.endpoint = endpoint
        self.client = client or httpx.AsyncClient(timeout=10.0)
        self.used_weight = 0
        self.until_s = 0.0     # nothing is asked before

    def address(self, path: str, params: dict) -> str:
        """Return the whole address of a request."""
        return str(httpx.URL(f"{self.endpoint.rest}{REST_PATH[self.endpoint.venue]}/{path}", params=params))

    async def get(self, path: str, **params) -> tuple[bytes, int, int]:
        """Return body, time asked and time received (ns); wait where the venue says so, fail in one sentence where it refuses for good."""
        address = self.address(path, params)
        for _ in range(5):
            await asyncio.sleep(max(0.0, self.until_s - clock.monotonic_s()))
            asked_ns = clock.now_ns()
            try:
                answer = await self.client.get(address)
            except httpx.HTTPError as error:
                raise SourceFailed(f"{self.endpoint.venue} does not answer at {self.endpoint.rest} ({_reason(error)}); "
                                   "check the network and the name server") from None
            recv_ns = clock.now_ns()
            self.used_weight = int(answer.headers.get("X-MBX-USED-WEIGHT-1M", self.used_weight))
            if answer.status_code in (418, 429):
                wait_s = float(answer.headers.get("Retry-After", 5))
                self.until_s = clock.monotonic_s() + wait_s
                if answer.status_code == 418 and wait_s > 120:
                    raise SourceFailed(f"{self.endpoint.venue} banned this address for {wait_s:.0f} s (418): too many requests before; wait")
                continue
            if answer.status_code in (403, 451):
                raise SourceFailed(f"{self.endpoint.venue} refuses this location or network ({answer.status_code}); "
                                   "it cannot be recorded from here")
            if answer.status_code >= 400:
                raise SourceFailed(f"{self.endpoint.venue} answered {answer.status_code} to {path}: {answer.text[:120]}")
            return answer.content, asked_ns, recv_ns
        raise SourceFailed(f"{self.endpoint.venue} kept answering 429 to {path}; fewer symbols, or wait a minute")

    async def instruments(self, symbols: list[str]) -> tuple[bytes, int, dict[str, tuple[str, str]]]:
        """Return the raw exchangeInfo, when it came, and tick and step size of each symbol; an unknown symbol is named with the nearest."""
        body, _, recv_ns = await self.get("exchangeInfo")
        known = {}
        for entry in msgspec.json.decode(body)["symbols"]:
            steps = {part["filterType"]: part for part in entry.get("filters", [])}
            if "PRICE_FILTER" in steps and "LOT_SIZE" in steps:
                known[entry["symbol"]] = (steps["PRICE_FILTER"]["tickSize"], steps["LOT_SIZE"]["stepSize"])
        for symbol in symbols:
            if symbol not in known:
                raise BadInput(f"{self.endpoint.venue} has no symbol {symbol!r}; {nearest(symbol, known) if len(known) < 50 or _close(symbol, known) else 'check its name'}")
        return body, recv_ns, {symbol: known[symbol] for symbol in symbols}

    async def clock_offset_ns(self, tries: int = 5) -> int:
        """Return server time less ours from the answer with the shortest way (Cristian 1989), exact to half of it."""
        best, offset = None, 0
        for _ in range(tries):
            body, asked_ns, recv_ns = await self.get("time")
            if best is None or recv_ns - asked_ns < best:
                best = recv_ns - asked_ns
                offset = msgspec.json.decode(body)["serverTime"] * _MS - (asked_ns + recv_ns) // 2
        return offset

    async def close(self) -> None:
        """Close the client."""
        await self.client.aclose()


def _close(symbol: str, known: Iterable[str]) -> bool:
    return "did you mean" in nearest(symbol, known)
