"""The broker's side of a live run: one thread that trades and watches the account, one that polls quotes, each with a worker.

Nothing of it touches the kernel: what they see and what became of an order is handed to the recorder as frames.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from engine import clock
from engine.errors import SourceFailed
from engine.gateway.mt5 import Gateway
from engine.gateway.orders import Exit, Outcome
from engine.gateway.view import Reader, Unreadable
from engine.instruments import Instrument
from engine.kernel.records import RECORDED_CLOSE, RULE_CLOSED, STOPPED, TAKEN
from engine.live.account import AccountBook, steps
from engine.live.first import FirstSeen
from engine.record.frames import BrokerQuote, Marker
from engine.record.own import Order
from engine.record.segment import ACCOUNT, CONTROL, OUTCOME, QUOTE
from engine.sources.mt5 import Mt5Quotes
from engine.words import FILL_CODES

POSITIONS_S, TICKS_S, QUOTES_S = 0.2, 0.05, 0.03
REPAIR_S = 1.0                 # between two tries to reach a terminal that is gone
RESUME_S = 10.0                # between two tries to find out what a killed run left
E8 = 100_000_000
Deliver = Callable[[int, bytes], None]         # kind and payload of a frame for the recorder


@dataclass
class Health:
    """What the threads last knew, for the guard and the screen; times are of the monotonic clock, 0 for never."""

    account: dict = field(default_factory=dict)
    terminal: dict = field(default_factory=dict)
    positions: list[dict] = field(default_factory=list)
    looked_s: float = 0.0          # the last sound reading of positions
    quoted_s: dict[str, float] = field(default_factory=dict)       # the last new quote of each symbol
    problem: str = ""              # what keeps the account from being read
    quotes_problem: str = ""
    ended: str = ""                # why a thread ended that was not told to
    actions: int = 0
    order_sent_ns: list[tuple[int, int]] = field(default_factory=list)     # decided, and sent


class Trader(threading.Thread):
    """Acts on decisions through the gateway, and tells what changes of the account."""

    def __init__(self, link, gateway: Gateway, instruments: dict[str, Instrument], deliver: Deliver, health: Health,
                 utc_ns: Callable[[int], int | None] = lambda msc: None, first: FirstSeen | None = None, clock_reads: int = 0):
        super().__init__(name="trader", daemon=True)
        self.link, self.gateway, self.instruments, self.deliver, self.health = link, gateway, instruments, deliver, health
        self.reader: Reader = gateway.reader
        self.book = AccountBook(instruments, utc_ns, first, clock_reads)
        self.orders: queue.SimpleQueue[tuple[Exit, str] | None] = queue.SimpleQueue()
        self.asked: dict[str, Exit] = {}
        self.stopping = False
        self._left_out: set[int] = set()
        self._positions_s = self._ticks_s = self._resume_s = 0.0

    def submit(self, exit: Exit, why: str = "") -> None:
        """Hand a decision over, or one that is to be refused and why; returns at once."""
        self.orders.put((exit, why))

    def stop(self) -> None:
        """End after what is under way; what was not begun is refused."""
        self.gateway.ending = True
        self.orders.put(None)

    def run(self) -> None:
        """Serve decisions as they come, and look at the account in between."""
        try:
            while not (self.stopping and not self.gateway.queue and self.orders.empty()):
                self._wait()
                for outcome in self.gateway.poll():
                    self._ended(outcome)
                self._look()
                self._resume()
        except Exception as error:      # the run ends with it: without this thread nothing is known of the account
            self.health.ended = f"the trading thread ended ({type(error).__name__}: {error})"

    def _wait(self) -> None:
        now_s = clock.monotonic_s()
        due_s = min(self._positions_s, self._ticks_s) - now_s
        if self.gateway.queue:
            due_s = min(due_s, (self.gateway.queue[0][0] - self.gateway.clock.now_ns()) / 1e9)
        try:
            asked = self.orders.get(timeout=max(0.0, due_s)) if due_s > 0 else self.orders.get_nowait()
        except queue.Empty:
            return
        if asked is None:
            self.stopping = True
            return
        exit, why = asked
        self.asked[exit.decision] = exit
        self.health.actions += 1
        self.gateway.start(exit, why)

    def _resume(self) -> None:
        """Find out, while the broker is there, what became of what a killed run had begun; until then those positions are left alone."""
        now_s = clock.monotonic_s()
        if self.health.looked_s and not self.health.problem and now_s >= self._resume_s:
            self._resume_s = now_s + RESUME_S
            self.gateway.resume()

    def _look(self) -> None:
        now_s = clock.monotonic_s()
        try:
            if now_s >= self._ticks_s:
                self._ticks_s = now_s + TICKS_S
                for symbol in {known.symbol for known in self.book.known.values()}:
                    tick = self.reader.call("symbol_info_tick", symbol)
                    self.gateway.ages.age_s(symbol, tick, self.gateway.clock.now_ns())
            if now_s >= self._positions_s:
                self._positions_s = now_s + POSITIONS_S
                self.look()
        except Unreadable as unreadable:
            self.health.problem = str(unreadable)
            self._positions_s = self._ticks_s = clock.monotonic_s() + REPAIR_S

    def look(self) -> None:
        """Read account and positions once and tell what changed; raise Unreadable when they cannot be believed."""
        account, terminal = self.reader.call("account_info"), self.reader.call("terminal_info")
        if account["login"] not in self.reader.accounts:
            raise Unreadable("another account is logged in", fatal=True)
        if not terminal["connected"]:
            raise Unreadable("the terminal has no link to the broker")
        positions = self.reader.call("positions_get")
        if not self.reader.call("terminal_info")["connected"] or self.reader.call("account_info")["login"] != account["login"]:
            raise Unreadable("the link to the broker or the account changed while positions were read")
        busy = set(self.gateway.busy) | {exit.identifier for exit in self.asked.values()}
        for told in self.book.read(positions, busy, lambda identifier: self.reader.call("history_deals_get", position=identifier)):
            self.deliver(ACCOUNT, msgspec.json.encode(told))
        for identifier in self.book.left_out - self._left_out:
            self.gateway.alarm(f"position {identifier} is not managed: {len(self.book.known)} are open already, more cannot be until one "
                               "ends; its broker-side stop stays")
        self._left_out = set(self.book.left_out)
        health = self.health
        health.account, health.terminal, health.positions = account, terminal, positions
        health.looked_s, health.problem = clock.monotonic_s(), ""

    def _ended(self, outcome: Outcome) -> None:
        exit = self.asked.pop(outcome.decision)
        instrument = self.instruments[exit.symbol]
        code = outcome.code
        if code == RECORDED_CLOSE:         # somebody else closed it: the next reading tells
            code = FILL_CODES.index("rejected")
        closed = code in (RULE_CLOSED, STOPPED, TAKEN)
        left = None if outcome.lots_left is None else steps(outcome.lots_left, instrument.lot_size)
        stop = steps(outcome.stop, instrument.tick_size) if outcome.stop else None
        order = Order(exit.symbol, exit.identifier, exit.decision, exit.rule, outcome.state, FILL_CODES[code],
                      None if outcome.price is None else steps(outcome.price, instrument.tick_size), left,
                      None if outcome.lots_closed is None else steps(outcome.lots_closed, instrument.lot_size), stop,
                      None if outcome.net is None else round(outcome.net * E8), outcome.sends,
                      " ".join(map(str, outcome.retcodes)), outcome.reason)
        self.book.ended(exit.identifier, left if FILL_CODES[code] == "rule_reduced" else None,
                        stop if FILL_CODES[code] == "stop_moved" else None, closed)
        self.deliver(OUTCOME, msgspec.json.encode(order))


class Quotes(threading.Thread):
    """Polls the broker's quotes; with `account`, its login and server, never those of another one."""

    def __init__(self, link, symbols: list[str], wall, deliver: Deliver, health: Health, account: tuple[int, str] | None = None):
        super().__init__(name="quotes", daemon=True)
        self.link, self.symbols, self.wall, self.deliver, self.health = link, symbols, wall, deliver, health
        self.account = account
        self.source: Mt5Quotes | None = None
        self.ended = threading.Event()

    def stop(self) -> None:
        """End after the poll under way."""
        self.ended.set()

    def run(self) -> None:
        """Hand over every new quote; where the terminal is gone, try again until it is back."""
        self.link.restart()
        while not self.ended.wait(QUOTES_S):
            try:
                if self.source is None:
                    self.source = Mt5Quotes(self.link, self.symbols, self.wall, self.account)
                    for symbol in self.symbols:
                        self.deliver(CONTROL, msgspec.json.encode(Marker("connected", symbol, "quotes")))
                    self.health.quotes_problem = ""
                for found in self.source.poll():
                    if isinstance(found, BrokerQuote):
                        self.health.quoted_s[found.symbol] = clock.monotonic_s()
                        self.deliver(QUOTE, msgspec.json.encode(found))
                    else:
                        self.health.quotes_problem = found.detail
                        self.deliver(CONTROL, msgspec.json.encode(found))
            except SourceFailed as error:
                self.health.quotes_problem = str(error)
                self.ended.wait(REPAIR_S)
            except Exception as error:
                self.health.ended = f"the quotes thread ended ({type(error).__name__}: {error})"
                return

    def utc_ns(self, server_msc: int) -> int | None:
        """Return the instant of a server stamp, None while the server's clock is not known."""
        offset_s = self.source.offset_s if self.source else None
        return None if offset_s is None else (server_msc - offset_s * 1000) * 1_000_000
