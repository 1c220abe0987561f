"""The exchange's own book and trades, known from the capture alone: what its REST answers are made of."""

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

import msgspec

from engine.instruments import decimal_text
from engine.record import wire
from engine.record.columns import Scale, parse_decimals
from engine.record.decode import USDM
from engine.sim.tape import REST, Tape

KEPT_EVERY, KEPT = 128, 4  # events between two books that are kept, and how many
SAMPLED_FRAMES = 2_000  # of each kind, to find tick and step sizes
QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "USD")
_ANY = msgspec.json.Decoder()


class Steps(NamedTuple):
    """Price tick and quantity step of a symbol as the venue writes them, with the decimals of its texts."""

    tick: str
    lot: str
    price_decimals: int
    qty_decimals: int


@dataclass
class Book:
    """Levels by price text, folded from snapshots and diffs as section 6 of the venue's rules says."""

    strict: bool  # USD-M: pu must equal the u before; spot: U may not pass it by more than one
    bids: dict[str, str] = field(default_factory=dict)
    asks: dict[str, str] = field(default_factory=dict)
    last_id: int = 0
    known: bool = False
    chained: bool = False
    time_ms: int | None = None
    done: int = 0  # events folded

    def snapshot(self, body: wire.Book) -> None:
        """Take a recorded REST body, unless the book stands beyond it already."""
        if self.known and body.lastUpdateId < self.last_id:
            return
        self.bids, self.asks = dict(body.bids), dict(body.asks)
        self.last_id, self.known, self.chained, self.time_ms = body.lastUpdateId, True, False, body.T

    def diff(self, w: wire.Diff) -> None:
        """Apply a diff; one that does not continue the book leaves it unknown until the next snapshot."""
        if not self.known or w.u < self.last_id or (w.u == self.last_id and (self.chained or not self.strict)):
            return
        before = w.U - 1 if w.pu is None else w.pu
        if before != self.last_id if self.strict and self.chained else before > self.last_id:
            self.known = False
            return
        for side, levels in ((self.bids, w.b), (self.asks, w.a)):
            for price, qty in levels:
                if qty.strip("0.") == "":
                    side.pop(price, None)
                else:
                    side[price] = qty
        self.last_id, self.chained, self.time_ms = w.u, True, w.T

    def copy(self) -> "Book":
        """Return a book that can be taken elsewhere."""
        return replace(self, bids=dict(self.bids), asks=dict(self.asks))

    def levels(self, limit: int) -> tuple[list, list]:
        """Return the best bids and asks, best first."""
        bids = sorted(self.bids.items(), key=lambda level: Decimal(level[0]), reverse=True)[:limit]
        return bids, sorted(self.asks.items(), key=lambda level: Decimal(level[0]))[:limit]


class Market:
    """Answers about the tape as far as it has been played: `position` frames."""

    def __init__(self, tape: Tape, steps: dict[str, Steps] | None = None):
        self.tape = tape
        self.position = 0
        self._given = steps or {}
        self._steps: dict[str, Steps] = {}
        self._books: dict[str, Book] = {}
        self._kept: dict[str, deque[Book]] = {}
        self._trades: dict[tuple[str, str], tuple[list[int], list[dict]]] = {}
        self._events = {symbol: sorted(tape.of(symbol, REST) + tape.of(symbol, "depth")) for symbol in tape.symbols}
        self._diffs = {symbol: tape.of(symbol, "depth") for symbol in tape.symbols}

    def rewind(self) -> None:
        """Forget what was played."""
        self.position = 0
        self._books.clear()
        self._kept.clear()

    def book(self, symbol: str, shift: int = 0) -> tuple[Book, int] | None:
        """Return the book after the last diff played, or `shift` diffs from it, and its id; None while it is not known.

        On USD-M the id is the first one of the next diff, on spot the last one applied: so the next diff links by the
        venue's rule (section 6 steps 4) for a client that has just connected as well as for one that has buffered.
        """
        if shift:
            diffs = self._diffs[symbol]
            at = min(max(bisect_left(diffs, self.position) + shift, 0), len(diffs))
            position = diffs[at - 1] + 1 if at else 0
            snapshots = self.tape.of(symbol, REST)
            if snapshots and snapshots[0] < self.position:
                position = max(position, snapshots[0] + 1)
            self._current(symbol)
            kept = [book for book in self._kept.get(symbol, ()) if book.done <= bisect_left(self._events[symbol], position)]
            book = self._fold(symbol, kept[-1].copy() if kept else Book(self.tape.venue == USDM), position)
        else:
            position = self.position
            book = self._current(symbol)
        if not book.known:
            return None
        diffs = self._diffs[symbol]
        following = bisect_left(diffs, position)
        if not book.strict or not book.chained or following == len(diffs):
            return book, book.last_id
        after = wire.DIFF.decode(self.tape.data(diffs[following]))
        return book, after.U if after.pu == book.last_id else book.last_id

    def _current(self, symbol: str) -> Book:
        """Return the book of now, and keep some on the way to it: what is shifted begins there."""
        book = self._books.setdefault(symbol, Book(self.tape.venue == USDM))
        kept = self._kept.setdefault(symbol, deque(maxlen=KEPT))
        while (end := book.done - book.done % KEPT_EVERY + KEPT_EVERY) <= bisect_left(self._events[symbol], self.position):
            self._fold(symbol, book, self._events[symbol][end - 1] + 1)
            kept.append(book.copy())
        return self._fold(symbol, book, self.position)

    def _fold(self, symbol: str, book: Book, position: int) -> Book:
        events, tape = self._events[symbol], self.tape
        end = bisect_left(events, position)
        for place in events[book.done : end]:
            if tape.streams[tape.stream[place]].startswith(REST):
                book.snapshot(wire.BOOK.decode(tape.frames[place]))
                for diff in self._beyond(symbol, place, book.last_id):
                    book.diff(diff)
            else:
                book.diff(wire.DIFF.decode(tape.data(place)))
        book.done = max(book.done, end)
        return book

    def _beyond(self, symbol: str, place: int, last_id: int) -> list[wire.Diff]:
        """Return the diffs received before a snapshot that reach its id or beyond, in order."""
        found: list[wire.Diff] = []
        diffs = self._diffs[symbol]
        for earlier in reversed(diffs[: bisect_left(diffs, place)]):
            diff = wire.DIFF.decode(self.tape.data(earlier))
            if diff.u < last_id:
                break
            found.append(diff)
        return found[::-1]

    def _played(self, symbol: str, kind: str) -> list[dict]:
        """Return the payloads of a symbol's trades or aggregates played so far, those that REST shows."""
        key = symbol, kind
        if key not in self._trades:
            rows = [(place, _ANY.decode(self.tape.data(place))) for place in self.tape.of(symbol, kind)]
            rows = [(place, row) for place, row in rows if row.get("X", "MARKET") == "MARKET"]
            self._trades[key] = [place for place, _ in rows], [row for _, row in rows]
        places, rows = self._trades[key]
        return rows[: bisect_left(places, self.position)]

    def trades(self, symbol: str, limit: int, from_id: int | None = None) -> list[dict]:
        """Return raw trades from an id on, or the latest."""
        rows = self._played(symbol, "trade")
        low = max(0, len(rows) - limit) if from_id is None else bisect_left(rows, from_id, key=lambda row: row["t"])
        last, decimals = ({"isRPITrade": False}, 2) if self.tape.venue == USDM else ({"isBestMatch": True}, 8)
        return [
            {
                "id": row["t"],
                "price": row["p"],
                "qty": row["q"],
                "quoteQty": f"{Decimal(row['p']) * Decimal(row['q']):.{decimals}f}",
                "time": row["T"],
                "isBuyerMaker": row["m"],
                **last,
            }
            for row in rows[low : low + limit]
        ]

    def aggregates(
        self,
        symbol: str,
        limit: int,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[dict]:
        """Return aggregate trades from an id on, or of a span of time with both ends, or the latest."""
        rows = self._played(symbol, "aggTrade")
        if from_id is not None:
            rows = rows[bisect_left(rows, from_id, key=lambda row: row["a"]) :][:limit]
        elif start_ms is not None or end_ms is not None:
            low = 0 if start_ms is None else bisect_left(rows, start_ms, key=lambda row: row["T"])
            high = len(rows) if end_ms is None else bisect_right(rows, end_ms, key=lambda row: row["T"])
            rows = rows[low:high][:limit] if start_ms is not None else rows[low:high][-limit:]
        else:
            rows = rows[-limit:]
        return [
            {name: row[name] for name in ("a", "p", "q", "nq", "f", "l", "T", "m", "M") if name in row} for row in rows
        ]

    def best(self, symbol: str) -> dict | None:
        """Return the last best quote played."""
        places = self.tape.of(symbol, "bookTicker")
        at = bisect_left(places, self.position)
        return _ANY.decode(self.tape.data(places[at - 1])) if at else None

    def steps(self, symbol: str) -> Steps:
        """Return tick and step: as given, else the greatest that fit the recorded values."""
        if symbol in self._given:
            return self._given[symbol]
        if symbol not in self._steps:
            self._steps[symbol] = self._infer(symbol)
        return self._steps[symbol]

    def _infer(self, symbol: str) -> Steps:
        tape, levels = self.tape, []
        for place in tape.of(symbol, REST)[:1]:
            body = wire.BOOK.decode(tape.frames[place])
            levels += body.bids + body.asks
        for place in self._diffs[symbol][:SAMPLED_FRAMES]:
            diff = wire.DIFF.decode(tape.data(place))
            levels += diff.b + diff.a
        for kind in ("trade", "aggTrade", "bookTicker"):
            for place in tape.of(symbol, kind)[:SAMPLED_FRAMES]:
                row = _ANY.decode(tape.data(place))
                if row.get("X", "MARKET") == "MARKET":
                    levels += (
                        [(row["b"], row["B"]), (row["a"], row["A"])] if kind == "bookTicker" else [(row["p"], row["q"])]
                    )
        texts = []
        for column, name in ((0, "price"), (1, "quantity")):
            scale = Scale()
            if levels:
                scale.take(parse_decimals([level[column] for level in levels]), f"{name} of {symbol}")
            decimals = max(scale.written, default=0)
            texts.append((decimal_text(1, scale.step_text(), decimals), decimals))
        return Steps(texts[0][0], texts[1][0], texts[0][1], texts[1][1])


def split_symbol(symbol: str) -> tuple[str, str]:
    """Return base and quote asset of a symbol."""
    plain = symbol.partition("_")[0]
    quote = next((quote for quote in QUOTES if plain.endswith(quote) and plain != quote), "")
    return (plain.removesuffix(quote), quote) if quote else (plain, "")
