"""Follows the price with a stop, and tells when the top of the book leans against the position.

Why:    a rule that reads the market, so that a replay of other frames would decide otherwise.
Source: none; it is for tests.
Blind:  to everything but the last quote and the top of the book.
"""
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    behind_bps: float = 150.0
    step_bps: float = 0.5

    def __post_init__(self):
        if not 0 < self.step_bps <= self.behind_bps <= 1000:
            raise ValueError(f"need 0 < step_bps <= behind_bps <= 1000, got {self.step_bps} and {self.behind_bps}")


@dataclass
class State:
    stop_ticks: int = 0
    lean: float = 0.0


def on_event(params, state, market, position):
    """Vote for a stop behind the price, or for a look."""
    stop_ticks = position.exit_ticks - position.side * int(position.exit_ticks * params.behind_bps / 10000)
    step_ticks = int(position.exit_ticks * params.step_bps / 10000)
    if position.stop_ticks > 0 and position.side * (stop_ticks - position.stop_ticks) >= step_ticks:
        state.stop_ticks = stop_ticks
        return TIGHTEN
    state.lean = position.side * market.top5_imbalance
    if state.lean < -0.9:
        return ALERT
    return HOLD
