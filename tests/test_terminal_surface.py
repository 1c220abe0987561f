"""The simulated terminal has the surface of the MetaTrader5 module, name by name, as the facts list it: here and over a socket."""

import inspect
import json
import os
import pickle
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
from terminals import served

from engine.gateway import surface
from engine.gateway.server_clock import ServerClock
from engine.gateway.terminal import SimulatedTerminal, VirtualClock
from engine.gateway.terminal_books import Book, Spec

API = Path(__file__).resolve().parents[2] / "shared" / "facts" / "mt5_api.json"
KIND = {"float": "f", "str": "s", "bool": "b"}
OF_KIND = {"f": float, "s": str, "b": bool, "i": int}


@pytest.fixture(scope="module")
def api() -> dict:
    if not API.is_file():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the list of the module's names is not at {API}, and CI needs it")
        pytest.skip("the list of the module's names is not here")
    return json.loads(API.read_text(encoding="utf-8"))


@pytest.fixture
def terminal() -> SimulatedTerminal:
    clock = VirtualClock()
    book = Book([Spec("BTCUSD"), Spec("XAUUSD")])
    book.push(clock.now_ns(), "BTCUSD", 6_000_000, 6_000_100)
    made = SimulatedTerminal(book, clock)
    book.by_hand("BTCUSD", 0, 1.0, sl=59_000.0, tp=62_000.0)
    return made


@pytest.fixture(params=["in this process", "over a socket"])
def mt5(terminal, request, tmp_path):
    if request.param == "in this process":
        assert terminal.module.initialize()
        yield terminal.module
        return
    with served(terminal, tmp_path) as module:
        assert module.initialize()
        yield module


def test_every_constant_has_the_module_s_value_and_there_is_no_other(api, mt5):
    assert len(api["constants"]) == 223
    assert {name: value for name, value in vars(mt5).items() if name.isupper()} == api["constants"]
    for name in api["constants_not_in_module"]:
        assert not hasattr(mt5, name)


def test_every_function_is_there_and_no_other(api, mt5):
    assert len(api["functions"]) == 35
    assert {name for name, value in vars(mt5).items() if inspect.isfunction(value)} == {entry["name"] for entry in api["functions"]}
    assert all(getattr(mt5, entry["name"]).__name__ == entry["name"] for entry in api["functions"])


def test_every_record_has_the_fields_in_order_and_of_the_type(api):
    found = {name: [(f["name"], KIND.get(f["type"], "i")) for f in fields] for name, fields in api["namedtuples"].items()}
    assert len(found) == 11 and found == surface.FIELDS


def test_the_arrays_are_packed(api):
    for name, dtype in (("rates", surface.RATES), ("ticks", surface.TICKS)):
        assert dtype == np.dtype([tuple(field) for field in api["numpy_dtypes"][name]["fields"]]) and dtype.itemsize == 60


def test_request_fields_and_lengths(api):
    rules = api["request_validation"]
    assert set(surface.REQUEST_INTS) == set(rules["int_fields"]) and set(surface.REQUEST_FLOATS) == set(rules["float_fields"])
    assert set(surface.REQUEST_TEXTS) == set(rules["str_fields"])
    assert rules["max_lengths_chars"] == {"symbol": surface.MAX_TEXT_UNITS, "comment": surface.MAX_TEXT_UNITS, "group": surface.MAX_GROUP_UNITS,
                                          "server": surface.MAX_SERVER_UNITS, "password": surface.MAX_SERVER_UNITS, "path": surface.MAX_PATH_UNITS}


def test_error_texts(api):
    texts = {row["code"]: row["text"] for row in api["last_error"]}
    assert set(texts) == set(surface.ERROR_TEXTS)
    for code, text in surface.ERROR_TEXTS.items():
        assert any(text.startswith(known.split(",")[0].split("<")[0].strip()) for known in texts[code].split(" | ")), (code, text)


def test_what_the_terminal_answers_is_of_the_listed_types(mt5, terminal):
    ticket = mt5.positions_get()[0].ticket
    done = mt5.order_send({"action": 1, "position": ticket, "symbol": "BTCUSD", "volume": 0.4, "type": 1, "type_filling": 1})
    checked = mt5.order_check({"action": 1, "position": ticket, "symbol": "BTCUSD", "volume": 0.1, "type": 1, "type_filling": 1})
    assert done.retcode == mt5.TRADE_RETCODE_DONE and checked.retcode == 0
    rows = [mt5.symbol_info("BTCUSD"), mt5.symbol_info_tick("BTCUSD"), mt5.account_info(), mt5.terminal_info(), done, done.request, checked,
            *mt5.positions_get(), *mt5.market_book_get("BTCUSD"), *mt5.history_deals_get(position=ticket), *mt5.history_orders_get(position=ticket)]
    assert {type(row).__name__ for row in rows} == set(surface.FIELDS)
    for row in rows:
        for (name, kind), value in zip(surface.FIELDS[type(row).__name__], row):
            assert kind not in OF_KIND or name == "request" or type(value) is OF_KIND[kind], (type(row).__name__, name, value)


def test_a_record_is_a_struct_and_no_named_tuple(mt5):
    tick = mt5.symbol_info_tick("BTCUSD")
    assert isinstance(tick, tuple) and len(tick) == 8 and tick.bid == tick[1] == 60_000.0 and type(tick).__name__ == "Tick"
    assert not hasattr(tick, "_fields") and not hasattr(tick, "_replace") and not hasattr(tick, "_make")
    assert tick._asdict()["ask"] == 60_001.0 and repr(tick).startswith("Tick(time=")
    with pytest.raises(AttributeError):
        tick.bid = 1.0
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(tick)
    sent = mt5.order_send(action=6)
    assert type(sent._asdict()["request"]).__name__ == "TradeRequest"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize("field, value", [
    ("volume", 1), ("price", np.float32(1)), ("sl", None), ("tp", "1"), ("volume", True), ("position", np.int64(5)), ("type", 1.0),
    ("magic", -1), ("deviation", None), ("action", 2**32), ("symbol", None), ("symbol", "x" * 30), ("comment", "y" * 30),
    ("comment", "\U0001f600" * 15), ("comment", b"x")])
def test_a_request_of_the_wrong_type_is_refused_before_the_pipe_is_looked_at(mt5, field, value):
    mt5.shutdown()
    assert mt5.order_send({"action": 1, field: value}) is None
    assert mt5.last_error() == (-2, f'Invalid "{field}" argument')
    assert mt5.order_check(**{"action": 1, field: value}) is None and mt5.last_error()[0] == -2


@pytest.mark.parametrize("field, value", [("volume", np.float64(1)), ("position", True), ("action", Number.ONE), ("comment", "z" * 29),
                                          ("unknown", object())])
def test_a_request_that_passes_reaches_the_pipe(mt5, field, value):
    mt5.shutdown()
    assert mt5.order_send({"action": 1, field: value}) is None and mt5.last_error() == (-10004, "No IPC connection")


def test_without_a_pipe_each_function_fails_its_own_way(mt5):
    mt5.shutdown()
    assert mt5.version() == (0, 0, "") and mt5.last_error() == (-10004, "No IPC connection")
    assert mt5.symbol_select("BTCUSD") is False and mt5.market_book_add("BTCUSD") is False
    for call in (mt5.account_info, mt5.terminal_info, mt5.symbols_total, mt5.symbols_get, mt5.positions_get, mt5.orders_total):
        assert call() is None and mt5.last_error()[0] == -10004
    assert mt5.login(5001) is False


def test_positional_and_keyword_rules(mt5):
    def error(result, expected=None):
        assert result is expected
        return mt5.last_error()
    assert error(mt5.positions_get("BTCUSD")) == (-2, "Unnamed arguments not allowed")
    assert error(mt5.orders_get(5)) == (-2, "Unnamed arguments not allowed")
    assert error(mt5.positions_get(ticket=1.0)) == (-2, 'Invalid "ticket" argument')
    assert error(mt5.positions_get(group="x" * 1998)) == (-2, 'Invalid "group" argument')
    assert error(mt5.symbols_get(5), False)[0] == -2
    assert error(mt5.symbol_info("BTCUSD", 1))[0] == -2 and error(mt5.market_book_add(5))[0] == -2
    assert error(mt5.history_deals_get(86400))[0] == -2 and error(mt5.history_deals_get(1, 2, ticket=3))[0] == -2
    assert error(mt5.history_orders_get(position="1"))[0] == -2
    assert error(mt5.order_send(5))[0] == -2 and error(mt5.order_send({}, action=1))[0] == -2
    assert error(mt5.symbol_info("NONE")) == (-4, "Terminal: Not found")
    assert error(mt5.initialize(login="5"), False) == (-2, 'Invalid "login" argument')
    assert error(mt5.initialize(login=77), False) == (-6, "Terminal: Authorization failed")
    with pytest.raises(TypeError):
        mt5.symbol_info(symbol="BTCUSD")
    with pytest.raises(SystemError):
        mt5.copy_ticks_from("BTCUSD", "now", 5, -1)
    with pytest.raises(SystemError):
        mt5.order_calc_profit(0, "BTCUSD", None, 1, 2)


def test_ticket_beats_symbol_beats_group_and_an_unknown_one_is_no_error(mt5):
    ticket = mt5.positions_get()[0].ticket
    assert len(mt5.positions_get(ticket=ticket, symbol="XAUUSD", group="none")) == 1
    assert mt5.positions_get(symbol="XAUUSD", group="*") == ()
    assert mt5.positions_get(ticket=1) == () and mt5.last_error() == (1, "Success")
    assert len(mt5.positions_get(group="*USD,!XAU*")) == 1 and mt5.positions_get(group="*,!BTC*") == ()
    assert mt5.history_deals_get(ticket=1) == () and mt5.positions_total() == 1


def test_dates_are_server_time_and_end_in_2038(mt5, terminal):
    now_s = terminal.book.msc() // 1000
    assert len(mt5.history_deals_get(86400, now_s + 86400)) == 1 and mt5.history_deals_get(86400, now_s - 60) == ()
    utc_s = terminal.clock.now_ns() // 10**9
    assert now_s - utc_s == ServerClock().offset_s(utc_s) == 3 * 3600
    assert mt5.history_deals_get(86400, utc_s) == (), "an upper bound of UTC hides the newest deals"
    assert mt5.history_deals_get(86400, 2**31) == (), "the bound turns negative"


def test_ticks_and_bars(mt5, terminal):
    book, now_ns = terminal.book, terminal.clock.now_ns()
    for i in range(1, 200):
        terminal.clock.sleep_s(1.0)
        book.push(now_ns + i * 10**9, "BTCUSD", 6_000_000 + i, 6_000_100 + i // 2)
    ticks = mt5.copy_ticks_from("BTCUSD", 86400, 10**6, mt5.COPY_TICKS_ALL)
    assert len(ticks) == 200 and ticks.dtype == surface.TICKS and (np.diff(ticks["time_msc"]) == 1000).all()
    assert ticks["flags"][1] == 2 and ticks["flags"][2] == 6 and ticks["bid"][-1] == 60_001.99
    bars = mt5.copy_rates_from_pos("BTCUSD", mt5.TIMEFRAME_M1, 0, 2)
    assert bars.dtype == surface.RATES and len(bars) == 2 and bars["time"][1] - bars["time"][0] == 60 and bars["close"][-1] == 60_001.99
    assert (bars["high"] >= bars["low"]).all() and len(mt5.copy_rates_range("BTCUSD", 1, 86400, 2**31 - 1)) == 4
    last = int(ticks["time"][-1])
    assert len(mt5.copy_ticks_range("BTCUSD", last - 9, last, -1)) == 10 and len(mt5.copy_ticks_from("BTCUSD", last, 5, 2)) == 0


@pytest.mark.parametrize("volume", [float("nan"), float("inf"), -1.0])
def test_a_number_that_is_none_is_answered(mt5, volume):
    assert mt5.order_send(action=1, symbol="BTCUSD", volume=volume, type=1, type_filling=1).retcode in (10013, 10014)


def test_the_helpers_trade_as_the_package_does(mt5):
    assert mt5.Buy("BTCUSD", 0.2).retcode == 10009 and mt5.Sell("BTCUSD", 0.1).retcode == 10009 and len(mt5.positions_get()) == 3
    assert mt5.Close("BTCUSD") is True and mt5.positions_get() == () and mt5.Close("BTCUSD") is False
