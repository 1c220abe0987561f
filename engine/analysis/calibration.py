"""What the order-flow score has been worth: how often price went its way, judged out of sample, and published."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from engine.analysis.moment import Moment, canonical, score_code, short
from engine.analysis.order_flow import order_flow_signal, window_of
from engine.analysis.symbols import resolve
from engine.analysis.tape import NS
from engine.errors import BadInput
from engine.record.store import Session, write_text_atomic

EDGES = (0.0, 20.0, 35.0, 50.0, 70.0, 100.0)  # of the score's size
LEAST = 10  # calls out of sample under which nothing is said
ENOUGH = 200  # calls out of sample before a share may be called a probability
SURE = 1.96  # standard errors by which it must beat a coin for that
WARM_UP_S = 60
FILE = "calibration.json"


@dataclass(frozen=True)
class Call:
    """One look: the score, and whether the venue's mid went its way over the time after."""

    at_ns: int
    score: float
    right: bool


def calls_of(session: Session, symbol: str, window_s: int, horizon_s: int) -> list[Call]:
    """Look once a horizon, so that no two outcomes share time; looks without a score or without a move are left out."""
    manifest = session.manifest
    first_ns, last_ns = manifest["first_recv_ns"], manifest["last_recv_ns"]
    at_ns = first_ns + WARM_UP_S * NS
    if at_ns > last_ns:
        return []
    moment = Moment.of_session(session, at_ns)
    found, held = [], None
    while at_ns <= last_ns:
        moment.advance(at_ns)
        view = moment.view(symbol)
        mid2 = int(view.market.mid2) if view.market.mid_ok else None
        if held is not None and mid2 is not None and mid2 != held[1]:
            score, before = held
            found.append(Call(at_ns - horizon_s * NS, score, (mid2 > before) == (score > 0)))
        score = order_flow_signal(view, window_s)["score"]
        held = None if not score or mid2 is None else (score, mid2)
        at_ns += horizon_s * NS
    return found


def _bin(score: float) -> int:
    size = abs(score)
    return next(place for place in range(len(EDGES) - 1) if size <= EDGES[place + 1])


def _shares(calls: list[Call]) -> list[float]:
    """Return for each bin the share of calls that were right, drawn towards a half by two calls made up."""
    counts = [[1.0, 2.0] for _ in EDGES[1:]]
    for call in calls:
        counts[_bin(call.score)][0] += call.right
        counts[_bin(call.score)][1] += 1
    return [right / total for right, total in counts]


def _interval(right: int, n: int) -> list[float] | None:
    """Return Wilson's 95 % interval of a share."""
    if n == 0:
        return None
    share, z2 = right / n, 1.96**2
    middle, half = share + z2 / (2 * n), 1.96 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return [short((middle - half) / (1 + z2 / n), 4), short((middle + half) / (1 + z2 / n), 4)]


def _apart(sessions: list[Session]) -> tuple[list[Session], list[str]]:
    """Return the sessions in order of time without those that share time with an earlier one, and the names of these."""
    kept, shared, end_ns = [], [], None
    for session in sorted(sessions, key=lambda session: (session.manifest["first_recv_ns"], session.id)):
        if end_ns is not None and session.manifest["first_recv_ns"] <= end_ns:
            shared.append(session.id)
        else:
            kept.append(session)
            end_ns = session.manifest["last_recv_ns"]
    return kept, shared


def calibrate(sessions: list[Session], symbol: str, window: int | str = 30, horizon_s: int = 30) -> dict:
    """Return reliability curve and Brier score of the order-flow score, each call judged by shares of earlier sessions.

    No call is judged by shares its own session had a part in: one session, or sessions of the same time, judge nothing.
    """
    window_s = window_of(window)
    if not 1 <= horizon_s <= 3600:
        raise BadInput(f"horizon {horizon_s} s is not between 1 and 3600 s")
    symbol = resolve(symbol, sorted({each.symbol for session in sessions for each in session.instruments}))
    ordered, shared = _apart([each for each in sessions if any(own.symbol == symbol for own in each.instruments)])
    fitted: list[Call] = []
    judged: list[tuple[Call, float]] = []
    for session in ordered if len(ordered) > 1 else []:
        calls = calls_of(session, symbol, window_s, horizon_s)
        shares = _shares(fitted)
        judged += [(call, shares[_bin(call.score)]) for call in calls if fitted]
        fitted += calls
    enough = len(judged) >= LEAST
    made = {
        "symbol": symbol,
        "venues": sorted({each.venue for session in ordered for each in session.instruments if each.symbol == symbol}),
        "window_s": window_s,
        "horizon_s": horizon_s,
        "sessions": [session.id for session in ordered],
        "same_time": shared,
        "to_ns": max(session.manifest["last_recv_ns"] for session in ordered),
        "score_code": score_code(),
        "fitted_n": len(fitted) - len(judged),
        "judged_n": len(judged),
        **_called(judged, len(ordered)),
        "brier": short(_mean(_errors(judged)), 4) if enough else None,
        "brier_of_a_coin": 0.25 if enough else None,
        "bins": _bins(judged) if enough else [],
    }
    return {**made, "sentence": _sentence(made)}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _errors(judged: list[tuple[Call, float]]) -> list[float]:
    return [(share - call.right) ** 2 for call, share in judged]


def _called(judged: list[tuple[Call, float]], sessions: int) -> dict:
    """Return what the score may be called, and why it is not more."""
    n = len(judged)
    if sessions < 2:
        reason = "a calibration needs two sessions of different times: one to fit the shares on, a later one to judge them"
    elif n < ENOUGH:
        reason = f"{n} calls out of sample; {ENOUGH} are needed before a share may be called a probability"
    else:
        gains = [0.25 - error for error in _errors(judged)]
        mean = _mean(gains)
        spread = math.sqrt(math.fsum((gain - mean) ** 2 for gain in gains) / (n - 1) / n)
        reason = None if mean > SURE * spread else f"over {n} calls out of sample it is not shown to beat a coin"
    return {"called": "score" if reason else "probability", "reason": reason}


def _bins(judged: list[tuple[Call, float]]) -> list[dict]:
    """Return for each size of the score what was predicted and what came of it."""
    bins = []
    for place, (low, high) in enumerate(zip(EDGES, EDGES[1:], strict=False)):
        inside = [(call, share) for call, share in judged if _bin(call.score) == place]
        right = sum(call.right for call, _ in inside)
        bins.append(
            {
                "from": low,
                "to": high,
                "n": len(inside),
                "right": right,
                "predicted": short(_mean([share for _, share in inside]), 4) if inside else None,
                "share": short(right / len(inside), 4) if inside else None,
                "ci95": _interval(right, len(inside)),
            }
        )
    return bins


def _sentence(made: dict) -> str:
    """Say in one sentence what the score is worth."""
    told = f"Order-flow score of {made['symbol']} over {made['window_s']} s, against the mid {made['horizon_s']} s later: "
    if made["brier"] is None:
        return f"{told}not calibrated; {made['reason']}."
    right = sum(each["right"] for each in made["bins"])
    told += f"right in {right} of {made['judged_n']} calls out of sample, Brier {made['brier']:.3f} (a coin has 0.250); "
    return told + f"called a {made['called']}" + (f": {made['reason']}." if made["reason"] else ".")


def publish(data: Path, calibration: dict) -> Path | None:
    """Write a calibration beside those of other symbols under the data root; one that judged nothing is not written."""
    if calibration["brier"] is None:
        return None
    path = Path(data) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, canonical({**published(data), calibration["symbol"]: calibration}) + "\n")
    return path


def published(data: Path) -> dict[str, dict]:
    """Return the newest calibration of each symbol under a data root."""
    path = Path(data) / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(found, dict) and all(set(_KEPT) <= set(each) for each in found.values())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError):
        whole = False
    if not whole:
        raise BadInput(f"{path} is no calibration; remove it, or mend it by tapeguard measure over two sessions and more")
    return found


_KEPT = ("called", "reason", "window_s", "horizon_s", "to_ns", "venues", "score_code", "bins", "brier", "judged_n")
