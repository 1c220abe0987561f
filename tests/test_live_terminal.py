"""A pair given with --map is held against what the broker says and what was confirmed, before anything is stored."""

import json

import pytest

from engine.errors import BadInput
from engine.gateway.client import DirectLink
from engine.gateway.mt5_worker import Desk, Intents
from engine.gateway.symbols import load_map, maps_path
from engine.gateway.terminal_config import WallClock, build
from engine.live.options import LiveOptions, Terminal
from engine.live.terminal import Account, keep_pairs, open_account
from engine.record.recorder import Options
from engine.sources.binance import Endpoint

SERVER = "Simulated-Demo", 5001


def opened(data, pairs: dict[str, str], symbols: tuple[str, ...] = ("BTCUSDT",), **spec) -> Account:
    """Open the account of a terminal that has some symbols, the first with a specification of its own."""
    listed = [{"name": "BTCUSD", **spec}, {"name": "BTCUSDm"}, {"name": "ETHUSD", "currency_base": "ETH"}]
    terminal = build({"symbols": listed, "quotes": [[row["name"], 6_000_000, 6_000_100] for row in listed]})
    options = LiveOptions("shadow", Options(Endpoint("binance_usdm", "", ""), list(symbols)), [], Terminal("simulated"), pairs)
    account = open_account(options, DirectLink(Desk(terminal.module, Intents(None))), WallClock(), data)
    keep_pairs(account, data)          # as a run does once the venue knows the symbols
    return account


def maps(data) -> dict[str, str]:
    return {symbol: each.broker_symbol for symbol, each in load_map(data, *SERVER).items()}


def test_a_pair_is_confirmed_and_taken_from_the_store_the_next_time(tmp_path):
    assert opened(tmp_path, {"BTCUSDT": "BTCUSD"}).shown["contracts"] == {"BTCUSD": "1"}
    assert maps(tmp_path) == {"BTCUSDT": "BTCUSD"}
    before = maps_path(tmp_path).read_bytes()
    assert list(opened(tmp_path, {}).instruments) == list(opened(tmp_path, {"BTCUSDT": "BTCUSD"}).instruments) == ["BTCUSD"]
    assert maps_path(tmp_path).read_bytes() == before, "what did not change keeps the day it was confirmed on"


@pytest.mark.parametrize("pairs", [{"BTCUSDT": "BTCUSD"}, {}])
def test_a_pair_whose_contract_changed_is_refused_with_or_without_map(tmp_path, pairs):
    opened(tmp_path, {"BTCUSDT": "BTCUSD"})
    said = "BTCUSD is not what was confirmed .* its contract size was 1 and is 10; .* tapeguard doctor --map BTCUSDT=BTCUSD"
    with pytest.raises(BadInput, match=said):
        opened(tmp_path, pairs, contract_size=10.0)
    assert json.loads(maps_path(tmp_path).read_text())["maps"][0]["contract_size"] == "1"


def test_another_broker_symbol_may_take_its_place(tmp_path):
    opened(tmp_path, {"BTCUSDT": "BTCUSD"})
    assert list(opened(tmp_path, {"BTCUSDT": "BTCUSDm"}, contract_size=10.0).instruments) == ["BTCUSDm"]
    assert maps(tmp_path) == {"BTCUSDT": "BTCUSDm"}


@pytest.mark.parametrize(("pairs", "more", "words"), [
    ({"BTCUSDT": "ETHUSD"}, {}, "ETHUSD cannot be led by BTCUSDT: it trades ETH, not BTC"),
    ({"BTCUSDT": "BTCUSD"}, {"trade_mode": 0}, "trading is disabled"),
    ({"BTCUSDT": "BTCUSD"}, {"currency_profit": "EUR"}, "priced in EUR, not USDT")])
def test_a_pair_the_doctor_would_refuse_is_refused_and_not_stored(tmp_path, pairs, more, words):
    with pytest.raises(BadInput, match=words):
        opened(tmp_path, pairs, **more)
    assert maps(tmp_path) == {}


def test_two_venue_symbols_on_one_broker_symbol_are_refused_and_neither_is_stored(tmp_path):
    with pytest.raises(BadInput, match="BTCUSDT and BTCUSDC both lead BTCUSD"):
        opened(tmp_path, {"BTCUSDT": "BTCUSD", "BTCUSDC": "BTCUSD"}, ("BTCUSDT", "BTCUSDC"))
    assert maps(tmp_path) == {}
    opened(tmp_path, {"BTCUSDT": "BTCUSD"})
    with pytest.raises(BadInput, match="BTCUSDT and BTCUSDC both lead BTCUSD"):
        opened(tmp_path, {"BTCUSDC": "BTCUSD"}, ("BTCUSDT", "BTCUSDC"))
    assert maps(tmp_path) == {"BTCUSDT": "BTCUSD"}
