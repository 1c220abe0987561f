"""Coin flip: leave at a moment drawn from the position's ticket and age, knowing nothing.

Why:    random exits, the plainest rule without skill.
Source: none; a control of the ruler. One coin a second, from integers alone, so that every machine throws the same.
Blind:  everything.
"""

from dataclasses import dataclass

HOLD, CLOSE = 0, 4
PRIME = 2_147_483_647


@dataclass(frozen=True)
class Params:
    per_million: int = 15_000  # chance of leaving in each second


@dataclass
class State:
    second: int = -1


def on_event(params, state, market, position):
    """Throw the coin of this second."""
    if position.ticket <= 0 or position.age_ns < 0:
        return HOLD
    second = position.age_ns // 1_000_000_000
    mixed = (position.ticket * 48_271 + second * 69_621 + 12_345) % PRIME
    for _ in range(4):
        mixed = (mixed * 48_271 + mixed // 44_488) % PRIME
    if mixed % 1_000_000 >= params.per_million:
        return HOLD
    state.second = second
    return CLOSE
