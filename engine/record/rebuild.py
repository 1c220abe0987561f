"""The book of one symbol rebuilt from snapshot and diffs, and compared with the venue's own best quotes.

Written apart from the kernel's book, so that the check of a recording shares no fault with what is run on it.
The numbered steps are those of the venue's own manual for a local book, spot and USD-M.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from engine.kernel.records import MISSING, NOT_MARKET, PARTIAL_DEPTH, SNAPSHOT_LEVEL
from engine.record.messages import Columns, Messages

QUOTE_AGE_NS = 10_000_000_000  # an older best quote proves nothing about the book
MARGIN = 64                    # the window of prices reaches 1/64 beyond what was quoted
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
    recv_ns: np.ndarray
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
    depth = messages.table("depth")
    own = np.flatnonzero((depth["symbol"] == symbol) & (depth["bits"] & PARTIAL_DEPTH == 0))
    low, high = _window(messages, symbol)
    side, slot, lots, offset = _levels(messages, depth, own, low, high)
    seq = np.concatenate((depth["seq"][own], breaks[:, 0]))
    recv = np.concatenate((depth["recv_ns"][own], breaks[:, 1]))
    order = np.argsort(seq, kind="stable")
    seq, recv = seq[order], recv[order]
    number = np.append(np.arange(len(own)), np.full(len(breaks), -1))[order]   # of the depth message, -1 for a break
    at = own[number] if len(own) else own
    mark = number < 0

    def taken(column: str) -> np.ndarray:
        return np.where(mark, MISSING, depth[column][at]) if len(own) else np.full(len(mark), MISSING)

    kind = np.where(mark, BREAK, np.where(taken("bits") & SNAPSHOT_LEVEL > 0, SNAPSHOT, DIFF)).astype(np.int8)
    last_id = taken("last_id")
    previous, strict = messages.previous_ids(symbol, taken("first_id"), taken("prev_id"))
    quotes, first, after = _quotes_of(messages.table("best"), symbol, last_id, recv, seq, breaks[:, 0], quote_breaks)
    n = len(seq)
    found = Rebuild(seq, recv, kind, last_id, *(np.zeros(n, np.int8) for _ in range(5)))
    rows = (np.where(mark, 0, offset[number]), np.where(mark, 0, offset[number + 1]))
    ladder = np.zeros((2, high - low), np.int64)
    _fold(kind, last_id, previous, strict, *rows, side, slot, lots, ladder, low, quotes, first, after,
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


def _levels(messages: Messages, depth: Columns, own: np.ndarray, low: int, high: int) -> tuple[np.ndarray, ...]:
    """Return side index, slot and lots of the levels inside the window, and where those of each message start."""
    owner = np.full(len(depth["seq"]), -1, np.int64)
    owner[own] = np.arange(len(own))
    parts: list[tuple] = [(np.empty(0, np.int8), np.empty(0, np.int32), np.empty(0, np.int64))]
    counts = np.zeros(len(own), np.int64)
    row = 0
    for batch in messages.batches("depth", ["side", "price_ticks", "qty_lots"]):
        price = batch["price_ticks"]
        message = np.searchsorted(depth["row"], np.arange(row, row + len(price)), "right") - 1
        number = owner[message]
        kept = (number >= 0) & (price >= low) & (price < high)
        counts += np.bincount(number[kept], minlength=len(own))
        asks = (batch["side"][kept] < 0).astype(np.int8)
        parts.append((asks, (price[kept] - low).astype(np.int32), batch["qty_lots"][kept]))
        row += len(price)
    side, slot, lots = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return side, slot, lots, np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


def _quotes_of(best: Columns, symbol: int, last_id: np.ndarray, recv_ns: np.ndarray, seq: np.ndarray,
               breaks: np.ndarray, quote_breaks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the best quotes by update id, and for each message the range of those of the newest id not above its own.

    A best quote stands until the next one, so the newest with an id not above the diff's is the touch the diff leaves;
    unless a break lies between the two, or before that next one: then a quote between may be missing.
    """
    own = np.flatnonzero((best["symbol"] == symbol) & (best["update_id"] != MISSING))
    own = own[np.argsort(best["update_id"][own], kind="stable")]
    ids = best["update_id"][own]
    names = ("bid_price_ticks", "bid_qty_lots", "ask_price_ticks", "ask_qty_lots")
    quotes = np.stack([best[name][own] for name in names])
    after = np.searchsorted(ids, last_id, "right")
    newest = np.maximum(after - 1, 0)
    if not len(ids):
        return quotes, after, after
    first = np.searchsorted(ids, ids[newest], "left")
    fresh = (after > 0) & (np.abs(best["recv_ns"][own][newest] - recv_ns) <= QUOTE_AGE_NS)
    at, every = best["seq"][own], np.sort(np.concatenate((breaks, quote_breaks)))
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
def _fold(kind, last_id, previous, strict, start, stop, side, slot, lots, ladder, low, quotes, first, after,
          synced, applied, crossed, compared, link):
    """Run the messages through the book; writes the outcome of each into the last five arrays."""
    size = ladder.shape[1]
    top = np.array([-1, size])
    sound, chained, book_id, snapshot = False, False, MISSING, -1
    late = _overtaken(kind, last_id)
    for i in range(len(kind)):
        begin = i
        if kind[i] == BREAK:
            sound = False
        elif kind[i] == SNAPSHOT:
            begin = _buffered(i, kind, last_id, previous, late, strict)
            if begin >= 0:  # a snapshot that does not link leaves the book as it is
                ladder[:] = 0
                top[0], top[1] = -1, size
                _put(ladder, top, start[i], stop[i], side, slot, lots)
                sound, chained, book_id, snapshot = True, False, last_id[i], i
                link[i] = WAITING
        if begin >= 0 and kind[i] != BREAK:
            for j in range(begin, i + 1):
                if not sound or kind[j] != DIFF or _old(last_id[j], book_id, chained, strict):
                    continue
                if not _continues(previous[j], book_id, chained, strict):
                    sound = False
                    if not chained:
                        link[snapshot] = REFUSED
                    continue
                _put(ladder, top, start[j], stop[j], side, slot, lots)
                book_id, chained, link[snapshot], applied[j] = last_id[j], True, LINKED, 1
                compared[j] = _judge(ladder, top, low, quotes, first[j], after[j])
                if top[0] >= top[1]:  # both: a crossed book is invalid until the next snapshot
                    crossed[j] = 1
                    sound = False
        synced[i] = sound
