"""A broker quote between two steps is taken at the worse one for both sides, the same in the live rows and in the session."""

import json
import random
from fractions import Fraction

import numpy as np
import pytest

from engine.instruments import Instrument
from engine.kernel import records as R
from engine.positions import open_desk
from engine.record.convert import convert
from engine.record.grid import Grid
from engine.record.journal import JournalWriter, recording_folder
from engine.record.rows import RowMaker
from engine.record.segment import FRAME, INSTRUMENTS, QUOTE, JournalReader, Origin
from engine.record.store import Session
from engine.stream import LIVE_TABLES, events

VENUE = Instrument("BTCUSDT", "binance_usdm", "0.10", "0.001", 2, 3, "venue")
BROKER = Instrument("US500", "mt5", "0.25", "0.01", 2, 2, "venue", "BTCUSDT")
ORIGINS = [Origin("usdm", "binance_usdm", "public", "ws://x/public"), Origin("mt5", "mt5", "account")]
T = 1_795_000_000_000_000_000


def both(folder, quotes: list[tuple[str, str]], trades: tuple[str, ...] = ("60000.10",)) -> tuple[np.ndarray, np.ndarray, Session]:
    """Return the rows as they are live and as the session has them."""
    frames = [(0, FRAME, {"stream": "btcusdt@trade", "data": {"e": "trade", "E": T // 10**6, "T": T // 10**6, "s": "BTCUSDT", "t": n, "p": text, "q": "1",
                                                             "X": "MARKET", "m": True}}) for n, text in enumerate(trades)]
    frames += [(1, QUOTE, {"symbol": "US500", "bid": bid, "ask": ask}) for bid, ask in quotes]
    with JournalWriter(recording_folder(folder, "s"), "s", sources=ORIGINS, disk_reserve_bytes=0) as writer:
        for origin in ORIGINS:
            writer.source(origin)
        writer.append(0, INSTRUMENTS, json.dumps([VENUE.as_dict(), BROKER.as_dict()]).encode(), T)
        for n, (source, kind, body) in enumerate(frames):
            writer.append(source, kind, json.dumps(body).encode(), T + 1 + n)
    desk, reader = open_desk([VENUE, BROKER], "0.01"), JournalReader(writer.folder)
    made, live = RowMaker([VENUE, BROKER], desk.numbers, ORIGINS), []
    for frame in reader:
        live.append(made.rows(frame).copy())
    session = Session(convert(writer.folder, folder)["path"])
    return np.concatenate(live), np.concatenate(list(events(session, desk.numbers, LIVE_TABLES))), session


def test_the_bid_goes_down_and_the_ask_goes_up(tmp_path):
    live, replayed, session = both(tmp_path, [("5000.13", "5000.63"), ("5000.25", "5000.50"), ("5000.1", "5000.1"), ("", "0.1"), ("0.1", "")])
    quotes = live[live["kind"] == R.QUOTE]
    assert quotes["price_ticks"].tolist() == [
        20_000, 20_003, 20_001, 20_002, 20_000, 20_001, R.MISSING, 1, 0, R.MISSING]
    assert live.tobytes() == replayed.tobytes()
    found = {i.symbol: i for i in session.instruments}
    assert found["US500"] == BROKER and found["BTCUSDT"].tick_size == "0.10"


@pytest.mark.parametrize("seed", range(4))
def test_live_and_session_agree_on_any_quote(tmp_path, seed):
    dice = random.Random(seed)

    def price() -> str:
        return dice.choice([f"{dice.randrange(10**7) / 10**dice.randrange(5):.{dice.randrange(5)}f}"] * 12
                           + ["", "x", "1e5", ".5", "5.", "0060.1", "-3.1", "9" * 19, "9" * 18 + ".1", "1" * 17 + ".13", " 1.1"])
    live, replayed, _ = both(tmp_path, [(price(), price()) for _ in range(400)])
    assert live.tobytes() == replayed.tobytes() and (live["kind"] == R.QUOTE).sum() > 200


def test_it_is_so_too_where_the_venue_s_steps_have_to_be_found_anew(tmp_path):
    with pytest.raises(Exception, match="the venue changed its step sizes"):
        both(tmp_path, [("5000.13", "5000.63")], ("60000.05",))
    session = Session(convert(recording_folder(tmp_path, "s"), tmp_path)["path"])
    assert session.table("quotes", ["bid_price_ticks", "ask_price_ticks"]).to_pylist() == [
        {"bid_price_ticks": 20_000, "ask_price_ticks": 20_003}]
    assert {i.symbol: i.tick_size for i in session.instruments} == {"BTCUSDT": "0.05", "US500": "0.25"}


def test_a_text_is_moved_to_the_next_step_and_by_less_than_one():
    dice = random.Random(1)
    for _ in range(2000):
        size = dice.choice(["0.25", "0.05", "0.1", "1", "5", "0.00001", "0.3"])
        text = f"{dice.randrange(10**9) / 10**dice.randrange(6):.{dice.randrange(6)}f}"
        low, high = Fraction(Grid(size, up=False)[text]), Fraction(Grid(size, up=True)[text])
        value, step = Fraction(text), Fraction(size)
        assert low <= value <= high and (low / step).denominator == (high / step).denominator == 1
        assert high - low == (0 if (value / step).denominator == 1 else step)
