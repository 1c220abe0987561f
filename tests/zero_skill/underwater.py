"""Underwater exit: leave at the first touch of half the risk, knowing nothing.

Why:    it "saves" every loser that passes the level, and in a market without an edge earns nothing.
Source: none; a control of the ruler.
Blind:  everything but its own result.
"""

from dataclasses import dataclass

HOLD, CLOSE = 0, 4


@dataclass(frozen=True)
class Params:
    at_r: float = -0.5


@dataclass
class State:
    gain_r: float = 0.0


def on_event(params, state, market, position):
    """Vote to leave under water."""
    if not position.gain_r <= params.at_r:
        return HOLD
    state.gain_r = position.gain_r
    return CLOSE
