"""Trades on random walks with stop -1R and take profit +1R, and rules that know nothing."""

from dataclasses import dataclass

import numpy as np

from engine.kernel.records import CLOSE, MISSING, PARTIAL, TIGHTEN
from engine.measure.inference import generator
from engine.measure.outcomes import Policy, Trades
from engine.measure.paths import END_STOP, END_TAKE, END_TIME, Path, simulate_exits

STEP_NS = 1_000_000_000
RISK = 16                      # ticks; a step is one tick, so a trade lasts 256 steps on average
LONGEST = 1500
GAP = 8                        # steps from the last of a trade to the next entry
START_TICKS = 100_000
EPOCH_NS = 1_700_000_000 * STEP_NS


@dataclass
class Walks:
    """n trades, each on its own walk: result by step in ticks for the position, and step of the baseline's exit."""

    trades: Trades
    paths: list
    x: np.ndarray              # n x (LONGEST + 1)
    end: np.ndarray


def make(rng: np.random.Generator, n: int = 300, up=0.5, take: int = RISK, sessions: int = 1, spread: int = 0) -> Walks:
    """Return trades, half of them short, on quotes whose exit price is the walk, the other side `spread` away."""
    x = np.zeros((n, LONGEST + 1), np.int64)
    steps = np.where(rng.random((n, LONGEST)) < up, 1, -1)
    steps[rng.random(n) < 0.5, 0] = 0      # else all trades of one age are on even ticks, or all on odd ones
    x[:, 1:] = np.cumsum(steps, axis=1)
    x -= spread
    side = np.where(np.arange(n) % 2 == 0, 1, -1)
    span = LONGEST + 1 + GAP
    session = np.arange(n) * sessions // n
    place = np.arange(n) - np.searchsorted(session, session)
    open_ns = EPOCH_NS + (session * 10**6 + place * span) * STEP_NS
    exit_price = START_TICKS + side[:, None] * x
    full = np.concatenate([exit_price, np.repeat(exit_price[:, -1:], GAP, axis=1)], axis=1)
    times = open_ns[:, None] + np.arange(span) * STEP_NS
    bid = np.where(side[:, None] > 0, full, full - spread)
    mine = [session == s for s in range(sessions)]
    paths = [[Path(times[rows].ravel(), bid[rows].ravel(), bid[rows].ravel() + spread)] for rows in mine]
    stop, takes = START_TICKS - side * RISK, START_TICKS + side * take
    deadline = open_ns + LONGEST * STEP_NS
    close, price, end = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    for path, rows in zip(paths, mine):
        close[rows], price[rows], end[rows] = simulate_exits(path[0], side[rows], open_ns[rows], stop[rows],
                                                             takes[rows], deadline[rows])
    assert set(end) <= {END_STOP, END_TAKE, END_TIME}
    zeros = np.zeros(n)
    trades = Trades(session, np.zeros(n, np.int64), np.arange(1, n + 1), side, open_ns, np.full(n, START_TICKS),
                    np.full(n, RISK), stop, takes, deadline, close, side * (price - START_TICKS) / RISK, end, zeros,
                    zeros, np.full(n, spread / RISK))
    return Walks(trades, paths, x, (close - open_ns) // STEP_NS)


def skilled(seed: int, n: int = 600, up: float = 0.44, steps: int = 40) -> tuple[Walks, np.ndarray]:
    """Return trades half of which meet a signal that price then follows against them, and the signal's step."""
    at = generator(seed, "signal").geometric(1 / 300, n)
    step = np.arange(LONGEST)
    drifts = (step >= at[:, None]) & (step < at[:, None] + steps)
    return make(generator(seed, "skill"), n, np.where(drifts, up, 0.5)), at


def close_at(walks: Walks, step: np.ndarray, latency: int = 0, share: float = 1.0,
             stop_ticks: int | None = None) -> Policy:
    """Return the policy that decides at a step of each trade (-1: never) and acts `latency` steps later, naively."""
    trades, n = walks.trades, len(walks.trades)
    acted = (step >= 0) & (step < walks.end)
    fill = step + latency
    fired = acted & (fill < walks.end)
    gain = walks.x[np.arange(n), np.clip(fill, 0, LONGEST)]
    y = np.where(fired, share * gain / RISK + (1 - share) * trades.y, trades.y)
    close = np.where(fired & (share == 1.0), trades.open_ns + fill * STEP_NS, trades.close_ns)
    action = CLOSE if share == 1.0 else PARTIAL
    if stop_ticks is not None:
        action = TIGHTEN
        y, close = trades.y.copy(), trades.close_ns.copy()
        for i in np.flatnonzero(fired):
            level = gain[i] - stop_ticks
            fired[i] = level > -RISK
            later = np.flatnonzero(walks.x[i, fill[i]:walks.end[i]] <= level)
            if fired[i] and len(later):
                y[i] = walks.x[i, fill[i] + later[0]] / RISK
                close[i] = trades.open_ns[i] + (fill[i] + later[0]) * STEP_NS
    missing = np.full(n, MISSING)
    return Policy(y, acted, fired, np.where(acted, trades.open_ns + step * STEP_NS, missing),
                  np.where(fired, trades.open_ns + fill * STEP_NS, missing), np.where(fired, gain / RISK, np.nan),
                  np.where(acted, action, 0), np.where(fired, stop_ticks or 0, missing),
                  np.where(fired & (action == PARTIAL), share, np.nan), close, np.where(acted, 0, -1))


def first(hits: np.ndarray) -> np.ndarray:
    """Return the first step at which each trade's condition holds, -1 where it never does."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def coin_flip(walks: Walks, rng: np.random.Generator, chance: float = 1 / 300) -> np.ndarray:
    """Exit at a random step."""
    return rng.geometric(chance, len(walks.trades))


def underwater(walks: Walks, rng=None, at: int = RISK // 2) -> np.ndarray:
    """Exit at the first touch of half the risk."""
    return first(walks.x <= -at)


def momentum(walks: Walks, rng=None, steps: int = 64) -> np.ndarray:
    """Exit when the last steps went against the position by two standard deviations."""
    hits = np.zeros(walks.x.shape, bool)
    hits[:, steps:] = walks.x[:, steps:] - walks.x[:, :-steps] <= -2 * int(np.sqrt(steps))
    return first(hits)


def give_back(walks: Walks, rng=None, ticks: int = RISK // 2) -> np.ndarray:
    """Exit when half a risk is given back after half a risk was won."""
    peak = np.maximum.accumulate(walks.x, axis=1)
    return first((peak >= ticks) & (peak - walks.x >= ticks))


RULES = {"coin": coin_flip, "underwater": underwater, "momentum": momentum, "give_back": give_back}
