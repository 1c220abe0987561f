"""Tighter stop: the same trade with its stop at a part of the initial distance.

Why:    the plainest price-only control. Most rules that exit while under water look like it; order flow has to beat it.
Source: facts on zero-skill rules: a stop at half the risk "saves" every loser and earns nothing (README, measuring).
Blind:  everything but price.
"""
import math
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    at_r: float = 0.5             # new stop distance, initial risks

    def __post_init__(self):
        if not 0 < self.at_r < 1:
            raise ValueError(f"at_r must be between 0 and 1, got {self.at_r}")


@dataclass
class State:
    stop_ticks: int = 0
    occasion: int = 0


def on_event(params, state, market, position):
    """Vote once for a nearer stop."""
    if state.occasion == 0:
        if not position.risk_ticks > 0:
            return HOLD
        state.stop_ticks = position.entry_ticks - position.side * int(position.risk_ticks * params.at_r)
        state.occasion = 1
    if position.side * (position.stop_ticks - state.stop_ticks) >= 0:
        return HOLD
    return TIGHTEN


def nearness(params, state, market, position):
    """Return 1 until its stop is in force: all it needs is a known risk."""
    if not position.risk_ticks > 0:
        return math.nan
    return 0.0 if state.occasion and position.side * (position.stop_ticks - state.stop_ticks) >= 0 else 1.0
