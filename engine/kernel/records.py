"""Every fixed layout of the kernel: events in, market and position state, decisions and fills out."""

import numpy as np

MISSING = -(2**63)             # an integer that is not known; never 0

# EVENT.kind
TRADE, DEPTH, SNAPSHOT, BEST, QUOTE, LIQUIDATION, MARK, POSITION, OUTCOME, FEED, TIMER, SWITCH = range(1, 13)

# EVENT.bits, and the `bits` column of the session tables
FIRST, LAST = 1, 2             # first and last row of a frame
NOT_MARKET = 4                 # a print that is no market trade (X != "MARKET")
AGGREGATED = 8                 # aggTrade
REFILLED = 16                  # fetched over REST after a hole
MODELLED = 32                  # a broker quote made from the venue's
SNAPSHOT_LEVEL = 64            # depth row of a full snapshot
PARTIAL_DEPTH = 128            # depth row of a top-N frame: recorded, never applied

EVERY_SYMBOL = 65_535          # EVENT.symbol of a feed row that names none
NOBODY = 65_534                # of a row of a symbol the kernel does not follow: it is left out
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

# EVENT.code of POSITION rows; the frame of an opening is OPENED, then any of the others
OPENED, STOP_SET, TAKE_SET, HOLD_SET, CLOSED, VOLUME_SET = range(1, 7)
RELATIVE = 256                 # bits: price_ticks of a POSITION row is a distance from entry in 1/100 bp

# FILL.code, and EVENT.code of OUTCOME rows
ENTERED, STOPPED, TAKEN, TIMED_OUT, RULE_CLOSED, RULE_REDUCED, STOP_MOVED, REJECTED, RECORDED_CLOSE, NO_SLOT = range(1, 11)
# EVENT.code of SWITCH rows is the new mode of the rule whose number is in `id`

# what a rule answers
HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)
# mode of a rule
MODE_OFF, MODE_ALERT, MODE_SHADOW, MODE_ACT = range(4)
# DECISION.result
ACTED, ALERTED, SHADOWED, OUTRANKED, BUSY, COOLING, USELESS = range(1, 8)

# POSITION.status
FREE, ENTERING, OPEN = range(3)

# book status
BOOK_EMPTY, BOOK_SYNCED, BOOK_BROKEN = range(3)

# windows of the tape, in seconds; index into `windows`
WINDOW_S = (1, 5, 10, 30, 60, 180, 600, 3600)
W1, W5, W10, W30, W60, W180, W600, W3600 = range(8)
N_WINDOWS = 8
# columns of a tape slot, of a window sum, and of the open slot
BUY, SELL, BUY_VALUE, SELL_VALUE, TRADES, OFI, OFI_ABS, BIG_BUYS, BIG_SELLS, BIG_BUY_VALUE, BIG_SELL_VALUE = range(11)
N_SUMS = 11
END_NS, MID2, HIGH2, LOW2 = 11, 12, 13, 14
N_SLOT = 15
HEAD = 11                      # column of a window: number of the oldest slot inside
N_WINDOW = 12
SLOTS = 1 << 16                # 100 ms each: 109 minutes
LEVELS = 1 << 19               # price ladder, ticks
PENDING = 1 << 15              # depth rows kept for linking a snapshot
SAMPLES = 1 << 10              # one-second samples for volatility and beta
SWEEPS = 1 << 14               # past sweeps the adaptive whale size is drawn from
BINS = 40                      # distance bins a side, half a basis point each
REFERENCE = 1800               # one-second samples of the usual depth
BUCKETS = 253                  # quarter octaves of a 63-bit integer
BASIS = 600                    # one-second samples of the broker basis

LADDER = record([
    ("origin_ticks", "i8"),    # price of slot 0
    ("bid_ticks", "i8"), ("ask_ticks", "i8"),
    ("n_bids", "i8"), ("n_asks", "i8"),
    ("cover_low", "i8"), ("cover_high", "i8"),   # deepest prices the snapshot held
    ("last_id", "i8"), ("chained", "i8"),
])

PENDING_ROW = record([("price_ticks", "i8"), ("qty_lots", "i8"), ("id", "i8"), ("prev_id", "i8"), ("side", "i8"), ("bits", "i8")])

SWEEP = record([("event_ns", "i8"), ("first_id", "i8"), ("ticklots", "i8"), ("number", "i8"), ("largest_ticklots", "i8")])

SYMBOL = record([              # constants of one symbol, set by the owner of the arrays
    ("ticklots_per_usd", "f8"),
    ("medium_ticklots", "i8"), ("large_ticklots", "i8"), ("whale_ticklots", "i8"),
    ("wall_ticklots", "i8"),   # floor for a resting wall
    ("strict_chain", "i8"),    # 1: pu must equal the last u (USD-M); 0: U may not pass u + 1 (spot)
    ("stale_ns", "i8"),        # the market is absent after this silence
    ("quote_stale_ns", "i8"),  # the broker quote is absent after this silence
    ("quote_ticks_per_tick", "f8"),   # broker ticks in one venue tick
    ("min_volume", "i8"),      # volume steps of the broker: smallest that may stay or be closed
])

SETTINGS = record([            # constants of one variant
    ("latency_ns", "i8"),      # decision to fill
    ("entry_latency_ns", "i8"),   # a waiting entry to its fill
    ("cooldown_ns", "i8"),     # between two actions on one position
    ("min_stop_step_ticks", "i8"),
    ("simulate", "i8"),        # 1: fills are made here; 0: they arrive as OUTCOME rows
    ("slippage_ticks", "i8"),  # against the trader, on market exits
    ("retry_ns", "i8"),        # after a refused order, before one no more severe
])

# Internal state of one symbol
CORE = record([
    ("active", "i8"), ("book_status", "i8"), ("frame_applies", "i8"), ("pending_rows", "i8"),
    ("book_gaps", "i8"), ("book_crossed", "i8"), ("snapshots_refused", "i8"), ("book_frames", "i8"), ("book_old", "i8"),
    ("top_id", "i8"), ("row_bid_ticks", "i8"), ("row_bid_lots", "i8"), ("row_id", "i8"),
    ("slot_count", "i8"), ("tape_from_ns", "i8"), ("mid_from_ns", "i8"), ("last_trade_id", "i8"),
    ("sweep_count", "i8"), ("sweep_ring", "i8"),
    ("sample_count", "i8"), ("sample_ns", "i8"), ("sample_mid2", "i8"), ("sample_cvd", "i8"),
    ("sum_n", "i8"), ("sum_mm", "i8"), ("sum_cc", "i8"), ("sum_mc", "i8"),
    ("reference_count", "i8"), ("bin_ticks", "i8"),
    ("basis_count", "i8"), ("second_ns", "i8"),
    ("high2", "i8"), ("low2", "i8"),
    ("quote_bid_row", "i8"), ("quote_from_ns", "i8"),
])
