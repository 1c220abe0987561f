"""What the order-flow score has been worth: how often price went its way, judged out of sample."""

import math
from dataclasses import dataclass

from engine.analysis.moment import Moment, short
from engine.analysis.order_flow import order_flow_signal, side_of, window_of
from engine.analysis.tape import NS
from engine.errors import BadInput
from engine.record.store import Session

EDGES = (0.0, 20.0, 35.0, 50.0, 70.0, 100.0)  # of the score's size
ENOUGH = 200  # calls out of sample before a share may be called a probability
WARM_UP_S = 60


@dataclass(frozen=True)
class Call:
    """One look: the score, and whether the venue's mid went its way over the time after."""

    session: int
    at_ns: int
    score: float
    right: bool


def calls_of(session: Session, number: int, symbol: str, window_s: int, horizon_s: int) -> list[Call]:
    """Look once a horizon, so that no two outcomes share time; looks without a score or without a move are left out."""
    manifest = session.manifest
    first_ns, last_ns = manifest["first_recv_ns"], manifest["last_recv_ns"]
    moment = Moment.of_session(session, first_ns + WARM_UP_S * NS)
    found, held = [], None
    at_ns = first_ns + WARM_UP_S * NS
    while at_ns <= last_ns:
        moment.advance(at_ns)
        view = moment.view(symbol)
        mid2 = int(view.market.mid2) if view.market.mid_ok else None
        if held is not None and mid2 is not None and mid2 != held[1]:
            score, before = held
            found.append(Call(number, at_ns - horizon_s * NS, score, (mid2 > before) == (score > 0)))
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


def calibrate(sessions: list[Session], symbol: str, window: int | str = 30, horizon_s: int = 30) -> dict:
    """Return reliability curve and Brier score of the order-flow score, each call judged by shares of earlier ones.

    Sessions are taken in order of time. The share of a bin is fitted on all sessions before the one judged; a single
    session is fitted on its first half and judged on its second.
    """
    window_s = window_of(window)
    if not 1 <= horizon_s <= 3600:
        raise BadInput(f"horizon {horizon_s} s is not between 1 and 3600 s")
    ordered = sorted(sessions, key=lambda session: session.manifest["first_recv_ns"])
    parts = [calls_of(session, number, symbol, window_s, horizon_s) for number, session in enumerate(ordered)]
    if len(parts) == 1:
        half = len(parts[0]) // 2
        parts = [parts[0][:half], parts[0][half:]]
    fitted, judged, errors, even = list(parts[0]), [], [], []
    for part in parts[1:]:
        shares = _shares(fitted)
        for call in part:
            judged.append(call)
            errors.append((shares[_bin(call.score)] - call.right) ** 2)
            even.append((0.5 - call.right) ** 2)
        fitted += part
    bins = []
    for place in range(len(EDGES) - 1):
        inside = [call for call in judged if _bin(call.score) == place]
        right = sum(call.right for call in inside)
        share = short(right / len(inside), 4) if inside else None
        bins.append(
            {
                "from": EDGES[place],
                "to": EDGES[place + 1],
                "n": len(inside),
                "right": right,
                "share": share,
                "ci95": _interval(right, len(inside)),
            }
        )
    sides = [call for call in judged if side_of(call.score)]
    enough = len(judged) >= ENOUGH
    return {
        "symbol": symbol,
        "window_s": window_s,
        "horizon_s": horizon_s,
        "sessions": [session.id for session in ordered],
        "fitted_n": len(parts[0]),
        "judged_n": len(judged),
        "bins": bins,
        "sides_n": len(sides),
        "sides_right": sum(call.right for call in sides),
        "brier": short(sum(errors) / len(errors), 4) if errors else None,
        "brier_of_a_coin": short(sum(even) / len(even), 4) if even else None,
        "called": "probability" if enough and sum(errors) < sum(even) else "score",
        "reason": None
        if enough
        else f"{len(judged)} calls out of sample; {ENOUGH} are needed before a share may be called a probability",
    }
