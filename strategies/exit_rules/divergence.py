"""Divergence: price supports the position while the flow that should carry it does not.

Why:    a move that flow does not explain is likelier to be given back (R59-R61).
Source: classic is the plan's two halves, a new extreme with less momentum than before, in 10 + 10 s of time instead of ticks (C15), for
        both sides (C4), with a least move and a tolerance because a steady rise loses percent momentum by arithmetic (C21). robust is
        the residual of 30 s price change on 30 s signed flow, its slope from the past 600 s only, in standard deviations.
Blind:  passive buying that lifts price on sell flow; one venue's flow only; the first 90 s after start.
"""
import math
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    scaled: int = 1
    min_move_bps: float = 1.0     # classic: the older half must have moved at least this far in favour
    tolerance_bps: float = 0.5    # classic: momentum must have lost at least this much
    price_z: float = 1.0
    flow_z: float = 1.0
    residual_z: float = 2.0
    dwell_ms: float = 500.0
    action: int = CLOSE

    def __post_init__(self):
        if min(self.min_move_bps, self.tolerance_bps, self.price_z, self.flow_z, self.residual_z, self.dwell_ms) < 0:
            raise ValueError("divergence limits must not be negative")
        if self.action not in (ALERT, PARTIAL, CLOSE):
            raise ValueError(f"action must be 1 (alert), 3 (partial) or 4 (close), got {self.action}")


PRESETS = {"robust": Params(), "classic": Params(scaled=0, dwell_ms=0.0, action=ALERT)}


@dataclass
class State:
    strength: float = 0.0         # classic: momentum lost, bps; robust: residual, standard deviations
    price: float = 0.0            # positive supports the position
    flow: float = 0.0
    since_ns: int = 0


def is_extreme(market, side):
    """Tell whether the last 10 s made a new extreme in favour of a side."""
    if side > 0:
        return market.high_10s_2 > market.high_20s_2 and market.high_20s_2 > 0
    return market.low_10s_2 < market.low_20s_2 and market.low_10s_2 > 0


def weakening(params, market, side):
    """Tell whether the last 10 s made a new extreme in favour with less momentum than the 10 s before."""
    older = side * market.move_older_bps
    recent = side * market.move_recent_bps
    return is_extreme(market, side) and older >= params.min_move_bps and older - recent >= params.tolerance_bps


def on_event(params, state, market, position):
    """Vote while price and flow disagree about the position."""
    side = position.side
    if params.scaled:
        price, flow, strength = side * market.z_move_30s, side * market.z_flow_30s, side * market.z_residual_30s
        firing = price >= params.price_z and -flow >= params.flow_z and strength >= params.residual_z
    else:
        price, flow = side * market.move_recent_bps, side * market.imbalance_30s
        strength = side * (market.move_older_bps - market.move_recent_bps)
        firing = weakening(params, market, side)
    if not firing:
        state.since_ns = 0
        return HOLD
    if state.since_ns == 0:
        state.since_ns = market.now_ns
    if market.now_ns - state.since_ns < params.dwell_ms * 1e6:
        return HOLD
    state.strength = strength
    state.price = price
    state.flow = flow
    return params.action


def share(has, needs):
    """Return how much of what a condition needs there is; where it needs nothing, 0 is enough."""
    return (has + 1e-9) / (needs + 1e-9)


def nearness(params, state, market, position):
    """Return the least share of what its conditions need."""
    side = position.side
    if params.scaled:
        shares = (share(side * market.z_move_30s, params.price_z), share(-side * market.z_flow_30s, params.flow_z),
                  share(side * market.z_residual_30s, params.residual_z))
    else:
        older, recent = side * market.move_older_bps, side * market.move_recent_bps
        shares = (float(is_extreme(market, side)), share(older, params.min_move_bps), share(older - recent, params.tolerance_bps))
    return math.nan if any(map(math.isnan, shares)) else min(shares)
