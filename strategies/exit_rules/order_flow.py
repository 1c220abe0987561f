"""Contrary order flow: leave when aggressive trading and the book lean against the position.

Why:    taker flow is autocorrelated, so flow against a position tends to go on for a while (R48; Lillo and Farmer 2004).
Source: classic is the earlier system's point score, imbalance of five levels 30, big prints over a minute 25, pressure over 30 s 25, and
        fires over 75, which only all three together reach (C7, C8: a score, no probability). Its unequal bull and bear limits are
        made mirror images (C4, C5). robust is one signed score of 10 s and 30 s flow and the book; the best quotes must have
        changed against the position too (Cont, Kukanov and Stoikov 2014), with more trading than usual.
Blind:  passive absorption (price holds against flow); thin tape; a book or tape that is not whole (C30: no fire).
"""
import math
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    scaled: int = 1               # 0: the point score; 1: the continuous score
    score: float = 55.0           # fires above this, of 100
    min_trades: int = 30          # trades in the last 10 s
    min_volume_ratio: float = 1.5  # trading of the last 10 s against the last 180 s
    dwell_ms: float = 300.0
    action: int = CLOSE

    def __post_init__(self):
        if not 0 < self.score < 100:
            raise ValueError(f"score must be between 0 and 100, got {self.score}")
        if self.min_trades < 1 or self.min_volume_ratio < 0 or self.dwell_ms < 0:
            raise ValueError("min_trades must be at least 1, min_volume_ratio and dwell_ms not negative")
        if self.action not in (ALERT, PARTIAL, CLOSE):
            raise ValueError(f"action must be 1 (alert), 3 (partial) or 4 (close), got {self.action}")


PRESETS = {"robust": Params(), "classic": Params(scaled=0, score=75.0, dwell_ms=0.0)}


@dataclass
class State:
    score: float = 0.0            # 0..100 against the position
    flow_10s: float = 0.0         # positive supports the position
    flow_30s: float = 0.0
    quotes_10s: float = 0.0
    book: float = 0.0
    since_ns: int = 0


def points(side, market):
    """Return the earlier system's points against a position: 0, 25, 30, 50, 55 or 80."""
    score = 0.0
    if -side * market.top5_imbalance > 0.3 / 2.3:          # 1.3 to 1
        score += 30.0
    against, support = market.big_sells_60s, market.big_buys_60s
    if side < 0:
        against, support = support, against
    if against > 0 and support >= 0 and against > 1.5 * support:
        score += 25.0
    if -side * market.imbalance_30s > 0.5 / 2.5:           # 1.5 to 1
        score += 25.0
    return score


def on_event(params, state, market, position):
    """Vote to leave while the score against the position holds above the limit."""
    side = position.side
    if params.scaled:
        if market.trades_10s < params.min_trades or not market.volume_ratio >= params.min_volume_ratio:
            state.since_ns = 0
            return HOLD
        if not -side * market.ofi_10s > 0.0:
            state.since_ns = 0
            return HOLD
        weighed = 0.5 * market.imbalance_10s + 0.35 * market.imbalance_30s + 0.15 * market.top5_imbalance
        score = -side * weighed * 100.0
    else:
        score = points(side, market)
    if not score > params.score:
        state.since_ns = 0
        return HOLD
    if state.since_ns == 0:
        state.since_ns = market.now_ns
    if market.now_ns - state.since_ns < params.dwell_ms * 1e6:
        return HOLD
    state.score = score
    state.flow_10s = side * market.imbalance_10s
    state.flow_30s = side * market.imbalance_30s
    state.quotes_10s = side * market.ofi_10s
    state.book = side * market.top5_imbalance
    return params.action


def share(has, needs):
    """Return how much of what a condition needs there is; where it needs nothing, 0 is enough."""
    return (has + 1e-9) / (needs + 1e-9)


def nearness(params, state, market, position):
    """Return the least share of what its conditions need."""
    side = position.side
    if not params.scaled:
        near = points(side, market) / params.score
        return near if near >= 1.0 or not math.isnan(market.top5_imbalance + market.imbalance_30s) else math.nan
    weighed = 0.5 * market.imbalance_10s + 0.35 * market.imbalance_30s + 0.15 * market.top5_imbalance
    shares = (share(market.trades_10s, params.min_trades), share(market.volume_ratio, params.min_volume_ratio),
              share(-side * market.ofi_10s, 0.0), share(-side * weighed * 100.0, params.score))
    return math.nan if any(map(math.isnan, shares)) else min(shares)
