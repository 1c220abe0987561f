"""An order book rebuilt the slow and obvious way, as the oracle of the fast one."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from engine.kernel.records import PARTIAL_DEPTH, SNAPSHOT_LEVEL
from engine.record.store import Session


class Message(NamedTuple):
    """One whole depth message; `levels` are (side, price, quantity), quantity 0 removes."""

    snapshot: bool
    last_id: int
    prev_id: int | None
    levels: list[tuple[int, int, int]]


class NaiveBook:
    """Two dicts and the numbered rules: buffer, snapshot, drop what is older, then an unbroken chain or nothing."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict           # USD-M: pu must equal the u before; spot: U may not pass it by more than one
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.buffer: list[Message] = []
        self.synced = False
        self.linked = False
        self.last_id = -1
        self.gaps = 0

    def take(self, message: Message) -> Iterator[Message]:
        """Yield each diff as soon as the book stands after it."""
        if message.snapshot:
            self.bids, self.asks = {}, {}
            self._set(message.levels)
            self.last_id, self.synced, self.linked = message.last_id, True, False
            waiting, self.buffer = self.buffer, []
            for diff in waiting:
                yield from self._apply(diff)
        elif self.synced:
            yield from self._apply(message)
        else:
            self.buffer.append(message)

    def _apply(self, diff: Message) -> Iterator[Message]:
        first_of_strict = self.strict and not self.linked
        if not self.synced:
            self.buffer.append(diff)
        elif diff.last_id < self.last_id or (diff.last_id == self.last_id and not first_of_strict):
            return
        elif (diff.prev_id == self.last_id) if self.strict and self.linked else (diff.prev_id <= self.last_id):
            self._set(diff.levels)
            self.last_id, self.linked = diff.last_id, True
            yield diff
        else:
            self.gaps += 1
            self.synced, self.buffer = False, [diff]

    def _set(self, levels: list[tuple[int, int, int]]) -> None:
        for side, price, quantity in levels:
            book = self.bids if side > 0 else self.asks
            if quantity:
                book[price] = quantity
            else:
                book.pop(price, None)

    def best(self) -> tuple[int, int, int, int] | None:
        """Return bid price, bid quantity, ask price, ask quantity; None when a side is empty."""
        if not self.bids or not self.asks:
            return None
        bid, ask = max(self.bids), min(self.asks)
        return bid, self.bids[bid], ask, self.asks[ask]


def compare(messages: Iterable[Message], quotes: dict[int, set[tuple]], strict: bool) -> dict:
    """Compare the top after each applied diff with the venue's best quotes of the newest update id not above the diff's."""
    book, found, ids = NaiveBook(strict), {"compared": 0, "equal": 0, "crossed": 0, "applied": 0}, sorted(quotes)
    for message in messages:
        for diff in book.take(message):
            top = book.best()
            found["applied"] += 1
            if top and top[0] >= top[2]:
                found["crossed"] += 1
                book.synced = False
            place = bisect_right(ids, diff.last_id)
            if place:
                found["compared"] += 1
                found["equal"] += top in quotes[ids[place - 1]]
    return {**found, "gaps": book.gaps}


def session_messages(session: Session, symbol: str) -> list[Message]:
    """Return a symbol's depth messages in order, from the session's own rows."""
    messages: dict[int, Message] = {}
    for row in session.table("depth").to_pylist():
        if row["symbol"] != symbol or row["bits"] & PARTIAL_DEPTH:
            continue
        if row["seq"] not in messages:
            snapshot = bool(row["bits"] & SNAPSHOT_LEVEL)
            previous = None if snapshot else row["first_id"] - 1 if row["prev_id"] is None else row["prev_id"]
            messages[row["seq"]] = Message(snapshot, row["last_id"], previous, [])
        if row["price_ticks"] is not None:
            messages[row["seq"]].levels.append((row["side"], row["price_ticks"], row["qty_lots"]))
    return [messages[seq] for seq in sorted(messages)]


def session_quotes(session: Session, symbol: str) -> dict[int, set[tuple]]:
    """Return a symbol's best quotes by update id."""
    quotes = defaultdict(set)
    for row in session.table("best").to_pylist():
        if row["symbol"] == symbol:
            quotes[row["update_id"]].add((row["bid_price_ticks"], row["bid_qty_lots"], row["ask_price_ticks"], row["ask_qty_lots"]))
    return dict(quotes)
