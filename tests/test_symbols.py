"""Broker symbols: which may be led and why, exact sizes, and the confirmed pairs held against the terminal."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.gateway import surface
from engine.gateway.symbols import (
    account_suffix,
    check_map,
    decimal_of,
    instrument_of,
    judge,
    load_map,
    map_of,
    maps_path,
    masked,
    rank,
    split_pair,
    store_map,
)

NOW_NS = 1_760_000_000 * 10**9


def spec(name: str = "BTCUSD", **more) -> dict:
    """Return a symbol as the terminal tells it."""
    usual = dict(
        currency_base="BTC",
        currency_profit="USD",
        digits=2,
        trade_tick_size=0.01,
        volume_step=0.01,
        volume_min=0.01,
        trade_contract_size=1.0,
        trade_mode=4,
        trade_exemode=2,
        order_mode=127,
        visible=True,
        select=True,
    )
    return surface.make("SymbolInfo", name=name, **usual | more)._asdict()


def names(specs: list[dict], suffix: str | None = None) -> list[str]:
    return [each.symbol for each in rank(specs, "BTC", "USDT", suffix)]


@pytest.mark.parametrize(
    "login, shown", [(5098761, "50***1"), (123456, "12***6"), (5001, "5***1"), (12, "1***"), (0, "0***")]
)
def test_an_account_is_shown_masked(login, shown):
    assert masked(login) == shown and (login == 0 or str(login) not in shown)


@pytest.mark.parametrize(
    "value, text",
    [
        (0.1, "0.1"),
        (1e-05, "0.00001"),
        (0.30000000000000004, "0.3"),
        (1 / 100, "0.01"),
        (100.0, "100"),
        (0.25, "0.25"),
        (1e-08, "0.00000001"),
        (5, "5"),
        (100000.0, "100000"),
        (2.5e-07, "0.00000025"),
    ],
)
def test_sizes_become_the_decimals_they_stand_for(value, text):
    assert decimal_of(value) == text


@given(st.integers(1, 10**9), st.integers(0, 8))
def test_every_short_decimal_comes_back(whole, decimals):
    text = decimal_of(float(f"{whole}e-{decimals}"))
    assert Decimal(text) == Decimal(whole).scaleb(-decimals) and "E" not in text.upper()


@pytest.mark.parametrize("value", [0.0, -0.01, float("nan"), float("inf")])
def test_a_size_that_is_none(value):
    with pytest.raises(ValueError):
        decimal_of(value)
    with pytest.raises(BadInput, match="no tick size or volume step for BTCUSD"):
        instrument_of(spec(trade_tick_size=value), "BTCUSDT")


def test_the_instrument_of_a_broker_symbol():
    made = instrument_of(spec("XAUUSDm", digits=3, trade_tick_size=0.005, volume_step=0.1, point=0.001), "XAUUSDT")
    assert (made.symbol, made.venue, made.tick_size, made.lot_size, made.pair) == (
        "XAUUSDm",
        "mt5",
        "0.005",
        "0.1",
        "XAUUSDT",
    )
    assert (
        made.price_ticks("2650.125") == 530_025 and made.price_text(530_025) == "2650.125" and made.qty_text(3) == "0.3"
    )


def test_what_a_venue_symbol_is_made_of():
    assert split_pair("BTCUSDT") == ("BTC", "USDT") and split_pair("ETHBTC") == ("ETH", "BTC")
    assert split_pair("XUSDT", {"XUSDT": ("XU", "SDT")}) == ("XU", "SDT")  # what the venue says comes first
    with pytest.raises(BadInput, match="does not end in a currency"):
        split_pair("BITCOIN")


@pytest.mark.parametrize(
    "more, words",
    [
        ({"currency_profit": "EUR"}, "priced in EUR, not USDT"),
        ({"currency_base": "WBTC"}, "trades WBTC, not BTC"),
        ({"trade_mode": 0}, "trading is disabled"),
        ({"custom": True}, "custom symbol"),
        ({"trade_contract_size": 0.0}, "no contract size"),
        ({"volume_step": 0.0}, "no volume step"),
        ({"trade_tick_size": float("nan")}, "no tick size"),
        ({"volume_min": 0.0}, "no smallest volume"),
    ],
)
def test_what_cannot_be_led(more, words):
    found = judge(spec(**more), "BTC", "USDT")
    assert not found.fit and any(words in reason for reason in found.reasons), found


@pytest.mark.parametrize(
    "more, words",
    [
        ({}, "1 lot is 1 BTC in USD, tick 0.01, volume from 0.01 by 0.01"),
        ({"trade_mode": 3}, "may only be closed"),
        ({"trade_mode": 1}, "only longs"),
        ({"trade_exemode": 0}, "dealer"),
        ({"order_mode": 127 - 16}, "no stop loss"),
        ({"expiration_time": 1_766_707_200}, "expires on 2025-12-26"),
        ({"visible": False}, "not in Market Watch"),
        ({"currency_base": "USD"}, "only its name says BTC"),
        ({"currency_base": "XBT"}, "1 lot is 1 BTC"),
        ({"currency_profit": "USDT"}, "in USDT"),
    ],
)
def test_what_can_be_led_and_what_is_said_of_it(more, words):
    found = judge(spec(**more), "BTC", "USDT")
    assert found.fit and any(words in reason for reason in found.reasons), found


def test_the_suffix_of_the_account():
    several = [
        spec("EURUSDm", currency_base="EUR"),
        spec("XAUUSDm", currency_base="XAU"),
        spec("BTCUSD"),
        spec("ETHUSDc", currency_base="ETH", visible=False),
        spec("GOLD", currency_base="XAU"),
    ]
    assert account_suffix(several) == "m" and account_suffix(several[3:]) is None
    assert account_suffix([spec("BTCUSD"), spec("ETHUSD", currency_base="ETH")]) == ""


def test_the_likeliest_comes_first():
    shown, hidden = spec("BTCUSDm"), spec("BTCUSD", visible=False, select=False)
    assert names([hidden, shown]) == ["BTCUSDm", "BTCUSD"]
    assert names([spec("BTCUSD"), shown], "m") == ["BTCUSDm", "BTCUSD"] and names([shown, spec("BTCUSD")], "") == [
        "BTCUSD",
        "BTCUSDm",
    ]
    assert names([spec("BTC", currency_base="USD"), hidden]) == ["BTCUSD", "BTC"]  # named only comes after what is said
    assert names([spec("BTCUSD", trade_mode=0), spec("BTCUSD_close", trade_mode=3)]) == ["BTCUSD_close", "BTCUSD"]
    assert names([spec("BTCUSDH6", expiration_time=1_766_707_200), spec("BTCUSD.index")]) == [
        "BTCUSD.index",
        "BTCUSDH6",
    ]


def stored(**more):
    return map_of(spec("BTCUSDm", **more), "BTCUSDT", "Broker-Demo", 5098761, NOW_NS)


def test_a_confirmed_pair_is_stored_and_found_again(tmp_path):
    data = tmp_path / "data"
    assert load_map(data, "Broker-Demo", 5098761) == {}
    store_map(data, stored())
    store_map(data, replace(stored(), venue_symbol="ETHUSDT", broker_symbol="ETHUSDm"))
    store_map(data, replace(stored(), server="Other", broker_symbol="BTCUSD"))
    again = replace(stored(), contract_size="10")
    store_map(data, again)
    found = load_map(data, "Broker-Demo", 5098761)
    assert set(found) == {"BTCUSDT", "ETHUSDT"} and found["BTCUSDT"] == again
    assert (
        load_map(data, "Other", 5098761)["BTCUSDT"].broker_symbol == "BTCUSD"
        and load_map(data, "Broker-Demo", 4098761) == {}
    )
    text = maps_path(data).read_text()
    assert (
        "5098761" not in text
        and '"50***1"' in text
        and '"2025-10-09T08:53:20Z"' in text
        and [p.name for p in data.iterdir()] == ["symbols.json"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2, "maps": []}',
        '{"format": 1}',
        '{"format": 1, "maps": [{}]}',
        '{"format": 1, "maps": [5]}',
    ],
)
def test_a_damaged_list_is_said_and_kept(tmp_path, text):
    maps_path(tmp_path).write_text(text)
    with pytest.raises(BadInput, match="symbols.json is no list of confirmed symbols"):
        load_map(tmp_path, "Broker-Demo", 1)
    with pytest.raises(BadInput):
        store_map(tmp_path, stored())
    assert maps_path(tmp_path).read_text() == text


def test_a_value_that_is_no_text_is_said(tmp_path):
    store_map(tmp_path, stored())
    body = json.loads(maps_path(tmp_path).read_text())
    body["maps"][0]["contract_size"] = 1.0
    maps_path(tmp_path).write_text(json.dumps(body))
    with pytest.raises(BadInput, match="no text"):
        load_map(tmp_path, "Broker-Demo", 5098761)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"trade_contract_size": 0.1}, "its contract size was 1 and is 0.1"),
        ({"trade_tick_size": 0.05}, "its tick size was 0.01 and is 0.05"),
        ({"volume_step": 0.1}, "its volume step was 0.01 and is 0.1"),
        ({"volume_min": 0.1}, "its smallest volume was 0.01 and is 0.1"),
        ({"currency_profit": "EUR"}, "its currency was USD and is EUR"),
        ({"trade_tick_size": 0.0}, "its tick size was 0.01 and is unknown"),
    ],
)
def test_what_changed_since_it_was_confirmed_is_said(more, words):
    sentence = check_map(stored(), spec("BTCUSDm", **more))
    assert words in sentence and sentence.startswith("BTCUSDm is not what was confirmed on 2025-10-09")


def test_what_may_change_is_not_held_against_it():
    assert (
        check_map(stored(), spec("BTCUSDm", trade_tick_size=0.010000000000000002, bid=5.0, spread=7, visible=False))
        == ""
    )
