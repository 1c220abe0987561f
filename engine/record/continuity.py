"""What must not be missing from a session: sequence numbers, trade ids, and the chain of book updates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.kernel.records import AGGREGATED, FIRST, MISSING, PARTIAL_DEPTH, REFILLED, SNAPSHOT_LEVEL
from engine.record.messages import ALL, UNKNOWN, Columns, Messages
from engine.record.store import TABLES

SHOWN = 3                      # examples in a sentence
KINDS = {"trades": ("bits",), "account": ("bits",), "feed": ("code", "stream"), "klines": ("interval",)}   # tell rows apart
ONE_EACH = ("trades", "depth", "best", "account")      # tables in which a message has a seq of its own
NEVER = np.iinfo(np.int64).max
EXCUSING = ("gap", "lost", "connected")        # feed rows that mark a break of ids


@dataclass
class Findings:
    """Sentences of a check: problems make a session untrustworthy, notes do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Mark:
    """One feed row that is no timer."""

    seq: int
    recv_ns: int
    symbol: int                # ALL for every symbol
    code: str
    stream: str                # "" for every stream
    from_id: int | None
    to_id: int | None


class Marks:
    """The feed rows of a session, timers left out."""

    def __init__(self, messages: Messages):
        self.rows: list[Mark] = []
        for batch in messages.batches("feed", ["seq", "recv_ns", "symbol", "code", "stream", "from_id", "to_id"]):
            for i in np.flatnonzero(batch["code"] != messages.word("timer")):
                ids = (None if batch[name][i] == MISSING else int(batch[name][i]) for name in ("from_id", "to_id"))
                self.rows.append(Mark(int(batch["seq"][i]), int(batch["recv_ns"][i]), int(batch["symbol"][i]),
                                      messages.text(batch["code"][i]), messages.text(batch["stream"][i]), *ids))

    def of(self, symbol: int, stream: str, codes: tuple[str, ...]) -> list[Mark]:
        """Return the rows of these codes that speak of a symbol's stream."""
        return [m for m in self.rows if m.code in codes and m.symbol in (symbol, ALL) and m.stream in (stream, "")]


class Sample:
    """Counts things found and words the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.texts: list[str] = []

    def take(self, found: Sequence, worded: Callable[..., str]) -> None:
        """Add things, wording no more of them than will be shown."""
        self.count += len(found)
        self.texts += [worded(item) for item in found[:max(0, SHOWN - len(self.texts))]]

    def add(self, other: "Sample") -> None:
        """Add what another one took."""
        self.count += other.count
        self.texts += other.texts[:max(0, SHOWN - len(self.texts))]

    def sentence(self, what: str) -> str:
        """Return what was found, with examples."""
        more = f" and {self.count - len(self.texts)} more" if self.count > len(self.texts) else ""
        return f"{what}: {'; '.join(self.texts)}{more}"


def check_sequence(messages: Messages, findings: Findings) -> dict:
    """Check that seq is dense and recv_ns strictly rising over all tables together."""
    breaks = Sample()
    for name in TABLES:
        _check_table(messages, name, findings, breaks)
    breaks.take(messages.torn, lambda n: f"the rows of depth at seq {n} are not one whole message")
    first, last, distinct = _check_order(messages, breaks)
    for word, found in (("first", first), ("last", last)):
        promised = messages.session.manifest.get(f"{word}_seq", found)
        breaks.take([found][:promised != found], lambda n: f"the {word} seq is {n}, the manifest says {promised}")
    if breaks.count:
        findings.problems.append(breaks.sentence("the sequence is broken"))
    return {"ok": not breaks.count, "first_seq": first, "last_seq": last, "messages": distinct, "gaps": []}


def _check_table(messages: Messages, name: str, findings: Findings, breaks: Sample) -> None:
    """Find rows of one table that are out of order, used twice, or of no known symbol."""
    back, apart, twice, unknown, seen = Sample(), Sample(), [], [], set()
    for part in messages.frames(name, ["seq", "recv_ns", "symbol", *KINDS.get(name, ())]):
        seq, recv = part["seq"], part["recv_ns"]
        same = np.flatnonzero(seq[1:] == seq[:-1]) + 1
        back.take(seq[1:][np.diff(seq) < 0], lambda n: f"seq {n} stands in {name} after a higher one")
        twice += _repeated(name, part, same, seen)
        apart.take(seq[same][recv[same] != recv[same - 1]], lambda n: f"seq {n} of {name} has two receive times")
        unknown = unknown or seq[part["symbol"] == UNKNOWN][:1].tolist()
    breaks.add(back)
    breaks.take(sorted(set(twice)) if name in ONE_EACH else twice, lambda n: f"seq {n} is used by more than one message of {name}")
    breaks.add(apart)
    findings.problems += [f"{name} has a symbol at seq {n} that the manifest does not list" for n in unknown]


def _repeated(name: str, table: Columns, same: np.ndarray, seen: set[tuple]) -> list[int]:
    """Return seq numbers that more than one message of a table has; frames that carry several rows are no repeats.

    `same` are the rows with the seq of the row above.
    """
    seq = table["seq"]
    if name == "depth":
        order = np.sort(seq)
        return order[1:][order[1:] == order[:-1]].tolist()
    if name == "trades":
        same = same[table["bits"][same] & REFILLED == 0]
    elif name == "account":
        same = same[table["bits"][same] & FIRST > 0]
    elif name not in ONE_EACH:
        names = ("seq", "symbol", *KINDS.get(name, ()))
        keys = [tuple(table[column][row] for column in names) for row in np.union1d(same, same - 1)]
        return [int(key[0]) for key in keys if key in seen or seen.add(key)]
    return seq[same].tolist()


def _check_order(messages: Messages, breaks: Sample) -> tuple[int | None, int | None, int]:
    """Look at the frames of all tables in the order of seq; return the first seq, the last and how many there are."""
    names, found = list(TABLES), [Sample() for _ in range(3)]
    first, last, distinct = None, None, 0

    def hole(i: int) -> str:
        low, high = seq[i] + 1, seq[i + 1] - 1
        which = f"seq {low} is" if low == high else f"seq {low} to {high} are"
        return f"{which} missing between {names[owner[i]]} and {names[owner[i + 1]]}"

    above = tuple(np.empty(0, kind) for kind in (np.int64, np.int64, np.int8))
    for part in _merged(messages):
        seq, recv, owner = (np.concatenate(pair) for pair in zip(above, part))
        above = seq[-1:], recv[-1:], owner[-1:]
        step = np.diff(seq)
        found[0].take(np.flatnonzero((step == 0) & (owner[1:] != owner[:-1])),
                      lambda i: f"seq {seq[i]} is used by both {names[owner[i]]} and {names[owner[i + 1]]}")
        found[1].take(np.flatnonzero(step > 1), hole)
        found[2].take(np.flatnonzero((np.diff(recv) <= 0) & (step > 0)),
                      lambda i: f"recv_ns {recv[i + 1]} at seq {seq[i + 1]} ({names[owner[i + 1]]}) is not after {recv[i]} "
                                f"at seq {seq[i]}")
        distinct += int((step > 0).sum()) + (first is None)
        first, last = int(seq[0]) if first is None else first, int(seq[-1])
    for sample in found:
        breaks.add(sample)
    return first, last, distinct


def _merged(messages: Messages) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield seq, receive time and number of the table of the frames of all tables, in the order of seq."""
    streams = [iter(messages.ordered(name, _firsts(messages, name))) for name in TABLES]
    heads: list[Columns | None] = [next(stream, None) for stream in streams]
    while waiting := [owner for owner, head in enumerate(heads) if head]:
        end = min(heads[owner]["seq"][-1] for owner in waiting)      # every row up to here has been read
        parts = []
        for owner in waiting:
            seq, recv = heads[owner]["seq"], heads[owner]["recv_ns"]
            cut = int(np.searchsorted(seq, end, "right"))
            parts.append((seq[:cut], recv[:cut], np.full(cut, owner, np.int8)))
            heads[owner] = {"seq": seq[cut:], "recv_ns": recv[cut:]} if cut < len(seq) else next(streams[owner], None)
        seq, recv, number = (np.concatenate(columns) for columns in zip(*parts))
        order = np.argsort(seq, kind="stable")
        yield seq[order], recv[order], number[order]


def _firsts(messages: Messages, name: str) -> Iterator[Columns]:
    """Yield seq and receive time of the first row of each frame."""
    last = None
    for part in messages.parts(name, ["seq", "recv_ns"]):
        seq = part["seq"]
        new = np.append(seq[0] != last, seq[1:] != seq[:-1])
        last = seq[-1]
        if new.any():
            yield {"seq": seq[new], "recv_ns": part["recv_ns"][new]}


def check_trade_ids(messages: Messages, marks: Marks, findings: Findings) -> tuple[dict, list[dict]]:
    """Check that trade ids rise by one per symbol; every print counts, also those that are no market trade.

    Raw and aggregated trades have ids of their own. Each gap holds `around`, the seq of the messages on both its sides.
    """
    gaps = []
    every = {(number, series): TradeIds() for number in range(len(messages.symbols)) for series in (0, AGGREGATED)}
    for part in messages.parts("trades", ["seq", "symbol", "trade_id", "bits"]):
        for key, ids in every.items():
            own = _of_series(part, *key)
            ids.take(part["trade_id"][own], part["seq"][own], part["bits"][own] & REFILLED == 0)
    for (number, series), ids in every.items():
        symbol = messages.symbols[number]
        found, twice, first_twice = ids.gaps()
        if twice:
            findings.problems.append(f"{twice} trade ids of {symbol} are stored twice, first {first_twice}")
        if ids.back:
            findings.notes.append(f"trade ids of {symbol} step back {ids.back} times, first at seq {ids.first_back}")
        found = [{"table": "trades", "symbol": symbol, **gap} for gap in found]
        _ask_for_marks(found, marks, number, _next_seq(messages, number, series, found), findings)
        gaps += found
    return {"breaks": len(gaps), "missing": sum(gap["missing"] for gap in gaps)}, gaps


def _of_series(trades: Columns, number: int, series: int) -> np.ndarray:
    return (trades["symbol"] == number) & (trades["bits"] & AGGREGATED == series) & (trades["trade_id"] != MISSING)


def _next_seq(messages: Messages, number: int, series: int, gaps: list[dict]) -> np.ndarray:
    """Return the seq of the trades that follow the ends of gaps, sorted."""
    highs = np.array([gap["around"][1] for gap in gaps], np.int64)
    found = np.full(len(gaps), NEVER)
    for part in messages.parts("trades", ["seq", "symbol", "trade_id", "bits"]) if gaps else ():
        seq = np.sort(part["seq"][_of_series(part, number, series)])
        found = np.minimum(found, np.append(seq, NEVER)[np.searchsorted(seq, highs, "right")])
    return np.sort(found)


class TradeIds:
    """The ids of one series of trades as runs without a hole, each with the seq of its first and its last id."""

    def __init__(self) -> None:
        self.runs: list[np.ndarray] = [np.empty((4, 0), np.int64)]
        self.count = self.back = 0
        self.first_back = self.twice = None
        self.last = np.empty(0, np.int64)      # the last id that was not fetched later

    def take(self, ids: np.ndarray, seq: np.ndarray, live: np.ndarray) -> None:
        """Add trades as they arrived; `live` are those not fetched later."""
        if not len(ids):
            return
        arrived = np.concatenate((self.last, ids[live]))
        back = np.flatnonzero(np.diff(arrived) < 0)
        if len(back) and not self.back:
            self.first_back = seq[live][back[0] + 1 - len(self.last)]
        self.back += len(back)
        self.last = arrived[-1:]
        order = np.argsort(ids, kind="stable")
        ids, seq = ids[order], seq[order]
        step = np.diff(ids)
        self._note_twice(ids[1:][step == 0])
        starts, ends = np.append(True, step > 1), np.append(step > 1, True)
        self.runs.append(np.stack((ids[starts], ids[ends], seq[starts], seq[ends])))
        self.count += len(ids)

    def _note_twice(self, ids: np.ndarray) -> None:
        if len(ids):
            self.twice = int(ids[0]) if self.twice is None else min(self.twice, int(ids[0]))

    def gaps(self) -> tuple[list[dict], int, int | None]:
        """Return the holes between the ids, how many ids are stored twice and the first of them."""
        runs = np.concatenate(self.runs, axis=1)
        by_first, by_last = (runs[:, np.argsort(runs[row], kind="stable")] for row in (0, 1))
        top = np.maximum.accumulate(by_first[1])
        self._note_twice(by_first[0, 1:][by_first[0, 1:] <= top[:-1]])
        holes = np.flatnonzero(by_first[0, 1:] - top[:-1] > 1)
        low, high = top[holes], by_first[0, holes + 1]
        low_seq = by_last[3, np.searchsorted(by_last[1], low, "right") - 1]      # of an id stored twice the later one
        stored = int((high - low - 1).sum())
        distinct = int(top[-1] - by_first[0, 0]) + 1 - stored if len(top) else 0
        found = [{"after": int(low[i]), "before": int(high[i]), "missing": int(high[i] - low[i]) - 1,
                  "around": (int(low_seq[i]), int(by_first[2, holes[i] + 1]))} for i in range(len(holes))]
        return found, self.count - distinct, self.twice


def check_depth_chain(messages: Messages, marks: Marks, findings: Findings) -> list[dict]:
    """Check that every book diff continues the one before, by the venue's rule; return the gaps.

    USD-M step 5: pu must equal the previous u. Spot step 5: U must not pass the previous u + 1. A message whose u has
    been reached already changes nothing (spot step 5, u < id: ignore).
    """
    depth, gaps = messages.depth(), []
    for number, symbol in enumerate(messages.symbols):
        own = (depth["symbol"] == number) & (depth["bits"] & (SNAPSHOT_LEVEL | PARTIAL_DEPTH) == 0)
        own &= depth["last_id"] != MISSING
        seq, first, last = depth["seq"][own], depth["first_id"][own], depth["last_id"][own]
        previous, strict = messages.previous_ids(number, first, depth["prev_id"][own])
        old = _passed(seq, last, np.array([mark.seq for mark in marks.of(number, "depth", EXCUSING)], np.int64))
        if len(old):
            findings.notes.append(f"{len(old)} depth messages of {symbol} carry an update id already passed, "
                                  f"first at seq {seq[old[0]]}")
            seq, first, last, previous = (np.delete(values, old) for values in (seq, first, last, previous))
        wrong = (previous[1:] != MISSING) & ((previous[1:] != last[:-1]) if strict else (previous[1:] > last[:-1]))
        begins = np.where(first == MISSING, previous + 1, first)
        # USD-M update ids are not dense, so how many updates are missing cannot be told from them
        found = [{"table": "depth", "symbol": symbol, "after": int(last[i]), "before": int(begins[i + 1]),
                  "missing": None if strict else int(begins[i + 1] - last[i]) - 1,
                  "around": (int(seq[i]), int(seq[i + 1]))}
                 for i in np.flatnonzero(wrong)]
        _ask_for_marks(found, marks, number, seq, findings)
        gaps += found
    return gaps


def _passed(seq: np.ndarray, last: np.ndarray, breaks: np.ndarray) -> np.ndarray:
    """Return which messages carry an id already passed since the last break; ids may begin anew at one."""
    starts = np.flatnonzero(np.diff(np.searchsorted(breaks, seq))) + 1
    newest = np.concatenate([np.maximum.accumulate(part) for part in np.split(last, starts)])
    return np.setdiff1d(np.flatnonzero(last[1:] <= newest[:-1]) + 1, starts)


def _ask_for_marks(gaps: list[dict], marks: Marks, symbol: int, seq: np.ndarray, findings: Findings) -> None:
    """Require a feed row that owns up to each gap: after the message before it and before the one that follows it, or
    with bounds around its ids.
    """
    if not gaps:
        return
    rows = marks.of(symbol, gaps[0]["table"], EXCUSING)
    at = np.array([mark.seq for mark in rows], np.int64)
    named = [(mark.from_id, mark.to_id) for mark in rows
             if mark.code == "gap" and None not in (mark.from_id, mark.to_id)]
    bare = Sample()
    for gap in gaps:
        low, high = gap["around"]
        place = np.searchsorted(seq, high, "right")
        limit = seq[place] if place < len(seq) else np.iinfo(np.int64).max
        owned = any(first <= gap["after"] and gap["before"] <= last for first, last in named)
        if not owned and np.searchsorted(at, low, "right") == np.searchsorted(at, limit, "left"):
            bare.take([gap], lambda g: f"at seq {g['around'][1]} from {g['after']} to {g['before']}")
    if bare.count:
        table, ids = gaps[0]["table"], "trade" if gaps[0]["table"] == "trades" else "update"
        findings.problems.append(
            bare.sentence(f"the {ids} ids of {gaps[0]['symbol']} in {table} break without a gap row in feed"))
