"""Whales on recordings nobody here wrote: the sizes their README states, and a print that is no trade."""

import numpy as np
import pytest

from engine.kernel import records as R
from engine.positions import open_desk
from engine.record.importer import import_files
from engine.record.store import Session
from engine.replay import Feed, Plan
from engine.rules import choose, find_rules
from engine.run import Run, Settings
from engine.trades import TradePlan


def watched(session: Session, side: int) -> tuple[Run, np.ndarray]:
    """Replay a session with one position held from its start and the whale rule in shadow; return the run and its decisions."""
    first_ns = session.manifest["first_recv_ns"]
    symbol = session.instruments[0].symbol
    trade = TradePlan(1, symbol, side, "1.0", first_ns + 5_000_000_000, sl_bps=5000)
    choices = choose(find_rules(), "whale:classic=shadow", [])
    plan = Plan(session, [trade], choices)
    desk = open_desk(session.instruments, plan.model.tick_size)
    run = Run(desk.pairs, [choices], [Settings()], slots=8)
    return run, np.concatenate([run.feed(chunk)[0] for chunk in Feed(plan, desk)])


@pytest.fixture(scope="module")
def sessions(realdata, tmp_path_factory) -> dict[str, Session]:
    """Return the 2024 and the 2023 recording as sessions."""
    data = tmp_path_factory.mktemp("whales")
    folder = realdata / "binance_usdm"
    files = {"2024": ["btcusdt_20240808.gz"], "2023": ["btcusdt_20230404.dat.gz", "btcusdt_20230405.dat.gz"]}
    return {year: Session(import_files([folder / name for name in names], data, name=year)["path"]) for year, names in files.items()}


def test_the_recording_of_2024_has_its_six_trades_and_its_21_sweeps_of_a_million(sessions):
    run, _ = watched(sessions["2024"], 1)
    market = run.arrays["market"][0]
    assert market.whale_prints == 6
    assert market.whale_sweeps == 21
    assert round(market.whale_largest_usd) == 4_359_751


def test_the_rule_votes_on_every_contrary_sweep_of_a_million_while_a_position_is_open(sessions):
    trades = sessions["2024"].table("trades")
    columns = {name: np.asarray(trades[name]) for name in ("recv_ns", "event_ns", "price_ticks", "qty_lots", "side", "trade_id")}
    opened = sessions["2024"].manifest["first_recv_ns"] + 6_000_000_000
    seen = set()
    for side in (1, -1):
        _, decisions = watched(sessions["2024"], side)
        criticals = decisions[decisions["occasion"] % 4 == 2]
        seen |= {int(row["evidence_1"]) for row in criticals}        # trade_id, the sweep's first trade
    wanted = {}
    for i in range(len(columns["side"])):
        key = (int(columns["event_ns"][i]), int(columns["side"][i]))
        first, value, at = wanted.get(key, (int(columns["trade_id"][i]), 0, int(columns["recv_ns"][i])))
        wanted[key] = (first, value + int(columns["price_ticks"][i]) * int(columns["qty_lots"][i]), at)
    expected = {first for first, value, at in wanted.values() if value >= 10_000_000_000 and at > opened}
    assert len(expected) > 15
    assert expected <= seen


def test_the_insurance_fund_print_of_2023_is_recorded_and_triggers_nothing(sessions):
    session = sessions["2023"]
    trades = session.table("trades")
    place = int(np.flatnonzero(np.asarray(trades["trade_id"]) == 3535191080)[0])
    assert trades["bits"][place].as_py() & R.NOT_MARKET
    assert trades["price_ticks"][place].as_py() == 287225
    at_ns = trades["recv_ns"][place].as_py()
    for side in (1, -1):
        run, decisions = watched(session, side)
        assert not np.any(np.abs(decisions["recv_ns"] - at_ns) < 2_000_000_000)
        market = run.arrays["market"][0]
        assert market.whale_prints == 0
        assert market.last_ticks < 285000
