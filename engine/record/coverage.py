"""How much of a session each stream could be trusted: connected, without a hole, not silent, and the book in sync."""

import numpy as np

from engine.record.continuity import Marks
from engine.record.messages import Messages
from engine.record.rebuild import BREAK, Rebuild
from engine.record.store import TABLES

SILENCE_NS = 10_000_000_000
# trades of a quiet symbol are naturally rare; liquidations and bars say nothing by their absence
SILENCE_OF_NS = {"trades": 60_000_000_000, "liquidations": 2**62, "klines": 2**62}
ALIVE = ("connected", "resync")
DOWN = ("lost", "gap", "stale")


def coverage(messages: Messages, marks: Marks, gaps: list[dict], books: dict[int, Rebuild]) -> dict[str, float]:
    """Return for each `<symbol>.<table>` the share of the session's time in which it was trustworthy, 0 to 1.

    Trust begins when the stream is connected (or with its first message), stops at a loss until it is heard again, does
    not span a gap, and ends once the stream has been silent for longer than `SILENCE_OF_NS`; depth needs a synced book.
    """
    times = [part for part in (messages.table(name)["recv_ns"] for name in TABLES) if len(part)]
    if not times:
        return {}
    start, end = min(int(part.min()) for part in times), max(int(part.max()) for part in times)
    named = {(mark.symbol, mark.stream) for mark in marks.rows}
    shares = {}
    for number, symbol in enumerate(messages.symbols):
        for name in TABLES:
            own = messages.table(name)["symbol"] == number
            if name == "feed" or not (own.any() or (number, name) in named):
                continue
            around = [gap["around"] for gap in gaps if gap["table"] == name and gap["symbol"] == symbol]
            if name == "depth" and number in books:
                book = books[number]
                events = book.seq, book.recv_ns, book.synced > 0, book.kind != BREAK
            else:
                events = _events(messages.table(name), own, marks, number, name)
            trusted_ns = _trusted_ns(*events, around, SILENCE_OF_NS.get(name, SILENCE_NS), end)
            shares[f"{symbol}.{name}"] = round(trusted_ns / max(end - start, 1), 6)
    return shares


def _events(table: dict, own: np.ndarray, marks: Marks, symbol: int, name: str) -> tuple[np.ndarray, ...]:
    """Return of messages and feed rows seq, time, whether the stream is sound after it, whether it is a sign of life.

    The last two are one and the same here; of the book they are not.
    """
    rows = marks.of(symbol, name, ALIVE + DOWN)
    alive = np.array([mark.code in ALIVE for mark in rows], bool)
    seq = np.concatenate((table["seq"][own], np.array([mark.seq for mark in rows], np.int64)))
    time = np.concatenate((table["recv_ns"][own], np.array([mark.recv_ns for mark in rows], np.int64)))
    sound = np.concatenate((np.ones(int(own.sum()), bool), alive))
    order = np.argsort(seq, kind="stable")
    return seq[order], time[order], sound[order], sound[order]


def _trusted_ns(seq: np.ndarray, time: np.ndarray, sound: np.ndarray, life: np.ndarray, around: list[tuple[int, int]],
                limit_ns: int, end: int) -> int:
    heard = np.maximum.accumulate(np.where(life, time, 0))
    until = np.minimum(np.append(time[1:], end), heard + limit_ns)
    span = np.where(sound, np.maximum(until - time, 0), 0)
    for low, high in around:
        span[np.searchsorted(seq, low):np.searchsorted(seq, high)] = 0
    return int(span.sum())
