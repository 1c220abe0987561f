"""The fourteen fields a model is given of the market, in seconds on trades; `v1` is what the earlier system said."""

import math

import numpy as np

from engine.analysis.earlier import earlier
from engine.analysis.moment import View, known, reading, short
from engine.analysis.tape import MINUTE_NS, NS, Candle, between, body, candle_of
from engine.kernel import records as R

MOMENTUM_S, VELOCITY_S, VOLATILITY_S, BASELINE_S = 10, 5, 60, 180
SURGE = 2.0  # volume against its baseline
OUTLIER_Z, OUTLIER_BPS = 4.0, 0.5
FIELDS = (
    "binance_price",
    "micro_momentum",
    "feed_health",
    "price_velocity",
    "volume_acceleration",
    "price_trend_10s",
    "price_volatility",
    "volume_surge",
    "momentum_acceleration",
    "divergence_vs_mt5",
    "last_candle_color",
    "last_candle_size",
    "wicks.upper_wick_ratio",
    "wicks.lower_wick_ratio",
)


def enrich(view: View) -> dict:
    """Return `binance_enrichment`: every field under its literal name, with unit, window, cover, count and age."""
    v1 = earlier(view)
    fields = {
        "binance_price": _price(view),
        "micro_momentum": _momentum(view),
        "feed_health": health(view),
        "price_velocity": _velocity(view),
        "volume_acceleration": _acceleration(view),
        "price_trend_10s": _trend(view),
        "price_volatility": volatility(view),
        "volume_surge": _surge(view),
        "momentum_acceleration": _momentum_change(view),
        "divergence_vs_mt5": _divergence(view),
        **_candle(view),
    }
    for name, value in v1.items():
        target = fields["wicks"][name.partition(".")[2]] if name.startswith("wicks.") else fields[name]
        target["v1"] = value
    return fields


def path(view: View, window_s: float, step_s: float = 1.0) -> np.ndarray | None:
    """Return last trade prices in ticks at steps that end now, oldest first; None when the window is not covered."""
    if view.tape_reason(window_s):
        return None
    whens = view.now_ns - (np.arange(round(window_s / step_s), -1, -1) * round(step_s * NS))
    places = np.searchsorted(view.trades["recv_ns"], whens, "right") - 1
    if places[0] < 0 or view.trades["recv_ns"][places[0]] < view.core.tape_from_ns:
        return None
    return view.trades["price_ticks"][places]


def _why(view: View, window_s: float) -> str:
    return view.tape_reason(window_s) or f"no trade is recorded at or before {window_s:g} s ago"


def _facts(view: View, window_s: float, n: int | None = None) -> dict:
    """Return what a number over a window of trades rests on."""
    count = len(view.trades_of(window_s)) if n is None else n
    return {
        "window_s": window_s,
        "covered_s": view.covered_s(window_s),
        "n": count,
        "age_ms": view.age_ms(view.market.trade_ns),
    }


def _price(view: View) -> dict:
    last = view.market.last_ticks
    value = view.price(last) if known(last) and view.core.tape_from_ns != R.MISSING else None
    made = reading(
        None if value is None else 0.0,
        view.unit,
        _why(view, 0),
        age_ms=view.age_ms(view.market.trade_ns),
        n=1 if value else None,
    )
    if value is not None:
        made["value"] = value  # exact: a price is not rounded
    return made


def health(view: View) -> dict:
    """Return the state of each feed and the worst that follows from it: healthy, warning, critical."""
    market = view.market
    limit_ms = view.pair.stale_ns / 1e6
    top_age = view.age_ms(market.top_ns)
    troubles = []
    if view.core.tape_from_ns == R.MISSING:
        troubles.append("trades are absent or broken")
    if not market.mid_ok or top_age is None or top_age > limit_ms:
        troubles.append("no fresh best quote")
    if not market.book_ok:
        troubles.append("the book is not in sync or was not recorded")
    if view.quoted and (not known(market.quote_ns) or view.now_ns - market.quote_ns > view.pair.quote_stale_ns):
        troubles.append("no fresh broker quote")
    lost = view.core.tape_from_ns == R.MISSING or not market.mid_ok
    value = "critical" if lost else "warning" if troubles else "healthy"
    ages = {
        "trades_age_ms": view.age_ms(market.trade_ns),
        "top_age_ms": top_age,
        "book_age_ms": view.age_ms(market.book_ns),
        "mt5_age_ms": view.age_ms(market.quote_ns),
    }
    return {
        "value": value,
        "unit": "state",
        "troubles": troubles,
        **{name: age for name, age in ages.items() if age is not None},
    }


def _move(view: View, window_s: float, skip_s: float = 0.0) -> tuple[int, int] | None:
    """Return the price in ticks at the start and the end of a window that ended some seconds ago."""
    ends = path(view, window_s + skip_s, window_s if skip_s == 0 else math.gcd(int(window_s), int(skip_s)))
    if ends is None:
        return None
    last = -1 if skip_s == 0 else -1 - round(skip_s / math.gcd(int(window_s), int(skip_s)))
    return int(ends[0]), int(ends[last])


def _percent(ends: tuple[int, int] | None) -> float | None:
    return None if ends is None else (ends[1] - ends[0]) / ends[0] * 100.0


def _momentum(view: View) -> dict:
    return reading(
        _percent(_move(view, MOMENTUM_S)),
        "% over 10 s",
        _why(view, MOMENTUM_S),
        **_facts(view, MOMENTUM_S),
        slope_pct_per_s=_slope(view),
    )


def _slope(view: View) -> float | None:
    prices = path(view, MOMENTUM_S)
    return (
        None
        if prices is None
        else short(np.polyfit(np.arange(len(prices)), prices - prices[0], 1)[0] / prices.mean() * 100.0)
    )


def _velocity(view: View) -> dict:
    ends = _move(view, VELOCITY_S)
    value = None if ends is None else float(view.tick * (ends[1] - ends[0])) / VELOCITY_S
    bps = None if ends is None else short((ends[1] - ends[0]) / ends[0] * 10_000.0 / VELOCITY_S)
    return reading(value, f"{view.unit}/s", _why(view, VELOCITY_S), bps_per_s=bps, **_facts(view, VELOCITY_S))


def _volumes(view: View) -> tuple[float, float] | None:
    """Return lots a second of the last 10 s and of the 180 s before them."""
    if view.tape_reason(MOMENTUM_S + BASELINE_S):
        return None
    recent = int(view.trades_of(MOMENTUM_S)["qty_lots"].sum()) / MOMENTUM_S
    return recent, int(view.trades_of(BASELINE_S, MOMENTUM_S)["qty_lots"].sum()) / BASELINE_S


def _volume_ratio(view: View) -> float | None:
    volumes = _volumes(view)
    return None if volumes is None or volumes[1] == 0 else volumes[0] / volumes[1]


def _acceleration(view: View) -> dict:
    window = MOMENTUM_S + BASELINE_S
    reason = view.tape_reason(window) or "nothing was traded in the 180 s before, so there is nothing to compare with"
    return reading(
        _volume_ratio(view), "volume/s of 10 s over that of the 180 s before", reason, **_facts(view, window)
    )


def _surge(view: View) -> dict:
    ratio = _volume_ratio(view)
    window = MOMENTUM_S + BASELINE_S
    return reading(
        None if ratio is None else ratio > SURGE,
        "true when volume_acceleration > 2",
        view.tape_reason(window) or "nothing was traded in the 180 s before",
        **_facts(view, window),
    )


def volatility(view: View) -> dict:
    """Return the standard deviation of one-second log returns of the last minute."""
    prices = path(view, VOLATILITY_S)
    value = None if prices is None else float(np.diff(np.log(prices)).std()) * 10_000.0
    return reading(value, "bps per 1 s", _why(view, VOLATILITY_S), **_facts(view, VOLATILITY_S))


def _trend(view: View) -> dict:
    """Rising when the last third of 10 s lies over the first by more than half a spread and half of what is usual."""
    rows = view.trades_of(MOMENTUM_S)
    usual = volatility(view)["value"]
    whens = view.now_ns - np.array([MOMENTUM_S, MOMENTUM_S * 2 / 3, MOMENTUM_S / 3, 0]) * NS
    edges = np.searchsorted(rows["recv_ns"], whens.astype(np.int64), "right")
    first, last = rows["price_ticks"][edges[0] : edges[1]], rows["price_ticks"][edges[2] : edges[3]]
    reason, value, change, limit = view.tape_reason(VOLATILITY_S), None, None, None
    if usual is None:
        reason = reason or "volatility is not known"
    elif not len(first) or not len(last):
        reason = "no trade in the first or in the last third of the 10 s"
    elif reason is None:
        change = (float(last.mean()) / float(first.mean()) - 1.0) * 10_000.0
        spread = (
            (view.market.ask_ticks - view.market.bid_ticks) * 10_000.0 / float(last.mean())
            if view.market.mid_ok
            else 0.0
        )
        limit = max(0.5 * spread, 0.5 * usual * math.sqrt(MOMENTUM_S * 2 / 3))
        value = "RISING" if change > limit else "FALLING" if change < -limit else "FLAT"
    return reading(
        value,
        "RISING|FALLING|FLAT",
        reason,
        change_bps=None if change is None else short(change),
        limit_bps=None if limit is None else short(limit),
        **_facts(view, MOMENTUM_S, len(rows)),
    )


def _momentum_change(view: View) -> dict:
    recent, before = _percent(_move(view, MOMENTUM_S)), _percent(_move(view, MOMENTUM_S, MOMENTUM_S))
    value = None if recent is None or before is None else recent - before
    return reading(
        value,
        "percentage points: 10 s against the 10 s before",
        _why(view, 2 * MOMENTUM_S),
        **_facts(view, 2 * MOMENTUM_S),
    )


def _divergence(view: View) -> dict:
    """True when the broker stands off the venue by more than its own usual offset explains, both quotes fresh."""
    market = view.market
    reason = None
    if not known(market.quote_ns):
        reason = "no broker quote is recorded"
    elif view.now_ns - market.quote_ns > view.pair.quote_stale_ns or not market.mid_ok:
        reason = "the broker's or the venue's quote is stale"
    elif not known(market.basis_bps):
        reason = "the usual offset is not known before 10 s of both quotes"
    unit = "true when the residual is over 4 robust deviations and 0.5 bp"
    if reason:
        return reading(None, unit, reason, age_ms=view.age_ms(market.quote_ns))
    scale = float(view.tick) / float(view.pair.quote_tick_size)
    ratio = (market.quote_bid_ticks + market.quote_ask_ticks) / (scale * market.mid2)
    residual = (ratio - 1.0) * 10_000.0 - market.basis_bps
    deviation = 1.4826 * market.basis_mad_bps
    return reading(
        bool(abs(residual) > max(OUTLIER_Z * deviation, OUTLIER_BPS)),
        unit,
        residual_bps=short(residual),
        offset_bps=short(market.basis_bps),
        z=short(residual / deviation) if deviation else None,
        n=int(min(view.core.basis_count, R.BASIS)),
        age_ms=view.age_ms(market.quote_ns),
    )


def last_closed_minute(view: View) -> tuple[Candle | None, str]:
    """Return the last whole minute of venue time before now, or the reason it is not known."""
    rows = view.trades
    if view.core.tape_from_ns == R.MISSING or not len(rows):
        return None, "no trade was recorded yet, or the trade stream is broken"
    newest = int(rows["event_ns"][-1])
    if newest == R.MISSING:
        return None, "the trades carry no venue time"
    # receive time runs after venue time: a minute has ended when time or a trade is past it
    start = max(newest, view.now_ns - NS) // MINUTE_NS * MINUTE_NS - MINUTE_NS
    first = between(rows, int(view.core.tape_from_ns) - 1, view.now_ns)
    if not len(first) or int(first["event_ns"][0]) > start + NS or view.core.tape_from_ns > start + NS:
        return None, "the last closed minute is not wholly recorded"
    found = candle_of(rows, start, start + MINUTE_NS)
    return found, "nothing was traded in the last closed minute"


def _candle(view: View) -> dict:
    candle, reason = last_closed_minute(view)
    color, size, upper, lower = body(candle) if candle else (None, None, None, None)
    facts = (
        {}
        if candle is None
        else {
            "window_s": 60,
            "covered_s": 60.0,
            "n": candle.trades,
            "age_ms": round((view.now_ns - candle.start_ns - MINUTE_NS) / 1e6, 3),
        }
    )
    flat = "the minute had one price only, so it has no wicks" if candle else reason
    return {
        "last_candle_color": reading(color, "GREEN|RED|FLAT, last closed minute", reason, **facts),
        "last_candle_size": reading(size, "LARGE|MEDIUM|SMALL|DOJI: body over range", reason, **facts),
        "wicks": {
            "upper_wick_ratio": reading(upper, "share of the range", flat, **facts),
            "lower_wick_ratio": reading(lower, "share of the range", flat, **facts),
        },
    }
