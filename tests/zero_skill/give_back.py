"""Give-back exit: leave half a risk below the best result, once that was half a risk, knowing nothing.

Why:    it looks prudent, and in a market without an edge earns nothing.
Source: none; a control of the ruler.
Blind:  everything but its own result.
"""

from dataclasses import dataclass

HOLD, CLOSE = 0, 4


@dataclass(frozen=True)
class Params:
    after_r: float = 0.5
    give_back_r: float = 0.5


@dataclass
class State:
    peak_r: float = 0.0
    gain_r: float = 0.0


def on_event(params, state, market, position):
    """Vote to leave when enough was given back."""
    if not position.peak_r >= params.after_r or not position.peak_r - position.gain_r >= params.give_back_r:
        return HOLD
    state.peak_r = position.peak_r
    state.gain_r = position.gain_r
    return CLOSE
