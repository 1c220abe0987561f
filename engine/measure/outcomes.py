"""What happened to each trade without any rule, and what one rule made of it: columns, one row for each trade."""

from dataclasses import dataclass, fields

import numpy as np

NOT_FIRED, TOO_LATE, SAVED, IMPROVED, NEUTRAL, CUT_WINNER, FLIPPED, WORSENED = range(8)
CLASS_NAMES = ["not_fired", "too_late", "saved", "improved", "neutral", "cut_winner", "flipped", "worsened"]
HARMED = (CUT_WINNER, FLIPPED, WORSENED)


@dataclass
class Trades:
    """The trades of all sessions under the mechanical baseline (stop, take profit, time limit), in order of session and entry.

    Results are in initial risks (R), signed for the position; times are UTC ns; levels are broker ticks, MISSING where there is none.
    """

    session: np.ndarray        # number of the session
    symbol: np.ndarray         # number of the kernel symbol
    ticket: np.ndarray
    side: np.ndarray           # +1 long, -1 short
    open_ns: np.ndarray
    entry_ticks: np.ndarray
    risk_ticks: np.ndarray
    stop_ticks: np.ndarray
    take_ticks: np.ndarray
    deadline_ns: np.ndarray
    close_ns: np.ndarray       # fill of the baseline exit
    y: np.ndarray              # baseline result, R
    end: np.ndarray            # FILL code of the baseline exit
    mfe_r: np.ndarray          # best and worst open result until then, R
    mae_r: np.ndarray
    spread_r: np.ndarray       # spread at the baseline exit, R

    def __len__(self) -> int:
        return len(self.ticket)


@dataclass
class Policy:
    """One way of managing the same trades (a rule alone, a coalition, a placebo), aligned with `Trades`."""

    y: np.ndarray              # result, R
    acted: np.ndarray          # a decision acted while the trade was open in this variant
    fired: np.ndarray          # ... and something was filled before or apart from the baseline exit
    decided_ns: np.ndarray     # of the first action, MISSING without one
    fill_ns: np.ndarray        # of its fill
    fill_gain_r: np.ndarray    # open result at that fill, R
    action: np.ndarray         # kind of the first action
    stop_distance_ticks: np.ndarray   # of a first TIGHTEN, from the exit price at its fill
    share: np.ndarray          # of a first PARTIAL
    close_ns: np.ndarray       # when the position was gone
    rule: np.ndarray           # number of the rule that acted first, -1 without one


def join(parts: list):
    """Join Trades or Policies of several sessions."""
    return type(parts[0])(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0])))


def take(rows, index: np.ndarray):
    """Return some rows of Trades or of a Policy."""
    return type(rows)(*(getattr(rows, field.name)[index] for field in fields(rows)))


def epsilon_r(trades: Trades) -> float:
    """Return the least difference that counts: a tenth of the risk, or two median spreads."""
    return max(0.10, 2.0 * float(np.median(trades.spread_r))) if len(trades) else 0.10


def delta_r(trades: Trades, policy: Policy) -> np.ndarray:
    """Return what the policy changed, R; 0 where it did not fire, because the two arms are then the same trade."""
    return np.where(policy.fired, policy.y - trades.y, 0.0)


def classify(trades: Trades, policy: Policy, epsilon: float) -> np.ndarray:
    """Return the class of each trade: exclusive and exhaustive, tested in the order not fired, too late, rest."""
    change = delta_r(trades, policy)
    found = np.full(len(trades), NEUTRAL)
    found[change >= epsilon] = IMPROVED
    found[(change >= epsilon) & (trades.y <= -epsilon)] = SAVED
    harmed = change <= -epsilon
    found[harmed] = WORSENED
    found[harmed & (trades.y > 0) & (policy.y > 0)] = CUT_WINNER
    found[harmed & (trades.y > 0) & (policy.y <= 0)] = FLIPPED
    found[policy.acted & ~policy.fired] = TOO_LATE
    found[~policy.acted] = NOT_FIRED
    return found


def turned(trades: Trades, policy: Policy, classes: np.ndarray) -> np.ndarray:
    """Return which saved trades did not lose at all."""
    return (classes == SAVED) & (policy.y >= 0.0)
