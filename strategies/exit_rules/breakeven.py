"""Breakeven: once the trade has gained enough, move the stop to the entry plus what leaving costs.

Why:    a price-only control that order flow has to beat.
Source: the earlier system's first rule, at 0.2 R by default there; here 0.5 R, and the spread is paid.
Blind:  cuts trades that dip before they run.
"""
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    at_r: float = 0.5             # gain that arms it, initial risks
    spreads: float = 1.0          # stop beyond the entry by this many spreads

    def __post_init__(self):
        if not 0 < self.at_r <= 20 or not 0 <= self.spreads <= 10:
            raise ValueError(f"need 0 < at_r <= 20 and 0 <= spreads <= 10, got {self.at_r} and {self.spreads}")


@dataclass
class State:
    gain_r: float = 0.0
    stop_ticks: int = 0
    occasion: int = 0


def is_there(state, position):
    """Tell whether the stop in force is as near as the one voted for."""
    return position.stop_ticks > 0 and position.side * (position.stop_ticks - state.stop_ticks) >= 0


def on_event(params, state, market, position):
    """Vote once for a stop at the entry."""
    if state.occasion == 0:
        if not position.gain_r >= params.at_r:
            return HOLD
        state.gain_r = position.gain_r
        state.stop_ticks = position.entry_ticks + position.side * int(position.spread_ticks * params.spreads)
        state.occasion = 1
    if is_there(state, position):
        return HOLD
    return TIGHTEN


def nearness(params, state, market, position):
    """Return the share of the gain that arms it; 0 once its stop is in force."""
    if state.occasion == 0:
        return position.gain_r / params.at_r
    return 0.0 if is_there(state, position) else 1.0
