"""Broker quotes that follow a venue: a real recording played over Binance's protocol, followed by a terminal process."""

import json
import time

import numpy as np
import pytest
from exchanges import beginning, of_streams, recorded
from exchanges import running as exchange_running
from hypothesis import given
from hypothesis import strategies as st
from terminals import running

from engine.gateway.server_clock import ServerClock
from engine.gateway.terminal_books import Spec
from engine.gateway.terminal_follow import broker_quote
from engine.gateway.terminal_settings import Follow
from engine.sim.exchange import ExchangeConfig

LINES, SPEED = 20_000, 20.0        # about 70 s of the tape in 3.5
FOLLOW = Follow("BTCUSD", "btcusdt@bookTicker", "ws://127.0.0.1:1", spread_bps=3.0, lag_ms=250.0, basis_bps=5.0)
SPEC = Spec("BTCUSD", tick_points=5)


@given(st.floats(1000, 100_000), st.floats(0, 5), st.sampled_from([1, 5, 10]), st.floats(0, 20), st.floats(-50, 50))
def test_a_quote_is_on_the_grid_and_as_wide_as_asked(bid, gap, tick, spread_bps, basis_bps):
    follow = Follow("X", "x@bookTicker", "ws://x", spread_bps=spread_bps, basis_bps=basis_bps)
    ours = broker_quote(follow, Spec("X", tick_points=tick), bid, bid + gap)
    middle = (bid + gap / 2) * (1 + basis_bps / 1e4) * 100
    assert ours[0] % tick == ours[1] % tick == 0 and ours[1] - ours[0] >= tick
    assert abs(ours[1] - ours[0] - max(middle * spread_bps / 1e4, tick)) <= tick and abs(sum(ours) / 2 - middle) <= tick


@pytest.fixture(scope="module")
def capture(realdata, tmp_path_factory):
    return beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", LINES, tmp_path_factory.mktemp("follow"))


def expected(capture) -> list[tuple[int, int]]:
    """Return the broker's quotes of a capture, without those that change nothing."""
    found: list[tuple[int, int]] = []
    for frame in of_streams(recorded(capture), "bookTicker"):
        data = json.loads(frame)["data"]
        quote = broker_quote(FOLLOW, SPEC, float(data["b"]), float(data["a"]))
        if not found or quote != found[-1]:
            found.append(quote)
    return found


def until(done, seconds: float = 30.0) -> None:
    end_s = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def ticks(mt5) -> np.ndarray:
    rows = mt5.copy_ticks_from("BTCUSD", 86_400, 10**6, mt5.COPY_TICKS_ALL)
    assert rows is not None, mt5.last_error()
    return rows


def test_every_changed_quote_of_a_recording_arrives_once_later_and_on_the_server_s_clock(capture, tmp_path):
    with exchange_running(ExchangeConfig([capture], speed=SPEED, start="call")) as (exchange, call), \
            running(tmp_path, symbols=[{"name": "BTCUSD", "tick_points": 5}], quotes=[], accounts=[{"balance": 1e9}],
                    positions=[{"symbol": "BTCUSD", "side": 0, "lots": 1.0, "sl_bps": 1000, "tp_bps": 1000}],
                    follow=[{"symbol": "BTCUSD", "stream": FOLLOW.stream, "ws": exchange.ws_url, "path": "/public", "spread_bps": FOLLOW.spread_bps,
                             "lag_ms": FOLLOW.lag_ms, "basis_bps": FOLLOW.basis_bps}]) as terminal:
        mt5, _ = terminal.module()
        assert mt5.initialize() and mt5.positions_get() == () and mt5.symbol_info_tick("BTCUSD").bid == 0.0
        until(lambda: exchange.clients)
        begun_ns = time.time_ns()
        call(exchange.begin)
        wanted = expected(capture)
        assert len(wanted) > 300
        until(lambda: len(ticks(mt5)) >= len(wanted))
        time.sleep(0.5)
        rows, held = ticks(mt5), mt5.positions_get()
        assert list(zip(np.round(rows["bid"] * 100).astype(int), np.round(rows["ask"] * 100).astype(int))) == wanted
        first_ms = rows["time_msc"][0] - ServerClock().server_msc(begun_ns)
        assert 250 <= first_ms < 5000 and (np.diff(rows["time_msc"]) >= 0).all()
        ask = wanted[0][1]
        assert len(held) == 1 and round(held[0].price_open * 100) == ask and abs(held[0].sl * 100 - ask * 0.9) <= 5 and abs(held[0].tp * 100 - ask * 1.1) <= 5
        mt5.shutdown()


def test_a_socket_that_is_cut_comes_again(capture, tmp_path):
    with exchange_running(ExchangeConfig([capture], speed=2.0)) as (exchange, call), \
            running(tmp_path, "--follow", exchange.ws_url + "/public") as terminal:
        mt5, _ = terminal.module()
        assert mt5.initialize() and mt5.account_info().login == 5001
        until(lambda: len(ticks(mt5)) > 3)
        assert [(row.type, row.volume) for row in mt5.positions_get()] == [(0, 1.0), (1, 1.0)] and all(row.sl and row.tp for row in mt5.positions_get())
        call(lambda: [client.close(1001, "cut") for client in list(exchange.clients)])
        until(lambda: not exchange.clients)
        until(lambda: exchange.clients)
        before = len(ticks(mt5))
        until(lambda: len(ticks(mt5)) > before)
        assert len(mt5.positions_get()) == 2 and exchange.connects == 2
        mt5.shutdown()
        terminal.end()
        assert terminal.code == 0 and terminal.complained.count("connected") == 2 and terminal.complained.count("lost") == 1


def test_an_exchange_that_is_not_there_yet_is_said_and_waited_for(tmp_path):
    with running(tmp_path, "--follow", "ws://127.0.0.1:9") as terminal:
        mt5, _ = terminal.module()
        assert mt5.initialize() and mt5.positions_get() == ()
        mt5.shutdown()
        time.sleep(0.5)
        terminal.end()
        assert terminal.code == 0 and "failed" in terminal.complained
