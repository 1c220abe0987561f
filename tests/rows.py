"""EVENT rows for tests of the kernel: one builder for each kind of frame, and what turns frames into a stream."""

import numpy as np

from engine.kernel import records as R
from engine.stream import empty_events

MS = 1_000_000
S = 1_000_000_000
Rows = np.ndarray


def frame(kind: int, ns: int, symbol: int, rows: list[dict], bits: int = 0) -> Rows:
    """Return the rows of one frame: `rows` has what is particular to each; the first and the last are flagged."""
    out = empty_events(len(rows))
    out["kind"], out["recv_ns"], out["symbol"], out["bits"] = kind, ns, symbol, bits
    for place, row in enumerate(rows):
        for name, value in row.items():
            out[name][place] = R.MISSING if value is None else value
    out["bits"][0] |= R.FIRST
    out["bits"][-1] |= R.LAST
    return out


def trade(ns: int, price: int, lots: int, side: int, trade_id: int | None = None, event_ns: int | None = None, *,
          bits: int = 0, symbol: int = 0) -> Rows:
    """Return one print; `event_ns` is the venue's time, unknown when left out."""
    return frame(R.TRADE, ns, symbol, [dict(price_ticks=price, qty_lots=lots, side=side, id=trade_id, event_ns=event_ns)], bits)


def best(ns: int, bid: int, ask: int, bid_lots: int = 100, ask_lots: int = 100, update_id: int | None = None, *, symbol: int = 0) -> Rows:
    """Return a best quote of the venue."""
    return frame(R.BEST, ns, symbol, [dict(price_ticks=bid, qty_lots=bid_lots, side=1, id=update_id),
                                      dict(price_ticks=ask, qty_lots=ask_lots, side=-1, id=update_id)])


def quote(ns: int, bid: int, ask: int, *, symbol: int = 0) -> Rows:
    """Return a quote of the broker."""
    return frame(R.QUOTE, ns, symbol, [dict(price_ticks=bid, side=1), dict(price_ticks=ask, side=-1)])


def _levels(levels: list[tuple[int, int, int]], last_id: int | None, prev_id: int | None) -> list[dict]:
    ids = dict(id=last_id, prev_id=prev_id)
    return [dict(side=side, price_ticks=price, qty_lots=lots, **ids) for side, price, lots in levels] or [dict(side=1, **ids)]


def diff(ns: int, levels: list[tuple[int, int, int]], last_id: int | None = None, prev_id: int | None = None, *,
         bits: int = 0, symbol: int = 0) -> Rows:
    """Return a depth diff of (side, price, quantity); one without levels is a row with no price."""
    return frame(R.DEPTH, ns, symbol, _levels(levels, last_id, prev_id), bits)


def snapshot(ns: int, levels: list[tuple[int, int, int]], last_id: int | None = None, *, symbol: int = 0) -> Rows:
    """Return a full snapshot of (side, price, quantity)."""
    return frame(R.SNAPSHOT, ns, symbol, _levels(levels, last_id, None), R.SNAPSHOT_LEVEL)


def timer(ns: int) -> Rows:
    """Return a timer row."""
    return frame(R.TIMER, ns, 0, [{}])


def timers(first_ns: int, last_ns: int, step_ns: int = 100 * MS) -> Rows:
    """Return timer rows at a regular step, both ends included."""
    return joined(*[timer(ns) for ns in range(first_ns, last_ns + 1, step_ns)])


def feed(ns: int, code: int, stream: int = R.MISSING, *, symbol: int = 0) -> Rows:
    """Return a feed row; `stream` is the kind of the events it speaks of, all when left out."""
    return frame(R.FEED, ns, symbol, [dict(code=code, id=stream)])


def position(ns: int, ticket: int, side: int, volume: int = 100, *, price: int | None = None, stop: int | None = None,
             take: int | None = None, hold_ns: int | None = None, relative: bool = False, symbol: int = 0) -> Rows:
    """Return the frame that opens a position; with `relative`, stop and take are distances in 1/100 bp."""
    rows = [dict(code=R.OPENED, price_ticks=price, qty_lots=volume)]
    for code, level in ((R.STOP_SET, stop), (R.TAKE_SET, take)):
        if level is not None:
            rows.append(dict(code=code, price_ticks=level, bits=R.RELATIVE if relative else 0))
    if hold_ns is not None:
        rows.append(dict(code=R.HOLD_SET, qty_lots=hold_ns))
    return frame(R.POSITION, ns, symbol, [dict(id=ticket, side=side, **row) for row in rows])


def change(ns: int, ticket: int, code: int, price: int | None = None, lots: int | None = None, *, symbol: int = 0) -> Rows:
    """Return one later row of a position: a stop, a take, a volume, or its close."""
    return frame(R.POSITION, ns, symbol, [dict(id=ticket, code=code, price_ticks=price, qty_lots=lots)])


def outcome(ns: int, ticket: int, code: int, price: int | None = None, lots: int | None = None, *, symbol: int = 0) -> Rows:
    """Return the answer to an order."""
    return frame(R.OUTCOME, ns, symbol, [dict(id=ticket, code=code, price_ticks=price, qty_lots=lots)])


def joined(*parts: Rows) -> Rows:
    """Put frames one after the other."""
    return np.concatenate(parts) if parts else empty_events(0)


def stream(*parts: Rows) -> Rows:
    """Put frames into order of time, those at one time as given, and number them from 1."""
    frames = [piece for part in parts for piece in np.split(part, np.flatnonzero(part["bits"] & R.FIRST)[1:]) if len(piece)]
    frames.sort(key=lambda rows: int(rows["recv_ns"][0]))
    out = joined(*frames)
    out["seq"] = np.cumsum(out["bits"] & R.FIRST != 0)
    return out
