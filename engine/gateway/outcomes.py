"""How an action ended, in the kernel's words, from the deals the broker shows."""

from engine.gateway.orders import DONE, Exit, Outcome
from engine.gateway.reconcile import turned
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
    gone = last.position is None or turned(last, exit)
    outcome.lots_left = 0.0 if gone else last.position["volume"]
    if own:
        lots = sum(row["volume"] for row in own)
        beyond = last.position["volume"] if gone and last.position and fresh[-1] in own else 0.0      # opened on the other side
        outcome.lots_closed = round(lots - beyond, 8)
        outcome.price = sum(row["price"] * row["volume"] for row in own) / lots
        outcome.net = round(sum(row["profit"] + row["swap"] + row["commission"] + row["fee"] for row in own), 2)
    outcome.code = _code(exit, state, gone, fresh, own)
    if not gone:
        outcome.stop = last.position["sl"]
    return outcome


def _code(exit: Exit, state: str, gone: bool, fresh: list[dict], own: list[dict]) -> int:
    if gone:
        by = fresh[-1] if fresh else None
        if by is None:
            return REJECTED
        if by in own:
            return RULE_CLOSED
        return {BY_STOP: STOPPED, BY_TAKE: TAKEN}.get(by["reason"], RECORDED_CLOSE)
    if exit.action == TIGHTEN:
        return STOP_MOVED if state == DONE else REJECTED
    return RULE_REDUCED if own else REJECTED
