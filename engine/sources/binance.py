"""Binance over its own sockets: which streams lie on which path, connections that outlive every cut, REST."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Opcode

from engine import clock
from engine.errors import BadInput, SourceFailed, nearest

_MS = 1_000_000


@dataclass(frozen=True)
class Endpoint:
    """Where a venue is reached: bases of WebSocket and REST addresses."""

    venue: str                 # binance_usdm | binance_spot
    ws: str
    rest: str                  # "": nothing is asked

    def __post_init__(self) -> None:
        for address, what, schemes in ((self.ws, "WebSocket", ("wss", "ws")), (self.rest, "REST", ("https", "http"))):
            try:
                parts = urlsplit(address)
                good = parts.scheme in schemes and parts.hostname and parts.port != 0      # a bad port raises
            except ValueError:
                good = False
            if address and not good:
                raise BadInput(f"{address!r} is no {what} address; write it as {schemes[0]}://HOST, "
                               f"or {schemes[1]}://HOST:PORT without encryption")

    @property
    def near(self) -> bool:
        """Tell whether it is on this machine: such a venue may play a tape of the past, which has a time of its own."""
        return urlsplit(self.ws).hostname in ("127.0.0.1", "::1", "localhost")


LIVE = {"binance_usdm": Endpoint("binance_usdm", "wss://fstream.binance.com", "https://fapi.binance.com"),
        "binance_spot": Endpoint("binance_spot", "wss://stream.binance.com:9443", "https://api.binance.com")}
REST_PATH = {"binance_usdm": "/fapi/v1", "binance_spot": "/api/v3"}
SNAPSHOT_LIMIT = {"binance_usdm": 1000, "binance_spot": 5000}
WEIGHT = {"binance_usdm": 2400, "binance_spot": 6000}       # a minute
WEIGHT_SHARE = 0.8             # of it is used; the rest is other programs'
LIFETIME_S = 23 * 3600.0       # the venue cuts at 24 h; its own client rotates at 23
OVERLAP_S = 5.0                # both sockets deliver this long, so that a rotation makes no hole
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SETTLED_S = 10.0               # a connection that lived this long was no failure
ATTEMPTS, ATTEMPTS_S = 250, 300.0   # the venue allows 300 connections in 5 minutes
TRIES_5XX = 2
FRAME_BYTES = 16 << 20
REFUSALS = (403, 451)
TOO_MANY = (418, 429)
_DATA = (Opcode.CONT, Opcode.TEXT, Opcode.BINARY)
_CANNOT = (OSError, EOFError, InvalidHandshake, TimeoutError)


def stream_groups(venue: str, symbols: Iterable[str], trades: str = "trade") -> dict[str, list[str]]:
    """Return the streams of each socket.

    USD-M splits them by path: depth, bookTicker and the raw trades on /public, the rest on /market.
    """
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
    """Spaces the connection attempts of all sockets so that the venue's limit is never met."""

    def __init__(self, most: int = ATTEMPTS, per_s: float = ATTEMPTS_S):
        self.most, self.per_s = most, per_s
        self.until_s = 0.0     # no attempt before, the venue has asked for it
        self._made: list[float] = []

    async def take(self) -> None:
        """Wait until one more attempt is allowed."""
        while True:
            now = clock.monotonic_s()
            if now < self.until_s:
                await asyncio.sleep(self.until_s - now)
                continue
            self._made = [at for at in self._made if now - at < self.per_s]
            if len(self._made) < self.most:
                self._made.append(now)
                return
            await asyncio.sleep(self._made[0] + self.per_s - now)


class Socket(ClientConnection):
    """A connection that hands each message over right where it is read; meanwhile the venue has to wait."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._take: Callable[[bytes], None] | None = None
        self._early: list[bytes] = []
        self._parts: list[bytes] = []

    def process_event(self, event) -> None:
        """Take a data frame, and leave everything else to the library."""
        if self.response is None or event.opcode not in _DATA:
            super().process_event(event)
            return
        message = event.data
        if self._parts or not event.fin:
            self._parts.append(message)
            if not event.fin:
                return
            message = b"".join(self._parts)
            self._parts.clear()
        (self._take or self._early.append)(bytes(message))

    def hand_over(self, take: Callable[[bytes], None]) -> None:
        """Hand messages to `take` from now on, those that came before it first."""
        self._take = take
        for message in self._early:
            take(message)
        self._early.clear()


@dataclass
class Connection:
    """One open socket of a group; `ended` is done when it has closed."""

    number: int
    socket: Socket
    ended: asyncio.Task = field(init=False)


class Group:
    """One socket that is always there: reconnects with backoff and jitter, has a successor before its lifetime ends.

    `sink(group, connection number, frame, recv_ns)` is called for each frame right at the read; `event(group, code,
    detail)` for connected, lost and failed. `alive` are the open connections' numbers, the highest is the youngest.
    """

    def __init__(self, endpoint: Endpoint, name: str, streams: list[str], sink: Callable, event: Callable,
                 budget: Budget, seed: int, lifetime_s: float = LIFETIME_S, overlap_s: float = OVERLAP_S, ssl=None):
        self.endpoint, self.name, self.streams = endpoint, name, streams
        self.url = group_url(endpoint, name, streams)
        self.sink, self.event, self.budget = sink, event, budget
        self.lifetime_s, self.overlap_s, self.ssl = lifetime_s, overlap_s, ssl
        self.jitter = random.Random(seed)
        self.alive: set[int] = set()
        self.connections = 0
        self._rotate = asyncio.Event()
        self._open: dict[int, Connection] = {}
        self._stopping = False

    async def run(self) -> None:
        """Keep the socket up until cancelled; raise where the venue refuses this place for good."""
        failures = 0
        try:
            while True:
                connection = await self._connect()
                began_s = clock.monotonic_s()
                if connection:
                    await self._live(connection)
                failures = 0 if connection and clock.monotonic_s() - began_s > SETTLED_S else failures + 1
                await asyncio.sleep(self._pause_s(failures))
        finally:
            self._stopping = True
            await asyncio.gather(*(each.socket.close() for each in self._open.values()), return_exceptions=True)

    def _pause_s(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row."""
        if failures == 0:
            return BACKOFF_S[0] * self.jitter.random()
        return BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] * (0.5 + self.jitter.random())

    async def _connect(self) -> Connection | None:
        """Open a socket and let it deliver; None when that failed."""
        await self.budget.take()
        options = {"ssl": self.ssl} if self.ssl else {}
        try:
            socket = await connect(self.url, create_connection=Socket, compression=None, max_size=FRAME_BYTES,
                                   ping_interval=20, ping_timeout=20,
                                   open_timeout=10, close_timeout=2, **options)
        except _CANNOT as error:
            if isinstance(error, InvalidStatus) and error.response.status_code in REFUSALS and not self.connections:
                raise SourceFailed(refusal(self.endpoint, error.response.status_code)) from None
            if isinstance(error, InvalidStatus) and error.response.status_code in TOO_MANY:
                wait_s = _seconds(error.response.headers.get("Retry-After"))
                self.budget.until_s = max(self.budget.until_s, clock.monotonic_s() + wait_s)
            self.event(self, "failed", _reason(error))
            return None
        self.connections += 1
        connection = Connection(self.connections, socket)
        self.alive.add(connection.number)
        self._open[connection.number] = connection
        connection.ended = asyncio.create_task(self._until_end(connection))
        self.event(self, "connected", f"connection {connection.number}")
        socket.hand_over(lambda frame, number=connection.number: self.sink(self, number, frame, clock.now_ns()))
        return connection

    async def _until_end(self, connection: Connection) -> None:
        await connection.socket.wait_closed()
        self.alive.discard(connection.number)
        self._open.pop(connection.number, None)
        if not self._stopping:
            self.event(self, "lost", f"connection {connection.number}: {_closed(connection.socket)}")

    async def _live(self, current: Connection) -> None:
        """Wait until a socket ends; when its time is up, or when asked, let a successor deliver beside it first."""
        due_s, failures = clock.monotonic_s() + self.lifetime_s, 0
        self._rotate.clear()
        while True:
            turn = asyncio.create_task(self._rotate.wait())
            try:
                await asyncio.wait({current.ended, turn}, timeout=max(0.0, due_s - clock.monotonic_s()),
                                   return_when=asyncio.FIRST_COMPLETED)
            finally:
                turn.cancel()
            if current.ended.done():
                return
            self._rotate.clear()
            successor = await self._connect()
            if successor:
                await _first(self.overlap_s, current.ended, successor.ended)
            if successor is None or (successor.ended.done() and not current.ended.done()):
                failures += 1
                due_s = clock.monotonic_s() + self._pause_s(failures)
                continue
            with contextlib.suppress(Exception):
                await current.socket.close()
            await current.ended
            current, due_s, failures = successor, clock.monotonic_s() + self.lifetime_s, 0

    def rotate(self) -> None:
        """Replace the socket now: the venue announced a shutdown, or a stream of it is silent."""
        self._rotate.set()

    async def cut(self) -> None:
        """Close the sockets; `run` opens another."""
        for connection in list(self._open.values()):
            await connection.socket.close()


async def _first(seconds: float, *tasks: asyncio.Task) -> None:
    """Wait until one of these is done, but no longer than so long."""
    await asyncio.wait(tasks, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)


def _reason(error: BaseException) -> str:
    """Say in a few words why a connection failed."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _closed(socket: Socket) -> str:
    """Say in a few words how a connection ended."""
    code, reason = socket.close_code, socket.close_reason
    return "cut without a close" if code in (None, 1006) else f"closed {code} {reason or ''}".strip()


def refusal(endpoint: Endpoint, status: int) -> str:
    """Return the sentence for an address that the venue does not serve."""
    return f"{endpoint.venue} refuses this location or network ({status}); it cannot be recorded from here"


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
        """Return body, time asked and time received (ns); wait where the venue says so, fail where it refuses."""
        venue, address, status = self.endpoint.venue, self.address(path, params), 0
        for attempt in range(5):
            while (wait_s := self.until_s - clock.monotonic_s()) > 0:      # another may be told to wait longer meanwhile
                await asyncio.sleep(wait_s)
            asked_ns = clock.now_ns()
            try:
                answer = await self.client.get(address)
            except (httpx.HTTPError, OSError) as error:
                raise SourceFailed(f"{venue} does not answer at {self.endpoint.rest} ({_reason(error)}); "
                                   "check the network and the name server") from None
            recv_ns, status = clock.now_ns(), answer.status_code
            self._note_weight(answer.headers, recv_ns)
            if status in TOO_MANY:
                wait_s = _seconds(answer.headers.get("Retry-After"))
                self.until_s = max(self.until_s, clock.monotonic_s() + wait_s)
                if status == 418 and wait_s > 120:
                    raise SourceFailed(f"{venue} banned this address for {wait_s:.0f} s (418): too many requests; wait")
            elif status >= 500 and attempt < TRIES_5XX:
                self.until_s = max(self.until_s, clock.monotonic_s() + BACKOFF_S[attempt])
            elif status >= 500:
                break
            elif status in REFUSALS:
                raise SourceFailed(refusal(self.endpoint, status))
            elif status >= 400:
                raise SourceFailed(f"{venue} answered {status} to {path}: {answer.text[:120]}")
            else:
                return answer.content, asked_ns, recv_ns
        raise SourceFailed(f"{venue} kept answering {status} to {path}; "
                           + ("fewer symbols, or wait a minute" if status < 500 else "try again later"))

    def _note_weight(self, headers, recv_ns: int) -> None:
        """Stay away until the minute is over once the most of its weight is used."""
        used = headers.get("X-MBX-USED-WEIGHT-1M", "")
        if used.isdigit():
            self.used_weight = int(used)
            if self.used_weight > WEIGHT_SHARE * WEIGHT[self.endpoint.venue]:
                self.until_s = max(self.until_s, clock.monotonic_s() + 60 - recv_ns / 1e9 % 60)

    async def instruments(self, symbols: list[str]) -> tuple[bytes, int, dict[str, tuple[str, str]]]:
        """Return the raw exchangeInfo, when it came, and tick and step size of each symbol; an unknown one is named."""
        body, _, recv_ns = await self.get("exchangeInfo")
        known = {}
        try:
            for entry in msgspec.json.decode(body)["symbols"]:
                steps = {part["filterType"]: part for part in entry.get("filters", [])}
                if "PRICE_FILTER" in steps and "LOT_SIZE" in steps:
                    known[entry["symbol"]] = (steps["PRICE_FILTER"]["tickSize"], steps["LOT_SIZE"]["stepSize"])
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            raise SourceFailed(f"{self.endpoint.rest} answered exchangeInfo with something else ({body[:60]!r}); "
                               f"is it {self.endpoint.venue}?") from None
        for symbol in symbols:
            if symbol not in known:
                hint = nearest(symbol, known)
                shown = hint if len(known) < 50 or "did you mean" in hint else "check its name"
                raise BadInput(f"{self.endpoint.venue} has no symbol {symbol!r}; {shown}")
        return body, recv_ns, {symbol: known[symbol] for symbol in symbols}

    async def clock_offset_ns(self, tries: int = 5) -> tuple[int, int]:
        """Return server time less ours from the answer with the shortest way (Cristian 1989), and twice its error."""
        best, offset = 0, 0
        for _ in range(tries):
            body, asked_ns, recv_ns = await self.get("time")
            if not best or recv_ns - asked_ns < best:
                best = max(1, recv_ns - asked_ns)
                try:
                    offset = msgspec.json.decode(body)["serverTime"] * _MS - (asked_ns + recv_ns) // 2
                except (msgspec.DecodeError, KeyError, TypeError):
                    text = f"{self.endpoint.rest} answered time with something else ({body[:60]!r})"
                    raise SourceFailed(text) from None
        return offset, best

    async def close(self) -> None:
        """Close the client."""
        await self.client.aclose()


def _seconds(text: str | None) -> float:
    return float(text) if text and text.replace(".", "", 1).isdigit() else 5.0
