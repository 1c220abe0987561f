"""Claims about counts: each exit against moments of other trades in the same state (methodology 7.2 and 7.3, 2)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from engine.kernel.records import MISSING
from engine.measure.inference import p_values
from engine.measure.moments import Board, Manner, act, build_board, gains_r, manners, net_class, pick, quotes_from
from engine.measure.outcomes import Policy, Trades, delta_r, epsilon_r

_PAIRS = 1 << 20               # fire x trade pairs looked at in one go
_TAKE_CALIPER_R = 0.25
_MINUTE_NS = 60 * 10**9
_TIER = 10.0                   # beyond any distance inside the caliper


@dataclass(frozen=True)
class Matched:
    """A rule's exits against exits of other trades in the same state. Excess is rule minus controls.

    The p-values permute within sets and take sets as independent; resample sessions over `excess_r` and `excess_net`
    for intervals.
    """

    fires: int
    unmatched: int             # fires with fewer than the least number of controls
    controls: float            # mean number of controls in a set
    r_per_fire: float          # excess change over matched fires, R; NaN without one
    r_per_trade: float         # over all trades, unmatched fires left out
    r_p_greater: float
    r_p_two_sided: float
    net_per_fire: float        # excess of saved - harmed
    net_per_trade: float
    net_p_greater: float
    net_p_two_sided: float
    excess_r: np.ndarray       # of each trade: 0 where the rule did not fire, NaN where no match was found
    excess_net: np.ndarray


@dataclass(frozen=True)
class Odds:
    """How many of the fired trades the baseline would have lost, against the chance of that in their state."""

    fires: int
    unmatched: int
    lost: int                  # of the matched
    expected: float
    z: float
    p_greater: float
    chance: np.ndarray         # of each trade: estimated chance to lose from its fill on; NaN: not fired, not matched
    influence: np.ndarray      # of each trade: its part of lost - expected, as fire and as voter; sums to it
    driftless_z: float         # with (take - x) / (take - stop) instead: reference only, wrong under drift
    driftless_p_greater: float


def _take_r(trades: Trades) -> np.ndarray:
    """Return the distance of the take profit from entry, R; NaN without one."""
    distance = trades.side * (trades.take_ticks - trades.entry_ticks) / trades.risk_ticks
    return np.where(trades.take_ticks == MISSING, np.nan, distance)


def _states(board: Board, fires: np.ndarray,
            ages_ns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield some fires at a time: which other trades are alike and open at the same age, and their open result then.

    The last two are fires x trades. Alike: same symbol and side, take profit within 0.25R.
    """
    trades, n = board.trades, len(board.trades)
    take = _take_r(trades)
    for start in range(0, len(fires), max(1, _PAIRS // max(n, 1))):
        some = slice(start, start + max(1, _PAIRS // max(n, 1)))
        i, age = fires[some, None], ages_ns[some, None]
        alike = (trades.side == trades.side[i]) & (trades.symbol == trades.symbol[i]) & (np.arange(n) != i)
        alike &= (np.abs(take - take[i]) <= _TAKE_CALIPER_R) | (np.isnan(take) & np.isnan(take[i]))
        alike &= trades.close_ns - trades.open_ns > age
        row, j = np.nonzero(alike)
        _, price, before = quotes_from(board, j, trades.open_ns[j] + age[row, 0])
        gain = np.full(alike.shape, np.nan)
        gain[row, j] = np.where(before, gains_r(board, j, price), np.nan)
        yield fires[some], ~np.isnan(gain), gain


def _controls(board: Board, policy: Policy, fires: np.ndarray, latency_ns: int, caliper_r: float, least: int,
              most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the trades chosen as controls of each fire (fires x most, -1 where none), and their open results then.

    A control has not been decided on by the age at which the fire was, is open at the fire's age at fill, and within
    the caliper of its open result. Nearest first, in three tiers: same session, another session, and last the same
    session within a minute of the fire.
    """
    trades = board.trades
    decided = policy.decided_ns - trades.open_ns
    chosen, states = np.full((len(fires), most), -1), np.full((len(fires), most), np.nan)
    at = 0
    for some, able, gain in _states(board, fires, decided[fires] + latency_ns):
        i = some[:, None]
        distance = np.abs(gain - policy.fill_gain_r[i])
        able = able & (distance <= caliper_r) & (~policy.acted | (decided > decided[i]))
        same = trades.session == trades.session[i]
        near = np.abs(trades.open_ns - trades.open_ns[i]) < _MINUTE_NS
        rank = np.where(able, distance + np.where(same, np.where(near, 2 * _TIER, 0.0), _TIER), np.inf)
        order = np.argsort(rank, axis=1, kind="stable")[:, :most]
        good = np.isfinite(np.take_along_axis(rank, order, 1))
        good &= (good.sum(axis=1) >= least)[:, None]
        here = slice(at, at + len(some))
        width = order.shape[1]
        chosen[here, :width] = np.where(good, order, -1)
        states[here, :width] = np.where(good, np.take_along_axis(gain, order, 1), np.nan)
        at += len(some)
    return chosen, states


def _permute(values: np.ndarray, sizes: np.ndarray, rng: np.random.Generator,
             draws: int) -> tuple[float, float, np.ndarray]:
    """Return p (greater, two-sided) of the sum of column 0 under permuted labels, and the excess of each row."""
    excess = values[:, 0] - (np.nansum(values, axis=1) - values[:, 0]) / (sizes - 1)
    rows = np.arange(len(values))
    means = np.nansum(values, axis=1) / sizes
    null = np.empty(draws)
    for draw in range(draws):
        null[draw] = (values[rows, (rng.random(len(values)) * sizes).astype(np.int64)] - means).sum()
    return *p_values((values[:, 0] - means).sum(), null), excess


def _level(values: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return values less a quadratic in the open result fitted to the controls (columns 1..); sets weigh the same.

    So a leftover difference in state does not pass for an effect.
    """
    controls = np.isfinite(states[:, 1:])
    weight = np.broadcast_to(1.0 / controls.sum(axis=1, keepdims=True), controls.shape)[controls]
    x, y = states[:, 1:][controls], values[:, 1:][controls]
    levels = len(np.unique(x))
    if levels < 3:
        return values
    centre = x.mean()
    fit = np.polyfit(x - centre, y, 2 if levels >= 8 else 1, w=np.sqrt(weight))
    return values - np.polyval(fit, states - centre)


def risk_set_match(trades: Trades, policy: Policy, paths, latency_ns: int, rng: np.random.Generator, draws: int = 999,
                   slippage_ticks: int = 0, caliper_r: float = 0.15, least: int = 5, most: int = 20) -> Matched:
    """Hold each exit against the same action on other trades of the same age and open result (7.3, 2).

    After Li, Propert and Rosenbaum, with `least` to `most` controls. Volatility and hour are matched only as far as the
    same session does. A control may meet the rule's signal later, which makes the test conservative.
    paths[session][symbol], or the Board built from them.
    """
    n = len(trades)
    fires = np.flatnonzero(policy.fired)
    board = build_board(trades, paths, slippage_ticks)
    chosen, states = _controls(board, policy, fires, latency_ns, caliper_r, least, most)
    matched = chosen[:, 0] >= 0
    excess_r, excess_net = np.zeros(n), np.zeros(n)
    excess_r[fires[~matched]] = excess_net[fires[~matched]] = np.nan
    if not matched.any():
        return Matched(len(fires), len(fires), 0.0, np.nan, 0.0, 1.0, 1.0, np.nan, 0.0, 1.0, 1.0, excess_r, excess_net)
    mine, chosen, states = fires[matched], chosen[matched], states[matched]
    change = np.column_stack([delta_r(trades, policy)[mine], _control_effects(board, policy, mine, chosen, latency_ns)])
    y = np.column_stack([trades.y[mine], np.where(chosen >= 0, trades.y[chosen], np.nan)])
    net = np.where(np.isnan(change), np.nan, net_class(y, change, epsilon_r(trades)))
    states = np.column_stack([policy.fill_gain_r[mine], states])
    sizes = 1 + (chosen >= 0).sum(axis=1)
    r_greater, r_two, excess_r[mine] = _permute(_level(change, states), sizes, rng, draws)
    net_greater, net_two, excess_net[mine] = _permute(_level(net, states), sizes, rng, draws)
    return Matched(len(fires), int((~matched).sum()), float((sizes - 1).mean()),
                   float(excess_r[mine].mean()), float(excess_r[mine].sum() / n), r_greater, r_two,
                   float(excess_net[mine].mean()), float(excess_net[mine].sum() / n), net_greater, net_two,
                   excess_r, excess_net)


def _control_effects(board: Board, policy: Policy, fires: np.ndarray, chosen: np.ndarray,
                     latency_ns: int) -> np.ndarray:
    """Return what each fire's action changes on its controls at the same age, NaN where there is no control."""
    trades = board.trades
    row, column = np.nonzero(chosen >= 0)
    j = chosen[row, column]
    manner: Manner = pick(manners(trades, policy, fires), row)
    due = trades.open_ns[j] + (policy.decided_ns - trades.open_ns)[fires][row] + latency_ns
    change = np.full(chosen.shape, np.nan)
    change[row, column] = act(board, j, due, manner).delta_r
    return change


def fold_numbers(trades: Trades, folds: int) -> np.ndarray:
    """Return the fold of each trade: whole sessions in order when there are enough, else equal stretches of entries."""
    sessions, place = np.unique(trades.session, return_inverse=True)
    if len(sessions) >= folds:
        return place * folds // len(sessions)
    order = np.empty(len(trades), np.int64)
    order[np.lexsort((trades.open_ns, trades.session))] = np.arange(len(trades))
    return order * folds // max(len(trades), 1)


def _weights(gain: np.ndarray, able: np.ndarray, x: np.ndarray, width_r: float) -> np.ndarray:
    """Return local-linear weights (triangular kernel) of each voter for the chance at x; rows sum to 1."""
    away = np.where(able, gain - x[:, None], np.inf)
    kernel = np.maximum(1.0 - np.abs(away) / width_r, 0.0)
    away = np.where(kernel > 0, away, 0.0)
    s0, s1, s2 = kernel.sum(axis=1), (kernel * away).sum(axis=1), (kernel * away**2).sum(axis=1)
    spread = s0 * s2 - s1**2
    with np.errstate(invalid="ignore", divide="ignore"):
        line = kernel * (s2[:, None] - s1[:, None] * away) / spread[:, None]
        flat = kernel / s0[:, None]
    return np.where((spread > 1e-3 * (s0 * width_r) ** 2)[:, None], line, flat)


def q_hat(trades: Trades, policy: Policy, paths, latency_ns: int, folds: int = 5, width_r: float = 0.25,
          least: int = 10) -> Odds:
    """Test whether fired trades would have lost more often than others of the same age and open result.

    The chance at a fill is a local-linear fit over the baseline results of alike trades of other folds, open at the
    same age and not overlapping the fired trade in time; each has one vote. z takes its variance over trades, so a
    vote cast often counts as one.
    """
    n, lose = len(trades), trades.y < 0
    fires = np.flatnonzero(policy.fired)
    board = build_board(trades, paths)
    fold = fold_numbers(trades, folds)
    chance, influence = np.full(n, np.nan), np.zeros(n)
    decided = policy.decided_ns - trades.open_ns
    for some, able, gain in _states(board, fires, decided[fires] + latency_ns):
        i = some[:, None]
        apart = (trades.open_ns >= trades.close_ns[i]) | (trades.close_ns <= trades.open_ns[i])
        able = able & (fold != fold[i]) & apart
        x = policy.fill_gain_r[some]
        votes = (able & (np.abs(np.where(able, gain, np.inf) - x[:, None]) < width_r)).sum(axis=1)
        kept = votes >= least
        weights = _weights(gain[kept], able[kept], x[kept], width_r)
        fitted = weights @ lose
        chance[some[kept]] = fitted
        influence -= (weights * (lose - fitted[:, None])).sum(axis=0)
    mine = fires[~np.isnan(chance[fires])]
    influence[mine] += lose[mine] - chance[mine]
    # a fit may leave 0..1; clipping it before the sum would lean towards "more were lost than expected"
    lost, expected = int(lose[mine].sum()), float(chance[mine].sum())
    spread = float(np.sqrt((influence**2).sum()))
    z = (lost - expected) / spread if spread > 0 else 0.0
    driftless = _driftless_z(trades, policy)
    return Odds(len(fires), len(fires) - len(mine), lost, expected, z, float(norm.sf(z)), np.clip(chance, 0.0, 1.0),
                influence, driftless, float(norm.sf(driftless)))


def _driftless_z(trades: Trades, policy: Policy) -> float:
    """Return the z of losers among fired trades that have stop and take profit, under gambler's ruin."""
    take, stop = _take_r(trades), trades.side * (trades.stop_ticks - trades.entry_ticks) / trades.risk_ticks
    mine = policy.fired & (trades.take_ticks != MISSING) & (trades.stop_ticks != MISSING)
    chance = np.clip((take[mine] - policy.fill_gain_r[mine]) / (take[mine] - stop[mine]), 0.0, 1.0)
    spread = float(np.sqrt((chance * (1.0 - chance)).sum()))
    return float(((trades.y[mine] < 0) - chance).sum() / spread) if spread > 0 else 0.0
