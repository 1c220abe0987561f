"""Ticks and bars of the simulated terminal as the packed arrays of the module."""

from collections.abc import Iterable

import numpy as np

from engine.gateway.surface import CONSTANTS, RATES, TICKS
from engine.gateway.terminal_books import Spec

_MINUTES = {"M": 1, "H": 60, "D": 1440, "W": 10080}
FRAME_S = {value: int(name[11:]) * _MINUTES[name[10]] * 60 for name, value in CONSTANTS.items()
           if name.startswith("TIMEFRAME_") and name[10:12] != "MN"} | {CONSTANTS["TIMEFRAME_MN1"]: 30 * 86_400}
BID, ASK = 2, 4


def tick_rows(rows: Iterable[tuple[int, int, int]], spec: Spec, flags: int) -> np.ndarray:
    """Return (server msc, bid, ask) rows as ticks; each carries the flags of what changed."""
    found, last = [], (None, None)
    for msc, bid, ask in rows:
        changed = BID * (bid != last[0]) + ASK * (ask != last[1])
        last = bid, ask
        found.append((msc // 1000, spec.price(bid), spec.price(ask), 0.0, 0, msc, changed or BID | ASK, 0.0))
    return np.array([] if flags == CONSTANTS["COPY_TICKS_TRADE"] else found, dtype=TICKS)


def bars(rows: Iterable[tuple[int, int, int]], spec: Spec, frame: int) -> np.ndarray:
    """Return bid bars of (server msc, bid, ask) rows, oldest first."""
    step_s, found = FRAME_S[frame], []
    for msc, bid, ask in rows:
        start = msc // 1000 // step_s * step_s
        price = spec.price(bid)
        if found and found[-1][0] == start:
            bar = found[-1]
            bar[2], bar[3], bar[4], bar[5] = max(bar[2], price), min(bar[3], price), price, bar[5] + 1
        else:
            found.append([start, price, price, price, price, 1, ask - bid, 0])
    return np.array([tuple(bar) for bar in found], dtype=RATES)
