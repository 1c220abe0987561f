"""The market trades of the last hour, kept as they came: prices by time, volumes, sweeps and candles."""

from dataclasses import dataclass

import numpy as np

from engine.kernel import records as R

NS = 1_000_000_000
KEEP_NS = 3_700 * NS
MINUTE_NS = 60 * NS
TRADE = np.dtype(
    [
        ("recv_ns", "i8"),
        ("event_ns", "i8"),
        ("price_ticks", "i8"),
        ("qty_lots", "i8"),
        ("id", "i8"),
        ("side", "i8"),
        ("hole", "i8"),
    ]
)
_PARTS = 512
TIERS = ("medium", "large", "whale")


class Tape:
    """Trades of one symbol; rows older than the longest window are let go."""

    def __init__(self) -> None:
        self._kept = np.zeros(0, TRADE)
        self._parts: list[np.ndarray] = []
        self._last_id = R.MISSING
        self._holes = 0

    def add(self, rows: np.ndarray) -> None:
        """Take TRADE rows of this symbol in their order; prints that are no market trade only keep the ids whole."""
        if not len(rows):
            return
        ids = rows["id"]
        market = rows["bits"] & R.NOT_MARKET == 0
        before = np.concatenate([[self._last_id], ids[:-1]])
        broken = (ids != R.MISSING) & (before != R.MISSING) & (ids != before + 1)
        holes = self._holes + np.cumsum(broken)
        self._holes, self._last_id = int(holes[-1]), int(ids[-1])
        kept = np.zeros(int(market.sum()), TRADE)
        for name in ("recv_ns", "event_ns", "price_ticks", "qty_lots", "id", "side"):
            kept[name] = rows[name][market]
        kept["hole"] = holes[market]
        self._parts.append(kept)
        if len(self._parts) >= _PARTS:
            self.rows(int(rows["recv_ns"][-1]))

    def rows(self, now_ns: int) -> np.ndarray:
        """Return the trades of the last hour and a little more, oldest first."""
        if self._parts:
            self._kept = np.concatenate([self._kept, *self._parts])
            self._parts = []
        cut = int(np.searchsorted(self._kept["recv_ns"], now_ns - KEEP_NS, "right"))
        if cut:
            self._kept = self._kept[cut:].copy()
        return self._kept


@dataclass(frozen=True)
class Candle:
    """One minute of venue time, prices in ticks."""

    start_ns: int
    open_ticks: int
    high_ticks: int
    low_ticks: int
    close_ticks: int
    trades: int


def candle_of(rows: np.ndarray, start_ns: int, end_ns: int) -> Candle | None:
    """Return the candle of the trades whose venue time is in [start, end), None without one."""
    inside = rows[(rows["event_ns"] >= start_ns) & (rows["event_ns"] < end_ns)]
    if not len(inside):
        return None
    price = inside["price_ticks"]
    return Candle(start_ns, int(price[0]), int(price.max()), int(price.min()), int(price[-1]), len(inside))


def price_at(rows: np.ndarray, when_ns: int) -> int | None:
    """Return the last trade price at a receive time, in ticks."""
    place = int(np.searchsorted(rows["recv_ns"], when_ns, "right")) - 1
    return None if place < 0 else int(rows["price_ticks"][place])


def between(rows: np.ndarray, from_ns: int, to_ns: int) -> np.ndarray:
    """Return the trades received in (from, to]."""
    low, high = np.searchsorted(rows["recv_ns"], [from_ns, to_ns], "right")
    return rows[low:high]


def sweeps(rows: np.ndarray) -> np.ndarray:
    """Return one row for each sweep, in order of its last print: same taker side, same instant, ids without a hole.

    Columns as TRADE, with the first id, the last price and receive time; `qty_lots` is the value in tick-lots,
    `hole` the number of prints.
    """
    found = []
    for side in (1, -1):
        own = rows[rows["side"] == side]
        if not len(own):
            continue
        new = np.ones(len(own), bool)
        new[1:] = (
            (own["event_ns"][1:] != own["event_ns"][:-1])
            | (own["event_ns"][1:] == R.MISSING)
            | (own["hole"][1:] != own["hole"][:-1])
        )
        starts = np.flatnonzero(new)
        ends = np.append(starts[1:], len(own)) - 1
        made = own[ends].copy()
        made["id"] = own["id"][starts]
        made["qty_lots"] = np.add.reduceat(own["price_ticks"] * own["qty_lots"], starts)
        made["hole"] = ends - starts + 1
        found.append(made)
    if not found:
        return np.zeros(0, TRADE)
    joined = np.concatenate(found)
    return joined[np.lexsort((joined["id"], joined["recv_ns"]))]


def body(candle: Candle) -> tuple[str, str, float | None, float | None]:
    """Return colour, size and the two wick ratios of a candle."""
    high, low, opened, closed = candle.high_ticks, candle.low_ticks, candle.open_ticks, candle.close_ticks
    color = "GREEN" if closed > opened else "RED" if closed < opened else "FLAT"
    span = high - low
    if span == 0:
        return color, "DOJI", None, None
    share = abs(closed - opened) / span
    size = "LARGE" if share > 0.6 else "MEDIUM" if share > 0.3 else "SMALL"
    return color, size, (high - max(opened, closed)) / span, (min(opened, closed) - low) / span
