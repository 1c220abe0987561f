"""The recommendation, with order flow on it and not beside it; holding is an answer, and every answer has a reason."""

from dataclasses import dataclass, field

from engine.errors import BadInput, nearest

GATE = 70.0  # a score over this against the direction is a warning
SIGNED = {"BUY": 1, "LONG": 1, "BULLISH": 1, "SELL": -1, "SHORT": -1, "BEARISH": -1, "HOLD": 0, "NEUTRAL": 0, "NONE": 0}
DIRECTIONS = {1: "BUY", 0: "HOLD", -1: "SELL"}


def signed(word: str | None) -> int | None:
    """Return +1, 0 or -1 of a direction or a signal in either vocabulary and any case; None of None."""
    if word is None:
        return None
    text = str(word).strip().upper()
    if text not in SIGNED:
        raise BadInput(f"direction {str(word)[:40]!r} is not known; {nearest(text[:40], SIGNED)}")
    return SIGNED[text]


def contradicts(signal: str | None, direction: str | None) -> bool:
    """Tell whether two signed words point opposite ways; nothing contradicts HOLD, NEUTRAL or the unknown."""
    first, second = signed(signal), signed(direction)
    return first is not None and second is not None and first * second < 0


@dataclass
class Recommendation:
    """What to do, why, and what order flow says of it."""

    direction: str
    reason: str
    order_flow_signal: str | None
    order_flow_confidence: float | None
    whale_positioning: str | None
    given: bool
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS.values():
            raise ValueError(f"direction must be one of {', '.join(DIRECTIONS.values())}, got {self.direction!r}")
        if not self.reason.strip():
            raise ValueError("a recommendation needs a reason")

    def as_dict(self) -> dict:
        """Return the fields under their literal names, with the contradiction as signed sides."""
        flow, own = signed(self.order_flow_signal), signed(self.direction)
        return {
            "direction": self.direction,
            "given": self.given,
            "reason": self.reason,
            "order_flow_signal": self.order_flow_signal,
            "order_flow_confidence": self.order_flow_confidence,
            "whale_positioning": self.whale_positioning,
            "warnings": self.warnings,
            "contradiction": {
                "present": contradicts(self.order_flow_signal, self.direction),
                "order_flow": flow,
                "recommendation": own,
            },
        }


def _choose(flow: dict, longer: dict, trend: dict, health: dict) -> tuple[str, str]:
    """Return the direction order flow speaks for, and why; HOLD whenever it does not speak clearly."""
    if health["value"] == "critical":
        return "HOLD", f"the feed cannot be trusted: {'; '.join(health['troubles'])}"
    side = flow["side"]
    if side is None:
        return "HOLD", f"order flow is not known: {flow['reason']}"
    if side == 0:
        return (
            "HOLD",
            f"order flow takes no side over {flow['window_s']} s: score {flow['score']:g}, a side begins at 35",
        )
    if longer["side"] == -side:
        return (
            "HOLD",
            f"{flow['window_s']} s of order flow are {flow['signal']}, {longer['window_s']} s are {longer['signal']}",
        )
    if trend["side"] == -side:
        return "HOLD", f"order flow is {flow['signal']} now against a trend that is {trend['trend']}"
    parts = ", ".join(
        f"{name} {part['value']:+.2f}" for name, part in flow["parts"].items() if part["value"] is not None
    )
    return DIRECTIONS[
        side
    ], f"order flow is {flow['signal']} over {flow['window_s']} s with score {flow['score']:g} ({parts})"


def recommend(flow: dict, longer: dict, trend: dict, health: dict, voids: dict, direction: str | None = None) -> dict:
    """Return the recommendation: the direction given, held against order flow, or the one order flow speaks for."""
    if direction is None:
        word, reason = _choose(flow, longer, trend, health)
    else:
        word = DIRECTIONS[signed(direction)]
        signal = flow["signal"] or f"not known ({flow['reason']})"
        reason = f"{word} was given; order flow over {flow['window_s']} s is {signal}"
    made = Recommendation(
        word, reason, flow["signal"], flow["confidence"], flow["whale_activity"], direction is not None
    )
    strongest = [(flow["confidence"], flow["signal"]), (flow["v1"]["score"], flow["v1"]["signal"])]
    for confidence, signal in strongest:
        if confidence is not None and confidence > GATE and contradicts(signal, word):
            made.warnings.append(f"ORDER FLOW CONTRADICTION: {signal} vs {word}")
            break
    made.warnings += [f"feed: {trouble}" for trouble in health["troubles"]]
    for void in voids.values():
        if void.get("adverse_to") == word:
            made.warnings.append(
                f"adverse void {void['near_bps']:.1f} to {void['far_bps']:.1f} bps away: little rests there to be "
                "closed into"
            )
    return made.as_dict()
