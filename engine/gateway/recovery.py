"""A decision as its journal entries tell it, for the reconciliation after a restart."""

from engine.gateway.orders import Plan
from engine.gateway.view import View


def first_look(entry: dict) -> View:
    """Return what was known before the first request."""
    return View(entry["at_ns"], 0, entry["netting"], True, entry["position"], {}, {}, [],
                [{"ticket": ticket} for ticket in entry["deals"]], [{"ticket": ticket} for ticket in entry["orders"]])


def last_plan(entry: dict) -> Plan:
    """Return the last request that was sent, with what fulfils the decision."""
    last = entry["attempts"][-1]
    return Plan(last["request"], entry["keep_lots"], last["stop"])
