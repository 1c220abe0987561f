"""What a run folder knows of each position, and why a decision fired."""

from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq

from engine.analysis.moment import utc_text
from engine.errors import BadInput
from engine.positions import open_desk
from engine.quotes import parse_quotes
from engine.record.store import Session
from engine.runlog import read_manifest

_ENDS = {
    "stopped": "its stop was hit",
    "taken": "its take profit was hit",
    "timed_out": "its time was up",
    "rule_closed": "a rule closed it",
    "recorded_close": "it was closed as recorded",
}
_RESULTS = {
    "acted": "it acted",
    "alerted": "it only warned, by its mode or action",
    "shadowed": "it is in shadow mode: written down, not done",
    "outranked": "another rule's action was more severe",
    "busy": "an order of this position was still under way",
    "cooling": "the cooldown after the action before was not over",
    "useless": "it would have changed nothing",
}


class RunFolder:
    """One run, opened for reading."""

    def __init__(self, path: Path):
        self.path = path
        self.manifest = read_manifest(path)
        self.rules = list(self.manifest["rules"])

    def _rows(self, name: str) -> list[dict]:
        try:
            return pq.read_table(self.path / f"{name}.parquet").to_pylist()
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{self.path.name}/{name}.parquet cannot be read ({type(error).__name__}); replay the session again"
            ) from None

    @cached_property
    def fills(self) -> dict[int, list[dict]]:
        """Fills by ticket, in order."""
        found: dict[int, list[dict]] = {}
        for row in self._rows("fills"):
            found.setdefault(row["ticket"], []).append(row)
        return found

    @cached_property
    def decisions(self) -> dict[int, list[dict]]:
        """Decisions by ticket, in order."""
        found: dict[int, list[dict]] = {}
        for row in self._rows("decisions"):
            found.setdefault(row["ticket"], []).append(row)
        return found

    @cached_property
    def _ticks(self) -> dict[str, float]:
        """Size of a broker tick by kernel symbol; empty when the session has gone."""
        try:
            session = Session(self.manifest["session_path"])
            desk = open_desk(session.instruments, parse_quotes(self.manifest["quote_model"] or "").tick_size)
        except BadInput:
            return {}
        return {pair.symbol: float(pair.quote_tick_size) for pair in desk.pairs}

    def price(self, symbol: str, ticks: int | None) -> float | None:
        """Return a broker price, None when it or the tick size is not known."""
        tick = self._ticks.get(symbol)
        return None if ticks is None or tick is None else round(ticks * tick, 8)

    def position(self, ticket: int) -> dict:
        """Return one position: opened, and how it ended."""
        rows = self.fills[ticket]
        first, last = rows[0], rows[-1]
        done = last["volume_left"] == 0
        made = {
            "ticket": ticket,
            "symbol": first["symbol"],
            "side": "BUY" if first["side"] > 0 else "SELL",
            "state": "refused" if first["code"] == "no_slot" else "closed" if done else "open_at_end",
            "opened": None if first["open_ns"] is None else utc_text(first["open_ns"]),
            "entry_price": self.price(first["symbol"], first["entry_ticks"]),
            "stops_moved": sum(row["code"] == "stop_moved" for row in rows),
            "partials": sum(row["code"] == "rule_reduced" for row in rows),
            "closed": utc_text(last["recv_ns"]) if done else None,
            "ended_by": last["code"] if done else None,
            "rule": last["rule"] if done else None,
            "exit_price": self.price(last["symbol"], last["price_ticks"]) if done else None,
            "gain_r": None,
        }
        if done and last["risk_ticks"]:
            made["gain_r"] = round(last["side"] * (last["price_ticks"] - last["entry_ticks"]) / last["risk_ticks"], 4)
        return made

    def decision(self, row: dict) -> dict:
        """Return one decision with the evidence its rule acted on, by name."""
        entry = self.manifest["rules"][row["rule"]]
        evidence = {name: _plain_number(row[f"evidence_{place}"]) for place, name in enumerate(entry["evidence"])}
        return {
            "seq": row["seq"],
            "at": utc_text(row["recv_ns"]),
            "at_ns": row["recv_ns"],
            "rule": row["rule"],
            "preset": entry["preset"],
            "action": row["action"].upper(),
            "result": row["result"],
            "why_result": _RESULTS.get(row["result"], ""),
            "votes": [name for place, name in enumerate(self.rules) if row["votes"] >> place & 1],
            "evidence": evidence,
            "gain_r": None if row["gain_r"] is None else round(row["gain_r"], 4),
            "bid": self.price(row["symbol"], row["bid_ticks"]),
            "ask": self.price(row["symbol"], row["ask_ticks"]),
        }

    def require(self, ticket: int) -> None:
        """Raise BadInput when the run has no such position."""
        if ticket not in self.fills:
            some = ", ".join(str(each) for each in sorted(self.fills)[:5])
            raise BadInput(
                f"run {self.path.name} has no position {ticket}; it has {len(self.fills)}, such as {some}; "
                "list_positions lists them"
            )


def positions_answer(
    run: RunFolder, limit: int, cursor: int, ended_by: str | None = None, rule: str | None = None
) -> dict:
    """Return a page of a run's positions, in order of ticket."""
    if rule is not None and rule not in run.rules:
        raise BadInput(f"run {run.path.name} has no rule {str(rule)[:40]!r}; it has {', '.join(run.rules)}")
    found = [
        made
        for made in map(run.position, sorted(run.fills))
        if (ended_by is None or made["ended_by"] == ended_by) and (rule is None or made["rule"] == rule)
    ]
    page = found[cursor : cursor + limit]
    rest = cursor + limit < len(found)
    return {
        "summary": f"run {run.path.name}: {len(found)} positions, {len(page)} shown",
        "run": run.path.name,
        "session": run.manifest["session"],
        "digest": run.manifest["digest"][:16],
        "total": len(found),
        "positions": page,
        "next_cursor": cursor + limit if rest else None,
    }


def exit_answer(run: RunFolder, ticket: int, detail: str) -> dict:
    """Return why a position ended, and what the rules said of it on the way."""
    run.require(ticket)
    position = run.position(ticket)
    fills, rows = run.fills[ticket], run.decisions.get(ticket, [])
    last = fills[-1]
    deciding = None
    if position["state"] == "closed" and position["rule"]:
        deciding = next(
            (
                row
                for row in rows
                if row["result"] == "acted" and row["recv_ns"] == last["decided_ns"] and row["rule"] == last["rule"]
            ),
            None,
        )
    moved = [row for row in fills if row["code"] == "stop_moved"]
    if position["ended_by"] == "stopped" and moved:
        mover = moved[-1]
        deciding = next(
            (
                row
                for row in rows
                if row["result"] == "acted" and row["recv_ns"] == mover["decided_ns"] and row["rule"] == mover["rule"]
            ),
            None,
        )
    shown = [run.decision(row) for row in rows[-(3 if detail == "brief" else 20) :]]
    made = {
        "run": run.path.name,
        "session": run.manifest["session"],
        "digest": run.manifest["digest"][:16],
        "position": position,
        "decided_by": None if deciding is None else run.decision(deciding),
        "decisions_total": len(rows),
        "decisions": shown,
    }
    if deciding is None:
        made["reason"] = _plain(position)
    elif position["ended_by"] != "stopped":
        made["decision_to_fill_ms"] = round((last["recv_ns"] - deciding["recv_ns"]) / 1e6, 3)
    made["summary"] = _sentence(made)
    return made


def _plain_number(value: float | None) -> int | float | None:
    """Return whole evidence as whole: ids and ticks were stored as real numbers beside the others."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(position: dict) -> str:
    if position["state"] != "closed":
        return (
            "the recording ended while it was open"
            if position["state"] == "open_at_end"
            else "it found no free place and was never opened"
        )
    return f"no rule ended it: {_ENDS.get(position['ended_by'], position['ended_by'])}"


def _sentence(made: dict) -> str:
    position, decided = made["position"], made["decided_by"]
    gain = "" if position["gain_r"] is None else f", {position['gain_r']:+.2f} R"
    head = f"{position['side']} {position['symbol']} ticket {position['ticket']}{gain}: "
    if decided is None:
        return head + made["reason"]
    evidence = ", ".join(
        f"{name} {value:,.0f}" if abs(value) >= 1000 else f"{name} {value:.4g}"
        for name, value in decided["evidence"].items()
        if isinstance(value, int | float) and not name.endswith(("_ns", "_id", "occasion"))
    )
    moved = "was stopped at the stop moved by" if position["ended_by"] == "stopped" else "was ended by"
    return (
        head + f"{moved} {decided['rule']} ({decided['preset']}), {decided['action']} at {decided['at']} on {evidence}"
    )


ENDED_BY = tuple(_ENDS)
