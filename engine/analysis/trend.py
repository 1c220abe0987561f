"""Where order flow is going: four closed readings of a window, and what became of them."""

import numpy as np

from engine.analysis.moment import View, short
from engine.analysis.order_flow import NAMES, POINTS, activity, score, share, side_of, window_of
from engine.analysis.tape import NS, between, sweeps
from engine.errors import BadInput
from engine.kernel import records as R

READINGS = 4
SCORE_STEP = 10.0  # of 100: less is steady
PRESSURE_STEP = 0.1


def _reading(view: View, from_ns: int, to_ns: int) -> dict:
    """Return the parts of one closed reading."""
    sums = view.sums(from_ns, to_ns)
    rows = sweeps(between(view.trades, from_ns, to_ns))
    large = rows[rows["qty_lots"] >= view.moment.run.arrays["constants"][view.number]["medium_ticklots"]]
    buys, sells = (int(large["qty_lots"][large["side"] == side].sum()) * view.usd_per_ticklot for side in (1, -1))
    book = view.book_samples(from_ns, to_ns)
    enough = len(book) >= 0.9 * (to_ns - from_ns) / NS - 1
    whales = share(buys, sells)
    parts = {
        "imbalance": float(book.mean()) if enough and len(book) else None,
        "whales": 0.0 if whales is None else whales,
        "pressure": share(int(sums[R.BUY]), int(sums[R.SELL])),
    }
    return {"parts": parts, "score": score(parts), "n": int(sums[R.TRADES]), "buys_usd": buys, "sells_usd": sells}


def _closed(view: View, window_s: int) -> tuple[list[dict], str | None]:
    """Return the four readings that end with the newest closed 100 ms slot, or the reason there are none."""
    last = view.closed_ns
    if last is None or view.core.tape_from_ns == R.MISSING:
        return [], "no trade was recorded yet, or the trade stream is broken"
    start = last - window_s * NS
    if view.core.tape_from_ns > start:
        covered = max(0.0, (last - int(view.core.tape_from_ns)) / NS)
        return [], f"only {covered:.3f} of {window_s} s of trades are recorded without a hole"
    step = window_s * NS // READINGS
    found = [_reading(view, start + number * step, start + (number + 1) * step) for number in range(READINGS)]
    if any(each["score"] is None for each in found):
        return [], f"nothing was traded in one of the {READINGS} readings"
    return found, None


def _way(values: list[float], step: float, words: tuple[str, str, str]) -> str:
    """Return the first word when the last half is a step over the first, the third when under, else the second."""
    change = float(np.mean(values[READINGS // 2 :]) - np.mean(values[: READINGS // 2]))
    return words[0] if change > step else words[2] if change < -step else words[1]


def order_flow_trend(view: View, window: int | str = 300) -> dict:
    """Return trend, whale_activity_trend, imbalance_trend and pressure_trend of a window."""
    window_s = window_of(window)
    if window_s < 4 * READINGS:
        raise BadInput(f"window {window_s} s is too short for {READINGS} readings; give at least {4 * READINGS}")
    found, reason = _closed(view, window_s)
    base = {
        "symbol": view.symbol,
        "window_s": window_s,
        "reading_s": window_s / READINGS,
        "covered_s": view.covered_s(window_s),
        "n": sum(each["n"] for each in found) if found else None,
        "age_ms": view.age_ms(view.market.trade_ns),
    }
    if reason:
        return {
            **base,
            "side": None,
            "trend": None,
            "whale_activity_trend": None,
            "imbalance_trend": None,
            "pressure_trend": None,
            "pressure_side": None,
            "reason": reason,
        }
    scores = [each["score"] for each in found]
    pressures = [each["parts"]["pressure"] for each in found]
    books = [each["parts"]["imbalance"] for each in found]
    side = side_of(float(np.mean(scores)))
    towards = 0 if abs(np.mean(pressures)) < 0.1 else 1 if np.mean(pressures) > 0 else -1
    trend = NAMES[side]
    if side:
        trend = f"{_way([side * each for each in scores], SCORE_STEP, ('INCREASINGLY', 'STEADY', 'WEAKENING'))}_{trend}"
    pressure = "STEADY"
    if towards:
        pressure = _way([towards * each for each in pressures], PRESSURE_STEP, ("STRENGTHENING", "STEADY", "WEAKENING"))
    made = {
        **base,
        "side": side,
        "trend": trend,
        "whale_activity_trend": activity(
            sum(each["buys_usd"] for each in found), sum(each["sells_usd"] for each in found)
        ),
        "imbalance_trend": [
            None if each is None else short((1 + each) / (1 - each), 4) if each < 1 else None for each in books
        ],
        "pressure_trend": pressure,
        "pressure_side": {1: "BUY", 0: "NEUTRAL", -1: "SELL"}[towards],
        "pressures": [short(each, 4) for each in pressures],
        "scores": [short(each, 4) for each in scores],
        "whales_net_usd": [round(each["buys_usd"] - each["sells_usd"]) for each in found],
        "units": {
            "imbalance_trend": "bids / asks of 5 levels, mean of a reading",
            "pressures": "(buys - sells) / both",
            "scores": f"-100..100, points {' '.join(f'{name} {points:g}' for name, points in POINTS.items())}",
            "whales_net_usd": "USD of sweeps from 100,000",
        },
    }
    if any(each is None for each in books):
        made["imbalance_reason"] = "the book is not in sync or was not recorded in every reading"
    return made
