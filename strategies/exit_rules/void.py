"""Liquidity void: reduce when the depth a position would be closed into, or its stop would fall through, is missing.

Why:    large moves are mostly gaps in the book, not large orders (Farmer et al. 2004). A void gives the size of a move if flow arrives, not
        its direction.
Source: adverse (bids under a long, asks over a short) acts; favourable, the plan's literal rule (R56, R57), is an alert by default
        because a thin book ahead lets price run for the position (C9). Distances are on the venue, from its own touch (C10); the bin
        at the touch never counts (C12); beyond recorded depth nothing is claimed (C11). classic: under a quarter of the
        side's median bin now, within 0.1 % (R56). robust: missing against the usual depth at that distance, for half a second, and
        the flow of the last 10 s against the position would eat what rests before it.
Blind:  hidden orders, the broker's own liquidity, books refilled faster than they are eaten.
"""
import math
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    scaled: int = 1
    within_bps: float = 10.0      # near edge no farther than this
    adverse_action: int = PARTIAL
    favourable_action: int = ALERT
    min_gap_bps: float = 1.0      # what the void is worth: width times missing share
    reach: float = 1.0            # contrary flow of 10 s over the lots resting before the void
    share: float = 0.5            # closed by PARTIAL

    def __post_init__(self):
        if not 0 < self.within_bps <= 20 or not 0 < self.share <= 1 or min(self.min_gap_bps, self.reach) < 0:
            raise ValueError("within_bps must be in (0, 20], share in (0, 1], min_gap_bps and reach not negative")
        if not (0 <= self.adverse_action <= CLOSE and 0 <= self.favourable_action <= CLOSE) or TIGHTEN in (
                self.adverse_action, self.favourable_action):
            raise ValueError("adverse_action and favourable_action must be 0, 1 (alert), 3 (partial) or 4 (close)")


PRESETS = {"robust": Params(), "classic": Params(scaled=0)}


@dataclass
class State:
    near_bps: float = 0.0
    far_bps: float = 0.0
    deficit: float = 0.0
    cost_lots: float = 0.0        # resting before the void
    flow_lots: float = 0.0        # of the last 10 s, positive supports the position
    adverse: int = 0
    occasion: int = 0
    share: float = 0.5
    behind_id: int = 0            # the last void behind that was voted on, and the last ahead
    ahead_id: int = 0


def seen(params, side):
    """Return near and far edge and number of the void on a side of the book: by the usual depth, or by the median bin."""
    if params.scaled:
        return side.void_near_bps, side.void_far_bps, side.void_id
    return side.thin_near_bps, side.thin_far_bps, side.thin_id


def may_warn(state, behind_id, ahead_id):
    """Tell whether the void ahead may be voted on: not over one behind already voted on, nor again after that (C29)."""
    return behind_id != state.behind_id and (ahead_id != state.ahead_id or state.adverse == 0)


def on_event(params, state, market, position):
    """Vote to reduce before an adverse void that flow can reach."""
    state.share = params.share
    if not market.book_ok:
        return HOLD
    void, ahead = (market.bid, market.ask) if position.side > 0 else (market.ask, market.bid)
    near, far, behind_id = seen(params, void)
    ahead_near, ahead_far, ahead_id = seen(params, ahead)
    flow = float(position.side * market.flow_10s_lots) if market.trades_10s >= 0 else math.nan
    if near <= params.within_bps and params.adverse_action > 0 and (params.scaled == 0 or (
            (far - near) * void.void_deficit >= params.min_gap_bps and flow < 0.0 and -flow >= params.reach * void.void_cost_lots)):
        action = params.adverse_action
        state.adverse, state.behind_id, state.occasion = 1, behind_id, behind_id * 2 + 1
    elif ahead_near <= params.within_bps and params.favourable_action > 0 and may_warn(state, behind_id, ahead_id):
        action, void, near, far = params.favourable_action, ahead, ahead_near, ahead_far
        state.adverse, state.ahead_id, state.occasion = 0, ahead_id, ahead_id * 2 + 2
    else:
        return HOLD
    state.near_bps, state.far_bps = near, far
    if params.scaled:
        state.deficit = void.void_deficit
        state.cost_lots = void.void_cost_lots
        state.flow_lots = flow
    return action


def share(has, needs):
    """Return how much of what a condition needs there is; where it needs nothing, 0 is enough."""
    return (has + 1e-9) / (needs + 1e-9)


def nearness(params, state, market, position):
    """Return the larger share of what the vote on a void behind needs and the one on a void ahead; 0 without either."""
    if not market.book_ok:
        return math.nan
    behind, ahead = (market.bid, market.ask) if position.side > 0 else (market.ask, market.bid)
    (near, far, behind_id), (ahead_near, _, ahead_id) = seen(params, behind), seen(params, ahead)
    warns = share(params.within_bps, ahead_near) if params.favourable_action > 0 and ahead_near >= 0.0 else 0.0
    warns = warns if may_warn(state, behind_id, ahead_id) else 0.0
    if params.adverse_action == 0 or not near >= 0.0 or warns >= 1.0:
        return warns
    falls = [share(params.within_bps, near)]
    if params.scaled:
        flow = float(-position.side * market.flow_10s_lots) if market.trades_10s >= 0 else math.nan
        falls += [share((far - near) * behind.void_deficit, params.min_gap_bps), share(flow, params.reach * behind.void_cost_lots)]
    return math.nan if any(map(math.isnan, falls)) else max(warns, min(falls))
