"""What is looked at once a second: volatility, flow beta, divergence, and the broker basis."""

import math

from .compiled import compiled
from .records import BASIS, HEAD, HIGH2, LOW2, MID2, MISSING, SAMPLES, SLOTS, W10, W30
from .tape import covered, mid_before

_NS = 1_000_000_000
_HELD_BACK = 10                # the newest samples are not in the volatility they are compared with
_KEPT = 600
_MIN_SAMPLES = 60
_CLAMP = 1 << 26               # one second of flow, lots; keeps sums of squares inside 63 bits
_BASIS_UNIT = 100_000_000.0


@compiled
def fold_second(market, core, samples, s):
    """Take one sample a second of the change in mid and in signed flow; an interrupted second is skipped."""
    usable = (core.sample_ns != MISSING and market.now_ns - core.sample_ns < 3 * _NS // 2 and market.mid_ok != 0
              and core.sample_mid2 != MISSING and core.tape_from_ns != MISSING and core.tape_from_ns <= core.sample_ns)
    if usable:
        place = core.sample_count & (SAMPLES - 1)
        flow = market.cvd_lots - core.sample_cvd
        samples[s, place, 0] = market.mid2 - core.sample_mid2
        samples[s, place, 1] = max(-_CLAMP, min(_CLAMP, flow))
        core.sample_count += 1
        if core.sample_count > _HELD_BACK:
            add_sample(core, samples, s, core.sample_count - 1 - _HELD_BACK, 1)
        if core.sample_count > _HELD_BACK + _KEPT:
            add_sample(core, samples, s, core.sample_count - 1 - _HELD_BACK - _KEPT, -1)
    core.sample_ns = market.now_ns
    core.sample_mid2 = market.mid2 if market.mid_ok != 0 else MISSING
    core.sample_cvd = market.cvd_lots


@compiled
def add_sample(core, samples, s, number, sign):
    """Add (sign 1) or remove (sign -1) one sample from the integer sums."""
    move = samples[s, number & (SAMPLES - 1), 0]
    flow = samples[s, number & (SAMPLES - 1), 1]
    core.sum_n += sign
    core.sum_mm += sign * move * move
    core.sum_cc += sign * flow * flow
    core.sum_mc += sign * move * flow


@compiled
def refresh_volatility(market, core):
    """Set realised volatility per square root of a second, mean taken as zero."""
    market.sigma_bps = math.nan
    if core.sum_n >= _MIN_SAMPLES and market.mid_ok != 0:
        market.sigma_bps = math.sqrt(core.sum_mm / core.sum_n) * 10_000.0 / market.mid2


@compiled
def refresh_residual(market, core, windows, slots, s):
    """Set the 30 s move, flow and move-not-explained-by-flow, each in its own standard deviations."""
    market.z_move_30s = math.nan
    market.z_flow_30s = math.nan
    market.z_residual_30s = math.nan
    before = mid_before(windows, slots, core, s, W30)
    if core.sum_n < _MIN_SAMPLES or core.sum_mm <= 0 or core.sum_cc <= 0 or before == MISSING or market.mid_ok == 0:
        return
    if not covered(market, core, W30):
        return
    n = float(core.sum_n)
    beta = core.sum_mc / float(core.sum_cc)
    spread = math.sqrt(30.0)
    move = float(market.mid2 - before)
    flow = float(market.flow_30s_lots)
    market.z_move_30s = move / (math.sqrt(core.sum_mm / n) * spread)
    market.z_flow_30s = flow / (math.sqrt(core.sum_cc / n) * spread)
    left = (core.sum_mm - beta * core.sum_mc) / n
    if left > 0.0:
        market.z_residual_30s = (move - beta * flow) / (math.sqrt(left) * spread)


@compiled
def refresh_extremes(market, core, windows, slots, s):
    """Set high, low and move of the last 10 s and of the 10 s before; all absent when a part is not known."""
    market.high_10s_2 = MISSING
    market.high_20s_2 = MISSING
    market.low_10s_2 = MISSING
    market.low_20s_2 = MISSING
    market.move_recent_bps = math.nan
    market.move_older_bps = math.nan
    start = windows[s, W10, HEAD]
    span = core.slot_count - start
    if market.mid_ok == 0 or span <= 0 or start - span - 1 < 0 or start - span - 1 < core.slot_count - SLOTS + 1:
        return
    high, low, older_high, older_low = MISSING, MISSING, MISSING, MISSING
    for back in range(span):
        place = (start + back) & (SLOTS - 1)
        earlier = (start - span + back) & (SLOTS - 1)
        if slots[s, place, HIGH2] == MISSING or slots[s, earlier, HIGH2] == MISSING:
            return
        if back == 0 or slots[s, place, HIGH2] > high:
            high = slots[s, place, HIGH2]
        if back == 0 or slots[s, place, LOW2] < low:
            low = slots[s, place, LOW2]
        if back == 0 or slots[s, earlier, HIGH2] > older_high:
            older_high = slots[s, earlier, HIGH2]
        if back == 0 or slots[s, earlier, LOW2] < older_low:
            older_low = slots[s, earlier, LOW2]
    middle = mid_before(windows, slots, core, s, W10)
    oldest = slots[s, (start - span - 1) & (SLOTS - 1), MID2]
    if middle == MISSING or oldest == MISSING:
        return
    market.high_10s_2 = high
    market.low_10s_2 = low
    market.high_20s_2 = older_high
    market.low_20s_2 = older_low
    market.move_recent_bps = (market.mid2 - middle) * 10_000.0 / market.mid2
    market.move_older_bps = (middle - oldest) * 10_000.0 / market.mid2


@compiled
def rank(ordered, count, value):
    """Return where a value belongs in an ascending array."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def fold_basis(market, core, constants, basis, ordered, s):
    """Track median and median absolute deviation of the broker's price over the venue's, both quotes fresh."""
    fresh = (market.mid_ok != 0 and market.quote_ns != MISSING and market.now_ns - market.quote_ns <= constants.quote_stale_ns)
    market.basis_ok = 0
    if not fresh:
        return
    ratio = (market.quote_bid_ticks + market.quote_ask_ticks) / (constants.quote_ticks_per_tick * market.mid2)
    sample = int(math.floor((ratio - 1.0) * _BASIS_UNIT + 0.5))
    count = min(core.basis_count, BASIS)
    place = core.basis_count % BASIS
    if core.basis_count >= BASIS:
        at = rank(ordered[s], count, basis[s, place])
        for i in range(at, count - 1):
            ordered[s, i] = ordered[s, i + 1]
        count -= 1
    at = rank(ordered[s], count, sample)
    for i in range(count, at, -1):
        ordered[s, i] = ordered[s, i - 1]
    ordered[s, at] = sample
    count += 1
    basis[s, place] = sample
    core.basis_count += 1
    if count < 10:
        return
    median = ordered[s, count // 2]
    low, high = count // 2 - 1, count // 2 + 1
    distance = 0
    for _ in range(count // 2):
        if high >= count or (low >= 0 and median - ordered[s, low] <= ordered[s, high] - median):
            distance = median - ordered[s, low]
            low -= 1
        else:
            distance = ordered[s, high] - median
            high += 1
    market.basis_bps = median / 10_000.0
    market.basis_mad_bps = distance / 10_000.0
    market.basis_ok = 1 if abs(sample - median) <= max(4 * distance, 5_000) else 0
