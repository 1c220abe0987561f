"""Owner of the kernel's arrays: feed events, take decisions and fills, snapshot and restore."""

from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from operator import itemgetter
from pathlib import Path

import numpy as np

from engine.link import KERNEL, link
from engine.rules import MODES, Choice, blank

_ORDER = (
    "market core constants ladders levels pending windows slots slot running sweeps sweep_counts samples basis ordered bins usual history "
    "below medians scratch positions active active_count states defaults params modes settings latches actions occasions stops "
    "shares decisions fills counts"
).split()
_PASSED = itemgetter(*_ORDER)
_OUTPUTS = {"decisions", "fills", "counts"}


@dataclass(frozen=True)
class Pair:
    """What the kernel needs to know of one venue symbol and the broker symbol it leads."""

    symbol: str
    tick_size: str
    lot_size: str
    quote_tick_size: str
    strict_chain: bool
    stale_ns: int = 10_000_000_000
    quote_stale_ns: int = 5_000_000_000
    medium_usd: int = 100_000
    large_usd: int = 500_000
    whale_usd: int = 1_000_000
    wall_usd: int = 500_000
    min_volume: int = 1            # volume steps: smallest that may stay or be closed


@dataclass(frozen=True)
class Settings:
    """How orders become fills in one variant."""

    latency_ns: int = 250_000_000
    entry_latency_ns: int = 250_000_000
    cooldown_ns: int = 1_000_000_000
    min_stop_step_ticks: int = 1
    simulate: bool = True
    slippage_ticks: int = 0
    retry_ns: int = 5_000_000_000


def _constants(R, pairs: list[Pair]) -> np.ndarray:
    rows = np.zeros(len(pairs), R.SYMBOL)
    for row, pair in zip(rows, pairs, strict=True):
        per_usd = 1 / (Fraction(pair.tick_size) * Fraction(pair.lot_size))
        row.ticklots_per_usd = float(per_usd)
        for name in ("medium", "large", "whale", "wall"):
            row[f"{name}_ticklots"] = -int(-getattr(pair, f"{name}_usd") * per_usd // 1)
        row.strict_chain = pair.strict_chain
        row.stale_ns = pair.stale_ns
        row.quote_stale_ns = pair.quote_stale_ns
        row.min_volume = pair.min_volume
        row.quote_ticks_per_tick = float(Fraction(pair.tick_size) / Fraction(pair.quote_tick_size))
    return rows


def _core(R, n: int) -> np.ndarray:
    rows = np.zeros(n, R.CORE)
    for name in (
        "top_id",
        "tape_from_ns",
        "mid_from_ns",
        "last_trade_id",
        "sample_ns",
        "sample_mid2",
        "second_ns",
        "high2",
        "low2",
        "quote_from_ns",
    ):
        rows[name] = R.MISSING
    return rows


def _market(layout, n: int) -> np.ndarray:
    rows = np.zeros(n, layout.MARKET)
    rows[:] = blank(layout.MARKET)
    for name in ("seq", "kind", "mid_ok", "tape_ok", "book_ok", "basis_ok", "cvd_lots", "whale_prints", "whale_sweeps"):
        rows[name] = 0
    for side in ("bid", "ask"):
        rows[side]["void_count"] = 0
        rows[side]["thin_count"] = 0
    return rows


def _joined(parts: list[np.ndarray], nothing: np.ndarray) -> np.ndarray:
    return np.concatenate(parts) if len(parts) > 1 else parts[0] if parts else nothing


class Run:
    """One compiled loop with its state: the same object in replay and live."""

    def __init__(
        self,
        pairs: list[Pair],
        variants: list[list[Choice]],
        settings: list[Settings],
        *,
        slots: int = 64,
        interpreted: bool = False,
        kernel: Path = KERNEL,
    ):
        self.rules = [choice.rule for choice in variants[0]]
        self.module, self.folder = link(self.rules, kernel)
        self._loop = self.module.run.py_func if interpreted else self.module.run
        # the linked kernel's own layouts: an archived run keeps its own
        R, layout = (import_module(f"{self.module.__package__}.{name}") for name in ("records", "market"))
        n, v, r = len(pairs), len(variants), len(self.rules)
        votes = self.module.__dict__["ask_rules"].__globals__
        outputs = max(4096, 2 * v * slots * max(r, 4))
        a = self.arrays = {
            "market": _market(layout, n),
            "core": _core(R, n),
            "constants": _constants(R, pairs),
            "ladders": np.full((n, 2), 0, R.LADDER),
            "levels": np.zeros((n, 2, 2, R.LEVELS), np.int64),
            "pending": np.zeros((n, R.PENDING), R.PENDING_ROW),
            "windows": np.zeros((n, R.N_WINDOWS, R.N_WINDOW), np.int64),
            "slots": np.zeros((n, R.SLOTS, R.N_SLOT), np.int64),
            "slot": np.zeros((n, R.N_SUMS), np.int64),
            "running": np.zeros((n, 2), R.SWEEP),
            "sweeps": np.zeros((n, R.SWEEPS), np.uint8),
            "sweep_counts": np.zeros((n, R.BUCKETS), np.int64),
            "samples": np.zeros((n, R.SAMPLES, 2), np.int64),
            "basis": np.zeros((n, R.BASIS), np.int64),
            "ordered": np.zeros((n, R.BASIS), np.int64),
            "bins": np.zeros((n, 2, R.BINS), np.int64),
            "usual": np.zeros((n, 2, R.BINS, R.BUCKETS + 1), np.int64),
            "history": np.zeros((n, 2, R.REFERENCE, R.BINS), np.uint8),
            "below": np.zeros((n, 2, R.BINS), np.int64),
            "medians": np.zeros((n, 2, R.BINS), np.int64),
            "scratch": np.zeros(R.BINS, np.int64),
            "positions": np.zeros((v, slots), layout.POSITION),
            "active": np.zeros((v, slots), np.int64),
            "active_count": np.zeros(v, np.int64),
            "states": np.zeros((v, slots), votes["STATE"]),
            "defaults": np.zeros(1, votes["STATE"]),
            "params": np.zeros(v, votes["PARAMS"]),
            "modes": np.zeros((v, r), np.int64),
            "settings": np.zeros(v, R.SETTINGS),
            "latches": np.zeros((v, slots, r, 5), np.int64),
            "actions": np.zeros(r, np.int64),
            "occasions": np.zeros(r, np.int64),
            "stops": np.zeros(r, np.int64),
            "shares": np.zeros(r),
            "decisions": np.zeros(outputs, layout.DECISION),
            "fills": np.zeros(max(4096, 4 * v * slots), layout.FILL),
            "counts": np.zeros(2, np.int64),
        }
        for side in ("bid_ticks", "ask_ticks", "cover_low", "cover_high", "last_id"):
            a["ladders"][side] = R.MISSING
        self._pack(variants, settings)
        self._nothing = a["decisions"][:0].copy(), a["fills"][:0].copy()

    def _pack(self, variants: list[list[Choice]], settings: list[Settings]) -> None:
        """Write rules' parameters, entry states, modes and settings into the arrays."""
        a = self.arrays
        for rule in self.rules:
            entry = rule.module.State()
            for name, _ in rule.state_fields:
                a["defaults"][rule.name][name] = getattr(entry, name, 0)
        for v, choices in enumerate(variants):
            for r, choice in enumerate(choices):
                a["modes"][v, r] = MODES[choice.mode]
                for name, _ in choice.rule.params_fields:
                    a["params"][choice.rule.name][name][v] = getattr(choice.params, name, 0)
            for name in a["settings"].dtype.names:
                a["settings"][name][v] = getattr(settings[v], name)

    def feed(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fold EVENT rows in order; return the decisions and the fills they caused."""
        decisions, fills = [], []
        arrays = _PASSED(self.arrays)
        counts, at, total = self.arrays["counts"], 0, len(events)
        while True:
            counts[0] = counts[1] = 0
            reached = self._loop(events, at, total, *arrays)
            decided, filled = counts.tolist()
            if decided:
                decisions.append(self.arrays["decisions"][:decided].copy())
            if filled:
                fills.append(self.arrays["fills"][:filled].copy())
            if reached == total:
                return _joined(decisions, self._nothing[0]), _joined(fills, self._nothing[1])
            if reached == at and not decided and not filled:
                raise RuntimeError("the kernel cannot go on: an output buffer is too small for one event")
            at = reached

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return a copy of all state."""
        return {name: array.copy() for name, array in self.arrays.items() if name not in _OUTPUTS}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Put back a state taken by `snapshot` of a Run of the same shape."""
        for name, array in state.items():
            self.arrays[name][...] = array
