"""A hand-made event stream for one symbol: tick 0.10, lot 0.001, broker tick 0.01, at about 60,000 USD."""

import numpy as np

from engine.kernel import records as R
from engine.run import Pair, Run, Settings
from engine.stream import empty_events

PAIR = Pair("BTCUSDT", "0.10", "0.001", "0.01", True)
SECOND = 1_000_000_000
WHOLE = R.FIRST | R.LAST


class Stream:
    """Collects rows; every frame comes a millisecond after the one before, timers stand at each 100 ms that passes."""

    def __init__(self):
        self.rows: list[dict] = []
        self.seq, self.now_ns = 0, 1_000 * SECOND
        self.trade_id, self.update_id = 100, 1_000
        self.bid, self.ask = 600_000, 600_001

    def frame(self, *rows: dict) -> "Stream":
        """Add one frame."""
        self.seq += 1
        self.now_ns += 1_000_000
        for place, row in enumerate(rows):
            bits = (R.FIRST if place == 0 else 0) | (R.LAST if place == len(rows) - 1 else 0)
            self.rows.append({"seq": self.seq, "recv_ns": self.now_ns, "bits": bits | row.pop("extra", 0), **row})
        return self

    def timer(self) -> "Stream":
        return self.frame({"kind": R.TIMER})

    def wait(self, seconds: float, quotes: bool = True) -> "Stream":
        """Let time pass with a timer and the same touch each 100 ms, and a broker quote too unless told not to."""
        for _ in range(round(seconds * 10)):
            self.now_ns = self.now_ns // 100_000_000 * 100_000_000 + 100_000_000 - 1_000_000
            self.timer().best(self.bid, self.ask)
            if quotes:
                self.quote(10 * self.bid - 500, 10 * self.ask + 500)
        return self

    def best(self, bid: int, ask: int, bid_lots: int = 1000, ask_lots: int = 1000) -> "Stream":
        self.bid, self.ask = bid, ask
        self.update_id += 1
        return self.frame({"kind": R.BEST, "side": 1, "price_ticks": bid, "qty_lots": bid_lots, "id": self.update_id},
                          {"kind": R.BEST, "side": -1, "price_ticks": ask, "qty_lots": ask_lots, "id": self.update_id})

    def quote(self, bid: int, ask: int) -> "Stream":
        return self.frame({"kind": R.QUOTE, "side": 1, "price_ticks": bid}, {"kind": R.QUOTE, "side": -1, "price_ticks": ask})

    def trade(self, side: int, lots: int, price: int = 600_000, event_ns: int | None = None, skip: int = 0) -> "Stream":
        self.trade_id += 1 + skip
        return self.frame({"kind": R.TRADE, "side": side, "qty_lots": lots, "price_ticks": price, "id": self.trade_id,
                           "event_ns": self.now_ns if event_ns is None else event_ns})

    def feed(self, code: int, stream: int = R.MISSING) -> "Stream":
        return self.frame({"kind": R.FEED, "code": code, "id": stream})

    def snapshot(self, bids: dict[int, int], asks: dict[int, int]) -> "Stream":
        """Add a full book: price in ticks to lots."""
        self.update_id += 1
        levels = [(1, price, bids[price]) for price in sorted(bids, reverse=True)] + [(-1, price, asks[price]) for price in sorted(asks)]
        return self.frame(*({"kind": R.SNAPSHOT, "side": side, "price_ticks": price, "qty_lots": lots, "id": self.update_id,
                             "extra": R.SNAPSHOT_LEVEL} for side, price, lots in levels))

    def open(self, ticket: int, side: int, entry: int, stop: int | None = None, volume: int = 100) -> "Stream":
        """Open a position at a broker price."""
        base = {"kind": R.POSITION, "id": ticket, "side": side}
        rows = [{**base, "code": R.OPENED, "price_ticks": entry, "qty_lots": volume}]
        if stop is not None:
            rows.append({**base, "code": R.STOP_SET, "price_ticks": stop})
        return self.frame(*rows)

    def events(self) -> np.ndarray:
        """Return what was collected so far."""
        out = empty_events(len(self.rows))
        for n, row in enumerate(self.rows):
            for name, value in row.items():
                out[name][n] = value
        return out


def play(stream: Stream, choices, settings: Settings | None = None, pair: Pair = PAIR) -> tuple[Run, np.ndarray, np.ndarray]:
    """Run a stream in the interpreter; return the run, its decisions and its fills."""
    run = Run([pair], [choices], [settings or Settings()], slots=8, interpreted=True)
    with np.errstate(all="ignore"):
        return run, *run.feed(stream.events())
