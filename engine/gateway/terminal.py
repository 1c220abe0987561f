"""A simulated MetaTrader 5 terminal: a module object with the exact surface of MetaTrader5, and the controls behind it."""

import threading
from collections.abc import Callable, Iterable

from engine.gateway import surface
from engine.gateway.terminal_answers import ANSWERS
from engine.gateway.terminal_books import MS, Book
from engine.gateway.terminal_faults import Faults
from engine.gateway.terminal_module import build_module
from engine.gateway.terminal_session import LocalSession
from engine.gateway.terminal_trade import TradeServer


class VirtualClock:
    """A clock that moves only when told to, or by sleeping."""

    def __init__(self, now_ns: int = 1_760_000_000 * 10**9):
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Return the instant."""
        return self._now_ns

    def monotonic_s(self) -> float:
        """Return seconds for measuring durations."""
        return self._now_ns / 1e9

    def sleep_s(self, seconds: float) -> None:
        """Move on."""
        self._now_ns += round(seconds * 1e9)


class SimulatedTerminal:
    """One terminal with one account logged in, and maybe others to switch to; `module` is for a program in this process.

    Calls may come from several threads: `lock` is held while books are read or changed, never while time passes.
    `feed` gives (utc ns, symbol, bid points, ask points) in order of time and is taken up to the clock's now at every call.
    """

    def __init__(self, books: Book | list[Book], clock, *, faults: Faults | None = None, feed: Iterable[tuple] = (),
                 password: str = "", save: Callable[[], None] | None = None, **server):
        listed = books if isinstance(books, list) else [books]
        self.clock, self.faults, self.password = clock, faults or Faults(), password
        self.servers = {book.login: TradeServer(book, self.faults, **server) for book in listed}
        self.login = listed[0].login
        self.feed, self.next_row = iter(feed), None
        self.save = save or (lambda: None)
        self.saved_tickets: list[int] = []
        self.down_until_ns = self.algo_off_until_ns = self.closed_until_ns = 0
        self.api_disabled = False
        self.requests = 0
        self.log: list[tuple[int, dict]] = []          # what order_send was asked, and when
        self.lock = threading.RLock()
        self.on_restart: Callable[[], None] = lambda: None
        self.session = LocalSession(self)
        self.module = build_module(self.session)

    @property
    def server(self) -> TradeServer:
        """The server side of the account that is logged in."""
        return self.servers[self.login]

    @property
    def book(self) -> Book:
        """The book of the account that is logged in."""
        return self.server.book

    def pump(self) -> None:
        """Bring every book up to the clock's now."""
        with self.lock:
            now_ns = self.clock.now_ns()
            if self.next_row is None:
                self.next_row = next(self.feed, None)
            while self.next_row is not None and self.next_row[0] <= now_ns:
                for server in self.servers.values():
                    if self.next_row[1] in server.book.specs:
                        server.book.push(*self.next_row)
                self.next_row = next(self.feed, None)
            for server in self.servers.values():
                server.book.run_to(now_ns)
                server.connected = now_ns >= self.down_until_ns
                server.algo_on = now_ns >= self.algo_off_until_ns
                server.closed_symbols = set(server.book.specs) if now_ns < self.closed_until_ns else set()

    def push(self, symbol: str, bid: int, ask: int) -> None:
        """Take one quote, in points, on every account that has the symbol."""
        with self.lock:
            for server in self.servers.values():
                if symbol in server.book.specs:
                    server.book.push(self.clock.now_ns(), symbol, bid, ask)
            self._save_changes("push")

    def answer(self, name: str, args: tuple, block: Callable[[], None] | None = None) -> object:
        """Return what the terminal answers to a call whose pipe is open; raise Broken where it fails.

        `block` takes the place of a wait without end, for a client who may be gone meanwhile.
        """
        with self.lock:
            fault = self.faults.take(name)
            self._begin(fault)
        kind, late = fault.get("do"), fault.get("when") == "after"
        if kind == "latency":
            self.clock.sleep_s(fault.get("ms", 0) / 1000)
        elif kind == "block" and not late:
            (block or self._block)()
        with self.lock:
            self.pump()
            try:
                result = ANSWERS[name](self, *args, *([fault] if name == "order_send" else []))
            finally:
                self._save_changes(name)
        if kind in ("lost", "unsent"):
            raise surface.Broken(-10002 if kind == "lost" else -10001, cut=True)
        if kind == "latency":
            self.clock.sleep_s(fault.get("after_ms", 0) / 1000)
            self.pump()
        elif kind == "block":
            (block or self._block)()
        return result

    def _save_changes(self, name: str) -> None:
        """Save before the answer is given, as a broker would not forget what it did."""
        tickets = [server.book.next_ticket for server in self.servers.values()]
        if name == "order_send" or tickets != self.saved_tickets:
            self.saved_tickets = tickets
            self.save()

    def _begin(self, fault: dict) -> None:
        """Do what a fault does before the call is looked at; raise Broken where it ends there."""
        kind, until_ns = fault.get("do"), self.clock.now_ns() + fault.get("for_ms", 0) * MS
        if kind == "disconnect":
            self.down_until_ns = until_ns
        elif kind == "algo_off":
            self.algo_off_until_ns = until_ns
        elif kind == "closed":
            self.closed_until_ns = until_ns
        elif kind == "account":
            self.login = fault.get("login") or next((login for login in self.servers if login != self.login), self.login)
        elif kind == "restart":
            self.on_restart()
            raise surface.Broken(-10002, cut=True)
        elif kind == "failed":
            raise surface.Broken(fault["code"])
        elif kind == "unsent" and not fault.get("executed"):
            raise surface.Broken(-10001, cut=True)

    def _block(self) -> None:
        while True:
            self.clock.sleep_s(3600)

    def log_in(self, login: int | None, password: str | None) -> None:
        """Log in to one of the accounts, or stay with the one there is; raise Broken for another."""
        with self.lock:
            if login and (login not in self.servers or (self.password and password != self.password)):
                raise surface.Broken(-6)
            self.login = login or self.login
            self.pump()

    def order_send(self, request: dict, fault: dict) -> dict:
        """Hand a request to the server; return the fields of the answer."""
        if self.api_disabled:
            raise surface.Broken(-8)
        self.requests += 1
        self.log.append((self.clock.now_ns(), request))
        kind = fault.get("do")
        if kind in ("lost", "unsent"):
            executed = {"do": "unknown", "code": 10012} | {key: value for key, value in fault.items() if key != "do"}
            return self.server.execute(request, executed)
        return self.server.execute(request, fault)
