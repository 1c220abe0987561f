"""The book of the synthetic market: levels around the price, the changes each depth message carries, and snapshots.

Levels stand on a grid of irregular ticks, about a thousand a side within 1.3 % of the price, plus the best prices
wherever they are. What a level holds is drawn anew when price passes it and, more often the nearer it is, at random:
its quantity is a hump in the distance times noise that is a pure function of (level, message), so a planted void or
wall changes only its own levels. Asks are computed as bids of the reflected price, so both sides are alike to the
last digit.
"""

import math
from dataclasses import dataclass

import numpy as np

from engine.measure.market_model import MarketConfig, PricePath
from engine.measure.plants import Plant, Void, Wall

SNAPSHOT_LEVELS = 1_000        # the venue's limit
COVERED_BPS = 130              # distance those levels reach
LEVELS_A_SIDE = 1_250          # levels there are; the outer ones are never in a snapshot
LOTS_PER_BP = 10_000
HUMP_BPS = 8.0
LEVEL_LOG_SIGMA = 0.7
_TABLE = 1 << 16
_NS = 1_000_000_000


@dataclass(frozen=True)
class Overlay:
    """A planted change of the levels in a closed price range, for the messages from_frame <= frame < to_frame."""

    plant: int
    side: int
    low_ticks: int
    high_ticks: int
    from_frame: int
    to_frame: int
    share: float               # of the usual quantity that is left
    lots: int                  # instead of the usual quantity, when above 0
    reached: bool = False      # price came to the wall before its time was over


@dataclass(frozen=True)
class Changes:
    """Level changes of one side ordered by (frame, price); frame -1 is the book before the first message."""

    frame: np.ndarray
    ticks: np.ndarray
    lots: np.ndarray           # new whole quantity, 0 removes the level


@dataclass(frozen=True)
class Book:
    """Depth messages: when each was made, the last row of the price path it reflects, and the changes by side."""

    frame_ns: np.ndarray
    frame_row: np.ndarray
    bids: Changes
    asks: Changes

    def snapshot(self, frame: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return prices and quantities of the nearest levels after a message, best first."""
        changes = self.bids if side > 0 else self.asks
        rows = int(np.searchsorted(changes.frame, frame, side="right"))
        order = np.lexsort((changes.frame[:rows], changes.ticks[:rows]))
        ticks = changes.ticks[order]
        last = np.append(ticks[1:] != ticks[:-1], True)
        ticks, lots = ticks[last], changes.lots[order][last]
        ticks, lots = ticks[lots > 0], lots[lots > 0]
        if side > 0:
            ticks, lots = ticks[::-1], lots[::-1]
        return ticks[:SNAPSHOT_LEVELS], lots[:SNAPSHOT_LEVELS]


def frame_times(config: MarketConfig) -> np.ndarray:
    """Return when each depth message is made, in ns: a fixed pace with up to 5 ms on top."""
    number = int(config.duration_s * config.frames_per_s)
    late_ns = config.stream("frame times").random(number) * min(5e6, 0.5 * _NS / config.frames_per_s)
    return config.start_ns + ((1 + np.arange(number)) * (_NS / config.frames_per_s) + late_ns).astype(np.int64)


class _Levels:
    """The grid of levels and what each holds; seen from the asks `mirror` is -1 and every price is negated."""

    def __init__(self, config: MarketConfig, path: PricePath):
        self.bp_ticks = config.bp_ticks
        step = max(1, math.ceil(COVERED_BPS * config.bp_ticks / SNAPSHOT_LEVELS))
        draw = config.stream("levels")
        jitter = draw.integers(0, step, 4_096)
        self.noise = np.exp(LEVEL_LOG_SIGMA * draw.standard_normal(_TABLE))
        self.median_lots = LOTS_PER_BP * step / config.bp_ticks
        reach = (LEVELS_A_SIDE + 2) * step
        number = np.arange((path.bid_ticks.min() - reach) // step, (path.ask_ticks.max() + reach) // step)
        self.ticks = number * step + jitter[number & 4_095]
        self.number = number

    def usual_lots(self, best: np.ndarray | int, ticks: np.ndarray) -> np.ndarray:
        """Return the typical quantity of levels at their distance from the best price."""
        distance = np.abs(best - ticks) / (self.bp_ticks * HUMP_BPS)
        return self.median_lots * (0.35 + distance * np.exp(1 - distance))

    def lots(self, index: np.ndarray, ticks: np.ndarray, frame: np.ndarray, best: np.ndarray,
             mirror: int) -> np.ndarray:
        """Return what levels hold when drawn at a message; the same level and message always give the same."""
        place = (self.number[index] * 40_503 + frame * 7_919 + (1 + mirror) * 31) & (_TABLE - 1)
        return np.maximum(1, np.rint(self.usual_lots(best, ticks) * self.noise[place])).astype(np.int64)


def build(config: MarketConfig, path: PricePath, plants: list[Plant]) -> tuple[Book, list[Overlay]]:
    """Return the depth messages of the session and the planted overlays in them."""
    frame_ns = frame_times(config)
    frame_row = path.row_at(frame_ns)
    levels = _Levels(config, path)
    overlays = [overlay for index, plant in enumerate(plants) if isinstance(plant, (Void, Wall))
                for overlay in [_overlay(config, path, levels, frame_ns, index, plant)]]
    sides = [_side(config, levels, path, frame_row, mirror, [overlay for overlay in overlays if overlay.side == mirror])
             for mirror in (1, -1)]
    return Book(frame_ns, frame_row, *sides), overlays


def _overlay(config: MarketConfig, path: PricePath, levels: _Levels, frame_ns: np.ndarray, index: int,
             plant: Void | Wall) -> Overlay:
    """Fix a plant to prices: those at its distance from the best price when it begins."""
    from_ns = config.start_ns + round(plant.at_s * _NS)
    to_ns = from_ns + round(plant.duration_s * _NS)
    from_frame, to_frame = np.searchsorted(frame_ns, [from_ns, to_ns]).tolist()
    row = int(path.row_at(int(frame_ns[min(from_frame, len(frame_ns) - 1)])))
    best = int(path.bid_ticks[row] if plant.side > 0 else path.ask_ticks[row])
    near = best - plant.side * round(plant.near_bps * config.bp_ticks)
    if isinstance(plant, Void):
        far = best - plant.side * round(plant.far_bps * config.bp_ticks)
        return Overlay(index, plant.side, min(near, far), max(near, far), from_frame, to_frame, plant.strength, 0)
    near = int(levels.ticks[np.argmin(np.abs(levels.ticks - near))])
    lots = round(plant.strength * float(levels.usual_lots(best, np.array([near]))[0]))
    ahead = path.bid_ticks[row:] <= near if plant.side > 0 else path.ask_ticks[row:] >= near
    end = len(frame_ns) if not plant.pulled else to_frame
    if ahead.any():
        met = int(np.searchsorted(frame_ns, path.time_ns[row + int(np.argmax(ahead))]))
        return Overlay(index, plant.side, near, near, from_frame, min(met, end), 1.0, lots, reached=met < end)
    return Overlay(index, plant.side, near, near, from_frame, end, 1.0, lots)


def _ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (frame, index) of every index in [low, high) of each frame."""
    count = np.maximum(high - low, 0)
    frame = np.repeat(np.arange(len(low)), count)
    within = np.arange(len(frame)) - np.repeat(np.cumsum(count) - count, count)
    return frame, low[frame] + within


def _side(config: MarketConfig, levels: _Levels, path: PricePath, frame_row: np.ndarray, mirror: int,
          overlays: list[Overlay]) -> Changes:
    """Return all level changes of one side; prices here are mirrored so that the book lies below `best`."""
    ticks = levels.ticks if mirror > 0 else -levels.ticks[::-1]
    number = np.arange(len(ticks)) if mirror > 0 else len(ticks) - 1 - np.arange(len(ticks))
    rows = np.concatenate([[0], frame_row])                   # place 0 is the book before the first message
    best = (path.bid_ticks if mirror > 0 else -path.ask_ticks)[rows]
    best_lots = (path.bid_lots if mirror > 0 else path.ask_lots)[rows]
    below = np.searchsorted(ticks, best, side="left")         # levels with an index under this one are in the book
    upto = np.searchsorted(ticks, best, side="right")
    was, was_below = np.concatenate([best[:1], best[:-1]]), np.concatenate([below[:1], below[:-1]])

    draw = config.stream(f"redrawn levels {mirror}")
    updates = config.level_updates_per_side
    offset = np.exp(draw.random((len(frame_row), updates)) * math.log(SNAPSHOT_LEVELS)).astype(np.int64)
    redrawn = (np.repeat(1 + np.arange(len(frame_row)), updates), (below[1:, None] - offset).ravel())
    first = (np.zeros(LEVELS_A_SIDE, np.int64), below[0] - 1 - np.arange(LEVELS_A_SIDE))
    place, index = (np.concatenate(part) for part in zip(first, redrawn, _ranges(was_below, below)))
    lots = levels.lots(number[index], ticks[index], place, best[place], mirror)
    place, index, lots = _overlaid(overlays, ticks, below, place, index, lots, mirror)

    gone_place, gone = _ranges(upto, was_below)               # levels the falling best price left outside
    left = np.flatnonzero(best != was)
    on_grid = np.isin(was[left], ticks) & (best[left] > was[left])
    left = left[~on_grid]
    new = np.flatnonzero((best != was) | (best_lots != np.concatenate([[-1], best_lots[:-1]])))
    return _ordered(np.concatenate([place, gone_place, left, new]),
                    np.concatenate([ticks[index], ticks[gone], was[left], best[new]]),
                    np.concatenate([lots, np.zeros(len(gone) + len(left), np.int64), best_lots[new]]), mirror)


def _overlaid(overlays, ticks, below, place, index, lots, mirror: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Change what planted levels hold while they last; at both ends each one is set from its own last draw."""
    spans = []
    for overlay in overlays:
        low, high = sorted((mirror * overlay.low_ticks, mirror * overlay.high_ticks))
        spans.append((overlay, np.searchsorted(ticks, low), np.searchsorted(ticks, high, side="right")))
    ends = []
    for overlay, low, high in spans:
        inside = np.flatnonzero((index >= low) & (index < high))
        for end in (overlay.from_frame + 1, overlay.to_frame + 1):
            if end >= len(below):
                continue
            rows = inside[(place[inside] <= end) & (index[inside] < below[end])]
            rows = rows[np.lexsort((place[rows], index[rows]))]
            rows = rows[np.append(index[rows][1:] != index[rows][:-1], True)] if len(rows) else rows
            ends.append((np.full(len(rows), end), index[rows], lots[rows]))
    place, index, lots = (np.concatenate(part) for part in zip((place, index, lots), *ends))
    for overlay, low, high in spans:
        hit = (place > overlay.from_frame) & (place <= overlay.to_frame) & (index >= low) & (index < high)
        lots[hit] = overlay.lots if overlay.lots else np.rint(lots[hit] * overlay.share)
    return place, index, lots


def _ordered(place: np.ndarray, ticks: np.ndarray, lots: np.ndarray, mirror: int) -> Changes:
    """Sort changes, keep one per level and message, and return true prices and frame numbers."""
    ticks = mirror * ticks
    order = np.lexsort((ticks, place))
    place, ticks, lots = place[order], ticks[order], lots[order]
    keep = np.append((place[1:] != place[:-1]) | (ticks[1:] != ticks[:-1]), True)
    return Changes(place[keep] - 1, ticks[keep], lots[keep])
