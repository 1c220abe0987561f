"""Trailing stop: follow the best price at a fixed distance in initial risks.

Why:    a price-only control that order flow has to beat: it keeps most of a run without guessing its end.
Source: Lo and Remorov 2017 on what tight stops cost; the distance is in R so that it fits the trade.
Blind:  pays the gap; useless before it is armed.
"""
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    arm_r: float = 0.5            # gain before the trail is live
    distance_r: float = 0.5       # from the best price since entry

    def __post_init__(self):
        if not 0 <= self.arm_r <= 20 or not 0 < self.distance_r <= 20:
            raise ValueError(f"need 0 <= arm_r <= 20 and 0 < distance_r <= 20, got {self.arm_r} and {self.distance_r}")


@dataclass
class State:
    peak_r: float = 0.0
    stop_ticks: int = 0


def stop_behind(params, position):
    """Return the stop that belongs to the best price."""
    behind = position.peak_ticks - int(position.risk_ticks * params.distance_r)
    return position.entry_ticks + position.side * behind


def on_event(params, state, market, position):
    """Vote for a stop behind the best price."""
    if not position.peak_r >= params.arm_r:
        return HOLD
    state.peak_r = position.peak_r
    state.stop_ticks = stop_behind(params, position)
    if position.side * (position.stop_ticks - state.stop_ticks) >= 0:
        return HOLD
    return TIGHTEN


def nearness(params, state, market, position):
    """Return the share of the gain that arms it; once it trails, how near the price is to a new best one."""
    if not position.peak_r >= params.arm_r:
        return position.peak_r / params.arm_r
    if position.side * (position.stop_ticks - stop_behind(params, position)) < 0:
        return 1.0
    return position.gain_r / position.peak_r if position.peak_r > 0.0 else 0.0
