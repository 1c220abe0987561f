"""One client's socket: what it asked for, what is written to it, and what it may not do."""

import asyncio
import json
import re
from collections import Counter, deque
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from engine import clock
from engine.record.decode import SPOT, USDM
from engine.sim.faults import Item, in_microseconds
from engine.sim.limits import Limits
from engine.sim.tape import Tape, category, head

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
ID = re.compile(r"[A-Za-z0-9_-]{1,36}")
CATEGORIES = ("public", "market", "private")
COUNTED = (Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG)
SHUTDOWN_STREAM = "!serverShutdown"


class CountingConnection(ServerConnection):
    """A server connection that tells of every frame a client sends, pings and pongs included."""

    heard: Callable[[], None] | None = None

    def process_event(self, event) -> None:
        if isinstance(event, Frame) and event.opcode in COUNTED and self.heard:
            self.heard()
        super().process_event(event)


class Address:
    """What the path of a socket asks for; `known` is False for a path that is no stream address."""

    def __init__(self, path: str, venue: str):
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        steps = [unquote(step) for step in parts.path.strip("/").split("/")]
        self.category = None
        if venue == USDM and steps[0] in CATEGORIES:
            self.category, steps = steps[0], steps[1:]
        self.known = bool(steps) and steps[0] in ("ws", "stream")
        self.combined = self.known and steps[0] == "stream"
        named = query.get("streams", [""])[0] if self.combined else "/".join(steps[1:])
        self.streams = [name for name in named.split("/") if name]
        self.micro = venue == SPOT and query.get("timeUnit", [""])[0].upper() == "MICROSECOND"


def frame_head(size: int) -> bytes:
    """Return the head of an unmasked text frame (RFC 6455 section 5.2)."""
    if size < 126:
        return bytes((0x81, size))
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


class Client:
    """A connected socket with its subscriptions; `routes` are recorded streams and the names asked for."""

    def __init__(self, socket: CountingConnection, address: Address, tape: Tape, limits: Limits, sent: Counter):
        self.socket, self.address, self.tape, self.limits, self.sent = socket, address, tape, limits, sent
        self.combined = address.combined
        self.names: dict[str, None] = {}
        self.routes: dict[int, list[tuple[str, bytes | None]]] = {}
        self.muted: set[int] = set()  # recorded streams that are silent here
        self.misrouted = self.frozen = False
        self.unanswered: Callable[[], bool] = lambda: False
        self.backlog: deque[bytes] | None = None
        self.backlog_bytes = 0
        self._heard: deque[float] = deque(maxlen=limits.messages_per_s + 1)
        self._closing: asyncio.Task | None = None
        socket.heard = self._note

    @property
    def open(self) -> bool:
        """True while frames can be written."""
        return self.socket.state is State.OPEN and not self.frozen and self._closing is None

    def _note(self) -> None:
        now_s = clock.monotonic_s()
        self._heard.append(now_s)
        if len(self._heard) > self.limits.messages_per_s and now_s - self._heard[0] < 1.0:
            self.close(1008, "Too many requests")

    def close(self, code: int, reason: str) -> None:
        """Close the socket from this side without waiting; 1006 cuts the connection."""
        if code == 1006:
            self.socket.transport.abort()
        elif self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        try:
            await self.socket.close(code, reason)
        except ConnectionClosed:
            pass

    def subscribe(self, names: list[str]) -> None:
        """Add streams; what is unknown here, or not served on this path, stays silent."""
        for name in names:
            self.names[name] = None
            if (number := self.tape.find(name)) is not None:
                self.muted.discard(number)
        self._route()

    def unsubscribe(self, names: list[str]) -> None:
        """Remove streams."""
        for name in names:
            self.names.pop(name, None)
        self._route()

    def _route(self) -> None:
        self.routes = {}
        served = self.address.category or "public"
        for name in self.names:
            number = self.tape.find(name)
            if number is None or self.misrouted or category(self.tape.venue, name) != served:
                continue
            exact = self.tape.streams[number] == name
            form = b"" if not self.combined else None if exact else head(name)
            self.routes.setdefault(number, []).append((name, form))

    def wants(self, fits: Callable[[str], bool]) -> bool:
        """Return whether a fault that picks streams by `fits` meets this client."""
        return any(fits(self.tape.streams[number]) for number in self.routes)

    def deliver(self, items: list[Item]) -> None:
        """Write frames of the tape that this client asked for, in one piece."""
        if not self.open:
            return
        tape, routes, parts = self.tape, self.routes, []
        stream, frames = tape.stream, tape.frames
        for place, changes in items:
            number = stream[place]
            if number not in routes or number in self.muted:
                continue
            for name, form in routes[number]:
                payload = (
                    frames[place] if form is None else form + tape.data(place) + b"}" if form else tape.data(place)
                )
                if self.address.micro:
                    payload = in_microseconds(payload)
                for change in changes:
                    payload = change(payload)
                self.sent[name] += 1
                parts.append(frame_head(len(payload)))
                parts.append(payload)
        if parts:
            self._write(parts)

    def _write(self, parts: list[bytes]) -> None:
        if self.backlog is None:
            self.socket.transport.write(b"".join(parts))
            return
        for at in range(0, len(parts), 2):
            self.backlog.append(parts[at] + parts[at + 1])
            self.backlog_bytes += len(self.backlog[-1])

    def hold(self) -> None:
        """Let frames wait here from now on."""
        self.backlog = self.backlog or deque()

    def release(self, number: int | None = None) -> None:
        """Write some of the frames that wait, or all and let none wait any more."""
        waiting = self.backlog
        if waiting is None:
            return
        due = [waiting.popleft() for _ in range(len(waiting) if number is None else min(number, len(waiting)))]
        self.backlog_bytes -= sum(map(len, due))
        if due and self.open:
            self.socket.transport.write(b"".join(due))
        if number is None:
            self.backlog = None

    @property
    def unsent_bytes(self) -> int:
        """Bytes written to this client that the system has not taken yet, and those held back."""
        return self.socket.transport.get_write_buffer_size() + self.backlog_bytes

    def behind(self, limit: int) -> bool:
        """Return whether more than `limit` bytes wait for this client to read."""
        return self.open and self.socket.transport.get_write_buffer_size() > limit

    def freeze(self) -> None:
        """Play dead: read nothing, answer nothing, and keep the connection."""
        self.frozen = True
        self.socket.transport.pause_reading()

    def thaw(self) -> None:
        """Come back from playing dead."""
        self.frozen = False
        if not self.socket.transport.is_closing():
            self.socket.transport.resume_reading()

    async def say(self, answer: dict) -> None:
        """Send one JSON object that is not market data."""
        if self.open:
            await self.socket.send(json.dumps(answer, separators=(",", ":")))

    def notice(self, event: dict) -> None:
        """Write a notice of the venue in the form of this socket."""
        if self.open:
            payload = json.dumps(
                {"stream": SHUTDOWN_STREAM, "data": event} if self.combined else event, separators=(",", ":")
            ).encode()
            self.socket.transport.write(frame_head(len(payload)) + payload)

    async def control(self, message: str | bytes) -> None:
        """Carry out and answer one request of the client."""
        answer, carry_out = self._understand(message)
        if not self.unanswered():
            await self.say(answer)
        carry_out()

    def _understand(self, message: str | bytes) -> tuple[dict, Callable[[], None]]:
        def refused(code: int, text: str, asked: object = None) -> tuple[dict, Callable[[], None]]:
            return {"error": {"code": code, "msg": text}} | ({"id": asked} if asked is not None else {}), bool

        try:
            request = json.loads(message)
        except ValueError as error:
            line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
            return refused(3, f"Invalid JSON: expected value at line {line} column {column}")
        if not isinstance(request, dict) or "method" not in request:
            return refused(2, "Invalid request: missing field `method`")
        asked, method, params = request.get("id"), request["method"], request.get("params", [])
        if method not in METHODS:
            return refused(
                2, f"Invalid request: unknown variant `{method}`, expected one of {', '.join(METHODS)}", asked
            )
        # the official SDK sends UUIDs, so hyphens must be among what is documented as alphanumeric
        if not (asked is None or type(asked) is int or isinstance(asked, str) and ID.fullmatch(asked)):
            return refused(
                2, "Invalid request: request ID must be an integer, an alphanumeric string of at most 36 or null"
            )
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": list(self.names), "id": asked}, bool
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            if not isinstance(params, list) or not params or not all(isinstance(name, str) for name in params):
                return refused(2, "Invalid request: params must be a list of stream names", asked)
            if method == "UNSUBSCRIBE":
                return {"result": None, "id": asked}, lambda: self.unsubscribe(params)
            if len(self.names.keys() | set(params)) > self.limits.streams:
                return refused(2, "Invalid request: too many parameters", asked)
            return {"result": None, "id": asked}, lambda: self.subscribe(params)
        if not isinstance(params, list) or params[:1] != ["combined"]:
            return refused(0, "Unknown property", asked)
        if method == "GET_PROPERTY":
            return {"result": self.combined, "id": asked}, bool
        if len(params) != 2 or not isinstance(params[1], bool):
            return refused(1, "Invalid value type: expected Boolean", asked)
        return {"result": None, "id": asked}, lambda: self._combine(params[1])

    def _combine(self, combined: bool) -> None:
        self.combined = combined
        self._route()
