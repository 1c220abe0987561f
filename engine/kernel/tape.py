"""Trades and the touch: 100 ms slots, window sums that add and remove integers, sweeps, and the usual sweep size."""

import math

from .compiled import compiled
from .records import (
    BIG_BUY_VALUE,
    BIG_BUYS,
    BIG_SELL_VALUE,
    BIG_SELLS,
    BUCKETS,
    BUY,
    BUY_VALUE,
    END_NS,
    HEAD,
    HIGH2,
    LOW2,
    MID2,
    MISSING,
    N_SUMS,
    N_WINDOWS,
    OFI,
    OFI_ABS,
    SELL,
    SELL_VALUE,
    SLOTS,
    SWEEPS,
    TRADES,
    W1,
    W5,
    W10,
    W30,
    W60,
    W180,
    W600,
    W3600,
    WINDOW_S,
)

_NS = 1_000_000_000
_WINDOW_NS = tuple(seconds * _NS for seconds in WINDOW_S)
QUANTILE_OF = 1000             # the usual sweep size is its 1 - 1/1000 quantile
QUANTILE_MIN = 1000            # sweeps seen before it is claimed


@compiled
def bucket_of(value):
    """Return the quarter-octave bucket of a non-negative integer; exact, no logarithm."""
    if value <= 0:
        return 0
    bits = 0
    rest = value
    for step in (32, 16, 8, 4, 2, 1):
        if rest >> step:
            rest >>= step
            bits += step
    quarter = ((value << 2) >> bits) & 3
    return min(4 * bits + quarter + 1, BUCKETS - 1)


@compiled
def bucket_floor(bucket):
    """Return the smallest integer of a bucket, as a real number."""
    if bucket <= 0:
        return 0.0
    bits = (bucket - 1) >> 2
    quarter = (bucket - 1) & 3
    return (4.0 + quarter) * 0.25 * float(1 << bits)


@compiled
def fold_trade(row, market, core, constants, slot, running, sweeps, sweep_counts):
    """Fold one market trade into the open slot and the sweep it belongs to."""
    side = row.side
    lots = row.qty_lots
    value = row.price_ticks * lots
    s = row.symbol
    market.last_ticks = row.price_ticks
    market.last_side = side
    market.trade_ns = row.recv_ns
    if core.tape_from_ns == MISSING:
        core.tape_from_ns = row.recv_ns
        market.cvd_lots = 0
        market.tape_ok = 1
    big = value >= constants.medium_ticklots
    if side > 0:
        slot[s, BUY] += lots
        slot[s, BUY_VALUE] += value
        market.cvd_lots += lots
        if big:
            slot[s, BIG_BUYS] += 1
            slot[s, BIG_BUY_VALUE] += value
    else:
        slot[s, SELL] += lots
        slot[s, SELL_VALUE] += value
        market.cvd_lots -= lots
        if big:
            slot[s, BIG_SELLS] += 1
            slot[s, BIG_SELL_VALUE] += value
    slot[s, TRADES] += 1
    # Both sides may trade in one instant; a hole in the ids ends what was running.
    if row.id != MISSING and core.last_trade_id != MISSING and row.id != core.last_trade_id + 1:
        end_sweep(s, core, running[s, 0], sweeps, sweep_counts)
        end_sweep(s, core, running[s, 1], sweeps, sweep_counts)
    core.last_trade_id = row.id
    fold_sweep(row, value, market, core, constants, running[s, 0 if side > 0 else 1], sweeps, sweep_counts)


@compiled
def fold_sweep(row, value, market, core, constants, sweep, sweeps, sweep_counts):
    """Extend this side's sweep, or end it and start another; show a whale while its size is at or over the large tier."""
    if row.event_ns == MISSING or row.event_ns != sweep.event_ns or sweep.ticklots == 0:
        end_sweep(row.symbol, core, sweep, sweeps, sweep_counts)
        core.sweep_count += 1
        sweep.number = core.sweep_count
        sweep.event_ns = row.event_ns
        sweep.first_id = row.id
    before = sweep.ticklots
    sweep.ticklots += value
    if value > sweep.largest_ticklots:
        sweep.largest_ticklots = value
    if value >= constants.whale_ticklots:
        market.whale_prints += 1
    if sweep.ticklots < constants.large_ticklots:
        return
    if before < constants.whale_ticklots and sweep.ticklots >= constants.whale_ticklots:
        market.whale_sweeps += 1
    usd = sweep.ticklots / constants.ticklots_per_usd
    if not market.whale_largest_usd >= usd:
        market.whale_largest_usd = usd
    market.whale_id = sweep.number
    market.whale_side = row.side
    market.whale_usd = usd
    market.whale_print_usd = sweep.largest_ticklots / constants.ticklots_per_usd
    market.whale_usd_per_lot = row.price_ticks / constants.ticklots_per_usd
    market.whale_ns = row.recv_ns
    market.whale_ticks = row.price_ticks
    market.whale_trade_id = sweep.first_id


@compiled
def end_sweep(s, core, sweep, sweeps, sweep_counts):
    """Count a finished sweep among the past ones, forgetting the oldest when the ring is full."""
    if sweep.ticklots == 0:
        return
    place = core.sweep_ring & (SWEEPS - 1)
    if core.sweep_ring >= SWEEPS:
        sweep_counts[s, sweeps[s, place]] -= 1
    bucket = bucket_of(sweep.ticklots)
    sweeps[s, place] = bucket
    sweep_counts[s, bucket] += 1
    core.sweep_ring += 1
    sweep.ticklots = 0
    sweep.largest_ticklots = 0
    sweep.event_ns = MISSING


@compiled
def usual_sweep(s, core, sweep_counts):
    """Return the 0.999 quantile of past sweeps in tick-lots, NaN before there are enough."""
    total = min(core.sweep_ring, SWEEPS)
    if total < QUANTILE_MIN:
        return math.nan
    above = 0
    for bucket in range(BUCKETS - 1, 0, -1):
        above += sweep_counts[s, bucket]
        if above * QUANTILE_OF > total:
            return bucket_floor(bucket)
    return math.nan


@compiled
def fold_top(market, core, slot, s, recv_ns, bid_ticks, bid_lots, ask_ticks, ask_lots):
    """Take a new touch: order-flow imbalance of the change (Cont, Kukanov and Stoikov 2014), mid, and moves."""
    if market.mid2 != MISSING and market.mid_ok != 0:        # what changed over an outage is no one's order flow
        change = 0
        if bid_ticks >= market.bid_ticks:
            change += bid_lots
        if bid_ticks <= market.bid_ticks:
            change -= market.bid_lots
        if ask_ticks <= market.ask_ticks:
            change -= ask_lots
        if ask_ticks >= market.ask_ticks:
            change += market.ask_lots
        slot[s, OFI] += change
        slot[s, OFI_ABS] += abs(change)
    market.bid_ticks = bid_ticks
    market.bid_lots = bid_lots
    market.ask_ticks = ask_ticks
    market.ask_lots = ask_lots
    market.mid2 = bid_ticks + ask_ticks
    market.top_ns = recv_ns
    market.mid_ok = 1
    if core.high2 == MISSING or market.mid2 > core.high2:
        core.high2 = market.mid2
    if core.low2 == MISSING or market.mid2 < core.low2:
        core.low2 = market.mid2


@compiled
def mid_before(windows, slots, core, s, w):
    """Return bid + ask as they were at the start of a window, MISSING when not known."""
    number = windows[s, w, HEAD] - 1
    if number < 0 or number < core.slot_count - SLOTS + 1:
        return MISSING
    return slots[s, number & (SLOTS - 1), MID2]


@compiled
def move_bps(market, windows, slots, core, s, w):
    """Return the change of mid over a window in basis points, NaN when an end is not known."""
    before = mid_before(windows, slots, core, s, w)
    if before == MISSING or market.mid2 == MISSING or market.mid_ok == 0:
        return math.nan
    return (market.mid2 - before) * 10_000.0 / market.mid2


@compiled
def refresh_moves(market, windows, slots, core, s):
    """Bring the short moves up to the newest mid."""
    market.move_1s_bps = move_bps(market, windows, slots, core, s, W1)
    market.move_5s_bps = move_bps(market, windows, slots, core, s, W5)
    market.move_10s_bps = move_bps(market, windows, slots, core, s, W10)
    market.move_30s_bps = move_bps(market, windows, slots, core, s, W30)
    market.move_60s_bps = move_bps(market, windows, slots, core, s, W60)


@compiled
def covered(market, core, w):
    """Tell whether the tape is whole over all of a window that ends now."""
    return core.tape_from_ns != MISSING and core.tape_from_ns <= market.now_ns - _WINDOW_NS[w]


@compiled
def imbalance(market, windows, slot, core, s, w):
    """Return (taker buys - sells) / both over a window, NaN without cover or trades."""
    buys = windows[s, w, BUY] + slot[s, BUY]
    sells = windows[s, w, SELL] + slot[s, SELL]
    if buys + sells == 0 or not covered(market, core, w):
        return math.nan
    return (buys - sells) / (buys + sells)


@compiled
def refresh_flow(market, windows, slot, core, s):
    """Bring the short flow windows up to the newest trade."""
    market.imbalance_10s = imbalance(market, windows, slot, core, s, W10)
    market.imbalance_30s = imbalance(market, windows, slot, core, s, W30)
    market.trades_10s = MISSING
    market.trades_30s = MISSING
    market.flow_10s_lots = MISSING
    market.flow_30s_lots = MISSING
    if covered(market, core, W10):
        market.trades_10s = windows[s, W10, TRADES] + slot[s, TRADES]
        market.flow_10s_lots = windows[s, W10, BUY] + slot[s, BUY] - windows[s, W10, SELL] - slot[s, SELL]
    if covered(market, core, W30):
        market.trades_30s = windows[s, W30, TRADES] + slot[s, TRADES]
        market.flow_30s_lots = windows[s, W30, BUY] + slot[s, BUY] - windows[s, W30, SELL] - slot[s, SELL]


@compiled
def close_slot(market, core, windows, slots, slot, s):
    """End the open slot at a timer: add it to every window and let old slots leave."""
    now = market.now_ns
    number = core.slot_count
    place = number & (SLOTS - 1)
    for c in range(N_SUMS):
        slots[s, place, c] = slot[s, c]
    slots[s, place, END_NS] = now
    mid_known = market.mid_ok != 0
    slots[s, place, MID2] = market.mid2 if mid_known else MISSING
    slots[s, place, HIGH2] = core.high2 if mid_known else MISSING
    slots[s, place, LOW2] = core.low2 if mid_known else MISSING
    core.slot_count = number + 1
    for w in range(N_WINDOWS):
        for c in range(N_SUMS):
            windows[s, w, c] += slot[s, c]
        head = windows[s, w, HEAD]
        oldest = now - _WINDOW_NS[w]
        while head <= number and (slots[s, head & (SLOTS - 1), END_NS] <= oldest or number - head >= SLOTS - 1):
            for c in range(N_SUMS):
                windows[s, w, c] -= slots[s, head & (SLOTS - 1), c]
            head += 1
        windows[s, w, HEAD] = head
    for c in range(N_SUMS):
        slot[s, c] = 0
    core.high2 = market.mid2 if mid_known else MISSING
    core.low2 = core.high2


@compiled
def refresh_slow(market, core, constants, windows, slot, s):
    """Recompute what changes only with the timer."""
    market.imbalance_180s = imbalance(market, windows, slot, core, s, W180)
    market.imbalance_600s = imbalance(market, windows, slot, core, s, W600)
    market.imbalance_3600s = imbalance(market, windows, slot, core, s, W3600)
    market.volume_ratio = math.nan
    market.cluster_buy_usd = math.nan
    market.cluster_sell_usd = math.nan
    market.big_buys_60s = MISSING
    market.big_sells_60s = MISSING
    usual = windows[s, W180, BUY] + windows[s, W180, SELL]
    if usual > 0 and covered(market, core, W180):
        market.volume_ratio = (windows[s, W10, BUY] + windows[s, W10, SELL]) * 18.0 / usual
    if covered(market, core, W30):
        market.cluster_buy_usd = windows[s, W30, BIG_BUY_VALUE] / constants.ticklots_per_usd
        market.cluster_sell_usd = windows[s, W30, BIG_SELL_VALUE] / constants.ticklots_per_usd
    if covered(market, core, W60):
        market.big_buys_60s = windows[s, W60, BIG_BUYS]
        market.big_sells_60s = windows[s, W60, BIG_SELLS]
    market.ofi_10s = math.nan
    if windows[s, W10, OFI_ABS] > 0 and mid_covered(market, core, W10):
        market.ofi_10s = windows[s, W10, OFI] / windows[s, W10, OFI_ABS]


@compiled
def mid_covered(market, core, w):
    """Tell whether the touch has been known over all of a window that ends now."""
    return core.mid_from_ns != MISSING and core.mid_from_ns <= market.now_ns - _WINDOW_NS[w] and market.mid_ok != 0
