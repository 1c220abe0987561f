"""How far the venue's price runs ahead of the broker's, from receive times on one clock."""

import numpy as np

from engine.kernel import records as R
from engine.measure.paths import Path

GRID_NS = tuple(range(0, 2_000_000_001, 25_000_000))
LEAST_CHANGES = 200


class MidBuilder:
    """Collects the venue's mid (bid + ask ticks) of one kernel symbol from a stream of EVENT rows."""

    def __init__(self, symbol: int):
        self.symbol = symbol
        self._times: list[np.ndarray] = []
        self._mids: list[np.ndarray] = []

    def add(self, chunk: np.ndarray) -> None:
        """Take the best quotes of a chunk."""
        asks = np.flatnonzero((chunk["kind"] == R.BEST) & (chunk["side"] < 0) & (chunk["symbol"] == self.symbol))
        asks = asks[asks > 0]
        if len(asks):
            self._times.append(chunk["recv_ns"][asks])
            self._mids.append(chunk["price_ticks"][asks] + chunk["price_ticks"][asks - 1])

    def mids(self) -> tuple[np.ndarray, np.ndarray]:
        """Return receive times and mids where the mid changed."""
        if not self._times:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        times, mids = np.concatenate(self._times), np.concatenate(self._mids)
        changed = np.concatenate([[True], np.diff(mids) != 0])
        return times[changed], mids[changed]


def lead_ns(times: np.ndarray, mids: np.ndarray, path: Path) -> int | None:
    """Return the lag at which broker moves follow venue moves best, ns; None with too few changes to say.

    The contrast of Hoffmann, Rosenbaum and Yoshida (2013) on a 25 ms grid up to 2 s: each change of the broker's mid times the
    venue's change over the same interval moved back by the lag. Prices cannot tell a true lead from clock or stamping offsets;
    receive times on one machine make it the usable lead.
    """
    broker = path.bid_ticks + path.ask_ticks
    changed = np.concatenate([[True], np.diff(broker) != 0]) if len(broker) else np.zeros(0, bool)
    at, moves = path.recv_ns[changed], np.diff(broker[changed]).astype(float)
    if len(moves) < LEAST_CHANGES or len(mids) < LEAST_CHANGES:
        return None
    best, found = -1.0, None
    for lag in GRID_NS:
        place = np.searchsorted(times, at - lag, "right") - 1
        known = place[:-1] >= 0
        venue = np.diff(mids[np.maximum(place, 0)]).astype(float)
        contrast = abs(float(np.sum((venue * moves)[known])))
        if contrast > best:
            best, found = contrast, lag
    return found
