"""Planted events with known truth: whales, walls, voids, divergences, reversals, feed faults, and decoys.

Each is a frozen record; `at_s` counts from the start of the session and `side` is +1 or -1: the taker's side for
flow, the direction of the move for price, bid (+1) or ask (-1) for the book. `drift_bps` is the whole planted move
along that direction after the event, over `drift_s`; with 0 the event can be seen and is worth nothing. A plant draws
from its own random stream, so adding one leaves the rest of the session's draws as they were.
"""

import math
from dataclasses import dataclass, field, fields, replace

import numpy as np

from engine.errors import BadInput

_NS = 1_000_000_000
_PRINT_GAP_NS = 1_000          # between prints of one sweep, so that all carry the same millisecond


@dataclass(frozen=True)
class Whale:
    """A sweep of `prints` prints in one millisecond, in all `strength` times the 99.9 % quantile of print size.

    `balanced` is the decoy: the same notional with sides taking turns, so that no side was the whale.
    """

    at_s: float = 0.0
    side: int = 1
    strength: float = 10.0
    prints: int = 8
    drift_bps: float = 0.0
    drift_s: float = 30.0
    balanced: bool = False

    def check(self, duration_s: float) -> None:
        """Raise BadInput when a value makes no sense."""
        _check(self, duration_s, "strength", "drift_s")
        if not 2 <= self.prints <= 200:
            raise _wrong(self, "prints", "lie in 2..200")
        if self.balanced and self.prints % 2:
            raise _wrong(self, "prints", "be even when the sides take turns")

    def span_s(self) -> tuple[float, float]:
        """Return the seconds touched before and after `at_s`."""
        return 0.0, self.drift_s if self.drift_bps else 0.1


@dataclass(frozen=True)
class Wall:
    """A resting order `strength` times the usual level, `near_bps` from the best price; in the end pulled or left."""

    at_s: float = 0.0
    side: int = 1
    strength: float = 20.0
    near_bps: float = 3.0
    duration_s: float = 30.0
    pulled: bool = True

    def check(self, duration_s: float) -> None:
        """Raise BadInput when a value makes no sense."""
        _check(self, duration_s, "strength", "near_bps", "duration_s")

    def span_s(self) -> tuple[float, float]:
        """Return the seconds touched before and after `at_s`."""
        return 0.0, self.duration_s


@dataclass(frozen=True)
class Void:
    """Depth cut to `strength` of what it was, `near_bps` to `far_bps` beyond the best price, for `duration_s`.

    With `drift_bps`, flow leaning `flow` towards the void arrives in the last `drift_s` and carries price that far.
    """

    at_s: float = 0.0
    side: int = -1
    strength: float = 0.1
    near_bps: float = 2.0
    far_bps: float = 6.0
    duration_s: float = 20.0
    flow: float = 0.4
    drift_bps: float = 0.0
    drift_s: float = 5.0

    def check(self, duration_s: float) -> None:
        """Raise BadInput when a value makes no sense."""
        _check(self, duration_s, "near_bps", "duration_s", "drift_s")
        if not 0.0 <= self.strength < 1.0:
            raise _wrong(self, "strength", "be the share of depth left, 0 or more and below 1")
        if self.far_bps <= self.near_bps:
            raise _wrong(self, "far_bps", f"be above near_bps ({self.near_bps})")
        if self.drift_s > self.duration_s:
            raise _wrong(self, "drift_s", f"be at most duration_s ({self.duration_s})")

    def span_s(self) -> tuple[float, float]:
        """Return the seconds touched before and after `at_s`."""
        return 0.0, self.duration_s


@dataclass(frozen=True)
class Divergence:
    """Price drifts along `side` by `strength` standard deviations of its window while flow leans `flow` the other way.

    Afterwards it moves `drift_bps` back, over `drift_s`.
    """

    at_s: float = 0.0
    side: int = 1
    strength: float = 3.0
    duration_s: float = 30.0
    flow: float = 0.4
    drift_bps: float = 0.0
    drift_s: float = 30.0

    def check(self, duration_s: float) -> None:
        """Raise BadInput when a value makes no sense."""
        _check(self, duration_s, "strength", "duration_s", "drift_s")

    def span_s(self) -> tuple[float, float]:
        """Return the seconds touched before and after `at_s`."""
        return 0.0, self.duration_s + (self.drift_s if self.drift_bps else 0.0)


@dataclass(frozen=True)
class Reversal:
    """Price drifts against `side` for `duration_s` up to `at_s`, then along it for as long.

    `strength` is the drift of each way in standard deviations of the price over such a window.
    """

    at_s: float = 0.0
    side: int = -1
    strength: float = 3.0
    duration_s: float = 30.0

    def check(self, duration_s: float) -> None:
        """Raise BadInput when a value makes no sense."""
        _check(self, duration_s, "strength", "duration_s")

    def span_s(self) -> tuple[float, float]:
        """Return the seconds touched before and after `at_s`."""
        return self.duration_s, self.duration_s


@dataclass(frozen=True)
class FlowNoise:
    """Decoy: prints `strength` times larger, sides drawn by a coin: CVD swings that much wider, price moves as ever."""

    at_s: float = 0.0
    side: int = 1              # has no meaning here; every plant has one
    strength: float = 3.0
    duration_s: float = 30.0

    def check(self, duration_s: float) -> None:
        """Raise BadInput when a value makes no sense."""
        _check(self, duration_s, "strength", "duration_s")

    def span_s(self) -> tuple[float, float]:
        """Return the seconds touched before and after `at_s`."""
        return 0.0, self.duration_s


@dataclass(frozen=True)
class Fault:
    """A fault of the feed.

    `gap` drops depth messages, `duplicate` repeats them, `reorder` swaps two, `clock_jump` shifts receive time.
    `strength` is the number of messages, or for a jump its signed milliseconds, which last `duration_s`.
    """

    kind: str = "gap"
    at_s: float = 0.0
    side: int = 1              # has no meaning here; every plant has one
    strength: float = 3.0
    duration_s: float = 5.0

    def check(self, duration_s: float) -> None:
        """Raise BadInput when a value makes no sense."""
        _check(self, duration_s, "duration_s")
        if self.kind not in ("gap", "duplicate", "reorder", "clock_jump"):
            raise _wrong(self, "kind", "be gap, duplicate, reorder or clock_jump")
        if self.strength == 0 or (self.kind != "clock_jump" and (self.strength < 1 or self.strength % 1)):
            raise _wrong(self, "strength", "be a whole number of messages, or for a clock jump milliseconds, not 0")

    def span_s(self) -> tuple[float, float]:
        """Return the seconds touched before and after `at_s`."""
        return 0.0, self.duration_s


Plant = Whale | Wall | Void | Divergence | Reversal | FlowNoise | Fault


@dataclass(frozen=True)
class Rate:
    """Plants of one shape spread over the session, each in its own equal share of it, at a random time and side."""

    plant: Plant
    per_hour: float
    from_s: float = 0.0

    def check(self, duration_s: float) -> None:
        """Raise BadInput when there is no room for so many."""
        before, after = self.plant.span_s()
        replace(self.plant, at_s=before).check(duration_s)
        share_s = (duration_s - self.from_s) / max(1, self.number(duration_s))
        if self.per_hour <= 0 or before + after > share_s:
            raise BadInput(f"{self.per_hour} plants of {type(self.plant).__name__} an hour do not fit: each takes "
                           f"{before + after:g} s and has {share_s:.3g} s; give a lower, positive rate")

    def number(self, duration_s: float) -> int:
        """Return how many the session gets."""
        return round(self.per_hour * (duration_s - self.from_s) / 3600)

    def draw(self, duration_s: float, stream: np.random.Generator) -> list[Plant]:
        """Return the plants with their times and sides."""
        number = self.number(duration_s)
        before, after = self.plant.span_s()
        share_s = (duration_s - self.from_s) / max(1, number)
        at_s = self.from_s + before + share_s * np.arange(number) + stream.random(number) * (share_s - before - after)
        sides = np.where(stream.random(number) < 0.5, 1, -1)
        return [replace(self.plant, at_s=at, side=side) for at, side in zip(at_s.tolist(), sides.tolist())]


def _wrong(plant: Plant, name: str, rule: str) -> BadInput:
    return BadInput(f"{type(plant).__name__} at {plant.at_s:g} s: {name} is {getattr(plant, name)}; it must {rule}")


def _check(plant: Plant, duration_s: float, *positive: str) -> None:
    for entry in fields(plant):
        value = getattr(plant, entry.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(plant, entry.name, "be a finite number")
    for name in positive:
        if getattr(plant, name) <= 0:
            raise _wrong(plant, name, "be above 0")
    if plant.side not in (1, -1):
        raise _wrong(plant, "side", "be 1 or -1")
    before, after = plant.span_s()
    if plant.at_s < before or plant.at_s + after > duration_s:
        raise _wrong(plant, "at_s", f"leave room for {before:g} s before and {after:g} s after it in {duration_s:g} s")


PRINT = np.dtype([("time_ns", "i8"), ("side", "i8"), ("qty_lots", "i8"), ("step", "f8"), ("rounding", "f8"),
                  ("plant", "i8")])


@dataclass
class FlowEffects:
    """What the plants do to flow and price, kept apart from the market's own draws."""

    sweeps: list[np.ndarray] = field(default_factory=list)
    drifts: list[tuple[float, float, float]] = field(default_factory=list)         # from_ns, to_ns, whole move in ticks
    leans: list[tuple[float, float, float]] = field(default_factory=list)          # from_ns, to_ns, E[s] added
    storms: list[tuple[float, float, float]] = field(default_factory=list)         # from_ns, to_ns, growth of size

    def prints(self) -> np.ndarray:
        """Return the planted prints in order of time."""
        if not self.sweeps:
            return np.empty(0, PRINT)
        rows = np.concatenate(self.sweeps)
        return rows[np.argsort(rows["time_ns"], kind="stable")]

    def drift_ticks(self, time_ns: np.ndarray) -> np.ndarray:
        """Return the sum of all planted drift up to each time."""
        total = np.zeros(len(time_ns))
        for from_ns, to_ns, ticks in self.drifts:
            total += ticks * np.clip((time_ns - from_ns) / (to_ns - from_ns), 0.0, 1.0)
        return total

    def flow_at(self, time_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lean, memory (0 where sides are coin flips) and growth of size at each time."""
        lean, memory, growth = np.zeros(len(time_ns)), np.ones(len(time_ns)), np.ones(len(time_ns))
        for from_ns, to_ns, amount in self.leans:
            lean[(time_ns >= from_ns) & (time_ns < to_ns)] += amount
        for from_ns, to_ns, times in self.storms:
            inside = (time_ns >= from_ns) & (time_ns < to_ns)
            memory[inside] = 0.0
            growth[inside] *= times
        return lean, memory, growth


def all_plants(config) -> list[Plant]:
    """Return the listed plants and those drawn from the rates, in order of time."""
    drawn = [plant for index, rate in enumerate(config.rates)
             for plant in rate.draw(config.duration_s, config.stream(f"rate {index}"))]
    return sorted([*config.plants, *drawn], key=lambda plant: plant.at_s)


def flow_effects(config, plants: list[Plant]) -> FlowEffects:
    """Return what the plants do to flow and price."""
    effects = FlowEffects()
    for index, plant in enumerate(plants):
        at_ns = config.start_ns + round(plant.at_s * _NS)
        match plant:
            case Whale():
                effects.sweeps.append(_sweep(config, plant, index, at_ns))
                if plant.drift_bps and not plant.balanced:
                    _drift(effects, at_ns, plant.drift_s, plant.side * plant.drift_bps * config.bp_ticks)
            case Void() if plant.drift_bps:
                arrive_ns = at_ns + round((plant.duration_s - plant.drift_s) * _NS)
                _drift(effects, arrive_ns, plant.drift_s, -plant.side * plant.drift_bps * config.bp_ticks)
                effects.leans.append((arrive_ns, arrive_ns + plant.drift_s * _NS, -plant.side * plant.flow))
            case Divergence():
                end_ns = at_ns + round(plant.duration_s * _NS)
                window = plant.strength * config.sigma_ticks * math.sqrt(plant.duration_s)
                _drift(effects, at_ns, plant.duration_s, plant.side * window)
                effects.leans.append((at_ns, end_ns, -plant.side * plant.flow))
                if plant.drift_bps:
                    _drift(effects, end_ns, plant.drift_s, -plant.side * plant.drift_bps * config.bp_ticks)
            case Reversal():
                window = plant.side * plant.strength * config.sigma_ticks * math.sqrt(plant.duration_s)
                _drift(effects, at_ns - round(plant.duration_s * _NS), plant.duration_s, -window)
                _drift(effects, at_ns, plant.duration_s, window)
            case FlowNoise():
                effects.storms.append((at_ns, at_ns + plant.duration_s * _NS, plant.strength))
    return effects


def _drift(effects: FlowEffects, from_ns: int, seconds: float, ticks: float) -> None:
    effects.drifts.append((from_ns, from_ns + seconds * _NS, ticks))


def _sweep(config, plant: Whale, index: int, at_ns: int) -> np.ndarray:
    """Return the prints of one whale; its side is a surprise, so its impact is that of its whole size."""
    draw = config.stream(f"whale {plant}")
    total = max(plant.prints, round(plant.strength * config.size_q999_lots))
    parts = 0.5 + draw.random(plant.prints)
    lots = 1 + np.floor((total - plant.prints) * parts / parts.sum()).astype(np.int64)
    lots[0] += total - lots.sum()
    turns = np.where(np.arange(plant.prints) % 2, -1, 1) if plant.balanced else np.ones(plant.prints, np.int64)
    if plant.balanced:
        lots[:] = max(1, total // plant.prints)
    rows = np.zeros(plant.prints, PRINT)
    rows["time_ns"] = at_ns - at_ns % 1_000_000 + 1_000 + _PRINT_GAP_NS * np.arange(plant.prints)
    rows["side"] = plant.side * turns
    rows["qty_lots"] = lots
    rows["step"] = plant.side * turns * config.impact_ticks * math.sqrt(total / config.size_median_lots) / plant.prints
    rows["rounding"] = draw.random(plant.prints)
    rows["plant"] = index
    return rows
