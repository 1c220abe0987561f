"""Order flow at one moment: pressure of the tape, imbalance of the book, whales, voids, and one signed score."""

import numpy as np

from engine.analysis.moment import View, known, reading, short
from engine.analysis.tape import NS, TIERS, sweeps
from engine.errors import BadInput
from engine.kernel import records as R

WINDOWS = {"M5": 30, "M15": 180, "H1": 600, "H4": 3600}
LEAST_S, LONGEST_S = 1, 3600
WHALES_S = 60  # shortest look back for large orders
BOOK_NOW_S = 60  # windows shorter than this take the book as it stands
# points of the earlier system's score, and where a part counts in full: twice the limit at which that system counted it
POINTS = {"imbalance": 30.0, "whales": 25.0, "pressure": 25.0}
FULL = {"imbalance": 2 * 0.3 / 2.3, "whales": 2 * 0.2, "pressure": 2 * 0.2}
SIDE_FROM = 35.0  # of 100: two parts at the earlier system's limits
NOT_CALIBRATED = "no calibration of this window on this venue was published before this recording; tapeguard measure makes one"
NAMES = {1: "BULLISH", 0: "NEUTRAL", -1: "BEARISH"}


def window_of(asked: int | float | str) -> int:
    """Return a window in seconds from seconds or one of the aliases M5, M15, H1, H4."""
    if isinstance(asked, str) and asked.strip().upper() in WINDOWS:
        return WINDOWS[asked.strip().upper()]
    try:
        seconds = int(asked)
        if isinstance(asked, bool) or seconds != float(asked):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise BadInput(
            f"window {str(asked)[:40]!r} is no whole number of seconds and none of {', '.join(WINDOWS)}"
        ) from None
    if not LEAST_S <= seconds <= LONGEST_S:
        raise BadInput(f"window {seconds} s is not between {LEAST_S} and {LONGEST_S} s, which is what is kept")
    return seconds


def side_of(score: float | None) -> int | None:
    """Return +1, 0 or -1 of a signed score, None of an unknown one."""
    return None if score is None else 1 if score >= SIDE_FROM else -1 if score <= -SIDE_FROM else 0


def score(parts: dict[str, float | None]) -> float | None:
    """Return the continuous score, -100 to 100: the earlier points, each growing with its part; None without pressure.

    It is no probability. Parts that are not known are left out and the rest weighs in their place.
    """
    if parts.get("pressure") is None:
        return None
    there = {name: value for name, value in parts.items() if value is not None}
    total = sum(POINTS[name] for name in there)
    return short(
        100.0 * sum(POINTS[name] * max(-1.0, min(1.0, value / FULL[name])) for name, value in there.items()) / total
    )


def share(buys: float, sells: float) -> float | None:
    """Return (buys - sells) / both, None of nothing."""
    return None if buys + sells == 0 else (buys - sells) / (buys + sells)


def _pressure(view: View, window_s: int) -> dict:
    """Taker buys against taker sells over the window."""
    reason = view.tape_reason(window_s)
    sums = view.window(window_s)
    buys, sells, trades = (int(sums[column]) for column in (R.BUY, R.SELL, R.TRADES))
    facts = {
        "window_s": window_s,
        "covered_s": view.covered_s(window_s),
        "n": trades if reason is None else None,
        "age_ms": view.age_ms(view.market.trade_ns),
    }
    if reason is None and not trades:
        reason = f"nothing was traded in {window_s} s"
    if reason:
        return reading(None, "(buys - sells) / both", reason, **facts)
    lot = float(view.lot)
    ratio = buys / sells if sells else None
    made = reading(
        share(buys, sells),
        "(buys - sells) / both",
        **facts,
        ratio=None if ratio is None else short(ratio),
        net_base=short((buys - sells) * lot),
        net_usd=round(int(sums[R.BUY_VALUE] - sums[R.SELL_VALUE]) * view.usd_per_ticklot),
    )
    made["dominant"] = "BUY" if ratio is None or ratio > 1.2 else "SELL" if ratio < 0.8 else "NEUTRAL"
    return made


def _imbalance(view: View, window_s: int) -> dict:
    """Quantity of five levels, bids against asks: now, or the mean of one-second samples over a longer window."""
    unit = "(bids - asks) / both, 5 levels"
    if not view.market.book_ok or not known(view.market.top5_imbalance):
        return reading(
            None, unit, "the book is not in sync or was not recorded", age_ms=view.age_ms(view.market.book_ns)
        )
    if window_s < BOOK_NOW_S:
        value = float(view.market.top5_imbalance)
        return reading(value, unit, ratio=_ratio(value), window_s=0, n=1, age_ms=view.age_ms(view.market.book_ns))
    rows = view.book_samples(view.now_ns - window_s * NS, view.now_ns)
    if len(rows) < 0.9 * window_s:
        return reading(
            None, unit, f"the book is known at {len(rows)} of {window_s} seconds", window_s=window_s, n=len(rows)
        )
    value = float(rows.mean())
    return reading(value, unit, ratio=_ratio(value), window_s=window_s, covered_s=float(len(rows)), n=len(rows))


def _ratio(value: float) -> float | None:
    return short((1.0 + value) / (1.0 - value)) if value < 1.0 else None


def tier_of(view: View, ticklots: int) -> str | None:
    """Return the tier of a sweep's value: medium from 100,000 USD, large from 500,000, whale from 1,000,000."""
    row = view.moment.run.arrays["constants"][view.number]
    return next((tier for tier in reversed(TIERS) if ticklots >= row[f"{tier}_ticklots"]), None)


def recent_whales(view: View, min_size: str = "medium", window_s: float = WHALES_S) -> list[dict]:
    """Return the sweeps of a tier and above, newest first."""
    if min_size not in TIERS:
        raise BadInput(f"size {str(min_size)[:40]!r} is not known; known: {', '.join(TIERS)}")
    found = []
    for row in sweeps(view.trades_of(window_s))[::-1]:
        tier = tier_of(view, int(row["qty_lots"]))
        if tier is not None and TIERS.index(tier) >= TIERS.index(min_size):
            found.append(
                {
                    "id": int(row["id"]),
                    "side": "BUY" if row["side"] > 0 else "SELL",
                    "usd_value": round(int(row["qty_lots"]) * view.usd_per_ticklot),
                    "price": view.price(row["price_ticks"]),
                    "tier": tier,
                    "prints": int(row["hole"]),
                    "age_ms": view.age_ms(row["recv_ns"]),
                }
            )
    return found


def _whales(view: View, window_s: int) -> dict:
    """Large taker orders of the window, by tier; a tape without any has a known zero."""
    window = max(WHALES_S, window_s)
    reason = view.tape_reason(window)
    facts = {"window_s": window, "covered_s": view.covered_s(window), "age_ms": view.age_ms(view.market.trade_ns)}
    unit = "(buy USD - sell USD) / both, sweeps from 100,000 USD"
    if reason:
        return {**reading(None, unit, reason, **facts), "tiers": None, "activity": None}
    found = recent_whales(view, "medium", window)
    tiers = {
        tier: {
            f"{side.lower()}_{what}": (
                sum(1 for each in found if each["tier"] == tier and each["side"] == side)
                if what == "n"
                else sum(each["usd_value"] for each in found if each["tier"] == tier and each["side"] == side)
            )
            for side in ("BUY", "SELL")
            for what in ("n", "usd")
        }
        for tier in TIERS
    }
    buys, sells = (sum(each["usd_value"] for each in found if each["side"] == side) for side in ("BUY", "SELL"))
    value = share(buys, sells)
    made = reading(0.0 if value is None else value, unit, n=len(found), net_usd=buys - sells, **facts)
    return {**made, "tiers": tiers, "activity": activity(buys, sells)}


def activity(buys_usd: float, sells_usd: float) -> str:
    """Return ACCUMULATING, DISTRIBUTING or NEUTRAL of large orders: three to two is the limit."""
    value = share(buys_usd, sells_usd)
    return "NEUTRAL" if value is None or abs(value) <= 0.2 else "ACCUMULATING" if value > 0 else "DISTRIBUTING"


def voids(view: View) -> dict:
    """Return the nearest void of each side, and whom it harms: bids missing below are adverse to a BUY."""
    made = {}
    for number, (side, adverse, favourable) in enumerate((("bid", "BUY", "SELL"), ("ask", "SELL", "BUY"))):
        row = view.market[side]
        samples = view.moment.run.arrays["usual"][view.number, number, :, R.BUCKETS]
        if not view.market.book_ok:
            made[side] = reading(None, "void", "the book is not in sync or was not recorded")
        elif not known(row.depth_5bps_lots):
            made[side] = reading(None, "void", "the book is not recorded 5 bps deep on this side")
        elif int(samples[1]) < 60:
            made[side] = reading(
                None, "void", f"the usual depth is not known before 60 s of book; there are {int(samples[1])}"
            )
        elif not known(row.void_near_bps):
            made[side] = {
                "value": "none",
                "unit": "void",
                "n": int(samples[1]),
                "age_ms": view.age_ms(view.market.book_ns),
            }
        else:
            sign = -1 if side == "bid" else 1
            near, far = (
                view.price(view.market.mid2) / 2 * (1 + sign * bps / 10_000)
                for bps in (row.void_near_bps, row.void_far_bps)
            )
            made[side] = {
                "value": "void",
                "unit": "void",
                "near_bps": short(row.void_near_bps),
                "far_bps": short(row.void_far_bps),
                "price_from": round(min(near, far), 8),
                "price_to": round(max(near, far), 8),
                "missing_share": short(row.void_deficit),
                "lots_before": short(row.void_cost_lots),
                "stood_ms": round(row.void_age_ns / 1e6),
                "n": int(samples[1]),
                "age_ms": view.age_ms(view.market.book_ns),
                "adverse_to": adverse,
                "favourable_to": favourable,
            }
    return made


def earlier_score(view: View) -> dict:
    """Return the earlier system's signal and points, 0, 50, 55 or 80, by its own unequal limits."""
    market = view.market
    need = {"book": market.top5_imbalance, "pressure": market.imbalance_30s, "whales": market.big_buys_60s}
    absent = [name for name, value in need.items() if not known(value)]
    if absent:
        return {"signal": None, "score": None, "reason": f"{', '.join(absent)} not known"}
    ratio, pressure = (
        (1 + value) / (1 - value) if value < 1 else np.inf for value in (market.top5_imbalance, market.imbalance_30s)
    )
    buys, sells = int(market.big_buys_60s), int(market.big_sells_60s)
    bull = 30 * (ratio > 1.3) + 25 * (buys > 1.5 * sells) + 25 * (pressure > 1.5)
    bear = 30 * (ratio < 0.7) + 25 * (sells > 1.5 * buys) + 25 * (pressure < 0.67)
    points = int(max(bull, bear))
    if bull == bear or points < 50:
        return {"signal": "NEUTRAL", "score": 0}
    return {"signal": "BULLISH" if bull > bear else "BEARISH", "score": points}


def _called(view: View, window_s: int, value: float | None) -> dict:
    """Return what the score may be called, by the calibration published before this recording, and its share when it may."""
    found = view.calibration
    if found is None or found["window_s"] != window_s:
        return {"called": "score", "called_reason": NOT_CALIBRATED}
    if found["called"] == "score":
        return {"called": "score", "called_reason": found["reason"]}
    made = {"called": found["called"], "calibration": {name: found[name] for name in ("brier", "judged_n", "horizon_s")}}
    if value:
        bin_ = next(each for each in found["bins"] if abs(value) <= each["to"])
        made["probability"] = reading(
            bin_["share"],
            f"share of calls of this size after which the mid went the score's way in {found['horizon_s']} s",
            "no call of this size was judged",
            n=bin_["n"],
            ci95=bin_["ci95"],
        )
    return made


def order_flow_signal(view: View, window: int | str = 30) -> dict:
    """Return side, score, and the parts it rests on; the earlier score stands beside it under `v1`."""
    window_s = window_of(window)
    parts = {
        "imbalance": _imbalance(view, window_s),
        "whales": _whales(view, window_s),
        "pressure": _pressure(view, window_s),
    }
    value = score({name: part["value"] for name, part in parts.items()})
    side = side_of(value)
    made = {
        "symbol": view.symbol,
        "window_s": window_s,
        "side": side,
        "signal": None if side is None else NAMES[side],
        "score": value,
        "confidence": None if value is None else abs(value),
        "unit": "score -100..100, no probability",
        **_called(view, window_s, value),
        "parts": parts,
        "missing": [name for name, part in parts.items() if part["value"] is None],
        "whale_activity": parts["whales"]["activity"],
        "pressure_side": parts["pressure"].get("dominant"),
        "v1": earlier_score(view),
    }
    if value is None:
        made["reason"] = parts["pressure"]["reason"]
    alias = next((name for name, seconds in WINDOWS.items() if seconds == window_s), None)
    return {**made, "alias": alias} if alias else made


def several(view: View) -> dict:
    """Return `order_flow_mtf`: one signal for each window, named by its seconds, with the earlier names as aliases."""
    return {f"s{seconds}": order_flow_signal(view, seconds) for seconds in WINDOWS.values()}
