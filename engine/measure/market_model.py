"""The null market: clustered taker flow, and a price that answers only the part of it nobody could foresee.

Signs persist (a Markov chain), sizes are heavy-tailed, activity clusters; one step of the price is

    step = impact * weight * (s - E[s | past]) + noise + planted drift

so every rule sees real flow, whales and impact, while no causal rule has an edge: given the past, the surprise has
mean zero, and so has the noise (Madhavan, Richardson and Roomans 1997; Lillo and Farmer 2004).

The price has to stay a martingale on the tick grid. Rounding the price, in whatever way, does not do it: what was
rounded away now comes back later, so a tick up would foretell a tick down. Here each *step* is rounded, up or down at
random with the chances that keep its mean (`floor(step + U)`), and the price is the sum of whole steps. The spread is
symmetric about the price and the book is drawn from noise that knows no future step, so the mid is an exact
martingale whatever a rule looks at. Prints do not deplete the displayed quantities, and the noise of the book does
not move the price.
"""

import hashlib
import math
import re
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.measure.plants import FlowEffects, Plant, Rate

NOISE_SHARE = 0.3              # share of updates that move without a trade's help; the rest only change sizes
SPREAD_CHANCES = (0.85, 0.95)  # cumulative chances that the spread is 1, 3 or 5 ticks
BEST_MEDIAN_LOTS = 2_000
BEST_LOG_SIGMA = 0.8
ACTIVITY_MEMORY = 0.98         # of the log activity, from one second to the next
SIZE_CAP_Q999 = 3.0            # an unplanted print is at most this many times the 99.9 % quantile
NORMAL_Q999 = 3.090232306167813
_NS = 1_000_000_000


def instrument(symbol: str) -> Instrument:
    """Return the venue instrument all generated prices are written for."""
    return Instrument(symbol, "binance_usdm", "0.10", "0.001", 2, 3, "given")


@dataclass(frozen=True)
class MarketConfig:
    """Everything a generated session depends on; equal configurations give equal files."""

    seed: int = 1
    duration_s: float = 1800.0
    symbol: str = "BTCUSDT"
    broker_symbol: str = "BTCUSD"
    start_ns: int = 1_789_977_600_000_000_000   # 2026-09-21 08:00 UTC
    start_price: str = "60000.00"
    sigma_bps_per_sqrt_s: float = 0.8
    flow_persistence: float = 0.7          # chance that a print has the side of the one before
    impact_share: float = 0.5              # share of price variance that comes from flow
    trades_per_s: float = 20.0
    quotes_per_s: float = 40.0             # best quotes, those that follow a trade included
    frames_per_s: float = 10.0             # depth messages
    level_updates_per_side: int = 12       # levels redrawn in each depth message
    activity_log_sigma: float = 0.4        # slow swings of all arrival rates; 0 = steady
    size_median_lots: int = 20
    size_log_sigma: float = 1.6
    feed_latency_ms: float = 8.0           # least; an exponential part of a quarter of it comes on top
    snapshot_after_s: float = 1.0
    resync_after_s: float = 2.0            # a new snapshot this long after a fault that breaks the chain
    broker_lag_ms: float = 100.0           # behind the venue as received here
    broker_quotes_per_s: float = 5.0
    broker_spread_bps: float = 2.5         # constant: a spread that comes back would be an edge
    basis_bps: float = 3.0
    basis_wander_bps_per_sqrt_s: float = 0.01
    broker_stale_per_hour: float = 6.0     # spells of 2 to 8 s without a broker quote
    broker_offset_hours: int = 2           # broker server time minus UTC
    plants: tuple[Plant, ...] = field(default=())
    rates: tuple[Rate, ...] = field(default=())

    def __post_init__(self):
        positive = ("duration_s", "sigma_bps_per_sqrt_s", "trades_per_s", "frames_per_s", "level_updates_per_side",
                    "size_median_lots", "size_log_sigma", "broker_quotes_per_s", "broker_spread_bps", "resync_after_s")
        for name in positive:
            _require(getattr(self, name) > 0, name, getattr(self, name), "be above 0")
        for name in ("seed", "activity_log_sigma", "feed_latency_ms", "snapshot_after_s", "broker_lag_ms",
                     "basis_wander_bps_per_sqrt_s", "broker_stale_per_hour"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "be 0 or more")
        _require(0.0 < self.flow_persistence < 1.0, "flow_persistence", self.flow_persistence, "lie between 0 and 1")
        _require(0.0 <= self.impact_share <= 1.0, "impact_share", self.impact_share, "lie in [0, 1]")
        _require(self.quotes_per_s > self.trades_per_s, "quotes_per_s", self.quotes_per_s, "be above trades_per_s")
        _require(self.frames_per_s <= 100, "frames_per_s", self.frames_per_s, "be at most 100")
        _require((self.duration_s - self.snapshot_after_s) * self.frames_per_s >= 10, "duration_s", self.duration_s,
                 f"leave room for 10 depth messages after the snapshot at {self.snapshot_after_s:g} s")
        for name in ("symbol", "broker_symbol"):
            _require(getattr(self, name).isalnum(), name, repr(getattr(self, name)), "be letters and digits")
        _require(self.start_ns % 1_000_000 == 0, "start_ns", self.start_ns, "be a whole millisecond")
        range_bps = 6 * self.sigma_bps_per_sqrt_s * math.sqrt(self.duration_s)
        _require(range_bps < 2_000, "sigma_bps_per_sqrt_s", self.sigma_bps_per_sqrt_s,
                 f"keep six standard deviations of the session ({range_bps:.0f} bps) under 2000 bps")
        _require(re.fullmatch(r"\d+(\.\d+)?", self.start_price) is not None, "start_price", repr(self.start_price),
                 "be decimal text such as 60000.00")
        _require(self.start_ticks >= 10_000, "start_price", self.start_price, "be at least 1000.00")
        for plant in self.plants:
            plant.check(self.duration_s)
        for rate in self.rates:
            rate.check(self.duration_s)

    @property
    def start_ticks(self) -> int:
        """Price of the first quote, in ticks."""
        return instrument(self.symbol).price_ticks(self.start_price)

    @property
    def bp_ticks(self) -> float:
        """Ticks in one basis point of the start price; all distances use it, so steps add up exactly."""
        return self.start_ticks / 10_000

    @property
    def sigma_ticks(self) -> float:
        """Standard deviation of one second of price, in ticks."""
        return self.sigma_bps_per_sqrt_s * self.bp_ticks

    @property
    def size_q999_lots(self) -> float:
        """The 99.9 % quantile of unplanted print sizes, in lots."""
        return self.size_median_lots * math.exp(NORMAL_Q999 * self.size_log_sigma)

    @property
    def impact_ticks(self) -> float:
        """Price step in ticks of one unit of surprise by a print of median size."""
        surprise = 1 - (2 * self.flow_persistence - 1) ** 2
        mean_weight2 = math.exp(self.size_log_sigma**2 / 2)
        return self.sigma_ticks * math.sqrt(self.impact_share / (self.trades_per_s * mean_weight2 * surprise))

    @property
    def usd_per_lot(self) -> Fraction:
        """Value of one lot at the start price."""
        return Fraction(self.start_price) * Fraction(instrument(self.symbol).lot_size)

    def stream(self, purpose: str) -> np.random.Generator:
        """Return the random numbers kept for one purpose; how many are taken does not touch those of another."""
        key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, key])))


def _require(good: bool, name: str, value: object, rule: str) -> None:
    if not good:
        raise BadInput(f"market setting {name} is {value}; it must {rule}")


@dataclass(frozen=True)
class PricePath:
    """All updates of the best quote in order, one row each; a row with side != 0 begins with a print."""

    time_ns: np.ndarray
    side: np.ndarray           # taker side of the print, 0 for a change of quotes alone
    qty_lots: np.ndarray
    trade_ticks: np.ndarray    # price of the print: the opposite best before it
    plant: np.ndarray          # index of the plant that made the row, -1 for the market's own
    bid_ticks: np.ndarray      # best quotes after the row
    ask_ticks: np.ndarray
    bid_lots: np.ndarray
    ask_lots: np.ndarray

    def row_at(self, time_ns: np.ndarray | int) -> np.ndarray | int:
        """Return the last row at or before a time."""
        return np.maximum(np.searchsorted(self.time_ns, time_ns, side="right") - 1, 0)


def simulate(config: MarketConfig, effects: FlowEffects) -> PricePath:
    """Draw the whole session's flow and price."""
    trade_ns = _arrivals(config, "trade times", config.trades_per_s)
    quote_ns = _arrivals(config, "quote times", config.quotes_per_s - config.trades_per_s)
    quote_ns = np.concatenate([[config.start_ns], quote_ns])   # the first quote, before anything happens
    time_ns = np.concatenate([trade_ns, quote_ns])
    order = np.argsort(time_ns, kind="stable")
    side, qty_lots, step = (np.zeros(len(time_ns), kind) for kind in (np.int64, np.int64, np.float64))
    side[:len(trade_ns)], qty_lots[:len(trade_ns)], step[:len(trade_ns)] = _flow(config, effects, trade_ns)
    time_ns, side, qty_lots, step = time_ns[order], side[order], qty_lots[order], step[order]
    step += _noise(config, len(step))
    step[0] = 0.0
    rounding = config.stream("rounding").random(len(step))
    plant = np.full(len(step), -1)
    extra = effects.prints()
    at = np.searchsorted(time_ns, extra["time_ns"], side="right")
    base = np.insert(np.arange(len(step)), at, at - 1)     # a planted print keeps the spread and sizes it finds
    names = ("time_ns", "side", "qty_lots", "step", "rounding", "plant")
    time_ns, side, qty_lots, step, rounding, plant = (
        np.insert(own, at, extra[name]) for own, name in zip((time_ns, side, qty_lots, step, rounding, plant), names))
    step[1:] += np.diff(effects.drift_ticks(time_ns))
    price = config.start_ticks + np.cumsum(np.floor(step + rounding).astype(np.int64))
    return _quotes(config, time_ns, side, qty_lots, plant, price, base)


def _arrivals(config: MarketConfig, purpose: str, per_s: float) -> np.ndarray:
    """Return Poisson arrival times in ns, their rate swinging with the activity all streams share."""
    seconds = math.ceil(config.duration_s)
    shocks = config.stream("activity").standard_normal(seconds) * config.activity_log_sigma
    level, levels = shocks[0], []
    for shock in shocks.tolist():
        level = ACTIVITY_MEMORY * level + math.sqrt(1 - ACTIVITY_MEMORY**2) * shock
        levels.append(level)
    knots = np.minimum(np.arange(seconds + 1), config.duration_s)
    rate = per_s * np.exp(np.array(levels) - config.activity_log_sigma**2 / 2)
    total = np.concatenate([[0.0], np.cumsum(rate * np.diff(knots))])
    waits = config.stream(purpose).exponential(size=int(total[-1] + 10 * math.sqrt(total[-1]) + 50))
    clock = np.cumsum(waits)
    times_s = np.interp(clock[clock < total[-1]], total, knots)
    return config.start_ns + 1 + (times_s * _NS).astype(np.int64)


def _flow(config: MarketConfig, effects: FlowEffects,
          trade_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return side, size in lots and price step in ticks of the market's own prints."""
    normal = config.stream("sizes").standard_normal(len(trade_ns))
    lots = np.minimum(config.size_median_lots * np.exp(config.size_log_sigma * normal),
                      SIZE_CAP_Q999 * config.size_q999_lots)
    bias, memory, growth = effects.flow_at(trade_ns)
    pull = (2 * config.flow_persistence - 1) * memory
    sides, surprises, last = [], [], 1
    draws = config.stream("signs").random(len(trade_ns))
    for draw, lean, keep in zip(draws.tolist(), bias.tolist(), pull.tolist()):
        expected = max(-0.95, min(0.95, keep * last + lean))
        last = 1 if draw < (1 + expected) / 2 else -1
        sides.append(last)
        surprises.append(last - expected)
    weight = np.sqrt(lots / config.size_median_lots)       # drawn apart from the side: the mean of the step stays zero
    qty_lots = np.maximum(1, np.rint(lots * growth)).astype(np.int64)
    return np.array(sides, np.int64), qty_lots, config.impact_ticks * weight * np.array(surprises)


def _noise(config: MarketConfig, rows: int) -> np.ndarray:
    """Return price steps in ticks that no trade explains."""
    draw = config.stream("noise")
    scale = config.sigma_ticks * math.sqrt((1 - config.impact_share) / (config.quotes_per_s * NOISE_SHARE))
    return np.where(draw.random(rows) < NOISE_SHARE, draw.standard_normal(rows) * scale, 0.0)


def _quotes(config, time_ns, side, qty_lots, plant, price, base) -> PricePath:
    """Put best quotes around the price and let each print meet the quote before it."""
    rows = int(base.max()) + 1
    draw = config.stream("best quotes")
    widen = np.searchsorted(SPREAD_CHANCES, draw.random(rows), side="right")
    widen[0] = 0
    half = widen[base]
    bid_ticks, ask_ticks = price - half, price + 1 + half
    best = []
    for _ in range(2):
        fresh = draw.random(rows) < 0.5
        fresh[0] = True
        drawn = BEST_MEDIAN_LOTS * np.exp(BEST_LOG_SIGMA * draw.standard_normal(rows))
        held = np.maximum.accumulate(np.where(fresh, np.arange(rows), 0))
        best.append(np.maximum(1, np.rint(drawn[held])).astype(np.int64)[base])
    before_bid = np.concatenate([bid_ticks[:1], bid_ticks[:-1]])
    before_ask = np.concatenate([ask_ticks[:1], ask_ticks[:-1]])
    trade_ticks = np.where(side > 0, before_ask, before_bid)
    return PricePath(time_ns, side, qty_lots, trade_ticks, plant, bid_ticks, ask_ticks, best[0], best[1])
