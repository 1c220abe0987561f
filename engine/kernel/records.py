"""Every fixed layout of the kernel: events in, market and position state, decisions and fills out."""

import numpy as np

MISSING = -(2**63)             # an integer that is not known; never 0

# EVENT.kind
TRADE, DEPTH, SNAPSHOT, BEST, QUOTE, LIQUIDATION, MARK, POSITION, OUTCOME, FEED, TIMER = range(1, 12)

# EVENT.bits, and the `bits` column of the session tables
FIRST, LAST = 1, 2             # first and last row of a frame
NOT_MARKET = 4                 # a print that is no market trade (X != "MARKET")
AGGREGATED = 8                 # aggTrade
REFILLED = 16                  # fetched over REST after a hole
MODELLED = 32                  # a broker quote made from the venue's
SNAPSHOT_LEVEL = 64            # depth row of a full snapshot
PARTIAL_DEPTH = 128            # depth row of a top-N frame: recorded, never applied

# EVENT.code of FEED rows
CONNECTED, LOST, GAP, RESYNC, STALE = range(1, 6)

EVENT_FIELDS = [
    ("seq", "i8"), ("recv_ns", "i8"), ("event_ns", "i8"),
    ("price_ticks", "i8"), ("qty_lots", "i8"),
    ("id", "i8"),              # trade id, or last update id of a book message
    ("prev_id", "i8"),         # update id the message continues (futures pu, spot U - 1)
    ("kind", "i1"), ("side", "i1"), ("bits", "u2"), ("symbol", "u2"), ("code", "i2"),
]


def record(fields: list) -> np.dtype:
    """Return one record dtype without padding, its names readable as attributes in the interpreter and in machine code."""
    dtype = np.dtype((np.record, fields))
    if dtype.itemsize != sum(dtype[name].itemsize for name in dtype.names):
        raise ValueError(f"record has padding: {fields}")
    clash = [name for name in dtype.names if name in dir(np.generic) or name in dir(np.record)]
    if clash:
        raise ValueError(f"these field names shadow numpy attributes: {', '.join(clash)}")
    return dtype


EVENT = record(EVENT_FIELDS)
