"""Broker quotes from MetaTrader 5, polled through a worker of their own: a tick call may block while history is fetched.

Ticks are asked for from a whole second on, so those of that second come again and are dropped: a tick is known by its
server millisecond and its place among the ticks of it.
"""

from collections import deque
from dataclasses import dataclass, field

from engine.errors import SourceFailed
from engine.gateway.server_clock import detect_offset_s
from engine.gateway.symbols import masked
from engine.gateway.view import Reader, Unreadable
from engine.record.frames import BrokerQuote, Marker

COPY_TICKS_INFO = 1
PAGE = 5000                        # ticks in one answer; a full page is followed by the next at once
SAMPLES, LEAST_SAMPLES = 24, 4
SILENCE_NS = 3 * 10**9             # without a new tick the last one is looked at: the server's clock may have gone back
REWOUND_MSC = 30 * 60_000
FRESH_NS = 2 * 10**9               # arrival tells the server's clock only when the poll before was as near


@dataclass
class Cursor:
    """How far one symbol has been read."""

    symbol: str
    digits: int
    last_msc: int                  # server milliseconds of the newest tick taken, 0 while there is none
    taken: int = 0                 # ticks taken of that millisecond
    polled_ns: int = 0
    fresh_ns: int = 0              # arrival of the newest tick
    shown: tuple = ()              # the last tick taken while the server lives an hour again
    lost: bool = False
    samples: deque = field(default_factory=lambda: deque(maxlen=SAMPLES))


def fresh_rows(rows: dict, last_msc: int, taken: int) -> tuple[list[tuple[int, float, float]], int, int]:
    """Return the ticks not seen before as (server msc, bid, ask), and the new place of the cursor."""
    found, seen = [], 0
    for msc, bid, ask in zip(rows["time_msc"], rows["bid"], rows["ask"]):
        if msc == last_msc:
            seen += 1
            if seen <= taken:
                continue
        elif msc < last_msc:
            continue
        found.append((msc, bid, ask))
    if found:
        newest = found[-1][0]
        same = sum(msc == newest for msc, _, _ in found)
        taken = taken + same if newest == last_msc else same
        last_msc = newest
    return found, last_msc, taken


class Mt5Quotes:
    """Polls the quotes of some symbols; what `poll` returns are payloads for the recorder, in the order of each symbol."""

    def __init__(self, link, symbols: list[str], clock, account: tuple[int, str] | None = None):
        """Begin at a terminal; with `account`, its login and server, nothing is read while another one is logged in."""
        self.reader, self.clock, self.account = Reader(link, clock, frozenset()), clock, account
        self.cursors = [self._begin(symbol) for symbol in symbols]
        self.offset_s: int | None = None

    def _begin(self, symbol: str) -> Cursor:
        """Start at the last tick there is, which itself is told."""
        try:
            if not self._read("symbol_select", symbol, True):
                raise SourceFailed(f"the terminal cannot select {symbol}; open Market Watch and see how the broker names it")
            digits, last = self._read("symbol_info", symbol)["digits"], self._read("symbol_info_tick", symbol)
            return Cursor(symbol, digits, last["time_msc"])
        except Unreadable as unreadable:
            raise SourceFailed(f"quotes of {symbol} cannot be read: {unreadable}") from None

    def _read(self, name: str, *args):
        """Return the result of a call; raise Unreadable where another account is logged in before it or after it."""
        if self.account is None:
            return self.reader.call(name, *args)
        before, result, after = self.reader.batch(("account_info", [], {}), (name, list(args), {}), ("account_info", [], {}))
        for seen in (before, after):
            if (seen["login"], seen["server"]) != self.account:
                raise Unreadable(f"account {masked(seen['login'])} on {seen['server']} is logged in, not the account of this run")
        return result

    def poll(self) -> list[BrokerQuote | Marker]:
        """Return every new quote, and a marker where a symbol cannot be read any more, or again."""
        found: list[BrokerQuote | Marker] = []
        for cursor in self.cursors:
            try:
                quotes = self._poll_symbol(cursor)
            except Unreadable as unreadable:
                if not cursor.lost:
                    found.append(Marker("lost", cursor.symbol, "quotes", detail=str(unreadable)))
                cursor.lost = True
                continue
            if cursor.lost:
                found.append(Marker("connected", cursor.symbol, "quotes"))
                cursor.lost = False
            found += quotes
        return found

    def _rewound(self, cursor: Cursor) -> list[BrokerQuote]:
        """Return the last tick where the server's clock went back behind the cursor.

        The history of that hour holds both passes and cannot be told apart, so only the newest tick of each poll is taken.
        """
        now_ns = self.clock.now_ns()
        if now_ns - cursor.fresh_ns < SILENCE_NS and not cursor.shown:
            return []
        tick = self._read("symbol_info_tick", cursor.symbol)
        if not tick["time_msc"]:
            return []
        if tick["time_msc"] > cursor.last_msc - REWOUND_MSC and (not cursor.shown or tick["time_msc"] > cursor.last_msc):
            cursor.shown, cursor.fresh_ns = (), now_ns
            return []
        row = tick["time_msc"], tick["bid"], tick["ask"]
        if row == cursor.shown:
            return []
        if cursor.shown:
            cursor.samples.append((row[0], now_ns))
            self._detect()
        cursor.shown = row
        return [self._quote(cursor, *row)]

    def _poll_symbol(self, cursor: Cursor) -> list[BrokerQuote]:
        if not cursor.last_msc:        # asked from there, the terminal would fetch the whole history
            cursor.last_msc = self._read("symbol_info_tick", cursor.symbol)["time_msc"]
            if not cursor.last_msc:
                return []
        before_ns, quotes = cursor.polled_ns, self._rewound(cursor)
        if cursor.shown:
            return quotes
        while True:
            rows = self._read("copy_ticks_from", cursor.symbol, max(cursor.last_msc // 1000, 86_400), PAGE, COPY_TICKS_INFO)
            now_ns = self.clock.now_ns()
            fresh, last_msc, taken = fresh_rows(rows, cursor.last_msc, cursor.taken)
            full = len(rows["time_msc"]) >= PAGE
            if full and not fresh:         # more ticks in one second than a page holds: go on from the next second
                fresh, last_msc, taken = [], (cursor.last_msc // 1000 + 1) * 1000, 0
            cursor.last_msc, cursor.taken, cursor.polled_ns = last_msc, taken, now_ns
            cursor.fresh_ns = now_ns if fresh or not cursor.fresh_ns else cursor.fresh_ns
            if fresh and not full and before_ns and now_ns - before_ns <= FRESH_NS:
                cursor.samples.append((fresh[-1][0], now_ns))
                self._detect()
            quotes += [self._quote(cursor, *row) for row in fresh]
            if not full:
                return quotes

    def _detect(self) -> None:
        """Find the server's offset from the newest samples of all symbols; keep the one in force while they disagree."""
        samples = sorted((sample for cursor in self.cursors for sample in cursor.samples), key=lambda sample: sample[1])
        newest = samples[-LEAST_SAMPLES:]
        found = detect_offset_s(newest) if len(newest) == LEAST_SAMPLES else None
        self.offset_s = self.offset_s if found is None else found

    def _quote(self, cursor: Cursor, msc: int, bid: float, ask: float) -> BrokerQuote:
        event_ns = None if self.offset_s is None else (msc - self.offset_s * 1000) * 1_000_000
        return BrokerQuote(cursor.symbol, *(f"{price:.{cursor.digits}f}" if price > 0 else "" for price in (bid, ask)), event_ns)
