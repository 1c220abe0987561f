"""A simulated MetaTrader 5 terminal: a module object with the exact surface of MetaTrader5, and the controls behind it."""

from collections.abc import Callable, Iterable

from engine.gateway import surface
from engine.gateway.terminal_books import BUY, LOT, MS, Book, Deal, Order, Position
from engine.gateway.terminal_faults import Faults
from engine.gateway.terminal_module import build_module
from engine.gateway.terminal_trade import TradeServer


class VirtualClock:
    """A clock that moves only when told to, or by sleeping."""

    def __init__(self, now_ns: int = 1_760_000_000 * 10**9):
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Return the instant."""
        return self._now_ns

    def sleep_s(self, seconds: float) -> None:
        """Move on."""
        self._now_ns += round(seconds * 1e9)


class SimulatedTerminal:
    """One terminal with one account logged in, and maybe others to switch to; `module` is what a program imports.

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
        self.pipe_open = False
        self.down_until_ns = self.algo_off_until_ns = self.closed_until_ns = 0
        self.api_disabled = False
        self.requests = 0
        self.error = (1, "Success")
        self.log: list[tuple[int, dict]] = []          # what order_send was asked, and when
        self.module = build_module(self)

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

    def call(self, name: str, do: Callable[[dict], object], failed: object = None) -> object:
        """Run one call as the module does: the pipe, the fault of this call, then the terminal."""
        try:
            if not self.pipe_open:
                raise surface.Broken(-10004)
            fault = self.faults.take(name)
            self._before(fault)
            self.pump()
            result = do(fault)
            self._save_changes(name)
            self._after(fault)
        except surface.Broken as broken:
            self._save_changes(name)
            self.error = broken.code, broken.text
            return failed
        self.error = 1, "Success"
        return result

    def _save_changes(self, name: str) -> None:
        """Save before the answer is given, as a broker would not forget what it did."""
        tickets = [server.book.next_ticket for server in self.servers.values()]
        if name == "order_send" or tickets != self.saved_tickets:
            self.saved_tickets = tickets
            self.save()

    def _before(self, fault: dict) -> None:
        kind, now_ns = fault.get("do"), self.clock.now_ns()
        until_ns = now_ns + fault.get("for_ms", 0) * MS
        if kind == "disconnect":
            self.down_until_ns = until_ns
        elif kind == "algo_off":
            self.algo_off_until_ns = until_ns
        elif kind == "closed":
            self.closed_until_ns = until_ns
        elif kind == "account":
            self.login = fault.get("login") or next((login for login in self.servers if login != self.login), self.login)
        elif kind == "restart":
            self.pipe_open = False
            raise surface.Broken(-10002)
        elif kind == "failed":
            raise surface.Broken(fault["code"])
        elif kind == "latency":
            self.clock.sleep_s(fault.get("ms", 0) / 1000)
        elif kind == "unsent" and not fault.get("executed"):
            self.pipe_open = False
            raise surface.Broken(-10001)
        elif kind == "block" and fault.get("when") != "after":
            self._block()

    def _after(self, fault: dict) -> None:
        kind = fault.get("do")
        if kind in ("lost", "unsent"):
            self.pipe_open = False
            raise surface.Broken(-10002 if kind == "lost" else -10001)
        if kind == "latency":
            self.clock.sleep_s(fault.get("after_ms", 0) / 1000)
            self.pump()
        elif kind == "block":
            self._block()

    def _block(self) -> None:
        while True:
            self.clock.sleep_s(3600)

    def refuse(self, text: str, failed: object = None) -> object:
        """End a call whose arguments are wrong, before the pipe is looked at."""
        self.error = -2, text
        return failed

    def connect(self, login: int | None, password: str | None) -> bool:
        """Open the pipe; a login must be one of the accounts."""
        self.pipe_open = False
        if login and (login not in self.servers or (self.password and password != self.password)):
            self.error = -6, surface.ERROR_TEXTS[-6]
            return False
        if login:
            self.login = login
        self.pipe_open = True
        self.pump()
        self.error = 1, "Success"
        return True

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

    def order_record(self, order: Order):
        """Return the module's record of an order."""
        spec = self.book.specs[order.symbol]
        bid, ask = self.book.quote(order.symbol)
        return surface.make("TradeOrder", ticket=order.ticket, time_setup=order.setup_msc // 1000, time_setup_msc=order.setup_msc,
                            time_done=order.done_msc // 1000, time_done_msc=order.done_msc, type=order.type, type_filling=order.filling,
                            state=order.state, magic=order.magic, position_id=order.position_id, reason=order.reason,
                            volume_initial=order.volume / LOT, volume_current=order.left / LOT, price_open=spec.price(order.points),
                            sl=spec.price(order.sl), tp=spec.price(order.tp), price_current=spec.price(ask if order.type == BUY else bid),
                            symbol=order.symbol, comment=order.comment)

    def deal_record(self, deal: Deal):
        """Return the module's record of a deal."""
        return surface.make("TradeDeal", ticket=deal.ticket, order=deal.order, time=deal.time_msc // 1000, time_msc=deal.time_msc,
                            type=deal.type, entry=deal.entry, magic=deal.magic, position_id=deal.position_id, reason=deal.reason,
                            volume=deal.volume / LOT, price=self.book.specs[deal.symbol].price(deal.points), commission=deal.commission,
                            profit=deal.profit, symbol=deal.symbol, comment=deal.comment)

    def position_record(self, position: Position):
        """Return the module's record of a position."""
        spec, book = self.book.specs[position.symbol], self.book
        return surface.make("TradePosition", ticket=position.ticket, time=position.time_msc // 1000, time_msc=position.time_msc,
                            time_update=position.update_msc // 1000, time_update_msc=position.update_msc, type=position.type,
                            magic=position.magic, identifier=position.identifier, reason=position.reason, volume=position.volume / LOT,
                            price_open=spec.price(position.open_points), sl=spec.price(position.sl), tp=spec.price(position.tp),
                            price_current=spec.price(book.exit_points(position)) if book.quote(position.symbol) else 0.0,
                            swap=position.swap, profit=book.profit(position), symbol=position.symbol, comment=position.comment)
