"""Session tables to EVENT rows in the order of their seq, a bounded number at a time."""

from collections.abc import Iterable, Iterator

import numba
import numpy as np
import pyarrow as pa

from engine.errors import BadInput
from engine.kernel import records as R
from engine.record.own import ACCOUNT_CODES, BY_BROKER
from engine.record.store import Session
from engine.words import FILL_CODES, RULE_MODES

_COLUMNS = {
    "trades": ["seq", "recv_ns", "event_ns", "symbol", "price_ticks", "qty_lots", "side", "trade_id", "bits"],
    "depth": ["seq", "recv_ns", "symbol", "side", "price_ticks", "qty_lots", "last_id", "prev_id", "bits"],
    "best": ["seq", "recv_ns", "symbol", "bid_price_ticks", "bid_qty_lots", "ask_price_ticks", "ask_qty_lots", "update_id"],
    "quotes": ["seq", "recv_ns", "symbol", "bid_price_ticks", "ask_price_ticks"],
    "feed": ["seq", "recv_ns", "symbol", "code", "stream"],
    "account": ["seq", "recv_ns", "event_ns", "symbol", "ticket", "code", "side", "price_ticks", "qty_lots", "bits"],
    "orders": ["seq", "recv_ns", "symbol", "ticket", "code", "price_ticks", "stop_ticks", "left_lots"],
    "switches": ["seq", "recv_ns", "symbol", "number", "mode"],
}
MARKET_TABLES = ("trades", "depth", "best", "quotes", "feed")
LIVE_TABLES = (*MARKET_TABLES, "account", "orders", "switches")
_WIDTH = {"best": 2, "quotes": 2}
FEED_CODES = {"connected": R.CONNECTED, "lost": R.LOST, "gap": R.GAP, "resync": R.RESYNC, "stale": R.STALE, "timer": 0, "note": 6}
FEED_STREAMS = {"": R.MISSING, "trades": R.TRADE, "depth": R.DEPTH, "best": R.BEST, "quotes": R.QUOTE}
_NAMELESS = {"symbol": R.EVERY_SYMBOL, "stream": R.MISSING}      # what a row speaks of that names none
MAY_BE_NAMELESS = ("feed", "switches")
_ORDER_CODES = {word: number for number, word in enumerate(FILL_CODES)}
_MODES = {word: number for number, word in enumerate(RULE_MODES)}
_WHOLE = R.FIRST | R.LAST
BATCH_ROWS = 65_536            # measured best of 16 k to 128 k: a chunk then stays in the cache


@numba.njit(cache=True)
def _places(seqs, starts, widths, places):
    """Fill the output row of each row of the joined tables in one merge by seq; return the number of output rows."""
    tables = len(widths)
    at = starts[:-1].copy()
    out = 0
    while True:
        least = -1
        for t in range(tables):
            if at[t] < starts[t + 1] and (least < 0 or seqs[at[t]] < seqs[at[least]]):
                least = t
        if least < 0:
            return out
        seq = seqs[at[least]]
        while at[least] < starts[least + 1] and seqs[at[least]] == seq:
            places[at[least]] = out
            out += widths[least]
            at[least] += 1


@numba.njit(cache=True)
def _weave(chunk, rows, out, seq):
    """Copy two streams into one by receive time; an injected row follows what arrived at its time and takes its seq, at first `seq`."""
    at = 0
    for i in range(rows.shape[0]):
        while at < chunk.shape[0] and chunk[at].recv_ns <= rows[i].recv_ns:
            seq = chunk[at].seq
            out[at + i] = chunk[at]
            at += 1
        out[at + i] = rows[i]
        out[at + i].seq = seq
    while at < chunk.shape[0]:
        out[at + rows.shape[0]] = chunk[at]
        at += 1


def _integers(column: pa.Array) -> np.ndarray:
    """Return an integer column as int64 or as it is, nulls as MISSING."""
    if column.null_count:
        column = column.fill_null(R.MISSING)
    return np.array(column.to_numpy(zero_copy_only=False))   # a writable copy: compiled code then has one type to fit


class Followed(dict):
    """Numbers of symbols; the rows of any other symbol are left out."""

    def __missing__(self, symbol: str) -> int:
        return R.NOBODY


class _Table:
    """One table read in order, with at most two row groups of it in memory."""

    def __init__(self, session: Session, name: str, numbers: dict[str, int]):
        self.name, self.numbers, self.columns = name, numbers, _COLUMNS[name]
        self._batches = session.batches(name, self.columns, BATCH_ROWS)
        self.held: dict[str, np.ndarray] | None = None
        self.ended = False
        self._read()

    def _read(self) -> None:
        batch = next(self._batches, None)
        if batch is None:
            self.ended = True
            return
        fresh = {name: self._column(name, batch.column(name)) for name in self.columns}
        if self.held is None or not len(self.held["seq"]):
            self.held = fresh
        else:
            self.held = {name: np.concatenate([self.held[name], fresh[name]]) for name in self.columns}

    def _column(self, name: str, column: pa.Array) -> np.ndarray:
        codes = {"feed": FEED_CODES, "account": ACCOUNT_CODES, "orders": _ORDER_CODES}.get(self.name)
        meaning = {"symbol": self.numbers, "code": codes, "stream": FEED_STREAMS, "mode": _MODES}.get(name)
        if meaning is None:
            return _integers(column)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        if column.null_count and (self.name not in MAY_BE_NAMELESS or name not in _NAMELESS):
            raise BadInput(f"table {self.name}: a row has no {name}; check the session")
        try:
            known = np.array([*(meaning[str(value)] for value in column.dictionary), _NAMELESS.get(name, 0)], np.int64)
        except KeyError as error:
            raise BadInput(f"table {self.name}: {name} {error.args[0]!r} is not known") from None
        if len(known) == 2 and not column.null_count:
            return np.full(len(column), known[0])
        return known[column.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)]

    def ready(self) -> int | None:
        """Return the last seq whose frame is surely complete in memory; None when the table has ended."""
        while not self.ended and (self.held is None or self.held["seq"][0] == self.held["seq"][-1]):
            self._read()
        if self.ended:
            return None
        return int(self.held["seq"][-1]) - 1

    def take(self, limit: int | None) -> dict[str, np.ndarray]:
        """Give up the rows up to and with a seq, all when it is None."""
        if self.held is None:
            return {name: np.zeros(0, np.int64) for name in self.columns}
        cut = len(self.held["seq"]) if limit is None else int(np.searchsorted(self.held["seq"], limit, "right"))
        taken = {name: column[:cut] for name, column in self.held.items()}
        self.held = {name: column[cut:] for name, column in self.held.items()}
        if not self.ended and not len(self.held["seq"]):
            self._read()
        return taken


def _base(out: np.ndarray, at: np.ndarray, rows: dict, kind) -> None:
    out["seq"][at] = rows["seq"]
    out["recv_ns"][at] = rows["recv_ns"]
    out["symbol"][at] = rows["symbol"]
    out["kind"][at] = kind


@numba.njit(cache=True)
def _fill_depth(out, at, seq, recv_ns, symbol, side, price, qty, last_id, prev_id, bits, snapshot_bit, depth, snapshot):
    """Write depth rows straight into their places: the bulk of every session."""
    for i in range(at.shape[0]):
        row = out[at[i]]
        row.seq = seq[i]
        row.recv_ns = recv_ns[i]
        row.symbol = symbol[i]
        row.side = side[i]
        row.price_ticks = price[i]
        row.qty_lots = qty[i]
        row.id = last_id[i]
        row.prev_id = prev_id[i]
        row.bits = bits[i]
        row.kind = snapshot if bits[i] & snapshot_bit else depth


@numba.njit(cache=True)
def _fill_pairs(out, at, seq, recv_ns, symbol, bid_price, bid_qty, ask_price, ask_qty, update_id, kind, first, last):
    """Write best or broker quotes: a bid row, then an ask row."""
    for i in range(at.shape[0]):
        for offset in range(2):
            row = out[at[i] + offset]
            row.seq = seq[i]
            row.recv_ns = recv_ns[i]
            row.symbol = symbol[i]
            row.kind = kind
            row.id = update_id[i]
            row.price_ticks = ask_price[i] if offset else bid_price[i]
            row.qty_lots = ask_qty[i] if offset else bid_qty[i]
            row.side = -1 if offset else 1
            row.bits = last if offset else first


def _fill(name: str, out: np.ndarray, at: np.ndarray, rows: dict) -> None:
    """Write the rows of one table into their places."""
    if name == "depth":
        _fill_depth(out, at, rows["seq"], rows["recv_ns"], rows["symbol"], rows["side"], rows["price_ticks"], rows["qty_lots"],
                    rows["last_id"], rows["prev_id"], rows["bits"], R.SNAPSHOT_LEVEL, R.DEPTH, R.SNAPSHOT)
    elif name == "trades":
        _base(out, at, rows, R.TRADE)
        for target, source in (("event_ns", "event_ns"), ("price_ticks", "price_ticks"), ("qty_lots", "qty_lots"), ("side", "side"),
                               ("id", "trade_id")):
            out[target][at] = rows[source]
        out["bits"][at] = rows["bits"] | _WHOLE
    elif name in ("best", "quotes"):
        known = name == "best"
        none = None if known else np.full(len(at), R.MISSING)
        _fill_pairs(out, at, rows["seq"], rows["recv_ns"], rows["symbol"], rows["bid_price_ticks"],
                    rows["bid_qty_lots"] if known else none, rows["ask_price_ticks"], rows["ask_qty_lots"] if known else none,
                    rows["update_id"] if known else none, R.BEST if known else R.QUOTE, R.FIRST, R.LAST)
    elif name == "feed":
        _base(out, at, rows, np.where(rows["code"] == 0, R.TIMER, R.FEED))
        out["code"][at] = rows["code"]
        out["id"][at] = rows["stream"]
        out["bits"][at] = _WHOLE
    else:
        _fill_own(name, out, at, rows)


def _fill_own(name: str, out: np.ndarray, at: np.ndarray, rows: dict) -> None:
    """Write what the engine saw of the account, or did."""
    out["bits"][at] = _WHOLE
    if name == "switches":
        _base(out, at, rows, R.SWITCH)
        out["id"][at], out["code"][at] = rows["number"], rows["mode"]
        return
    out["id"][at], out["code"][at], out["price_ticks"][at] = rows["ticket"], rows["code"], rows["price_ticks"]
    if name == "account":
        by_broker = rows["code"] >= BY_BROKER
        _base(out, at, rows, np.where(by_broker, R.OUTCOME, R.POSITION))
        out["code"][at] -= BY_BROKER * by_broker
        out["event_ns"][at], out["qty_lots"][at] = rows["event_ns"], rows["qty_lots"]
        out["side"][at], out["bits"][at] = rows["side"], rows["bits"]
        return
    _base(out, at, rows, R.OUTCOME)
    moved = rows["code"] == R.STOP_MOVED
    out["price_ticks"][at] = np.where(moved, rows["stop_ticks"], rows["price_ticks"])
    out["qty_lots"][at] = rows["left_lots"]


_UNKNOWN = np.zeros(1, R.EVENT)
for _name in ("event_ns", "price_ticks", "qty_lots", "id", "prev_id"):
    _UNKNOWN[_name] = R.MISSING


def empty_events(count: int) -> np.ndarray:
    """Return EVENT rows with everything that may be unknown unknown."""
    words = np.empty((count, R.EVENT.itemsize // 8), np.int64)
    words[:] = _UNKNOWN.view(np.int64)     # as integers: copying records one by one is several times slower
    return words.reshape(-1).view(R.EVENT)


def events(session: Session, numbers: dict[str, int], tables: Iterable[str] = MARKET_TABLES) -> Iterator[np.ndarray]:
    """Yield a session's EVENT rows in order of seq; `numbers` gives each symbol its place among the kernel's symbols."""
    names = [name for name in tables if session.files(name)]
    readers = [_Table(session, name, numbers) for name in names]
    widths = np.array([_WIDTH.get(name, 1) for name in names], np.int64)
    while readers:
        limits = [limit for limit in (reader.ready() for reader in readers) if limit is not None]
        limit = min(limits) if limits else None
        parts = [reader.take(limit) for reader in readers]
        starts = np.cumsum([0] + [len(part["seq"]) for part in parts])
        places = np.empty(starts[-1], np.int64)
        total = _places(np.concatenate([part["seq"] for part in parts]), starts, widths, places)
        if total:
            out = empty_events(total)
            for n, (name, rows) in enumerate(zip(names, parts, strict=True)):
                if starts[n] < starts[n + 1]:
                    _fill(name, out, places[starts[n]:starts[n + 1]], rows)
            strangers = out["symbol"] == R.NOBODY
            yield out[~strangers] if strangers.any() else out
        if limit is None:
            return


def rechunk(chunks: Iterable[np.ndarray], size: int | None) -> Iterator[np.ndarray]:
    """Cut a stream into pieces of `size` rows, wherever frames end; None joins everything."""
    if size is None:
        whole = list(chunks)
        if whole:
            yield np.concatenate(whole)
        return
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            yield chunk[start:start + size]


class Injector:
    """Merges rows that no venue sent (positions, modelled quotes) into a stream by receive time, after what is already there."""

    def __init__(self, rows: np.ndarray | None = None):
        self.waiting = np.zeros(0, R.EVENT) if rows is None else rows
        self.used = 0
        self._seq: int | None = None       # of the last row of the chunk before

    def add(self, rows: np.ndarray) -> None:
        """Queue more rows; they must not be earlier than those before them."""
        if len(rows):
            self.waiting = np.concatenate([self.waiting[self.used:], rows])
            self.used = 0

    def merge(self, chunk: np.ndarray) -> np.ndarray:
        """Return a chunk with the rows that fall due in it; each takes the seq of the row it follows."""
        if not len(chunk):
            return chunk
        follows = int(chunk["seq"][0]) if self._seq is None else self._seq
        self._seq = int(chunk["seq"][-1])
        due = int(np.searchsorted(self.waiting["recv_ns"], chunk["recv_ns"][-1], "right"))
        if due <= self.used:
            return chunk
        rows = self.waiting[self.used:due].copy()
        self.used = due
        out = np.empty(len(chunk) + len(rows), R.EVENT)
        _weave(chunk, rows, out, follows)
        return out
