"""Momentum reversal: leave when the venue's price turns sharply against the position.

Why:    the same market moves on the venue before the broker quotes it (R35, R44, R46: what lead is left is measured, not claimed).
Source: classic is the plan's -0.20 % (R44, R45), signed so that only an adverse move counts (C3), both sides (I11), over 10 s of
        time instead of a count of ticks (C15, C20). robust scales by realised volatility and asks for a give-back larger than a
        driftless path would show (expected drawdown 0.8 sigma sqrt(T), Magdon-Ismail et al. 2004).
Blind:  slow turns; the first minute after start, when volatility is not known (robust); a venue feed that is stale (R42: no fire).
"""
import math
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    scaled: int = 1               # 0: adverse_pct alone; 1: everything below it
    adverse_pct: float = 0.20     # adverse move over 10 s, percent
    arm_z: float = 1.5            # earlier move in favour over 10 s, standard deviations
    arm_r: float = 0.3            # or a peak gain of this many R
    fire_z: float = 2.0           # adverse move over 10 s, standard deviations
    give_back: float = 0.8        # of sigma * sqrt(age of the peak)
    floor_bps: float = 1.0        # least adverse move
    dwell_ms: float = 200.0       # how long the turn must hold
    action: int = CLOSE

    def __post_init__(self):
        if not 0 < self.adverse_pct <= 10:
            raise ValueError(f"adverse_pct must be in (0, 10] percent, got {self.adverse_pct}")
        if min(self.arm_z, self.fire_z, self.give_back, self.floor_bps, self.dwell_ms, self.arm_r) < 0:
            raise ValueError("arm_z, arm_r, fire_z, give_back, floor_bps and dwell_ms must not be negative")
        if self.action not in (ALERT, PARTIAL, CLOSE):
            raise ValueError(f"action must be 1 (alert), 3 (partial) or 4 (close), got {self.action}")


PRESETS = {"robust": Params(), "classic": Params(scaled=0)}


@dataclass
class State:
    move_bps: float = 0.0         # over 10 s, positive supports the position
    limit_bps: float = 0.0
    best_z: float = 0.0
    give_back_bps: float = 0.0
    since_ns: int = 0


def given_back_bps(position):
    """Return how far the result has fallen from its best."""
    return (position.peak_ticks - position.gain_ticks) * 10000.0 / position.entry_ticks


def is_far(params, market, position, move_bps):
    """Tell whether the move is worth leaving for and the give-back more than a driftless path would show."""
    if -move_bps < params.floor_bps or -move_bps * position.exit_ticks < position.spread_ticks * 10000.0:
        return False
    peak_age_s = (market.now_ns - position.peak_ns) / 1e9
    return given_back_bps(position) >= params.give_back * market.sigma_bps * math.sqrt(peak_age_s)


def on_event(params, state, market, position):
    """Vote to leave on a sharp adverse move."""
    move = position.side * market.move_10s_bps
    if not params.scaled:
        limit = params.adverse_pct * 100.0
        if -move > limit:
            state.move_bps = move
            state.limit_bps = limit
            return params.action
        return HOLD
    scale = market.sigma_bps * math.sqrt(10.0)
    if not scale > 0.0:
        state.since_ns = 0
        return HOLD
    z = move / scale
    if z > state.best_z:
        state.best_z = z
    armed = state.best_z >= params.arm_z or position.peak_r >= params.arm_r
    limit = params.fire_z * scale
    if not armed or not -move >= limit or not is_far(params, market, position, move):
        state.since_ns = 0
        return HOLD
    if state.since_ns == 0:
        state.since_ns = market.now_ns
    if market.now_ns - state.since_ns < params.dwell_ms * 1e6:
        return HOLD
    state.move_bps = move
    state.limit_bps = limit
    state.give_back_bps = given_back_bps(position)
    return params.action


def share(has, needs):
    """Return how much of what a condition needs there is; where it needs nothing, 0 is enough."""
    return (has + 1e-9) / (needs + 1e-9)


def nearness(params, state, market, position):
    """Return the least share of what its conditions need."""
    adverse = -position.side * market.move_10s_bps
    if not params.scaled:
        return share(adverse, params.adverse_pct * 100.0)
    if not market.sigma_bps > 0.0:
        return math.nan
    path = market.sigma_bps * math.sqrt((market.now_ns - position.peak_ns) / 1e9)
    shares = (max(share(state.best_z, params.arm_z), share(position.peak_r, params.arm_r)),
              share(adverse, params.fire_z * market.sigma_bps * math.sqrt(10.0)), share(adverse, params.floor_bps),
              share(adverse * position.exit_ticks, position.spread_ticks * 10000.0),
              share(given_back_bps(position), params.give_back * path))
    return math.nan if any(map(math.isnan, shares)) else min(shares)
