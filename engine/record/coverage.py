"""How much of a session each stream could be trusted, and for which reason it could not the rest of the time."""

import numpy as np

from engine.record.continuity import Marks
from engine.record.messages import Messages
from engine.record.rebuild import Rebuild
from engine.record.store import OWN_TABLES, TABLES

SILENCE_NS = 10_000_000_000
# trades of a quiet symbol are naturally rare; liquidations and bars say nothing by their absence
SILENCE_OF_NS = {"trades": 60_000_000_000, "liquidations": 2**62, "klines": 2**62}
ALIVE = ("connected", "resync")
DOWN = ("lost", "gap", "stale")
REASONS = ("trusted", "lost", "gap", "stale", "resync", "not_started")
LOST, GAP, STALE, RESYNC, NOT_STARTED = range(1, len(REASONS))


def coverage(messages: Messages, marks: Marks, gaps: list[dict],
             books: dict[int, Rebuild]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return for each `<symbol>.<table>` the share of the session's time in which it was trustworthy, and the others.

    `not_started` is before the stream was connected or heard, `lost` from a loss until it is back, `gap` the rest of
    the time between the two messages around a hole, `stale` once it was silent for longer than `SILENCE_OF_NS` or
    marked so, `resync` while the book does not stand otherwise. The shares of a stream make 1.
    """
    times = [part for part in (messages.table(name)["recv_ns"] for name in TABLES) if len(part)]
    if not times:
        return {}, {}
    start, end = min(int(part.min()) for part in times), max(int(part.max()) for part in times)
    named = {(mark.symbol, mark.stream) for mark in marks.rows}
    shares, reasons = {}, {}
    for number, symbol in enumerate(messages.symbols):
        for name in TABLES:
            own = messages.table(name)["symbol"] == number
            if name in ("feed", *OWN_TABLES) or not (own.any() or (number, name) in named):
                continue
            around = [gap["around"] for gap in gaps if gap["table"] == name and gap["symbol"] == symbol]
            seq, time, why = _events(messages.table(name), own, marks, number, name)
            life = why == 0
            if name == "depth" and number in books:
                book = books[number]
                at = np.searchsorted(book.seq, seq, "right") - 1
                why[life & ~((at >= 0) & (book.synced[at] > 0))] = RESYNC
            elif name == "depth" and not own.any():
                why[life] = RESYNC
            for low, high in around:
                span = why[np.searchsorted(seq, low):np.searchsorted(seq, high)]
                span[(span == 0) | (span == RESYNC)] = GAP
            spent_ns = _spent_ns(time, why, life, SILENCE_OF_NS.get(name, SILENCE_NS), start, end)
            found = {reason: round(int(ns) / max(end - start, 1), 6) for reason, ns in zip(REASONS, spent_ns)}
            shares[f"{symbol}.{name}"] = found.pop("trusted")
            reasons[f"{symbol}.{name}"] = {reason: share for reason, share in found.items() if share}
    return shares, reasons


def _events(table: dict, own: np.ndarray, marks: Marks, symbol: int, name: str) -> tuple[np.ndarray, ...]:
    """Return of messages and feed rows seq, time and what keeps the stream from being trusted after it, else 0."""
    rows = marks.of(symbol, name, ALIVE + DOWN)
    codes = np.array([0 if mark.code in ALIVE else REASONS.index(mark.code) for mark in rows], np.int8)
    seq = np.concatenate((table["seq"][own], np.array([mark.seq for mark in rows], np.int64)))
    time = np.concatenate((table["recv_ns"][own], np.array([mark.recv_ns for mark in rows], np.int64)))
    why = np.concatenate((np.zeros(int(own.sum()), np.int8), codes))
    order = np.argsort(seq, kind="stable")
    return seq[order], time[order], why[order]


def _spent_ns(time: np.ndarray, why: np.ndarray, life: np.ndarray, limit_ns: int, start: int,
              end: int) -> np.ndarray:
    """Return how long each of `REASONS` held, silence counted from the last sign of life on."""
    until = np.append(time[1:], end)
    heard = np.maximum.accumulate(np.where(life, time, 0))
    silent = np.where(life & (why != GAP), np.clip(until - (heard + limit_ns), 0, until - time), 0)
    spent_ns = np.bincount(why, until - time - silent, len(REASONS))
    spent_ns[STALE] += silent.sum()
    spent_ns[NOT_STARTED] += (time[0] if len(time) else end) - start
    return spent_ns
