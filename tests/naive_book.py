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
    """Two dicts and the numbered rules: a snapshot, drop what is older, then an unbroken chain or nothing."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict           # USD-M: pu must equal the u before; spot: U may not pass it by more than one
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.diffs: list[Message] = []
        self.synced = self.chained = False
        self.last_id = -1
        self.gaps = self.refused = 0

    def take(self, message: Message) -> Iterator[Message]:
        """Yield each diff as soon as the book stands after it; a snapshot that does not link changes nothing."""
        if not message.snapshot:
            self.diffs.append(message)
            if self.synced:
                yield from self._apply(message)
            return
        trial = NaiveBook(self.strict)
        trial._set(message.levels)
        trial.last_id, trial.synced = message.last_id, True
        for diff in self.diffs:
            for _ in trial._apply(diff):
                pass
        if trial.gaps:
            self.refused += 1
            return
        self.bids, self.asks = {}, {}
        self._set(message.levels)
        self.last_id, self.synced, self.chained = message.last_id, True, False
        for diff in self.diffs:
            if self.synced:
                yield from self._apply(diff)

    def _apply(self, diff: Message) -> Iterator[Message]:
        first_of_strict = self.strict and not self.chained
        if diff.last_id < self.last_id or (diff.last_id == self.last_id and not first_of_strict):
            return
        if (diff.prev_id == self.last_id) if self.strict and self.chained else (diff.prev_id <= self.last_id):
            self._set(diff.levels)
            self.last_id, self.chained = diff.last_id, True
            yield diff
        else:
            self.gaps += 1
            self.synced = False

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
    """Compare the top after each applied diff with the venue's best quotes of the newest id not above its own."""
    book, ids, seen = NaiveBook(strict), sorted(quotes), {}
    for message in messages:
        for diff in book.take(message):
            top, place = book.best(), bisect_right(ids, diff.last_id)
            crossed = top is not None and top[0] >= top[2]
            if crossed:
                book.synced = False
            # a diff applied again on a fresh snapshot is judged again, not counted twice
            seen[diff.last_id] = crossed, place > 0, place > 0 and top in quotes[ids[place - 1]]
    crossed, compared, equal = (sum(outcome[i] for outcome in seen.values()) for i in range(3))
    return {"applied": len(seen), "crossed": crossed, "compared": compared, "equal": equal}


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
            bid, ask = ((row[f"{side}_price_ticks"], row[f"{side}_qty_lots"]) for side in ("bid", "ask"))
            quotes[row["update_id"]].add(bid + ask)
    return dict(quotes)
