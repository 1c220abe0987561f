"""The book of one symbol rebuilt from snapshot and diffs, and compared with the venue's own best quotes.

Written apart from the kernel's book, so that the check of a recording shares no fault with what is run on it.
The numbered steps are those of the venue's own manual for a local book, spot and USD-M.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from engine.kernel.records import MISSING, NOT_MARKET, PARTIAL_DEPTH, SNAPSHOT_LEVEL
from engine.record.messages import Columns, Messages, joined

QUOTE_AGE_NS = 10_000_000_000  # an older best quote proves nothing about the book
MARGIN = 64                    # the window of prices reaches 1/64 beyond what was quoted
QUOTED = ("bid_price_ticks", "bid_qty_lots", "ask_price_ticks", "ask_qty_lots")
MOST_SLOTS = 1 << 23
MOST_TICKS = 2**62
DIFF, SNAPSHOT, BREAK = 0, 1, 2
NOT_COMPARED, EQUAL, UNEQUAL = 0, 1, 2
NONE = np.zeros(0, np.int64)
REFUSED, WAITING, LINKED = 0, 1, 2


@dataclass
class Rebuild:
    """One symbol's book messages and marks in seq order, and what became of each."""

    seq: np.ndarray
    kind: np.ndarray           # DIFF, SNAPSHOT or BREAK (a feed row: lost, gap, stale)
    last_id: np.ndarray
    synced: np.ndarray         # whether the book stands after this message
    applied: np.ndarray
    crossed: np.ndarray        # best bid at or above best ask after this diff
    compared: np.ndarray       # NOT_COMPARED, EQUAL, UNEQUAL
    link: np.ndarray           # of snapshots: REFUSED, WAITING (no diff came after it) or LINKED


def rebuild(messages: Messages, symbol: int, breaks: np.ndarray, quote_breaks: np.ndarray = NONE) -> Rebuild:
    """Rebuild the book of a symbol; `breaks` has seq and recv_ns of the feed rows after which it cannot be trusted.

    `quote_breaks` has the seq of the feed rows before which best quotes may be missing.
    """
    depth = messages.depth()
    own = np.flatnonzero((depth["symbol"] == symbol) & (depth["bits"] & PARTIAL_DEPTH == 0))
    seq = np.concatenate((depth["seq"][own], breaks[:, 0]))
    recv = np.concatenate((depth["recv_ns"][own], breaks[:, 1]))
    order = np.argsort(seq, kind="stable")
    seq, recv = seq[order], recv[order]
    number = np.append(np.arange(len(own)), np.full(len(breaks), -1))[order]   # of the depth message, -1 for a break
    at = own[number] if len(own) else own

    def taken(column: str) -> np.ndarray:
        return np.where(number < 0, MISSING, depth[column][at]) if len(own) else np.full(len(number), MISSING)

    kind = np.where(number < 0, BREAK, np.where(taken("bits") & SNAPSHOT_LEVEL > 0, SNAPSHOT, DIFF)).astype(np.int8)
    last_id = taken("last_id")
    previous, strict = messages.previous_ids(symbol, taken("first_id"), taken("prev_id"))
    best = _telling(messages, symbol, np.unique(last_id))
    quotes, first, after = _quotes_of(best, last_id, recv, seq, breaks[:, 0], quote_breaks)
    begin = _begins(kind, last_id, previous, strict)
    found = Rebuild(seq, kind, last_id, *(np.zeros(len(seq), np.int8) for _ in range(5)))
    low, high = _window(messages, symbol)
    ladder = np.zeros((2, high - low), np.int64)
    state = np.array([-1, high - low, MISSING, -1, False, False])
    for part in _parts(messages, own, number, begin, low, high):
        _fold(*part, kind, last_id, previous, strict, begin, number, ladder, state, low, quotes, first, after,
              found.synced, found.applied, found.crossed, found.compared, found.link)
    return found


def _window(messages: Messages, symbol: int) -> tuple[int, int]:
    """Return the prices in ticks that can matter to the top of the book, first and past the last.

    They are those of the best quotes, else of the trades, else of the snapshots, and a margin.
    """
    for name, prices, bits, wanted in (("best", ["bid_price_ticks", "ask_price_ticks"], 0, 0),
                                       ("trades", ["price_ticks"], NOT_MARKET, 0),
                                       ("depth", ["price_ticks"], SNAPSHOT_LEVEL, SNAPSHOT_LEVEL)):
        low, high = MOST_TICKS, 0
        for batch in messages.batches(name, ["symbol", *prices, *(["bits"] if bits else [])]):
            own = batch["symbol"] == symbol
            if bits:
                own &= batch["bits"] & bits == wanted
            for column in prices:
                known = batch[column][own & (batch[column] > 0)]
                low, high = min(low, int(known.min(initial=MOST_TICKS))), max(high, int(known.max(initial=0)))
        if high:
            low, high = low - low // MARGIN - 2, high + high // MARGIN + 3
            spare = max(0, high - low - MOST_SLOTS)
            return low + spare // 2, high - (spare - spare // 2)
    return 0, 1


def _parts(messages: Messages, own: np.ndarray, number: np.ndarray, begin: np.ndarray, low: int, high: int) -> Iterator[tuple]:
    """Yield which messages to fold next, the first and past the last, and the levels inside the window.

    With the levels come the number of the message in the file whose levels are first, where those of each begin, and
    of each level side index, slot and lots. Levels are kept until they are folded and no later snapshot needs them again.
    """
    depth, size = messages.depth(), len(own)
    owner = np.full(len(depth["seq"]), -1, np.int64)
    owner[own] = np.arange(size)
    ends = (depth["row"] + depth["rows"])[own]
    latest = np.maximum.accumulate(number)
    needed = _least_from(np.append(np.where(number < 0, size, number), size))
    needed = _least_from(needed[np.append(np.where(begin < 0, np.arange(len(begin)), begin), len(begin))])
    levels = [np.empty(0, kind) for kind in (np.int64, np.int8, np.int32, np.int64)]
    start = row = 0
    for batch in messages.batches("depth", ["side", "price_ticks", "qty_lots"]):
        price, past = batch["price_ticks"], row + len(batch["price_ticks"])
        first, last = np.searchsorted(depth["row"], (row, past - 1), "right") - (1, 0)
        of = np.repeat(owner[first:last], np.diff(np.append(np.maximum(depth["row"][first:last], row), past)))
        inside = (of >= 0) & (price >= low) & (price < high)
        new = (of[inside], batch["side"][inside] < 0, price[inside] - low, batch["qty_lots"][inside])
        levels = [np.concatenate((kept, more.astype(kept.dtype))) for kept, more in zip(levels, new)]
        row, whole = past, int(np.searchsorted(ends, past, "right"))
        stop, base = int(np.searchsorted(latest, whole)), min(needed[start], whole)
        yield start, stop, base, np.searchsorted(levels[0], np.arange(base, whole + 1)), *levels[1:]
        levels = [values[np.searchsorted(levels[0], needed[stop]):] for values in levels]
        start = stop


def _least_from(values: np.ndarray) -> np.ndarray:
    """Return for each place the least value from there on."""
    return np.minimum.accumulate(values[::-1])[::-1]


def _telling(messages: Messages, symbol: int, ids: np.ndarray) -> Columns:
    """Return the best quotes that are the newest of an id not above one of `ids`, or the first after one of those.

    Between one of `ids` and the next these are the quotes of the highest id and the first of the lowest.
    """
    names = ["seq", "recv_ns", "update_id", *QUOTED]
    parts: list[Columns] = []
    for batch in messages.batches("best", ["symbol", *names]):
        own = np.flatnonzero((batch["symbol"] == symbol) & (batch["update_id"] != MISSING))
        if len(own):
            own = own[np.argsort(batch["update_id"][own], kind="stable")]
            update = batch["update_id"][own]
            span = np.searchsorted(ids, update)
            new = span[1:] != span[:-1]
            lowest, highest = np.append(True, new), np.append(new, True)
            telling = np.sort(own[lowest | (update == update[highest][np.cumsum(lowest) - 1])])
            parts.append({name: batch[name][telling] for name in names})
    return joined("best", parts, names)


def _quotes_of(best: Columns, last_id: np.ndarray, recv_ns: np.ndarray, seq: np.ndarray,
               breaks: np.ndarray, quote_breaks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the best quotes by update id, and for each message the range of those of the newest id not above its own.

    A best quote stands until the next one, so the newest with an id not above the diff's is the touch the diff leaves;
    unless a break lies between the two, or before that next one: then a quote between may be missing. `best` is used up.
    """
    order = np.argsort(best["update_id"], kind="stable")
    ids, at, recv_of = (best.pop(name)[order] for name in ("update_id", "seq", "recv_ns"))
    quotes = np.empty((len(QUOTED), len(ids)), np.int64)
    for name, values in zip(QUOTED, quotes):
        values[:] = best.pop(name)[order]
    after = np.searchsorted(ids, last_id, "right")
    newest = np.maximum(after - 1, 0)
    if not len(ids):
        return quotes, after, after
    first = np.searchsorted(ids, ids[newest], "left")
    fresh = (after > 0) & (np.abs(recv_of[newest] - recv_ns) <= QUOTE_AGE_NS)
    every = np.sort(np.concatenate((breaks, quote_breaks)))
    following = np.append(at[1:], np.iinfo(np.int64).max)      # of the next id; it may have come before
    whole = np.searchsorted(quote_breaks, at) >= np.searchsorted(quote_breaks, following)
    fresh &= whole[newest] & (np.searchsorted(every, at[newest]) == np.searchsorted(every, seq))
    return quotes, np.where(fresh, first, 0), np.where(fresh, after, 0)


@njit(cache=True)
def _put(ladder, top, start, stop, side, slot, lots):
    """Set levels; `top` holds the slots of best bid and best ask, -1 and the ladder's length when there is none."""
    size = ladder.shape[1]
    for row in range(start, stop):
        own, at = side[row], slot[row]
        ladder[own, at] = lots[row]
        if own == 0:
            if lots[row] > 0:
                top[0] = max(top[0], at)
            elif at == top[0]:
                while top[0] >= 0 and ladder[0, top[0]] == 0:
                    top[0] -= 1
        elif lots[row] > 0:
            top[1] = min(top[1], at)
        elif at == top[1]:
            while top[1] < size and ladder[1, top[1]] == 0:
                top[1] += 1


@njit(cache=True)
def _judge(ladder, top, low, quotes, first, after):
    """Compare the top with the venue's quotes of one update id; any of them will do."""
    if first == after:
        return NOT_COMPARED
    bid, ask = top
    if bid < 0 or ask >= ladder.shape[1]:
        return UNEQUAL
    for k in range(first, after):
        if (quotes[0, k] == bid + low and quotes[1, k] == ladder[0, bid]
                and quotes[2, k] == ask + low and quotes[3, k] == ladder[1, ask]):
            return EQUAL
    return UNEQUAL


@njit(cache=True)
def _old(last_id, book_id, chained, strict):
    """USD-M step 3: drop u < L, and after the first event what is not newer. Spot steps 3 and 5: drop u <= L."""
    if last_id == MISSING or book_id == MISSING:   # an archive without update ids: the order of its rows is all there is
        return False
    return last_id < book_id if strict and not chained else last_id <= book_id


@njit(cache=True)
def _continues(previous, book_id, chained, strict):
    """USD-M steps 4 and 6: pu <= L <= u for the first; step 5: then pu == previous u. Spot steps 4, 5: U <= id + 1."""
    if previous == MISSING or book_id == MISSING:
        return True
    return previous == book_id if strict and chained else previous <= book_id


@njit(cache=True)
def _overtaken(kind, last_id):
    """Return which diffs came after a later one of their chain."""
    late = np.zeros(len(kind), np.bool_)
    newest = MISSING
    for i in range(len(kind)):
        if kind[i] == BREAK:
            newest = MISSING
        elif kind[i] == DIFF:
            late[i] = last_id[i] < newest
            newest = max(newest, last_id[i])
    return late


@njit(cache=True)
def _buffered(at, kind, last_id, previous, late, strict):
    """Return the first diff before a snapshot that is newer than it, or -1 when those diffs do not link to it whole."""
    first = at
    if last_id[at] == MISSING:     # whatever came before it is in it
        return at
    for j in range(at - 1, -1, -1):
        if kind[j] == BREAK:       # ids before it may be of another count
            break
        if kind[j] == DIFF and last_id[j] >= last_id[at]:
            first = j
        elif kind[j] == DIFF and not late[j]:
            break
    book_id, chained = last_id[at], False
    for j in range(first, at):
        if kind[j] == DIFF and not _old(last_id[j], book_id, chained, strict):
            if not _continues(previous[j], book_id, chained, strict):
                return -1
            book_id, chained = last_id[j], True
    return first


@njit(cache=True)
def _begins(kind, last_id, previous, strict):
    """Return for each message the first to fold with it: a snapshot's first buffered diff, -1 when it does not link."""
    begin = np.arange(len(kind))
    late = _overtaken(kind, last_id)
    for i in range(len(kind)):
        if kind[i] == SNAPSHOT:
            begin[i] = _buffered(i, kind, last_id, previous, late, strict)
    return begin


@njit(cache=True)
def _fold(start, stop, base, offset, side, slot, lots, kind, last_id, previous, strict, begin, number, ladder, state, low,
          quotes, first, after, synced, applied, crossed, compared, link):
    """Run messages through the book, their levels being at hand; writes the outcome of each into the last five arrays."""
    top = state[:2]
    book_id, snapshot, sound, chained = state[2], state[3], state[4] > 0, state[5] > 0
    for i in range(start, stop):
        if kind[i] == BREAK:
            sound = False
        elif kind[i] == SNAPSHOT and begin[i] >= 0:  # one that does not link leaves the book as it is
            ladder[:] = 0
            top[0], top[1] = -1, ladder.shape[1]
            _put(ladder, top, offset[number[i] - base], offset[number[i] - base + 1], side, slot, lots)
            sound, chained, book_id, snapshot = True, False, last_id[i], i
            link[i] = WAITING
        if begin[i] >= 0 and kind[i] != BREAK:
            for j in range(begin[i], i + 1):
                if not sound or kind[j] != DIFF or _old(last_id[j], book_id, chained, strict):
                    continue
                if not _continues(previous[j], book_id, chained, strict):
                    sound = False
                    if not chained:
                        link[snapshot] = REFUSED
                    continue
                _put(ladder, top, offset[number[j] - base], offset[number[j] - base + 1], side, slot, lots)
                book_id, chained, link[snapshot], applied[j] = last_id[j], True, LINKED, 1
                compared[j] = _judge(ladder, top, low, quotes, first[j], after[j])
                if top[0] >= top[1]:  # both: a crossed book is invalid until the next snapshot
                    crossed[j] = 1
                    sound = False
        synced[i] = sound
    state[2], state[3], state[4], state[5] = book_id, snapshot, sound, chained
