"""How an action ended, in the kernel's words, from the deals the broker shows."""

from engine.gateway.orders import DONE, Exit, Outcome
from engine.gateway.view import View
from engine.kernel.records import (
    RECORDED_CLOSE,
    REJECTED,
    RULE_CLOSED,
    RULE_REDUCED,
    STOP_MOVED,
    STOPPED,
    TAKEN,
    TIGHTEN,
)

BY_STOP, BY_TAKE, BY_STOP_OUT = 4, 5, 6


def book_outcome(exit: Exit, state: str, reason: str, first: View | None, last: View | None, magic: int, comment: str) -> Outcome:
    """Return the outcome of an action: what its own deals closed, and what is left."""
    outcome = Outcome(exit.decision, state, reason, REJECTED)
    if first is None or last is None:
        return outcome
    known = {row["ticket"] for row in first.deals}
    fresh = [row for row in last.deals if row["ticket"] not in known]
    own = [row for row in fresh if row["magic"] == magic or row["comment"] == comment]
    outcome.lots_left = last.position["volume"] if last.position else 0.0
    if own:
        lots = sum(row["volume"] for row in own)
        outcome.lots_closed = round(lots, 8)
        outcome.price = sum(row["price"] * row["volume"] for row in own) / lots
        outcome.net = round(sum(row["profit"] + row["swap"] + row["commission"] + row["fee"] for row in own), 2)
    outcome.code = _code(exit, state, last, fresh, own)
    if last.position:
        outcome.stop = last.position["sl"]
    return outcome


def _code(exit: Exit, state: str, last: View, fresh: list[dict], own: list[dict]) -> int:
    if last.position is None:
        by = fresh[-1] if fresh else None
        if by is None:
            return REJECTED
        if by in own:
            return RULE_CLOSED
        return {BY_STOP: STOPPED, BY_TAKE: TAKEN}.get(by["reason"], RECORDED_CLOSE)
    if exit.action == TIGHTEN:
        return STOP_MOVED if state == DONE else REJECTED
    return RULE_REDUCED if own else REJECTED
