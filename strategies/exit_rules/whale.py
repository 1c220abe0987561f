"""Whale: tighten or leave when one large taker order trades against the position.

Why:    a large sweep moves the venue at once and the broker a little later (R49-R51). The whale has already traded: the claim is
        only what is left of the move (C13).
Source: a whale is a sweep, same taker side, same instant, adjacent ids, so that an order filled at many prices counts once (C14). classic
        has the plan's two tiers, $500k and $1M, each with its own action (C1, C2, C38: stops at 0.25 % and 0.15 % of price). robust asks
        for a sweep above both the floor and the 0.999 quantile of past sweeps, large against resting depth, with price going its way.
Blind:  sliced orders, block trades off the book, two takers in one instant that look like one.
"""
import math
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    scaled: int = 1               # 0: fixed tiers; 1: floor, usual size, materiality
    large_usd: float = 500_000.0
    whale_usd: float = 1_000_000.0
    large_action: int = TIGHTEN
    whale_action: int = TIGHTEN
    large_stop_pct: float = 0.25  # stop distance from price
    whale_stop_pct: float = 0.15
    fresh_ms: float = 2000.0      # a whale older than this is history
    depth_share: float = 0.5      # sweep over lots resting within 5 bps on the side it hit
    follow_bps: float = 0.2       # adverse move of the last second
    share: float = 0.5            # closed by PARTIAL

    def __post_init__(self):
        if not 500_000.0 <= self.large_usd <= self.whale_usd:
            raise ValueError(f"need 500000 <= large_usd <= whale_usd, got {self.large_usd} and {self.whale_usd}")
        if not 0 < self.share <= 1 or min(self.large_stop_pct, self.whale_stop_pct, self.fresh_ms) <= 0:
            raise ValueError("share must be in (0, 1], stop distances and fresh_ms positive")
        if not (0 < self.large_action <= CLOSE and 0 < self.whale_action <= CLOSE):
            raise ValueError("large_action and whale_action must be 1 (alert) to 4 (close)")


PRESETS = {"robust": Params(large_action=ALERT, whale_action=CLOSE), "classic": Params(scaled=0)}


@dataclass
class State:
    usd: float = 0.0
    trade_id: int = 0             # first trade of the sweep
    tier: int = 0                 # 1 large, 2 whale
    side: int = 0                 # of the taker
    usual_usd: float = 0.0
    print_usd: float = 0.0        # its largest single trade
    stop_ticks: int = 0
    occasion: int = 0
    share: float = 0.5


def is_fresh(params, market, position):
    """Tell whether the newest whale is large, against the position, and younger than it."""
    return (market.whale_id >= 0 and market.whale_side * position.side < 0 and market.whale_usd >= params.large_usd
            and market.now_ns - market.whale_ns <= params.fresh_ms * 1e6 and market.whale_ns >= position.open_ns)


def is_material(params, market, position):
    """Tell whether the sweep stands out from past ones and from the depth it met, and price follows it."""
    depth = market.bid.depth_5bps_lots if position.side > 0 else market.ask.depth_5bps_lots
    depth_usd = depth * market.whale_usd_per_lot
    return (market.whale_usd >= market.whale_usual_usd and market.whale_usd >= params.depth_share * depth_usd
            and -position.side * market.move_1s_bps >= params.follow_bps)


def on_event(params, state, market, position):
    """Vote on the newest whale when it is fresh and against the position."""
    if not is_fresh(params, market, position):
        return HOLD
    tier = 2 if market.whale_usd >= params.whale_usd else 1
    if params.scaled and not is_material(params, market, position):
        return HOLD
    action = params.whale_action if tier == 2 else params.large_action
    distance = params.whale_stop_pct if tier == 2 else params.large_stop_pct
    if state.occasion != market.whale_id * 4 + tier:
        state.stop_ticks = position.exit_ticks - position.side * int(position.exit_ticks * distance / 100.0)
    state.usd = market.whale_usd
    state.trade_id = market.whale_trade_id
    state.tier = tier
    state.side = market.whale_side
    state.usual_usd = market.whale_usual_usd
    state.print_usd = market.whale_print_usd
    state.share = params.share
    state.occasion = market.whale_id * 4 + tier
    return action


def share(has, needs):
    """Return how much of what a condition needs there is; where it needs nothing, 0 is enough."""
    return (has + 1e-9) / (needs + 1e-9)


def nearness(params, state, market, position):
    """Return 0 without a fresh whale against the position, else the least share of what its size and effect need."""
    if not is_fresh(params, market, position):
        return 0.0 if market.tape_ok else math.nan
    if not params.scaled:
        return 1.0
    depth = market.bid.depth_5bps_lots if position.side > 0 else market.ask.depth_5bps_lots
    shares = (share(market.whale_usd, market.whale_usual_usd),
              share(market.whale_usd, params.depth_share * depth * market.whale_usd_per_lot),
              share(-position.side * market.move_1s_bps, params.follow_bps))
    return math.nan if any(map(math.isnan, shares)) else min(shares)
