"""After an answer that says nothing, or says it too early: watch the broker until it is known what became of the request."""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.gateway.orders import GUARD_LOTS, SLTP, Exit, Limits, Plan, tighter
from engine.gateway.view import Reader, Unreadable, View

POLL_S = 0.25
REJECTED_STATES = (2, 5, 6)            # cancelled, rejected, expired
REACHED, CHANGED, DEAD, NOTHING, UNCLEAR = "reached", "changed", "dead", "nothing", "unclear"


@dataclass(frozen=True)
class Before:
    """What was known right before a request went out."""

    volume: float
    deals: frozenset[int]
    orders: frozenset[int]             # past ones
    asked_at: float | None = None      # volume at the last request, where that is not the first


def before(view: View, asked_at: float | None = None) -> Before:
    """Return what has to be remembered of a look."""
    return Before(view.position["volume"], frozenset(row["ticket"] for row in view.deals),
                  frozenset(row["ticket"] for row in view.past_orders), asked_at)


def turned(view: View, exit: Exit) -> bool:
    """Tell whether the position is on the other side: what the decision was about is gone."""
    return view.position is not None and (view.position["type"] == 0) != (exit.side > 0)


def left_lots(view: View, exit: Exit) -> float:
    """Return what is left of the position the decision was about."""
    return 0.0 if view.position is None or turned(view, exit) else view.position["volume"]


def reached(view: View, exit: Exit, plan: Plan) -> bool:
    """Tell whether the position is where the decision wants it, whoever brought it there."""
    if view.position is None or turned(view, exit):
        return True
    if plan.request["action"] == SLTP:
        return not tighter(exit.side, plan.stop, view.position["sl"])
    return view.position["volume"] <= plan.keep_lots + GUARD_LOTS


def own_lots(view: View, known: Before, plan: Plan) -> float:
    """Return the volume that our own deals closed since."""
    return sum(row["volume"] for row in view.deals if row["ticket"] not in known.deals and (
        row["magic"] == plan.request["magic"] or row["comment"] == plan.request["comment"]))


def ours(view: View, exit: Exit, known: Before, plan: Plan) -> bool:
    """Tell whether it was our request that brought the position where it is; else that one may come to execute yet."""
    if plan.request["action"] == SLTP:
        return view.position is None or not tighter(exit.side, view.position["sl"], plan.stop)
    return own_lots(view, known, plan) >= known.volume - left_lots(view, exit) - GUARD_LOTS


def ended(view: View, known: Before, plan: Plan) -> bool:
    """Tell whether an order of ours is in the past that executed nothing."""
    fresh = [row for row in view.past_orders if row["ticket"] not in known.orders and row["magic"] == plan.request["magic"]]
    return bool(fresh) and all(row["state"] in REJECTED_STATES and row["volume_current"] >= row["volume_initial"] - GUARD_LOTS
                               for row in fresh)


def settle(reader: Reader, exit: Exit, plan: Plan, known: Before, limits: Limits) -> Iterator[float | tuple[str, View | None]]:
    """Yield seconds to wait, and at last (what was found, the look that showed it)."""
    now_s = reader.clock.monotonic_s
    begun_s, healthy_s, view = now_s(), None, None
    gone = 0
    while now_s() - begun_s < limits.give_up_s:
        yield POLL_S
        try:
            view = reader.look(exit.identifier, exit.symbol)
        except Unreadable:
            healthy_s, gone = None, 0
            continue
        if healthy_s is None or view.orders:
            healthy_s = now_s()            # an order that is alive is waited for, never sent again
        gone = gone + 1 if view.position is None else 0
        if view.position is None and gone < 2:
            continue
        if view.orders:
            continue
        closed = sum(row["volume"] for row in view.deals if row["ticket"] not in known.deals)
        # a deal may have been known before the position showed it: what is gone is held against the last request
        held = known.volume if known.asked_at is None else min(known.volume, known.asked_at)
        if view.position is None and closed < held - GUARD_LOTS:
            continue                       # gone, and the deal that says so is not here yet
        waited = now_s() - healthy_s >= limits.settle_s
        if reached(view, exit, plan):
            if plan.request["action"] != SLTP and closed < known.volume - left_lots(view, exit) - GUARD_LOTS and not waited:
                continue                   # the deal that says what it was worth is not here yet
            yield REACHED, view
            return
        if view.position is not None and plan.request["action"] != SLTP:
            if own_lots(view, known, plan) > 0:        # what others closed says nothing of ours
                if view.position["volume"] <= known.volume - closed + GUARD_LOTS:
                    yield CHANGED, view
                    return
                continue                   # the deal is here before the position shows it
            if ended(view, known, plan):
                yield DEAD, view
                return
        if view.position is not None and waited:
            yield NOTHING, view
            return
    yield UNCLEAR, None if healthy_s is None else view
