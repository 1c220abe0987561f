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
    times = [(int(part["recv_ns"].min()), int(part["recv_ns"].max())) for name in TABLES
             for part in messages.parts(name, ["recv_ns"])]
    if not times:
        return {}, {}
    start, end = min(low for low, _ in times), max(high for _, high in times)
    streams = {name: _follow(messages, marks, gaps, books, name) for name in TABLES if name not in ("feed", *OWN_TABLES)}
    shares, reasons = {}, {}
    for number, symbol in enumerate(messages.symbols):
        for name, of in streams.items():
            if number not in of:
                continue
            spent_ns = of[number].finish(start, end)
            found = {reason: round(int(ns) / max(end - start, 1), 6) for reason, ns in zip(REASONS, spent_ns)}
            shares[f"{symbol}.{name}"] = found.pop("trusted")
            reasons[f"{symbol}.{name}"] = {reason: share for reason, share in found.items() if share}
    return shares, reasons


def _follow(messages: Messages, marks: Marks, gaps: list[dict], books: dict[int, Rebuild], name: str) -> "dict[int, _Stream]":
    """Return by symbol the streams of a table that has messages of it, or that a feed row names."""
    named = {(mark.symbol, mark.stream) for mark in marks.rows}
    holes = {number: [gap["around"] for gap in gaps if gap["table"] == name and gap["symbol"] == symbol]
             for number, symbol in enumerate(messages.symbols)}
    streams = {number: _Stream(marks, number, name, holes[number], books.get(number) if name == "depth" else None)
               for number in range(len(messages.symbols))}
    for part in messages.ordered(name, messages.parts(name, ["seq", "recv_ns", "symbol"])):
        for number, stream in streams.items():
            own = part["symbol"] == number
            if own.any():
                stream.take(part["seq"][own], part["recv_ns"][own])
    return {number: stream for number, stream in streams.items() if stream.spoke or (number, name) in named}


class _Stream:
    """What kept a symbol's stream from being trusted, and for how long, added up while its messages pass."""

    def __init__(self, marks: Marks, symbol: int, name: str, holes: list[tuple[int, int]], book: Rebuild | None):
        rows = sorted(marks.of(symbol, name, ALIVE + DOWN), key=lambda mark: mark.seq)
        self.marks = (np.array([mark.seq for mark in rows], np.int64), np.array([mark.recv_ns for mark in rows], np.int64),
                      np.array([0 if mark.code in ALIVE else REASONS.index(mark.code) for mark in rows], np.int8))
        self.holes, self.book, self.is_depth = holes, book, name == "depth"
        self.limit_ns = SILENCE_OF_NS.get(name, SILENCE_NS)
        self.spent_ns = np.zeros(len(REASONS))
        self.spoke = False             # whether a message came
        self.began: int | None = None
        # time of the last event, why it is not trusted from there on, whether it is a sign of life, time of the last such sign
        self.last = tuple(np.empty(0, kind) for kind in (np.int64, np.int8, bool, np.int64))

    def take(self, seq: np.ndarray, time: np.ndarray) -> None:
        """Take messages in the order of seq, and the feed rows before the last of them."""
        self.spoke = True
        passed = int(np.searchsorted(self.marks[0], seq[-1]))
        self._pass(*(np.concatenate((own, rows[:passed])) for own, rows in
                     zip((seq, time, np.zeros(len(seq), np.int8)), self.marks)))
        self.marks = tuple(rows[passed:] for rows in self.marks)

    def finish(self, start: int, end: int) -> np.ndarray:
        """Return how long each of `REASONS` held in a session, silence counted from the last sign of life on."""
        if len(self.marks[0]):
            self._pass(*self.marks)
        self._spend(*self.last, np.full(len(self.last[0]), end))
        self.spent_ns[NOT_STARTED] += (end if self.began is None else self.began) - start
        return self.spent_ns

    def _pass(self, seq: np.ndarray, time: np.ndarray, why: np.ndarray) -> None:
        """Pass events; `why` says what keeps the stream from being trusted after each, 0 for nothing."""
        order = np.argsort(seq, kind="stable")
        seq, time, why = seq[order], time[order], why[order]
        if self.began is None:
            self.began = int(time[0])
        life = why == 0
        if self.book:
            at = np.searchsorted(self.book.seq, seq, "right") - 1
            why[life & ~((at >= 0) & (self.book.synced[at] > 0))] = RESYNC
        elif self.is_depth and not self.spoke:
            why[life] = RESYNC
        for low, high in self.holes:
            span = why[np.searchsorted(seq, low):np.searchsorted(seq, high)]
            span[(span == 0) | (span == RESYNC)] = GAP
        heard = np.maximum.accumulate(np.append(self.last[3], np.where(life, time, 0)))
        time, why, life = (np.append(last, new) for last, new in zip(self.last, (time, why, life)))
        self._spend(time[:-1], why[:-1], life[:-1], heard[:-1], time[1:])
        self.last = time[-1:], why[-1:], life[-1:], heard[-1:]

    def _spend(self, time: np.ndarray, why: np.ndarray, life: np.ndarray, heard: np.ndarray, until: np.ndarray) -> None:
        silent = np.where(life & (why != GAP), np.clip(until - (heard + self.limit_ns), 0, until - time), 0)
        self.spent_ns += np.bincount(why, until - time - silent, len(REASONS))
        self.spent_ns[STALE] += silent.sum()
