"""What a rule is held against: random exits with its own timing, a tighter stop, its own flow at the wrong time.

Section numbers are those of the methodology: 7.3 (null models). Matched moments of other trades are in `riskset`.
"""

from dataclasses import dataclass

import numpy as np

from engine.kernel.records import MISSING, PARTIAL, TIGHTEN
from engine.measure.inference import p_values
from engine.measure.moments import Board, Effect, act, build_board, manners, net_class, pick, stop_effect
from engine.measure.outcomes import Policy, Trades, delta_r, epsilon_r
from engine.measure.paths import extremes

_POOL = 200                    # random exits kept for each trade; the draws choose among them
_BUCKETS = 20
_FIRES_A_BUCKET = 8
_RATE_SLACK = 1.1              # a stop that fires this much more often than the rule is no twin of its rate
_FARTHEST_TWIN_R = 0.9
_NEIGHBOURS = 10               # fires of nearest age a random exit takes its manner from


@dataclass(frozen=True)
class Hazard:
    """When a rule first fires, given that it may still: cumulative hazard over trade age, linear between edges."""

    edges_ns: np.ndarray
    cumulative: np.ndarray

    def chance(self, age_ns: np.ndarray) -> np.ndarray:
        """Return the chance to have fired by an age."""
        return -np.expm1(-np.interp(age_ns, self.edges_ns, self.cumulative))

    def age_ns(self, chance: np.ndarray) -> np.ndarray:
        """Return the age by which that chance is reached."""
        return np.maximum(np.rint(np.interp(-np.log1p(-chance), self.cumulative, self.edges_ns)), 0).astype(np.int64)


@dataclass(frozen=True)
class Placebo:
    """A rule against random exits with its own hazard.

    Claims about counts need `riskset`: matching age alone does not make them comparable.
    """

    observed_r: float          # mean change of the rule over all trades
    means_r: np.ndarray        # the same of each draw
    expected_r: np.ndarray     # of each trade: what a random exit is expected to change
    net: np.ndarray            # saved - harmed of each draw, as a share of all trades
    saved: float               # expected shares of all trades
    harmed: float
    fired: float
    p_greater: float
    p_two_sided: float


def fit_hazard(trades: Trades, policy: Policy) -> Hazard:
    """Return the rule's first-decision hazard by trade age, from all trades while open and not yet decided on.

    Buckets hold equal numbers of fires; the hazard of a bucket is the product-limit sum of its fires (fires / at risk,
    exact under censoring), spread evenly. Half a trade is kept at risk, so that a rule that always fires has a finite
    hazard.
    """
    ages = np.where(policy.acted, policy.decided_ns, trades.close_ns) - trades.open_ns
    order = np.lexsort((~policy.acted, ages))
    at_risk = len(trades) - np.arange(len(trades))
    steps = np.where(policy.acted[order], np.log((at_risk + 0.5) / (at_risk - 0.5)), 0.0)
    reached = np.concatenate([[0.0], np.cumsum(steps)])
    fires = np.sort(ages[policy.acted])
    if not len(fires):
        return Hazard(np.array([0.0, 1.0]), np.zeros(2))
    buckets = int(np.clip(len(fires) // _FIRES_A_BUCKET, 1, _BUCKETS))
    edges = np.unique(np.quantile(fires, np.linspace(0.0, 1.0, buckets + 1), method="nearest"))
    edges = np.concatenate([[edges[0] - 1], edges])
    cumulative = reached[np.searchsorted(ages[order], edges, "right")]
    cumulative[0] = 0.0
    return Hazard(edges.astype(float), cumulative)


def _random_exits(trades: Trades, policy: Policy, board: Board, latency_ns: int,
                  rng: np.random.Generator) -> tuple[np.ndarray, Effect]:
    """Return each trade's chance of a random decision while open, and _POOL exits of each trade decided then."""
    hazard = fit_hazard(trades, policy)
    chance = hazard.chance(trades.close_ns - trades.open_ns)
    rows = np.repeat(np.arange(len(trades)), _POOL)
    ages = hazard.age_ns(rng.random(len(rows)) * chance[rows])
    donors = np.flatnonzero(policy.fired)
    donors = donors[np.argsort((policy.decided_ns - trades.open_ns)[donors], kind="stable")]
    donor_ages = (policy.decided_ns - trades.open_ns)[donors]
    near = np.searchsorted(donor_ages, ages) + rng.integers(-_NEIGHBOURS // 2, _NEIGHBOURS // 2, len(ages))
    manner = pick(manners(trades, policy, donors), np.clip(near, 0, len(donors) - 1))
    return chance, act(board, rows, trades.open_ns[rows] + ages + latency_ns, manner)


def age_hazard_placebo(trades: Trades, policy: Policy, paths, latency_ns: int, rng: np.random.Generator,
                       draws: int = 999, slippage_ticks: int = 0) -> Placebo:
    """Hold a rule's mean change in R against random exits drawn from its own hazard by trade age (7.3, 1).

    A random exit acts as the rule's fires of about that age did (close, part, nearer stop) and only once.
    paths[session][symbol], or the Board built from them.
    """
    observed, n = delta_r(trades, policy), len(trades)
    if not policy.fired.any():
        return Placebo(0.0, np.zeros(draws), np.zeros(n), np.zeros(draws), 0.0, 0.0, 0.0, 1.0, 1.0)
    board = build_board(trades, paths, slippage_ticks)
    chance, effect = _random_exits(trades, policy, board, latency_ns, rng)
    change = effect.delta_r.reshape(n, _POOL)
    kind = net_class(trades.y[:, None], change, epsilon_r(trades))
    means, net = np.empty(draws), np.empty(draws)
    starts = np.arange(n) * _POOL
    flat_change, flat_kind = change.ravel(), kind.ravel()
    for draw in range(draws):
        decided = np.flatnonzero(rng.random(n) < chance)
        chosen = starts[decided] + rng.integers(_POOL, size=len(decided))
        means[draw] = flat_change[chosen].sum() / n
        net[draw] = flat_kind[chosen].sum(dtype=np.int64) / n
    greater, two_sided = p_values(observed.mean(), means)
    share = lambda hits: float((chance * hits.reshape(n, _POOL).mean(axis=1)).mean())  # noqa: E731
    return Placebo(float(observed.mean()), means, chance * change.mean(axis=1), net, share(kind > 0), share(kind < 0),
                   share(effect.fired), greater, two_sided)


@dataclass(frozen=True)
class Twin:
    """A plain tighter stop that ends as many trades early as the rule does.

    The rule's change less delta_r, trade by trade, is what order flow added.
    """

    stop_r: float              # distance of the stop from entry, R
    applied: float             # share of trades it is thought to be set on: 1 where one stop gives the rule's rate
    fired: np.ndarray          # where it would end the trade before the baseline
    delta_r: np.ndarray        # change, R, times `applied` and the share of the position the rule closes
    gain_r: np.ndarray         # result at its exit, R; NaN where it did not end the trade


def price_only_twin(trades: Trades, policy: Policy, paths, latency_ns: int, slippage_ticks: int = 0) -> Twin:
    """Return what a stop nearer to entry, tuned to the rule's rate of exits, would have changed (7.3, 3).

    The stop is in force from the first quote at or after entry + latency and fills at the quote that meets it; where
    price is already beyond it then, the trade ends at once. No stop ends fewer trades than the baseline's own: a rule
    that fires less is held against the stop at its mean open result at the fill, set on as many trades as give its
    rate. A rule's moved stop counts as an exit only where it ended the trade before the baseline did.
    """
    board = build_board(trades, paths, slippage_ticks)
    start = trades.open_ns + latency_ns + board.shift_ns
    _, worst = extremes(board.path, trades.side, trades.entry_ticks, start, trades.close_ns + board.shift_ns - 1)
    lows = np.where(worst == MISSING, np.inf, worst / trades.risk_ticks)
    ended = policy.fired & ((policy.action != TIGHTEN) | (policy.close_ns < trades.close_ns))
    wanted, reachable = int(ended.sum()), np.sort(lows[np.isfinite(lows)])
    if not wanted or not len(reachable):
        return Twin(1.0, 0.0, np.zeros(len(trades), bool), np.zeros(len(trades)), np.full(len(trades), np.nan))
    stop_r = -float(reachable[min(wanted, len(reachable)) - 1])
    if np.sum(lows <= -stop_r) > _RATE_SLACK * wanted:
        stop_r = float(np.clip(-policy.fill_gain_r[ended].mean(), epsilon_r(trades), _FARTHEST_TWIN_R))
    distance = np.ceil(stop_r * trades.risk_ticks - 1e-9).astype(np.int64)
    change, met = stop_effect(board, np.arange(len(trades)), start, trades.entry_ticks - trades.side * distance)
    applied = min(1.0, wanted / max(int(met.sum()), 1))
    share = np.where(policy.action == PARTIAL, np.nan_to_num(policy.share, nan=1.0), 1.0)[ended].mean()
    return Twin(stop_r, applied, met, applied * share * change, np.where(met, trades.y + change, np.nan))


def time_shift_possible(length_s: float, least_s: float = 3600.0, count: int = 20,
                        spacing_s: float = 60.0) -> tuple[bool, np.ndarray]:
    """Return whether flow can be shifted in a circle by `least_s` both ways, and the shifts to use, s (7.3, 4)."""
    room_s = length_s - 2.0 * least_s
    if not room_s >= 0.0:
        return False, np.zeros(0)
    shifts = int(min(count, room_s // spacing_s + 1))
    return True, np.linspace(least_s, least_s + room_s, shifts) if shifts > 1 else np.array([length_s / 2.0])
