"""What each rule is worth beside the others: every coalition of them is run, and the whole is shared out."""

from collections.abc import Sequence
from math import factorial

import numpy as np

from engine.errors import BadInput
from engine.measure.experiment import Variant, only
from engine.measure.outcomes import Policy, Trades, delta_r
from engine.rules import Choice
from engine.run import Settings
from engine.runlog import FILL_CODES

MOST_RULES = 6


def members(names: Sequence[str], mask: int) -> list[str]:
    """Return the rules of a coalition: bit n of the mask stands for names[n]."""
    return [name for n, name in enumerate(names) if mask >> n & 1]


def coalition_name(names: Sequence[str], mask: int) -> str:
    """Return the name of the variant in which exactly these rules act."""
    return "coalition " + "+".join(members(names, mask))


def coalition_variants(choices: list[Choice], names: Sequence[str], settings: Settings) -> list[Variant]:
    """Return one variant for each coalition but the empty one, in order of mask; the kernel arbitrates within each."""
    _check(names)
    known = {choice.rule.name for choice in choices}
    absent = [name for name in names if name not in known]
    if absent:
        raise ValueError(f"no choice for rule {absent[0]}")
    return [Variant(coalition_name(names, mask), only(choices, set(members(names, mask))), settings)
            for mask in range(1, 1 << len(names))]


def by_mask(policies: dict[str, Policy], names: Sequence[str]) -> dict[int, Policy]:
    """Pick the coalitions out of an experiment's policies."""
    return {mask: policies[coalition_name(names, mask)] for mask in range(1, 1 << len(names))}


def rule_numbers(choices: Sequence[Choice], names: Sequence[str]) -> list[int]:
    """Return the kernel's number of each rule, which is what Policy.rule holds."""
    order = [choice.rule.name for choice in choices]
    return [order.index(name) for name in names]


def attribute(trades: Trades, policies: dict[int, Policy], names: Sequence[str],
              numbers: Sequence[int] | None = None) -> dict:
    """Share out the change in R of all rules together, v(N), among the rules.

    `numbers` are the kernel's numbers of the rules; without them they are read off the coalitions of one. Under
    `per_trade` are arrays in order of `trades`, NaN where a coalition has no result: `value` (v(N)) and `shapley` (rule
    by trade, adding up to it).
    """
    _check(names)
    n = len(names)
    value = np.zeros((1 << n, len(trades)))
    for mask in range(1, 1 << n):
        value[mask] = delta_r(trades, policies[mask])
    value[:, ~np.isfinite(value).all(axis=0)] = np.nan
    numbers = _numbers(policies, names) if numbers is None else list(numbers)
    whole = (1 << n) - 1
    shared = shapley(value, n)
    left_out = [value[whole] - value[whole & ~(1 << r)] for r in range(n)]
    return {"rules": list(names), "trades": int(np.isfinite(value[whole]).sum()), "value": _sums(value[whole]),
            "solo": {name: _sums(value[1 << r]) for r, name in enumerate(names)},
            "leave_one_out": {name: _sums(left_out[r]) for r, name in enumerate(names)},
            "shapley": {name: _sums(shared[r]) for r, name in enumerate(names)},
            "interaction": [{"rules": [names[i], names[j]], **_sums(interaction(value, n, i, j))}
                            for i in range(n) for j in range(i + 1, n)],
            "displaced": {name: _displaced(trades, policies, value, names, numbers, r) for r, name in enumerate(names)},
            "per_trade": {"value": value[whole], "shapley": shared}}


def shapley(value: np.ndarray, n: int) -> np.ndarray:
    """Return the value of each rule (Shapley 1953); rows of `value` are coalitions by mask, further axes are kept."""
    shared = np.zeros((n, *value.shape[1:]))
    for r in range(n):
        for mask in range(1 << n):
            if mask >> r & 1:
                continue
            size = mask.bit_count()
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            shared[r] += weight * (value[mask | 1 << r] - value[mask])
    return shared


def interaction(value: np.ndarray, n: int, i: int, j: int) -> np.ndarray:
    """Return how much more two rules make together than apart (Grabisch and Roubens 1999).

    Negative: each does the other's work.
    """
    pair = 1 << i | 1 << j
    found = np.zeros(value.shape[1:])
    for mask in range(1 << n):
        if mask & pair:
            continue
        size = mask.bit_count()
        weight = factorial(size) * factorial(n - size - 2) / factorial(n - 1)
        found += weight * ((value[mask | pair] - value[mask | 1 << i]) - (value[mask | 1 << j] - value[mask]))
    return found


def _check(names: Sequence[str]) -> None:
    """Refuse what cannot be a set of rules."""
    if not names or len(set(names)) != len(names):
        raise ValueError(f"attribution needs different rules, got {list(names)}")
    if len(names) > MOST_RULES:
        raise BadInput(f"attribution runs every coalition of the rules, {1 << len(names)} of {len(names)}; "
                       f"name {MOST_RULES} at most with --rules")


def _sums(change: np.ndarray) -> dict:
    """Return total and mean in R over the trades that have a result; the mean of none is not known."""
    known = change[np.isfinite(change)]
    return {"total_r": float(known.sum()), "mean_r": float(known.mean()) if len(known) else None}


def _numbers(policies: dict[int, Policy], names: Sequence[str]) -> list[int]:
    """Read the kernel's number of each rule off its own coalition, -1 for one that never acted alone."""
    found = []
    for r in range(len(names)):
        seen = np.unique(policies[1 << r].rule)
        seen = seen[seen >= 0]
        if len(seen) > 1:
            raise ValueError(f"in the coalition of {names[r]} alone rules {seen.tolist()} acted")
        found.append(int(seen[0]) if len(seen) else -1)
    return found


def _displaced(trades: Trades, policies: dict[int, Policy], value: np.ndarray, names: Sequence[str], numbers: list[int],
               r: int) -> dict:
    """Split what rule r adds to the others by what would have come in its place.

    Where r acted first: the rule that acts first without r, else the baseline's exit by its kind. `after_another` holds
    the trades in which r was not first and yet made a difference. `gain_r` is against what was displaced and adds up to
    leave-one-out; `delta_r` is against the baseline.
    """
    whole = (1 << len(names)) - 1
    rest = whole & ~(1 << r)
    mine, others = policies[whole], policies.get(rest)
    known = np.isfinite(value[whole])
    gain, change = value[whole] - value[rest], value[whole]
    none = np.zeros(len(trades), bool)
    first = known & mine.fired & (mine.rule == numbers[r]) if numbers[r] >= 0 else none
    acts = others.fired if others is not None else none
    groups = {}
    for n, name in enumerate(names):
        if n != r:
            groups[name] = first & acts & (others.rule == numbers[n]) if numbers[n] >= 0 else none
    for code in np.unique(trades.end):
        groups[FILL_CODES[int(code)]] = first & ~acts & (trades.end == code)
    groups["after_another"] = known & ~first & (gain != 0.0)
    stray = first & ~np.logical_or.reduce(list(groups.values()))
    if stray.any():
        raise ValueError(f"without {names[r]} a rule acted first that is none of {list(names)}; "
                         "give the kernel's numbers of the rules")
    return {name: {"trades": int(chosen.sum()), "gain_r": float(gain[chosen].sum()),
                   "delta_r": float(change[chosen].sum())}
            for name, chosen in groups.items() if chosen.any()}
