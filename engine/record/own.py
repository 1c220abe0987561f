"""What the engine saw of the account and did itself, as journaled: rows of the tables account, orders, decisions, switches."""

from typing import NamedTuple

import msgspec
import numpy as np

from engine.kernel.market import DECISION
from engine.kernel.records import (
    CLOSED,
    FIRST,
    LAST,
    MISSING,
    OPENED,
    STOP_SET,
    STOPPED,
    TAKE_SET,
    TAKEN,
    VOLUME_SET,
)
from engine.record.segment import ACCOUNT, DECIDED, OUTCOME, SWITCH
from engine.words import ACTIONS, RESULTS, RULE_MODES

# what an account row says and the kernel's number for it: of a POSITION row, from BY_BROKER on of an OUTCOME row
BY_BROKER = 100
ACCOUNT_CODES = {"opened": OPENED, "stop": STOP_SET, "take": TAKE_SET, "closed": CLOSED, "volume": VOLUME_SET,
                 "stopped": BY_BROKER + STOPPED, "taken": BY_BROKER + TAKEN}


class Change(msgspec.Struct, omit_defaults=True):
    """One thing that changed of a position: prices in ticks and volume in lots of the broker's instrument."""

    code: str                          # opened | stop | take | volume | closed | stopped | taken
    price_ticks: int | None = None
    qty_lots: int | None = None


class Account(msgspec.Struct, omit_defaults=True):
    """The payload of an ACCOUNT frame: what changed of one position; `event_ns` is UTC."""

    symbol: str
    ticket: int                        # the position's identifier, which never changes
    side: int
    changes: list[Change]
    event_ns: int | None = None
    detail: str = ""


class Order(msgspec.Struct, omit_defaults=True):
    """The payload of an OUTCOME frame: how one decision ended at the broker."""

    symbol: str
    ticket: int
    decision: str
    rule: str
    state: str                         # done | refused | failed | unknown
    code: str                          # of runlog.FILL_CODES
    price_ticks: int | None = None
    left_lots: int | None = None
    closed_lots: int | None = None
    stop_ticks: int | None = None
    net_e8: int | None = None          # profit, swap, commission and fee, account currency
    sends: int = 0
    retcodes: str = ""
    reason: str = ""


class Decided(msgspec.Struct):
    """The payload of a DECIDED frame: one decision of the kernel, byte for byte."""

    decision: str                      # its id at the gateway, empty where nothing is sent
    symbol: str
    rule: str
    record: str                        # hex of the DECISION record


class Switch(msgspec.Struct):
    """The payload of a SWITCH frame: a rule has another mode from here on."""

    rule: str
    number: int
    mode: str
    was: str
    reason: str = ""


class Own(NamedTuple):
    """Rows of one table, without seq and recv_ns."""

    table: str
    rows: list[dict]


def _account(payload: bytes) -> Own:
    a = _ACCOUNT.decode(payload)
    last = len(a.changes) - 1
    return Own("account", [
        {"event_ns": a.event_ns, "symbol": a.symbol, "ticket": a.ticket, "code": change.code, "side": a.side,
         "price_ticks": change.price_ticks, "qty_lots": change.qty_lots,
         "bits": (FIRST if n == 0 else 0) | (LAST if n == last else 0), "detail": a.detail if n == 0 else ""}
        for n, change in enumerate(a.changes)])


def _order(payload: bytes) -> Own:
    row = msgspec.structs.asdict(_ORDER.decode(payload))
    return Own("orders", [{"event_ns": None, **row}])


def _decided(payload: bytes) -> Own:
    d = _DECIDED.decode(payload)
    record = decision_record(d.record)[0]
    words = {"action": ACTIONS[record["action"]], "mode": RULE_MODES[record["mode"]], "result": RESULTS[record["result"]]}
    numbers = {name: None if record[name] == MISSING else int(record[name])
               for name in ("ticket", "bid_ticks", "ask_ticks", "stop_ticks", "volume_left", "age_ns")}
    return Own("decisions", [{"event_ns": None, "symbol": d.symbol, "decision": d.decision, "rule": d.rule, **words, **numbers,
                              "trigger_seq": int(record["seq"]), "record": d.record}])


def _switch(payload: bytes) -> Own:
    return Own("switches", [{"event_ns": None, "symbol": None, **msgspec.structs.asdict(_SWITCH.decode(payload))}])


def decision_record(text: str) -> np.ndarray:
    """Return the one DECISION record that a hex text holds."""
    return np.frombuffer(bytes.fromhex(text), DECISION)


_ACCOUNT, _ORDER, _DECIDED, _SWITCH = (msgspec.json.Decoder(kind) for kind in (Account, Order, Decided, Switch))
READERS = {ACCOUNT: _account, OUTCOME: _order, DECIDED: _decided, SWITCH: _switch}
