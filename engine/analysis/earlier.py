"""What the earlier system would have said of the market: counted in pushes of its feed, not in seconds."""

import numpy as np

from engine.analysis.moment import View, short
from engine.analysis.tape import MINUTE_NS, NS, Candle, between, body, candle_of, price_at
from engine.kernel import records as R

PUSH_S = 2  # its feed pushed the running one-minute candle every two seconds


def _thirds(prices: np.ndarray) -> tuple[float, float]:
    third = len(prices) // 3
    return float(prices[:third].mean()), float(prices[-third:].mean())


def earlier(view: View) -> dict:
    """Return the earlier system's values, on pushes that end now; None where its history was too short."""
    prices, volumes = _pushes(view, 30)
    n = len(prices)
    tick = float(view.tick)

    def slope(part: np.ndarray) -> float:
        return float(np.polyfit(np.arange(len(part)), part, 1)[0] / part.mean() * 100.0)

    def rise() -> float:
        first, last = _thirds(prices[-10:])
        return (last / first - 1.0) * 100.0

    v1 = {
        "price_velocity": short((prices[-1] - prices[-5]) * tick / 5) if n >= 5 else None,
        "micro_momentum": short(slope(prices[-10:])) if n >= 10 else None,
        "price_trend_10s": ("RISING" if rise() > 0.05 else "FALLING" if rise() < -0.05 else "FLAT")
        if n >= 10
        else None,
        "price_volatility": short(prices.std() / prices.mean() * 100.0) if n >= 30 else None,
        "momentum_acceleration": short(slope(prices[15:]) - slope(prices[:15])) if n >= 30 else None,
        "volume_acceleration": None,
        "volume_surge": None,
    }
    if n >= 20 and volumes[-20:-10].mean() > 0:
        v1["volume_acceleration"] = short((volumes[-10:].mean() / volumes[-20:-10].mean() - 1.0) * 100.0)
    if n >= 10:
        v1["volume_surge"] = bool(volumes[-3:].mean() > 2 * volumes[-10:-3].mean())
    forming = _forming(view, view.now_ns - PUSH_S * NS)
    if forming is not None:
        color, size, upper, lower = body(forming)
        v1 |= {
            "last_candle_color": "RED" if color == "FLAT" else color,
            "last_candle_size": size,
            "wicks.upper_wick_ratio": None if upper is None else short(upper),
            "wicks.lower_wick_ratio": None if lower is None else short(lower),
        }
    return v1


def _forming(view: View, when_ns: int) -> Candle | None:
    """Return the candle of the running minute as it stood at a time: what the earlier system took for the last one."""
    rows = between(view.trades, 0, when_ns)
    return candle_of(rows, when_ns // MINUTE_NS * MINUTE_NS, when_ns + 1)


def _pushes(view: View, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return close and volume since the minute's open, as pushed every two seconds, oldest first."""
    start = view.core.tape_from_ns
    rows = between(view.trades, int(start) - 1 if start != R.MISSING else view.now_ns, view.now_ns)
    total = np.concatenate([[0], np.cumsum(rows["qty_lots"])])
    prices, volumes = [], []
    for back in range(most):
        when = view.now_ns - back * PUSH_S * NS
        price = price_at(rows, when)
        if price is None:
            break
        low, high = np.searchsorted(rows["recv_ns"], [when // MINUTE_NS * MINUTE_NS - 1, when], "right")
        prices.append(price)
        volumes.append(float(total[high] - total[low]))
    return np.array(prices[::-1], float), np.array(volumes[::-1], float)
