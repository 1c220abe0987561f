"""What is left of the best of many: sums over blocks of trades, and tests that know how many were tried."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from engine.measure.inference import LEAST_CLUSTERS, generator
from engine.measure.outcomes import Trades

HOLDS = 4                      # with few sessions a block lasts this many median holding times, or the longest one
MOST_EXACT = 11                # blocks up to which every pattern of signs is tried
FLIPS = 1999
MOST_GROUPS = 10               # of blocks, for choosing on one half and looking at the other
FEWEST_GROUPS = 4
POWER_80 = 0.8416              # standard normal quantile
_TINY = 1e-9


@dataclass(frozen=True)
class Family:
    """One test for each of several means, made together."""

    t: np.ndarray              # sum over blocks by the root of the sum of squares
    p: np.ndarray              # two-sided, adjusted for all in the family
    critical: float            # of |t|, 5 % for the largest


def trade_blocks(trades: Trades) -> np.ndarray:
    """Return the block of each trade, numbered in time: its session, or with few sessions a stretch of one.

    Trades open at the same time share a price path, so a stretch is several holding times long; those across its edge
    still share one.
    """
    sessions, number = np.unique(trades.session, return_inverse=True)
    if len(sessions) >= LEAST_CLUSTERS or not len(trades):
        return number
    holds_ns = trades.close_ns - trades.open_ns
    length_ns = max(1, HOLDS * int(np.median(holds_ns)), int(holds_ns.max()))
    first_ns = np.array([trades.open_ns[number == n].min() for n in range(len(sessions))])
    stretch = (trades.open_ns - first_ns[number]) // length_ns
    return np.unique(np.stack([number, stretch]), axis=1, return_inverse=True)[1].reshape(-1)


def block_sums(values: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of `values` (set by trade) over each block (block by set), and the trades of each block."""
    count = int(blocks.max()) + 1 if len(blocks) else 0
    sums = np.zeros((count, len(values)))
    for block in range(count):
        sums[block] = values[:, blocks == block].sum(axis=1)
    return sums, np.bincount(blocks, minlength=count)


def sign_flips(sums: np.ndarray, seed: int = 1) -> Family:
    """Test every column against a mean of 0 by turning the signs of whole blocks, together for all columns.

    Step-down over the largest |t| (Romano and Wolf 2005): the dependence between the columns is kept, so nearly equal
    sets cost nearly nothing. With few blocks every pattern of signs is tried; p is never 0.
    """
    blocks, columns = sums.shape
    norm = np.sqrt((sums**2).sum(axis=0))
    scaled = np.divide(sums, norm, out=np.zeros_like(sums), where=norm > 0)
    t = scaled.sum(axis=0)
    order = np.argsort(-np.abs(t), kind="stable")
    reach, ranked = np.abs(t)[order] - _TINY, np.ascontiguousarray(scaled[:, order])
    exact = blocks <= MOST_EXACT
    total = 1 << blocks if exact else FLIPS
    drawn = generator(seed, "sign flips of a sweep")
    above, largest = np.zeros(columns, np.int64), []
    for start in range(0, total, 256):
        rows = np.arange(start, min(start + 256, total))
        bits = rows[:, None] >> np.arange(blocks) & 1 if exact else drawn.integers(0, 2, (len(rows), blocks))
        flipped = np.abs((2.0 * bits - 1.0) @ ranked)
        rest = np.maximum.accumulate(flipped[:, ::-1], axis=1)[:, ::-1]
        above += (rest >= reach).sum(axis=0)
        largest.append(rest[:, 0] if columns else np.zeros(len(rows)))
    stepped = np.maximum.accumulate(above / total if exact else (above + 1) / (total + 1))
    p = np.empty(columns)
    p[order] = stepped
    return Family(t, p, float(np.quantile(np.concatenate(largest), 0.95, method="higher")))


def minimum_detectable(sums: np.ndarray, column: int, trades: int, critical: float) -> float:
    """Return the mean that 80 in 100 such samples would find, at 5 % over the whole family."""
    return (critical + POWER_80) * float(np.sqrt((sums[:, column] ** 2).sum())) / trades


def other_half(sums: np.ndarray, counts: np.ndarray) -> float | None:
    """Choose the best column on half of the blocks, take its mean on the other half, and average over all such halves.

    This is what the winner's number shrinks to. None with too few blocks or columns.
    """
    groups = min(MOST_GROUPS, len(sums)) // 2 * 2
    if groups < FEWEST_GROUPS or sums.shape[1] < 2:
        return None
    parts = np.array_split(np.arange(len(sums)), groups)
    total = np.stack([sums[part].sum(axis=0) for part in parts])
    trades = np.array([counts[part].sum() for part in parts])
    means = []
    for chosen in combinations(range(groups), groups // 2):
        inside = np.isin(np.arange(groups), chosen)
        best = int(np.argmax(total[inside].sum(axis=0)))
        means.append(total[~inside, best].sum() / trades[~inside].sum())
    return float(np.mean(means))
