"""Rows made from a frame as it is live are the rows its session gives when it is replayed, byte for byte."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from engine.instruments import Instrument
from engine.kernel import records as R
from engine.positions import open_desk
from engine.record.convert import convert
from engine.record.frames import Request, rest_payload
from engine.record.journal import JournalWriter, recording_folder
from engine.kernel.market import DECISION
from engine.record.rows import RowMaker
from engine.record.segment import (
    ACCOUNT,
    CONTROL,
    DECIDED,
    FRAME,
    INSTRUMENTS,
    OUTCOME,
    QUOTE,
    REST,
    SWITCH,
    TIMER,
    JournalReader,
    Origin,
)
from engine.record.store import Session
from engine.stream import LIVE_TABLES, events

VENUE = Instrument("BTCUSDT", "binance_usdm", "0.10", "0.001", 2, 3, "venue")
BROKER = Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2, "given", "BTCUSDT")
ORIGINS = [Origin("usdm public", "binance_usdm", "public", "ws://x/public"), Origin("usdm rest", "binance_usdm", "rest", "http://x"),
           Origin("mt5", "mt5", "quotes")]
T = 1_795_000_000_000


def stream(name: str, **data) -> bytes:
    return json.dumps({"stream": name, "data": data}).encode()


def price(dice: random.Random) -> str:
    return dice.choice([f"{dice.randrange(590_000, 610_000) / 10:.1f}", f"{dice.randrange(59_000, 61_000)}.{dice.randrange(10)}0",
                        f"{dice.randrange(59_000, 61_000)}"] * 20 + ["1e5", "", "0060", ".5", "5.", "-3", "x", "1" * 19])


def size(dice: random.Random) -> str:
    return dice.choice([f"{dice.randrange(9_000) / 1000:.3f}", "0", "0.000", "2"] * 20 + ["--", " 1"])


def levels(dice: random.Random) -> list:
    return [[price(dice), size(dice)] for _ in range(dice.choice((0, 1, 5)))]


def frame(dice: random.Random) -> tuple[int, int, bytes]:
    """Draw one frame of any kind, some of them broken."""
    n = dice.randrange(10**6)
    kind = dice.randrange(16)
    if kind < 9 and dice.random() < 0.03:
        n = dice.choice([2**62 - 6, 2**62, 2**63])
    if kind == 0:
        return 0, FRAME, stream("btcusdt@trade", e="trade", E=T, T=T + n, s="BTCUSDT", t=n, p=price(dice), q=size(dice),
                                X=dice.choice(["MARKET", "MARKET", "NA"]), m=dice.random() < 0.5)
    if kind == 1:
        return 0, FRAME, stream("btcusdt@aggTrade", e="aggTrade", s="BTCUSDT", a=n, p=price(dice), q=size(dice), f=n, l=n, m=True, T=T)
    if kind == 2:
        return 0, FRAME, stream("btcusdt@depth@100ms", e="depthUpdate", E=T, T=T, s="BTCUSDT", U=n, u=n + 5, pu=n - 1, b=levels(dice),
                                a=levels(dice))
    if kind == 3:
        return 0, FRAME, stream("btcusdt@depth20@100ms", e="depthUpdate", E=T, T=T, s="BTCUSDT", U=n, u=n + 5, pu=n, b=levels(dice), a=[])
    if kind == 4:
        return 0, FRAME, stream("btcusdt@bookTicker", e="bookTicker", u=n, s="BTCUSDT", b=price(dice), B=size(dice), a=price(dice),
                                A=size(dice), T=T, E=T)
    if kind == 5:
        return 0, FRAME, stream("btcusdt@markPrice@1s", e="markPriceUpdate", E=T, s="BTCUSDT", p=price(dice), i="60000.1", r="0.0001", T=T)
    if kind == 6:
        return 0, FRAME, dice.choice([b"{", b'{"stream":"btcusdt@trade","data":{}}', b'{"result":null,"id":1}', b'{"stream":"x@y","data":1}'])
    if kind == 7:
        return 1, REST, rest_payload(Request("http://x/fapi/v1/depth?symbol=BTCUSDT", 1), json.dumps(
            {"lastUpdateId": n, "bids": levels(dice), "asks": levels(dice)}).encode())
    if kind == 8:
        rows = [{"id": n + i, "price": price(dice), "qty": size(dice), "time": T, "isBuyerMaker": False} for i in range(3)]
        return 1, REST, rest_payload(Request("http://x/api/v3/historicalTrades?symbol=BTCUSDT", 1, 200, n, n + 1), json.dumps(rows).encode())
    if kind == 9:
        return 1, REST, rest_payload(Request("http://x/fapi/v1/time", 1), b'{"serverTime": 1}')
    if kind == 10:
        code, where = dice.choice(["connected", "lost", "gap", "resync", "stale", "note", "odd"]), dice.choice(["", "trades", "depth"])
        return 1, CONTROL, json.dumps({"code": code, "symbol": dice.choice(["BTCUSDT", None]), "stream": where}).encode()
    if kind == 11:
        return 1, TIMER, b""
    if kind == 12:
        return 2, QUOTE, json.dumps({"symbol": "BTCUSD", "bid": price(dice) if dice.random() < 0.9 else "", "ask": price(dice)}).encode()
    if kind == 13:
        changes = [{"code": "opened", "price_ticks": 6_000_000 + n, "qty_lots": 100}, {"code": "stop"}, {"code": "take", "price_ticks": n}]
        others = [[{"code": code, "price_ticks": n}] for code in ("closed", "stopped", "taken")] + [[{"code": "volume", "qty_lots": 3}]]
        return 2, ACCOUNT, json.dumps({"symbol": "BTCUSD", "ticket": n, "side": dice.choice((1, -1)), "event_ns": T * 10**6,
                                       "changes": dice.choice([changes, *others])}).encode()
    if kind == 14:
        code = dice.choice(["rule_closed", "rule_reduced", "stop_moved", "rejected"])
        return 2, OUTCOME, json.dumps({"symbol": "BTCUSD", "ticket": n, "decision": f"d/{n}", "rule": "whale", "state": "done", "code": code,
                                       "price_ticks": dice.choice([None, 6_000_000]), "left_lots": 5, "stop_ticks": 59}).encode()
    if dice.random() < 0.5:
        return 2, SWITCH, json.dumps({"rule": "whale", "number": 2, "mode": "act", "was": "shadow"}).encode()
    return 2, DECIDED, json.dumps({"decision": "", "symbol": "BTCUSD", "rule": "whale", "record": BLANK.hex()}).encode()


BLANK = bytes(DECISION.itemsize)


def journaled(folder: Path, frames: list[tuple[int, int, bytes]]) -> Path:
    writer = JournalWriter(recording_folder(folder, "s"), "s", sources=ORIGINS, disk_reserve_bytes=0)
    with writer:
        for origin in ORIGINS:
            writer.source(origin)
        writer.append(1, INSTRUMENTS, json.dumps([VENUE.as_dict(), BROKER.as_dict()]).encode(), T * 10**6)
        for n, (source, kind, payload) in enumerate(frames):
            writer.append(source, kind, payload, T * 10**6 + n * 1000)
    return writer.folder


def live_rows(folder: Path) -> np.ndarray:
    desk = open_desk([VENUE, BROKER], "0.01")
    reader = JournalReader(folder)
    made = None
    parts = []
    for each in reader:
        made = made or RowMaker([VENUE, BROKER], desk.numbers, reader.sources)
        parts.append(made.rows(each).copy())
    return np.concatenate(parts)


@pytest.mark.parametrize("seed", range(6))
def test_live_rows_are_the_session_s_rows(tmp_path, seed):
    dice = random.Random(seed)
    folder = journaled(tmp_path, [frame(dice) for _ in range(600)])
    live = live_rows(folder)
    session = Session(convert(folder, tmp_path)["path"])
    assert {i.symbol: (i.tick_size, i.lot_size) for i in session.instruments} == {"BTCUSDT": ("0.10", "0.001"), "BTCUSD": ("0.01", "0.01")}
    replayed = np.concatenate(list(events(session, open_desk([VENUE, BROKER], "0.01").numbers, LIVE_TABLES)))
    assert len(live) == len(replayed) > 600
    for name in R.EVENT.names:
        different = np.flatnonzero(live[name] != replayed[name])
        assert not len(different), (name, live[different[0]], replayed[different[0]])
    assert live.tobytes() == replayed.tobytes()
    assert set(live["kind"]) >= {R.TRADE, R.DEPTH, R.SNAPSHOT, R.BEST, R.QUOTE, R.POSITION, R.OUTCOME, R.FEED, R.TIMER, R.SWITCH}
