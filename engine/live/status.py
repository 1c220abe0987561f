"""The state of a live run as one JSON object, for services and for the screen; data/README.md names its keys."""

import math
import shutil
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from engine import clock
from engine.kernel.records import HOLD, MISSING, OPEN
from engine.rules import Choice
from engine.words import ACTIONS, FILL_CODES, RESULTS

if TYPE_CHECKING:
    from engine.live.session import LiveSession

LOGGED, DONE, ACTED_ON = 0, 2, 3       # columns of a latch, as the kernel's arbitration writes them
LAST_FRAMES = 2048             # latencies are of these
_UNSAID = ("occasion", "share")        # of a rule's state: what it tells the kernel, not a person


def status_of(live: "LiveSession") -> dict:
    """Return what a live run shows of itself; what is not known is null."""
    now_s, health, loop = clock.monotonic_s(), live.health, live.loop
    guard = live.guard if live.options.mode != "record" else None          # there it judges nothing
    journal, kill_file = live.recorder.journal, live.options.limits.kill_file
    return {"run": live.name, "mode": live.options.mode, "account": live.account.shown,
            "seconds": round((clock.now_ns() - live.started_ns) / 1e9, 1),
            "held": guard.held if guard else "", "held_rules": sorted(live.held), "back_in_s": guard.back_in_s() if guard else None,
            "killed": kill_file is not None and kill_file.exists(), "problem": trouble(health),
            "modes": loop.modes, "decisions": loop.decided, "events": loop.events, "actions": health.actions,
            "account_age_s": round(now_s - health.looked_s, 3) if health.looked_s else None,
            "quote_age_s": {symbol: round(now_s - health.quoted_s[symbol], 3) if symbol in health.quoted_s else None
                            for symbol in live.account.instruments},
            "positions": positions_of(live), "basis": _basis(live), "latency_ms": latency_ms(loop.took_ns),
            "disk_free_bytes": shutil.disk_usage(journal.folder).free, "disk_reserve_bytes": journal.disk_reserve_bytes,
            "last_decisions": [decision_of(live, row) | {"times": times} for row, times in live.alarms.decisions.values()],
            "last_alarms": list(live.alarms.recent),
            "webhook": _webhook(live.alarms.webhook), "recorder": live.recorder.status()}


def trouble(health) -> str:
    """Return what keeps the broker's threads from reading it, "" for nothing."""
    return "; ".join(filter(None, (health.problem, health.quotes_problem)))


def _webhook(webhook) -> dict | None:
    return webhook and {"sent": webhook.sent, "waiting": len(webhook.waiting), "dropped": webhook.dropped, "failed": webhook.failed}


def latency_ms(took_ns) -> dict:
    """Return how long the last frames took from the socket to their end in the kernel."""
    last = np.fromiter(islice(reversed(took_ns), LAST_FRAMES), np.int64)
    p50, p99 = np.percentile(last, (50, 99)) / 1e6 if len(last) else (None, None)
    return {"p50": p50 and round(p50, 3), "p99": p99 and round(p99, 3)}


def _basis(live: "LiveSession") -> dict:
    """Return, by broker symbol, how far the broker's price is from the venue's."""
    if live.loop.run is None:
        return {}
    market = live.loop.run.arrays["market"]
    found = {}
    for symbol in live.account.instruments:
        row = market[live.loop.desk.numbers[symbol]]
        found[symbol] = {"bps": _real(row["basis_bps"]), "mad_bps": _real(row["basis_mad_bps"]), "ok": bool(row["basis_ok"] == 1)}
    return found


def plain(row: np.record) -> SimpleNamespace:
    """Return a copy of a record as plain numbers: quicker to read, and what is done to it does not reach the kernel."""
    values = {name: plain(row[name]) if row.dtype[name].names else value
              for name, value in zip(row.dtype.names, row.item(), strict=True)}
    return SimpleNamespace(**values)


def positions_of(live: "LiveSession") -> list[dict]:
    """Return every open position: those the kernel watches, and those at the broker that it does not."""
    at_broker = {row["identifier"]: row for row in live.health.positions}
    found = []
    if live.loop.run is not None:
        a = live.loop.run.arrays
        markets = [plain(row) for row in a["market"]]
        for k in a["active"][0][:a["active_count"][0]]:
            position = plain(a["positions"][0][k])
            found.append(_watched(live, int(k), position, markets[position.symbol], at_broker.pop(position.ticket, None)))
    return found + [_unwatched(row, live.account.instruments.get(row["symbol"])) for row in at_broker.values()]


def _unwatched(row: dict, instrument) -> dict:
    return {"ticket": row["identifier"], "symbol": row["symbol"], "side": "long" if row["type"] == 0 else "short",
            "lots": row["volume"], "entry": row["price_open"], "stop": row["sl"] or None, "take": row["tp"] or None,
            "price": row["price_current"], "gain_r": None, "gain": row["profit"], "age_s": None, "order": None, "watched": False,
            "at_broker": True, "digits": 2 if instrument is None else instrument.price_decimals, "rules": {}}


def _watched(live: "LiveSession", k: int, position, market, row: dict | None) -> dict:
    """Return a position of the kernel with what each of its rules says; `row` is how the broker has it, if it does."""
    loop = live.loop
    symbol = loop.broker_symbol(position.symbol)
    instrument = live.account.instruments[symbol]
    tick, lot = float(instrument.tick_size), float(instrument.lot_size)
    lots = _level(position.volume, lot)
    busy = position.order != HOLD and position.order_rule >= 0
    return {"ticket": position.ticket, "symbol": symbol, "side": "long" if position.side > 0 else "short",
            "lots": lots, "entry": _level(position.entry_ticks, tick),
            "stop": _level(position.stop_ticks, tick), "take": _level(position.take_ticks, tick),
            "price": _level(position.exit_ticks, tick), "gain_r": _real(position.gain_r),
            "gain": round(row["profit"] * lots / row["volume"], 2) if row else None,       # on paper less may be left than at the broker
            "age_s": round((market.now_ns - position.open_ns) / 1e9, 1),
            "order": f"{loop.choices[position.order_rule].rule.name}: {ACTIONS[position.order]}" if busy else None,
            "watched": True, "at_broker": row is not None, "digits": instrument.price_decimals,
            "rules": {choice.rule.name: _rule(live, k, r, position, market, tick) for r, choice in enumerate(loop.choices)
                      if loop.modes[choice.rule.name] != "off" or choice.rule.name in live.held}}


def _rule(live: "LiveSession", k: int, r: int, position, market, tick: float) -> dict:
    """Return how one rule stands to one position."""
    a, choice = live.loop.run.arrays, live.loop.choices[r]
    latch, state = a["latches"][0, k, r].tolist(), plain(a["states"][0, k][choice.rule.name])
    votes = bool(position.voted >> r & 1)
    return {"mode": live.loop.modes[choice.rule.name], "vote": ACTIONS[latch[LOGGED]] if votes else "hold",
            "last": ACTIONS[latch[LOGGED]] if latch[LOGGED] else None, "acted": bool(latch[DONE] or latch[ACTED_ON]),
            "nearness": nearness(choice, state, market, position), "evidence": evidence(choice, vars(state), market.now_ns, tick)}


def nearness(choice: Choice, state, market, position) -> float | None:
    """Return how near a rule is to firing, 0 to 1; None when that is not known, or the rule does not say."""
    if choice.rule.nearness is None or position.status != OPEN or position.exit_ticks == MISSING:
        return None
    try:
        near = float(choice.rule.nearness(choice.params, state, market, position))
    except Exception:          # a rule's own file: the screen can do without, and no decision rests on it
        return None
    return None if math.isnan(near) else round(max(0.0, min(1.0, near)), 4)


def evidence(choice: Choice, state: dict, now_ns: int, tick: float) -> dict:
    """Return the fields a rule has set since the entry; levels as prices, instants as ages in seconds."""
    entry, found = choice.rule.module.State(), {}
    for name in choice.rule.evidence:
        value = state[name]
        if name in _UNSAID or value == getattr(entry, name) or value == MISSING or value != value:
            continue
        if name.endswith("_ns"):
            found[f"{name[:-3]}_s"] = round((now_ns - value) / 1e9, 1)
        elif name == "stop_ticks":
            found["stop"] = _level(value, tick)
        else:
            found[name] = value
    return found


def decision_of(live: "LiveSession", row: np.record) -> dict:
    """Return a decision in words, with the evidence it rests on and what became of it."""
    choice = live.loop.choices[row["rule"]]
    symbol = live.loop.broker_symbol(int(row["symbol"]))
    instrument = live.account.instruments[symbol]
    tick = float(instrument.tick_size)
    state = {name: row[f"evidence_{place}"].item() for place, name in enumerate(choice.rule.evidence)}
    return {"time_ns": int(row["recv_ns"]), "rule": choice.rule.name, "action": ACTIONS[row["action"]], "ticket": int(row["ticket"]),
            "symbol": symbol, "result": RESULTS[row["result"]], "gain_r": _real(row["gain_r"]),
            "stop": _level(row["stop_ticks"], tick), "digits": instrument.price_decimals,
            "evidence": evidence(choice, state, int(row["recv_ns"]), tick),
            "outcome": _outcome(live, row, choice.rule.name, tick)}


def _outcome(live: "LiveSession", row: np.record, rule: str, tick: float) -> dict | None:
    """Return what became of a decision that was acted on: the broker's answer, or the simulated fill."""
    order = live.alarms.orders.get(f"{live.name}/{row['seq']}/{row['ticket']}/{rule}")
    if order:
        return {"state": order.state, "code": order.code, "price": _level(order.price_ticks, tick), "stop": _level(order.stop_ticks, tick),
                "net": None if order.net_e8 is None else order.net_e8 / 1e8, "reason": order.reason}
    for fill in live.alarms.fills:
        if (fill["ticket"], fill["rule"], fill["decided_ns"]) == (row["ticket"], row["rule"], row["recv_ns"]):
            return {"state": "done", "code": FILL_CODES[fill["code"]], "price": _level(fill["price_ticks"], tick),
                    "stop": _level(fill["stop_ticks"], tick), "net": None, "reason": ""}
    return None


def _real(value) -> float | None:
    return None if value != value else round(float(value), 4)


def _level(steps, size: float) -> float | None:
    return None if steps is None or steps == MISSING else round(int(steps) * size, 10)
