"""How an action ended, in the kernel's words, from the deals the broker shows."""

from dataclasses import dataclass, field

from engine.gateway.orders import DONE, FAILED, Exit, Outcome
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


@dataclass
class Work:
    """One action under way."""

    exit: Exit
    sends: int = 0
    retcodes: list[int] = field(default_factory=list)
    met: dict[str, int] = field(default_factory=dict)      # how often each answer was met
    filling: int = 0                                       # index into the symbol's modes
    resends: int = 0
    first: View | None = None
    last: View | None = None                               # the newest look since the first request
    reason: str = ""

    def keep(self, view: View | None) -> None:
        """Remember what a look after the first request showed; one that shows no position may be a look too early."""
        if self.sends and view is not None and view.position is not None:
            self.last = view


class End(Exception):
    """An action is over: its state and why."""

    def __init__(self, state: str, reason: str, view: View | None = None):
        super().__init__(reason)
        self.state, self.reason, self.view = state, reason, view


def check_side(exit: Exit, seen: View) -> None:
    """End an action that finds its position on the other side as one that needs a person."""
    if turned(seen, exit):
        now = f"{'long' if exit.side < 0 else 'short'} {seen.position['volume']} lots"
        raise End(FAILED, f"REVERSED: the position is {now} now, another trade came in between; look at it in the terminal", seen)


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
