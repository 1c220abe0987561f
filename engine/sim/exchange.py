"""An exchange on loopback that plays a recorded capture over Binance's own protocol, with faults on request.

It serves WebSocket and REST on one port. Frames of streams are sent byte for byte as recorded, unless a client asked
for them under another name or form (`/ws/` without the envelope, `@depth@100ms` where `@depth@0ms` was recorded), or a
fault is done to them. A depth request before the capture's first depth body waits for it, or is refused with 503.
"""

import asyncio
import http
import logging
import math
import ssl
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Self

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from engine import clock
from engine.errors import BadInput, SourceFailed, nearest
from engine.sim.effects import Effects
from engine.sim.faults import Fault, seeded, shifted
from engine.sim.limits import LIMITS, Limits
from engine.sim.market import Market, Steps
from engine.sim.rest import Answer, Rest
from engine.sim.sockets import Address, Client, CountingConnection
from engine.sim.tape import REST, VENUES, Tape, load_tape

HOST = "127.0.0.1"
MAX = math.inf
BATCH = 256  # frames between two looks at the sockets
FLOW_BYTES = 1 << 18  # unsent bytes at which playing as fast as possible waits for a client
STALL_S = 30.0
CLOSE_S = 1.0
STARTS = ("subscription", "now", "call")
log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())
log.propagate = False


@dataclass(frozen=True)
class ExchangeConfig:
    """What to play and how; `speed` is in tape seconds a second, MAX for as fast as the clients take it."""

    captures: Sequence[Path | str]
    venue: str | None = None  # usdm | spot; told from the capture where not given
    speed: float = 1.0
    loop: bool = False  # at the end close every socket and play again
    start: str = "subscription"  # first subscription | now | call of `begin`
    start_delay_s: float = 0.0
    port: int = 0  # 0: a free one
    faults: Sequence[Fault] = ()
    seed: int = 0  # of the faults in `rates`; print it before anything else
    rates: Mapping[str, float] = field(default_factory=dict)  # fault kind to mean number a minute of the tape
    limits: Limits | None = None  # the venue's where not given
    time_scale: float = 1.0  # how much sooner pings, deadlines, windows and lifetimes come
    weights: Mapping[str, int] | None = None
    early_depth: str = "wait"  # wait | refuse, where the capture has not told the book yet
    wait_s: float = 10.0  # longest such wait
    blocked: int = 0  # 451 or 403: everything is refused
    restamp: bool = False  # move E and T to the present; frames are then not as recorded
    aggregates: bool = True  # derive @aggTrade where only @trade was recorded
    steps: Mapping[str, Steps] | None = None
    certificate: Path | str | None = None  # PEM files; with them the exchange speaks TLS
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if not self.speed > 0:
            raise BadInput(f"speed {self.speed} is not above 0; 1 is real time, inf as fast as clients take it")
        if not 0 < self.time_scale < math.inf:
            raise BadInput(f"time scale {self.time_scale} is not above 0; 1 keeps the venue's own times")
        for name, value, known in (
            ("venue", self.venue, (None, *VENUES)),
            ("start", self.start, STARTS),
            ("early_depth", self.early_depth, ("wait", "refuse")),
            ("blocked", self.blocked, (0, 403, 451)),
        ):
            if value not in known:
                raise BadInput(f"{name} {value!r} is not known; {nearest(str(value), map(str, known))}")
        if self.start_delay_s < 0 or self.wait_s < 0:
            raise BadInput("start_delay_s and wait_s are seconds of 0 or more")
        if (self.certificate is None) != (self.key is None):
            raise BadInput("a certificate and its key are given together, or neither")


class Exchange:
    """The running simulator; use it as `async with Exchange(config) as exchange`."""

    def __init__(self, config: ExchangeConfig, tape: Tape | None = None):
        self.config = config
        self.tape = tape or load_tape(config.captures, VENUES.get(config.venue), config.aggregates)
        self.limits = (config.limits or LIMITS[self.tape.venue]).sped(config.time_scale)
        self.market = Market(self.tape, dict(config.steps or {}))
        self.rest = Rest(self.market, self.limits, self.now_ms, config.weights)
        self.sent: Counter[str] = Counter()  # frames by the name asked for, over all sockets
        self.clients: list[Client] = []
        self.connects = 0
        self.finished = asyncio.Event()
        recorded = [name for name in self.tape.streams if not name.startswith(REST)]
        drawn = seeded(config.seed, config.rates, self.tape.duration_s, recorded)
        self.effects = Effects(self.tape, sorted([*config.faults, *drawn], key=lambda fault: fault.at_s), self)
        self.rest.shift = self.effects.depth_shift
        self.rest.shift_ms = lambda: self.effects.jump_ms + self._restamp_ms
        self._recorded = {self.tape.number[name] for name in recorded}
        self._begun = asyncio.Event()
        self._origin_s: float | None = None
        self._restamp_ms = 0
        self._awaiting_depth = 0
        self._arrivals: deque[float] = deque()

    @property
    def fired(self) -> list[Fault]:
        """The faults done so far, in order."""
        return self.effects.fired

    @property
    def ws_url(self) -> str:
        """Base address of sockets, without a path."""
        return f"{'wss' if self.config.certificate else 'ws'}://{HOST}:{self.port}"

    @property
    def rest_url(self) -> str:
        """Base address of REST."""
        return f"{'https' if self.config.certificate else 'http'}://{HOST}:{self.port}"

    def tape_ns(self) -> int:
        """Return the receive time the tape has been played to."""
        recv_ns = self.tape.recv_ns
        if self._origin_s is None:
            return recv_ns[0]
        if self.config.speed == MAX:
            return recv_ns[max(0, self.market.position - 1)]
        return recv_ns[0] + round((clock.monotonic_s() - self._origin_s) * self.config.speed * 1e9)

    def now_ms(self) -> int:
        """Return the venue's clock: no stamp sent so far is after it."""
        return (self.tape_ns() + self.tape.venue_ahead_ns) // 1_000_000 + self.effects.jump_ms + self._restamp_ms

    async def __aenter__(self) -> Self:
        context = None
        if self.config.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(self.config.certificate, self.config.key)
            except (OSError, ssl.SSLError) as error:
                raise BadInput(
                    f"{self.config.certificate} and {self.config.key} are not a PEM certificate and its key ({error})"
                ) from None
        try:
            self._server = await serve(
                self._socket,
                HOST,
                self.config.port,
                compression=None,
                process_request=self._request,
                ssl=context,
                create_connection=CountingConnection,
                ping_interval=None,
                open_timeout=60,
                close_timeout=CLOSE_S,
                server_header=None,
                logger=log,
            )
        except OSError as error:
            raise SourceFailed(
                f"port {self.config.port} of {HOST} cannot be opened ({error.strerror or error})"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        if self.config.start == "now":
            self.begin()
        self._player = asyncio.create_task(self._play())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._player.cancel()
        for client in self.clients:
            if client.frozen:
                client.socket.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(self._player, return_exceptions=True)

    def begin(self) -> None:
        """Start to play; before that the tape stands at its first frame."""
        self._begun.set()

    def pace(self, speed: float) -> None:
        """Go on at another speed."""
        played_ns = self.tape_ns() - self.tape.recv_ns[0]
        self.config = replace(self.config, speed=speed)
        if self._origin_s is not None:
            self._origin_s = clock.monotonic_s() - played_ns / 1e9 / speed

    async def _play(self) -> None:
        while True:
            await self._begun.wait()
            await asyncio.sleep(self.config.start_delay_s)
            self._origin_s = clock.monotonic_s()
            if self.config.restamp:
                self._restamp_ms = (
                    clock.now_ns() // 1_000_000 - (self.tape.recv_ns[0] + self.tape.venue_ahead_ns) // 1_000_000
                )
            await self._play_once()
            if not self.config.loop:
                await self._flow(0)
                self.finished.set()
                return
            for client in self.clients:
                client.close(1001, "the capture begins again")
            if self.config.start != "now":
                self._begun.clear()
            self._origin_s = None
            self.market.rewind()
            self.effects.rewind()

    async def _play_once(self) -> None:
        position, frames = 0, len(self.tape)
        while position < frames:
            due = await self._due(position)
            while position < due:
                self.effects.reach(position)
                end = min(due, self.effects.next_place(), position + BATCH)
                self._send(position, end)
                position = end
                await self._flow(FLOW_BYTES)
        self.effects.reach(frames)
        self.deliver(self.effects.gate.end_all())

    async def _due(self, position: int) -> int:
        """Wait for the next frame's time and return the end of the frames whose time has come."""
        if self.config.speed == MAX:
            await asyncio.sleep(0)
            return min(len(self.tape), position + BATCH)
        while (ahead_ns := self.tape.recv_ns[position] - self.tape_ns()) > 0:
            await asyncio.sleep(ahead_ns / 1e9 / self.config.speed)
        return bisect_right(self.tape.recv_ns, self.tape_ns(), position)

    def _send(self, position: int, end: int) -> None:
        stream, base = self.tape.stream, (shifted(self._restamp_ms),) if self._restamp_ms else ()
        items = [(place, base) for place in range(position, end) if stream[place] in self._recorded]
        self.market.position = end
        self.deliver(items if self.effects.gate.idle else self.effects.gate.pass_through(items))
        self.effects.release(self.tape.recv_ns[end - 1])

    def deliver(self, items: list) -> None:
        """Write frames to every client that asked for them."""
        for client in self.clients:
            client.deliver(items)

    async def _flow(self, limit: int) -> None:
        """Cut off clients that read too slowly; at full speed wait for those that do read."""
        for client in self.clients:
            if client.open and client.unsent_bytes > self.limits.buffer_bytes:
                client.close(1008, "slow consumer")
        if self.config.speed != MAX:
            return
        since_s = clock.monotonic_s()
        while not self._awaiting_depth and (slow := [client for client in self.clients if client.behind(limit)]):
            if clock.monotonic_s() - since_s > STALL_S:
                for client in slow:
                    client.close(1006, "")
            await asyncio.sleep(0.0005)

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Let a socket pass, or answer a REST request."""
        if self.config.blocked:
            return _response(self.rest.refuse(self.config.blocked))
        if Address(request.path, self.tape.venue).known:
            now_s = clock.monotonic_s()
            while self._arrivals and now_s - self._arrivals[0] > self.limits.connections_s:
                self._arrivals.popleft()
            self._arrivals.append(now_s)
            return _response(self.rest.refuse(429)) if len(self._arrivals) > self.limits.connections else None
        await asyncio.sleep(self.effects.delay_s())
        if status := self.effects.status():
            return _response(self.rest.refuse(status))
        name, query = self.rest.asked(request.path)
        if name == "depth":
            await self._book_known(query.get("symbol", ""))
        return _response(self.rest.answer(request.path, request.headers, connection.remote_address[0]))

    async def _book_known(self, symbol: str) -> None:
        """Wait until the capture has told the book of a symbol; who asks before subscribing starts the tape too."""
        if self.config.start == "subscription" and self.config.early_depth == "wait":
            self.begin()
        until_s = clock.monotonic_s() + (self.config.wait_s if self.config.early_depth == "wait" else 0.0)
        self._awaiting_depth += 1
        try:
            while not self.finished.is_set() and clock.monotonic_s() < until_s and not self.rest.known(symbol):
                await asyncio.sleep(0.005)
        finally:
            self._awaiting_depth -= 1

    async def _socket(self, socket: CountingConnection) -> None:
        client = Client(socket, Address(socket.request.path, self.tape.venue), self.tape, self.limits, self.sent)
        client.misrouted = self.effects.misroutes()
        client.unanswered = self.effects.no_ack
        self.connects += 1
        self.clients.append(client)
        keepers = [asyncio.create_task(self._keep_alive(client)), asyncio.create_task(self._cut_at_lifetime(client))]
        try:
            if len(client.address.streams) > self.limits.streams:
                client.close(1008, "too many streams")
            else:
                client.subscribe(client.address.streams)
            self._begin_with(client)
            async for message in socket:
                await client.control(message)
                self._begin_with(client)
        except ConnectionClosed:
            pass
        finally:
            self.clients.remove(client)
            for task in keepers:
                task.cancel()

    def _begin_with(self, client: Client) -> None:
        if client.names and self.config.start == "subscription":
            self.begin()

    async def _keep_alive(self, client: Client) -> None:
        """Ping at the venue's interval; the payload is the venue's time, and only its echo in time counts."""
        while True:
            await asyncio.sleep(self.limits.ping_every_s)
            if client.frozen:
                continue
            try:
                echo = await client.socket.ping(str(self.now_ms()))
                await asyncio.wait_for(asyncio.shield(echo), self.limits.pong_within_s)
            except TimeoutError:
                client.close(1008, "Pong timeout")
                return
            except (ConnectionClosed, RuntimeError):
                return

    async def _cut_at_lifetime(self, client: Client) -> None:
        await asyncio.sleep(self.limits.lifetime_s)
        client.close(1001, "connection lifetime reached")


def _response(answer: Answer) -> Response:
    status, headers, body = answer
    phrase = http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else ""
    fields = {
        "Date": formatdate(usegmt=True),
        "Connection": "close",
        "Content-Length": str(len(body)),
        "Content-Type": "application/json;charset=UTF-8",
        **headers,
    }
    return Response(status, phrase, Headers(fields.items()), body)


async def run_forever(
    config: ExchangeConfig, ready: Callable[[Exchange], None] | None = None, to_end: bool = False
) -> Exchange:
    """Serve until cancelled, or with `to_end` until the tape has been played; `ready` is told when clients may come."""
    async with Exchange(config) as exchange:
        if ready:
            ready(exchange)
        await (exchange.finished.wait() if to_end else asyncio.get_running_loop().create_future())
    return exchange
