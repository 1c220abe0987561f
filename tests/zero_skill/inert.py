"""Inert: speaks up about every position, and never does anything.

Why:    a rule that changes nothing must get no credit.
Source: none; a control of the ruler.
Blind:  everything.
"""

from dataclasses import dataclass

HOLD, ALERT = 0, 1


@dataclass(frozen=True)
class Params:
    after_s: float = 1.0


@dataclass
class State:
    age_s: float = 0.0


def on_event(params, state, market, position):
    """Vote for an alert."""
    if not position.age_ns >= params.after_s * 1e9:
        return HOLD
    state.age_s = position.age_ns / 1e9
    return ALERT
