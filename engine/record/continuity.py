"""What must not be missing from a session: sequence numbers, trade ids, and the chain of book updates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.kernel.records import AGGREGATED, FIRST, MISSING, PARTIAL_DEPTH, REFILLED, SNAPSHOT_LEVEL
from engine.record.messages import ALL, UNKNOWN, Messages
from engine.record.store import TABLES

SHOWN = 3                      # examples in a sentence
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

    def sentence(self, what: str) -> str:
        """Return what was found, with examples."""
        more = f" and {self.count - len(self.texts)} more" if self.count > len(self.texts) else ""
        return f"{what}: {'; '.join(self.texts)}{more}"


def check_sequence(messages: Messages, findings: Findings) -> dict:
    """Check that seq is dense and recv_ns strictly rising over all tables together."""
    seqs, recvs, owners, breaks = [], [], [], Sample()
    for owner, name in enumerate(TABLES):
        table = messages.table(name)
        seq, recv = table["seq"], table["recv_ns"]
        new = np.ones(len(seq), bool)
        new[1:] = seq[1:] != seq[:-1]
        breaks.take(seq[1:][np.diff(seq) < 0], lambda n: f"seq {n} stands in {name} after a higher one")
        breaks.take(_repeated(name, table, new), lambda n: f"seq {n} is used by more than one message of {name}")
        apart = ~new[1:] & (recv[1:] != recv[:-1])
        breaks.take(seq[1:][apart], lambda n: f"seq {n} of {name} has two receive times")
        findings.problems += [f"{name} has a symbol at seq {n} that the manifest does not list"
                              for n in seq[table["symbol"] == UNKNOWN][:1]]
        seqs.append(seq[new])
        recvs.append(recv[new])
        owners.append(np.full(int(new.sum()), owner, np.int8))
    breaks.take(messages.torn, lambda n: f"the rows of depth at seq {n} are not one whole message")
    seq, recv, owner = (np.concatenate(parts) for parts in (seqs, recvs, owners))
    order = np.argsort(seq, kind="stable")
    seq, recv, owner = seq[order], recv[order], owner[order]
    _find_order_breaks(seq, recv, owner, breaks)
    first, last = (int(seq[0]), int(seq[-1])) if len(seq) else (None, None)
    for word, found in (("first", first), ("last", last)):
        promised = messages.session.manifest.get(f"{word}_seq", found)
        breaks.take([found][:promised != found], lambda n: f"the {word} seq is {n}, the manifest says {promised}")
    if breaks.count:
        findings.problems.append(breaks.sentence("the sequence is broken"))
    distinct = int((np.diff(seq) > 0).sum()) + bool(len(seq))
    return {"ok": not breaks.count, "first_seq": first, "last_seq": last, "messages": distinct, "gaps": []}


def _repeated(name: str, table: dict, new: np.ndarray) -> np.ndarray:
    """Return seq numbers that more than one message of a table has; frames that carry several rows are no repeats."""
    seq = table["seq"]
    if name == "depth":
        order = np.sort(seq)
        return np.unique(order[1:][order[1:] == order[:-1]])
    same = np.flatnonzero(~new)
    if name == "trades":
        same = same[table["bits"][same] & REFILLED == 0]
    elif name == "account":
        same = same[table["bits"][same] & FIRST > 0]
    elif name != "best":
        kinds = [column for column in ("code", "stream", "interval") if column in table]
        seen: set[tuple] = set()
        keys = [tuple(table[column][row] for column in ("seq", "symbol", *kinds)) for row in np.union1d(same, same - 1)]
        return np.array([key[0] for key in keys if key in seen or seen.add(key)], np.int64)
    return np.unique(seq[same])


def _find_order_breaks(seq: np.ndarray, recv: np.ndarray, owner: np.ndarray, breaks: Sample) -> None:
    names = list(TABLES)
    step = np.diff(seq)

    def hole(i: int) -> str:
        low, high = seq[i] + 1, seq[i + 1] - 1
        which = f"seq {low} is" if low == high else f"seq {low} to {high} are"
        return f"{which} missing between {names[owner[i]]} and {names[owner[i + 1]]}"

    breaks.take(np.flatnonzero((step == 0) & (owner[1:] != owner[:-1])),
                lambda i: f"seq {seq[i]} is used by both {names[owner[i]]} and {names[owner[i + 1]]}")
    breaks.take(np.flatnonzero(step > 1), hole)
    breaks.take(np.flatnonzero((np.diff(recv) <= 0) & (step > 0)),
                lambda i: f"recv_ns {recv[i + 1]} at seq {seq[i + 1]} ({names[owner[i + 1]]}) is not after {recv[i]} "
                          f"at seq {seq[i]}")


def check_trade_ids(messages: Messages, marks: Marks, findings: Findings) -> tuple[dict, list[dict]]:
    """Check that trade ids rise by one per symbol; every print counts, also those that are no market trade.

    Raw and aggregated trades have ids of their own. Each gap holds `around`, the seq of the messages on both its sides.
    """
    trades, gaps = messages.table("trades"), []
    for number, symbol in enumerate(messages.symbols):
        for series in (0, AGGREGATED):
            own = (trades["symbol"] == number) & (trades["bits"] & AGGREGATED == series)
            own &= trades["trade_id"] != MISSING
            ids, seq, bits = (trades[name][own] for name in ("trade_id", "seq", "bits"))
            order = np.argsort(ids, kind="stable")
            ids, seq, arrived, live = ids[order], seq[order], ids[bits & REFILLED == 0], seq[bits & REFILLED == 0]
            step = np.diff(ids)
            if (step == 0).any():
                twice = ids[1:][step == 0]
                findings.problems.append(f"{len(twice)} trade ids of {symbol} are stored twice, first {twice[0]}")
            back = np.flatnonzero(np.diff(arrived) < 0)
            if len(back):
                first = live[back[0] + 1]
                findings.notes.append(f"trade ids of {symbol} step back {len(back)} times, first at seq {first}")
            found = [{"table": "trades", "symbol": symbol, "after": int(ids[i]), "before": int(ids[i + 1]),
                      "missing": int(step[i]) - 1, "around": (int(seq[i]), int(seq[i + 1]))}
                     for i in np.flatnonzero(step > 1)]
            _ask_for_marks(found, marks, number, np.sort(seq), findings)
            gaps += found
    return {"breaks": len(gaps), "missing": sum(gap["missing"] for gap in gaps)}, gaps


def check_depth_chain(messages: Messages, marks: Marks, findings: Findings) -> list[dict]:
    """Check that every book diff continues the one before, by the venue's rule; return the gaps.

    USD-M step 5: pu must equal the previous u. Spot step 5: U must not pass the previous u + 1. A message whose u has
    been reached already changes nothing (spot step 5, u < id: ignore).
    """
    depth, gaps = messages.table("depth"), []
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
