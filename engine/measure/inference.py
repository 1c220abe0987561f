"""How sure a mean change is, and what many tries take away from it (methodology 5, 7.4, 7.5).

Every function is pure; randomness comes from the generator passed in, made by `generator` from a seed and a purpose.
"""

import hashlib
from dataclasses import dataclass
from itertools import combinations
from math import e, sqrt

import numpy as np
from scipy.stats import norm

from engine.errors import BadInput

LEAST_CLUSTERS = 8             # fewer sessions than this are no sample of sessions
DETECTABLE = 2.8               # standard errors: two-sided 5 %, power 80 %


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a generator of its own for each seed and purpose, so that adding one draw changes no other."""
    digest = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, "<u8")))


def p_values(observed: float, null: np.ndarray) -> tuple[float, float]:
    """Return the permutation p, one-sided (greater) and two-sided; never 0 (Phipson and Smyth). A NaN is a hit."""
    # a sum in another order must not decide a tie
    slack = 1e-12 * max(1.0, abs(observed))
    greater = (1 + int(np.sum(~(null < observed - slack)))) / (1 + len(null))
    less = (1 + int(np.sum(~(null > observed + slack)))) / (1 + len(null))
    return greater, min(1.0, 2.0 * min(greater, less))


@dataclass(frozen=True)
class Interval:
    """A mean over trades with 95 % (or `level`) bounds; NaN where the sample cannot tell."""

    mean: float
    low: float                 # percentile bootstrap
    high: float
    low_t: float               # bootstrap-t: the one to print when the sample is skewed
    high_t: float
    standard_error: float      # of the mean, clustered
    minimum_detectable: float
    clusters: int
    method: str                # sessions | blocks | none


def _clusters(session: np.ndarray, open_ns: np.ndarray, longest_ns: int) -> tuple[np.ndarray, str]:
    """Return the cluster number of each trade in order of time, and what a cluster is.

    A block of entries is as long as the longest holding time, so that only neighbouring blocks share prices.
    """
    sessions, number = np.unique(session, return_inverse=True)
    if len(sessions) >= LEAST_CLUSTERS:
        return number, "sessions"
    block = (open_ns - open_ns.min()) // max(int(longest_ns), 1)
    _, number = np.unique(np.stack([number, block]), axis=1, return_inverse=True)
    return number.ravel(), "blocks"


def _ratio(sums: np.ndarray, counts: np.ndarray, chained: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and clustered standard error over the last axis: cluster sums over cluster counts.

    Chained: neighbours may share prices, and their covariance is added.
    """
    size = sums.shape[-1]
    total = counts.sum(axis=-1)
    mean = sums.sum(axis=-1) / total
    away = sums - mean[..., None] * counts
    spread = (away**2).sum(axis=-1)
    if chained:
        spread = spread + 2.0 * np.maximum((away[..., 1:] * away[..., :-1]).sum(axis=-1), 0.0)
    return mean, np.sqrt(spread * size / max(size - 1, 1)) / total


def _resample(size: int, draws: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Return draws x size places: stationary bootstrap of mean block length `length` (1: independent), in a circle."""
    starts = rng.integers(size, size=(draws, size))
    if length <= 1.0:
        return starts
    fresh = rng.random((draws, size)) < 1.0 / length
    fresh[:, 0] = True
    since = np.arange(size) - np.maximum.accumulate(np.where(fresh, np.arange(size), 0), axis=1)
    return (np.take_along_axis(starts, np.arange(size) - since, 1) + since) % size


def mean_interval(values: np.ndarray, session: np.ndarray, open_ns: np.ndarray, close_ns: np.ndarray,
                  rng: np.random.Generator, draws: int = 2000, level: float = 0.95) -> Interval:
    """Return the mean of a column of trades with bounds that respect what trades share; NaN values are left out.

    Sessions are resampled when there are at least LEAST_CLUSTERS, else blocks of entry time by the stationary bootstrap
    (Politis and Romano) with runs of n^(1/3) blocks, at least two. Fewer than three clusters: no bounds.
    """
    kept = ~np.isnan(values)
    values, session, open_ns = values[kept], session[kept], open_ns[kept]
    nothing = [np.nan] * 6
    if not len(values):
        return Interval(np.nan, *nothing, 0, "none")
    number, method = _clusters(session, open_ns, int((close_ns[kept] - open_ns).max()))
    sums, counts = np.bincount(number, values), np.bincount(number).astype(float)
    if len(sums) < 3:
        return Interval(float(values.mean()), *nothing, len(sums), "none")
    chained = method == "blocks"
    mean, error = (float(x) for x in _ratio(sums, counts, chained))
    places = _resample(len(sums), draws, max(2.0, len(sums) ** (1 / 3)) if chained else 1.0, rng)
    means, errors = _ratio(sums[places], counts[places], chained)
    tails = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    low, high = (float(x) for x in np.quantile(means, tails))
    useful = errors > 0
    low_t, high_t = np.nan, np.nan
    if useful.mean() > 0.9:
        t_low, t_high = np.quantile((means[useful] - mean) / errors[useful], tails)
        low_t, high_t = float(mean - t_high * error), float(mean - t_low * error)
    return Interval(mean, low, high, low_t, high_t, error, minimum_detectable(error), len(sums), method)


def minimum_detectable(standard_error: float, factor: float = DETECTABLE) -> float:
    """Return the least true mean that would be found four times in five."""
    return factor * standard_error


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for all of them being looked at (Holm)."""
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    return adjusted


def wilson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson interval of a share; (0, 1) of nothing."""
    if count == 0:
        return 0.0, 1.0
    z = norm.ppf((1.0 + level) / 2.0)
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def expected_max_z(tries: int) -> float:
    """Return the mean of the largest of so many independent standard normals."""
    x = np.linspace(-9.0, 9.0, 20_001)
    return float(np.trapezoid(x * tries * norm.pdf(x) * norm.cdf(x) ** (tries - 1), x))


def critical_max_z(tries: int, level: float = 0.05) -> float:
    """Return what the largest of so many independent standard normals passes with probability `level`."""
    return float(norm.isf(-np.expm1(np.log1p(-level) / tries)))


@dataclass(frozen=True)
class Deflated:
    """A Sharpe ratio per period against the best one to be had from so many tries with no skill."""

    sharpe: float
    threshold: float
    probability: float         # that the true ratio is above the threshold


def deflated_sharpe(sharpe: float, periods: int, skew: float, kurtosis: float, tries: int, variance: float) -> Deflated:
    """Return the deflated Sharpe ratio (Bailey and Lopez de Prado 2014).

    `variance` is that of the ratios tried; the kurtosis of a normal is 3.
    """
    threshold = 0.0
    if tries > 1:
        gamma = 0.5772156649015329
        threshold = sqrt(variance) * ((1 - gamma) * norm.ppf(1 - 1 / tries) + gamma * norm.ppf(1 - 1 / (tries * e)))
    spread = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if periods < 2 or not spread > 0:
        return Deflated(sharpe, float(threshold), float("nan"))
    return Deflated(sharpe, float(threshold), float(norm.cdf((sharpe - threshold) * sqrt(periods - 1) / sqrt(spread))))


def deflated_sharpe_of(per_session: np.ndarray, tried: np.ndarray) -> Deflated:
    """Return the deflated Sharpe ratio of session results chosen from configurations whose ratios are `tried`."""
    x = np.asarray(per_session, float)
    centred = x - x.mean()
    scale = centred.std()
    if len(x) < 2 or not scale > 0:
        return Deflated(float("nan"), float("nan"), float("nan"))
    z = centred / scale
    variance = float(np.var(tried, ddof=1)) if len(tried) > 1 else 0.0
    return deflated_sharpe(float(x.mean() / x.std(ddof=1)), len(x), float((z**3).mean()), float((z**4).mean()),
                           len(tried), variance)


def pbo(results: np.ndarray, blocks: int = 16) -> float:
    """Return the probability of backtest overfitting, on sessions x configurations.

    Combinatorially symmetric cross-validation: the share of splits in which the configuration of best mean inside is,
    by mean outside, in the lower half; NaN when there are fewer than 4 sessions or 2 configurations.
    """
    blocks = min(blocks, len(results)) // 2 * 2
    configurations = results.shape[1]
    if blocks < 4 or configurations < 2:
        return float("nan")
    parts = np.array_split(results, blocks)
    sums, counts = np.array([part.sum(axis=0) for part in parts]), np.array([len(part) for part in parts])
    low = []
    for inside in combinations(range(blocks), blocks // 2):
        index = list(inside)
        best = int(np.argmax(sums[index].sum(axis=0) / counts[index].sum()))
        outside = (sums.sum(axis=0) - sums[index].sum(axis=0)) / (counts.sum() - counts[index].sum())
        below, ties = np.sum(outside < outside[best]), np.sum(outside == outside[best])
        low.append((below + (ties + 1) / 2) / (configurations + 1) <= 0.5)
    return float(np.mean(low))


def step_down(results: np.ndarray, rng: np.random.Generator, draws: int = 2000) -> np.ndarray:
    """Return the p-value of each configuration's mean > 0, adjusted for all of them (Romano-Wolf).

    On sessions x configurations; sessions are resampled as independent. A configuration without spread gets 1.
    """
    sessions, configurations = results.shape
    mean, error = results.mean(axis=0), results.std(axis=0, ddof=1) / sqrt(sessions)
    alive = error > 0
    t = np.where(alive, mean / np.where(alive, error, 1.0), -np.inf)
    null = np.empty((draws, configurations))
    for draw in range(draws):
        sample = results[rng.integers(sessions, size=sessions)]
        spread = sample.std(axis=0, ddof=1) / sqrt(sessions)
        t_star = (sample.mean(axis=0) - mean) / np.where(spread > 0, spread, 1.0)
        null[draw] = np.where(alive & (spread > 0), t_star, -np.inf)
    order = np.argsort(-t, kind="stable")
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]      # over those not yet judged
    adjusted = np.empty(configurations)
    adjusted[order] = np.maximum.accumulate((1 + (largest >= t[order]).sum(axis=0)) / (1 + draws))
    adjusted[~alive] = 1.0
    return adjusted


def _arch():
    """Import the package that holds SPA and StepM, or say how to get it."""
    try:
        from arch.bootstrap import SPA, StepM
    except ImportError:
        raise BadInput("SPA and StepM need the package arch, which is not installed; install it with: "
                       "pip install 'tapeguard[stats]'") from None
    return SPA, StepM


def superior(results: np.ndarray, seed: int, draws: int = 1000, block: int | None = None) -> float:
    """Return Hansen's SPA p-value (consistent) that no configuration beats doing nothing; never 0.

    On sessions x configurations of gains.
    """
    spa, _ = _arch()
    test = spa(np.zeros(len(results)), -results, reps=draws, block_size=block, seed=seed)
    test.compute()
    return (1.0 + draws * float(test.pvalues["consistent"])) / (1.0 + draws)


def superior_set(results: np.ndarray, seed: int, size: float = 0.05, draws: int = 1000,
                 block: int | None = None) -> list[int]:
    """Return the configurations that beat doing nothing by Romano-Wolf StepM at family-wise level `size`."""
    _, step_m = _arch()
    test = step_m(np.zeros(len(results)), -results, size=size, reps=draws, block_size=block, seed=seed)
    test.compute()
    return sorted(int(place) for place in test.superior_models)


def walk_forward(open_ns: np.ndarray, close_ns: np.ndarray, folds: int,
                 embargo_ns: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, test) rows of equal stretches of entries, training only on the past.

    Purged: a training trade has closed `embargo_ns` (the longest look-back of any feature) before the first test entry.
    """
    order = np.argsort(open_ns, kind="stable")
    splits = []
    for test in np.array_split(order, folds + 1)[1:]:
        if len(test):
            first_ns = open_ns[test].min()
            splits.append((np.flatnonzero((close_ns < first_ns - embargo_ns) & (open_ns < first_ns)), np.sort(test)))
    return splits


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability table."""

    forecast: float            # mean
    observed: float            # share of hits
    count: int
    low: float                 # Wilson bounds of the share
    high: float


@dataclass(frozen=True)
class Reliability:
    """Brier score = reliability - resolution + uncertainty + within (0 when each bin holds one forecast value)."""

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float
    skill: float               # 1 - brier / uncertainty: against the base rate
    bins: list[Bin]


def brier(forecast: np.ndarray, hit: np.ndarray, bins: int = 10) -> Reliability:
    """Return the Brier score with Murphy's parts, by distinct forecasts when they are few, else by equal bins."""
    forecast, hit = np.asarray(forecast, float), np.asarray(hit, float)
    if not len(forecast):
        return Reliability(*[float("nan")] * 6, [])
    values, place = np.unique(forecast, return_inverse=True)
    if len(values) > 2 * bins:
        _, place = np.unique(np.minimum((forecast * bins).astype(int), bins - 1), return_inverse=True)
    counts = np.bincount(place)
    mean, observed = np.bincount(place, forecast) / counts, np.bincount(place, hit) / counts
    share, base = counts / len(hit), hit.mean()
    score = float(((forecast - hit) ** 2).mean())
    reliability = float((share * (mean - observed) ** 2).sum())
    resolution = float((share * (observed - base) ** 2).sum())
    uncertainty = float(base * (1 - base))
    table = [Bin(float(m), float(o), int(c), *wilson(int(round(o * c)), int(c)))
             for m, o, c in zip(mean, observed, counts)]
    skill = 1 - score / uncertainty if uncertainty > 0 else float("nan")
    return Reliability(score, reliability, resolution, uncertainty, score - reliability + resolution - uncertainty,
                       skill, table)


def brier_skill(forecast: np.ndarray, hit: np.ndarray, reference: np.ndarray) -> float:
    """Return 1 - brier / brier of a reference forecast, such as the chance by state alone (`riskset.q_hat`)."""
    against = float(((np.asarray(reference, float) - hit) ** 2).mean())
    return 1.0 - float(((np.asarray(forecast, float) - hit) ** 2).mean()) / against if against > 0 else float("nan")
