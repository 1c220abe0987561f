"""Acts on a timetable from when it first sees a position: every step is a reduction or a nearer stop, the last one closes.

Why:    a short run that has to see many actions.
Source: none; it is for tests.
Blind:  to the market.
"""
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    every_ms: int = 400
    steps: int = 12               # the last one closes

    def __post_init__(self):
        if not 50 <= self.every_ms <= 60000 or not 2 <= self.steps <= 1000:
            raise ValueError(f"need 50 <= every_ms <= 60000 and 2 <= steps <= 1000, got {self.every_ms} and {self.steps}")


@dataclass
class State:
    begun_ns: int = 0
    occasion: int = 0
    stop_ticks: int = 0
    share: float = 0.1


def on_event(params, state, market, position):
    """Vote for the step that is due."""
    if state.begun_ns == 0:
        state.begun_ns = market.now_ns
    step = (market.now_ns - state.begun_ns) // (params.every_ms * 1000000)
    if step <= 0:
        return HOLD
    if step > params.steps:
        step = params.steps
    state.occasion = step
    if step == params.steps:
        return CLOSE
    if step % 2 == 1:
        return PARTIAL
    away = position.entry_ticks * (2 * params.steps - step) // (params.steps * 50)
    state.stop_ticks = position.entry_ticks - position.side * away
    return TIGHTEN
