"""What the rules of a live run were worth, and what the execution cost against the simulated fills, in initial risks.

Three results of each position that a rule acted on: as it was; with the same rules and simulated fills; with no rule, so
that only the broker's own stop, take profit and what was done by hand before the first action close it. Positions still
open at the end are valued at the last quote.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from engine.kernel import records as R
from engine.stream import LIVE_TABLES, Followed, events

if TYPE_CHECKING:
    from engine.live.verify import LiveRun

BY_RULE = (R.RULE_CLOSED, R.RULE_REDUCED, R.STOP_MOVED)


def effects(run: "LiveRun", fills: np.ndarray) -> dict:
    """Return rule and execution effect in R, None where no rule acted on a position of known risk."""
    acted = {}
    for row in fills[np.isin(fills["code"], BY_RULE) & (fills["rule"] >= 0)]:
        acted.setdefault(int(row["ticket"]), int(row["decided_ns"]))
    if not acted:
        return {"rule_effect_r": None, "execution_effect_r": None, "acted_positions": 0}
    real = results(run, acted, LIVE_TABLES, {}, cut=False)
    tables = tuple(name for name in LIVE_TABLES if name != "orders")
    simulated = results(run, acted, tables, {"simulate": True})
    bare = results(run, acted, tables, {"simulate": True}, rules=False)
    known = [ticket for ticket in acted if None not in (real.get(ticket), simulated.get(ticket), bare.get(ticket))]
    if not known:
        return {"rule_effect_r": None, "execution_effect_r": None, "acted_positions": len(acted)}
    rule = sum(simulated[ticket] - bare[ticket] for ticket in known)
    execution = sum(real[ticket] - simulated[ticket] for ticket in known)
    return {"rule_effect_r": round(rule, 4), "execution_effect_r": round(execution, 4), "acted_positions": len(acted)}


def results(run: "LiveRun", acted: dict[int, int], tables: tuple[str, ...], settings: dict, rules: bool = True,
            cut: bool = True) -> dict[int, float | None]:
    """Return the result of each position in R under these settings."""
    desk = run.desk
    kernel = run.kernel(desk, **settings)
    if not rules:
        kernel.arrays["modes"][:] = R.MODE_OFF
    totals: dict[int, float] = {}
    risks: dict[int, tuple[int, int]] = {}
    for chunk in _chunks(run, desk, tables, acted if cut else {}, rules):
        _, fills = kernel.feed(chunk)
        for row in fills:
            ticket = int(row["ticket"])
            if row["volume"] > 0 and row["price_ticks"] != R.MISSING:
                totals[ticket] = totals.get(ticket, 0.0) + int(row["side"] * (row["price_ticks"] - row["entry_ticks"]) * row["volume"])
            _remember(risks, ticket, int(row["risk_ticks"]), int(row["volume"] + row["volume_left"]))
        for position in open_positions(kernel):
            _remember(risks, int(position["ticket"]), int(position["risk_ticks"]), int(position["initial_volume"]))
    for position in open_positions(kernel):
        if position["exit_ticks"] != R.MISSING:
            gain = int(position["side"] * (position["exit_ticks"] - position["entry_ticks"]) * position["volume"])
            totals[int(position["ticket"])] = totals.get(int(position["ticket"]), 0.0) + gain
    return {ticket: totals.get(ticket, 0.0) / (risks[ticket][0] * risks[ticket][1])
            if ticket in risks and risks[ticket][0] > 0 and risks[ticket][1] > 0 else None for ticket in acted}


def open_positions(kernel) -> np.ndarray:
    """Return the kernel's records of open positions."""
    a = kernel.arrays
    return a["positions"][0][a["active"][0][:a["active_count"][0]]]


def _remember(risks: dict[int, tuple[int, int]], ticket: int, risk_ticks: int, volume: int) -> None:
    """Remember the initial risk of a position, and the most volume it had."""
    risks[ticket] = risk_ticks, max(volume, risks.get(ticket, (0, 0))[1])


def _chunks(run: "LiveRun", desk, tables: tuple[str, ...], acted: dict[int, int], rules: bool) -> Iterator[np.ndarray]:
    """Yield the events without what the account told of a position after a rule acted on it."""
    for chunk in events(run.session, Followed(desk.numbers), tables):
        told = np.isin(chunk["kind"], (R.POSITION, R.OUTCOME))
        keep = np.ones(len(chunk), bool)
        for ticket, decided_ns in acted.items():
            keep &= ~(told & (chunk["id"] == ticket) & (chunk["recv_ns"] > decided_ns))
        if not rules:
            keep &= chunk["kind"] != R.SWITCH
        yield chunk[keep]
