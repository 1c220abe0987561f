"""One golden frame for each payload, in the documented shape, and what is refused."""

import json

import pytest

from engine.kernel.records import AGGREGATED, MISSING, NOT_MARKET, PARTIAL_DEPTH, SNAPSHOT_LEVEL
from engine.record.decode import (SPOT, USDM, BadFrame, Best, Depth, Kline, Liquidation, Mark, Other, Trade, decode,
                                  snapshot, stamp_ns)

MS = 1_000_000


def frame(stream: str, data: dict | list) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


SPOT_AGG = {
    "e": "aggTrade", "E": 1795000000123, "s": "BTCUSDT", "a": 3912000111, "p": "95000.01", "q": "0.41200",
    "f": 5511000100, "l": 5511000103, "T": 1795000000121, "m": False, "M": True
}
USDM_AGG = {
    "e": "aggTrade", "E": 1795000000188, "s": "BTCUSDT", "a": 3012000222, "p": "95000.10", "q": "1.250", "nq": "1.100",
    "f": 7011000200, "l": 7011000209, "T": 1795000000071, "m": True, "st": 1
}
SPOT_TRADE = {"e": "trade", "E": 1795000000123, "s": "BTCUSDT", "t": 5511000100, "p": "95000.01", "q": "0.10000",
              "T": 1795000000121, "m": False, "M": True}
USDM_TRADE = {
    "e": "trade", "E": 1795000000073, "T": 1795000000071, "s": "BTCUSDT", "t": 7011000200, "p": "95000.10",
    "q": "0.125", "X": "MARKET", "m": True, "st": 1
}
NO_TRADE = {
    "e": "trade", "E": 1795000000075, "T": 1795000000074, "s": "BTCUSDT", "t": 7011000201, "p": "0", "q": "0",
    "X": "NA", "m": True, "st": 1
}
SPOT_DIFF = {
    "e": "depthUpdate", "E": 1795000000200, "s": "BTCUSDT", "U": 88000101, "u": 88000164,
    "b": [["94999.99", "0.50000"]], "a": [["95000.02", "0.00000"]]
}
USDM_DIFF = {
    "e": "depthUpdate", "E": 1795000000205, "T": 1795000000199, "s": "BTCUSDT", "U": 9111000131, "u": 9111000480,
    "pu": 9111000102, "b": [["94999.90", "3.120"]], "a": [["95000.20", "0.000"]], "ps": "BTCUSDT", "st": 1
}
SPOT_TOP = {"lastUpdateId": 88000164, "bids": [["94999.99", "0.50000"]], "asks": [["95000.03", "0.20000"]]}
USDM_BOOK = {"lastUpdateId": 9111000200, "E": 1795000000150, "T": 1795000000141, "bids": [["94999.90", "3.000"]],
             "asks": [["95000.00", "0.700"]]}
SPOT_BEST = {"u": 88000170, "s": "BTCUSDT", "b": "94999.99", "B": "0.50000", "a": "95000.03", "A": "0.20000"}
USDM_BEST = {
    "e": "bookTicker", "u": 9111000490, "E": 1795000000207, "T": 1795000000204, "s": "BTCUSDT", "ps": "BTCUSDT",
    "b": "94999.90", "B": "3.120", "a": "95000.00", "A": "0.740", "st": 1
}
MARK = {"e": "markPriceUpdate", "E": 1795000001000, "s": "BTCUSDT", "p": "95001.20", "ap": "95000.90", "P": "95010.00",
        "i": "95003.40", "r": "0.00010000", "T": 1795017600000, "st": 1}
FORCED = {
    "e": "forceOrder", "E": 1795000002004, "o": {
        "s": "ETHUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "12.500", "p": "3150.10", "ap": "3158.42",
        "X": "FILLED", "l": "2.000", "z": "12.500", "T": 1795000002001
    }, "ps": "ETHUSDT", "st": 1
}
BAR = {
    "e": "kline", "E": 1795000002250, "s": "BTCUSDT", "k": {
        "t": 1794999960000, "T": 1795000019999, "s": "BTCUSDT", "i": "1m", "f": 7011000001, "L": 7011000209,
        "o": "94990.0", "c": "95000.1", "h": "95005.0", "l": "94988.2", "v": "41.207", "n": 209, "x": False,
        "q": "3914000.11", "V": "20.100", "Q": "1909100.02", "B": "0"
    }
}

GOLDEN = [
    (SPOT, "btcusdt@aggTrade", SPOT_AGG,
     Trade("BTCUSDT", 1795000000121 * MS, "95000.01", "0.41200", 1, 3912000111, 5511000100, 5511000103, AGGREGATED)),
    (USDM, "btcusdt@aggTrade", USDM_AGG,
     Trade("BTCUSDT", 1795000000071 * MS, "95000.10", "1.250", -1, 3012000222, 7011000200, 7011000209, AGGREGATED)),
    (SPOT, "btcusdt@trade", SPOT_TRADE,
     Trade("BTCUSDT", 1795000000121 * MS, "95000.01", "0.10000", 1, 5511000100, 5511000100, 5511000100, 0)),
    (USDM, "btcusdt@trade", USDM_TRADE,
     Trade("BTCUSDT", 1795000000071 * MS, "95000.10", "0.125", -1, 7011000200, 7011000200, 7011000200, 0)),
    (USDM, "btcusdt@trade", NO_TRADE,
     Trade("BTCUSDT", 1795000000074 * MS, "0", "0", -1, 7011000201, 7011000201, 7011000201, NOT_MARKET)),
    (SPOT, "btcusdt@depth@100ms", SPOT_DIFF,
     Depth("BTCUSDT", 1795000000200 * MS, 88000101, 88000164, 88000100, [("94999.99", "0.50000")],
           [("95000.02", "0.00000")], 0)),
    (USDM, "btcusdt@depth@0ms", USDM_DIFF,
     Depth("BTCUSDT", 1795000000199 * MS, 9111000131, 9111000480, 9111000102, [("94999.90", "3.120")],
           [("95000.20", "0.000")], 0)),
    (USDM, "btcusdt@depth20@100ms", USDM_DIFF,
     Depth("BTCUSDT", 1795000000199 * MS, 9111000131, 9111000480, 9111000102, [("94999.90", "3.120")],
           [("95000.20", "0.000")], PARTIAL_DEPTH)),
    (SPOT, "btcusdt@depth20@100ms", SPOT_TOP,
     Depth("BTCUSDT", MISSING, MISSING, 88000164, MISSING, [("94999.99", "0.50000")], [("95000.03", "0.20000")],
           PARTIAL_DEPTH)),
    (SPOT, "btcusdt@bookTicker", SPOT_BEST,
     Best("BTCUSDT", MISSING, "94999.99", "0.50000", "95000.03", "0.20000", 88000170)),
    (USDM, "btcusdt@bookTicker", USDM_BEST,
     Best("BTCUSDT", 1795000000204 * MS, "94999.90", "3.120", "95000.00", "0.740", 9111000490)),
    (USDM, "btcusdt@markPrice@1s", MARK,
     Mark("BTCUSDT", 1795000001000 * MS, "95001.20", "95003.40", "0.00010000", 1795017600000 * MS)),
    (USDM, "!forceOrder@arr", FORCED,
     Liquidation("ETHUSDT", 1795000002001 * MS, -1, "3150.10", "12.500", "3158.42", "12.500")),
    (USDM, "btcusdt@kline_1m", BAR,
     Kline("BTCUSDT", 1795000002250 * MS, 1794999960000 * MS, 1795000019999 * MS, "1m", "94990.0", "95005.0", "94988.2",
           "95000.1", "41.207", "20.100", 209, False)),
    (USDM, "btcusdt@miniTicker", {"e": "24hrMiniTicker", "s": "BTCUSDT"}, Other("BTCUSDT", "btcusdt@miniTicker")),
    (USDM, "btcusdt@rpiDepth@500ms", USDM_DIFF, Other("BTCUSDT", "btcusdt@rpiDepth@500ms")),
    (SPOT, "!serverShutdown", {"e": "serverShutdown", "E": 1795000002250}, Other("", "!serverShutdown")),
]


@pytest.mark.parametrize("venue, stream, data, expected", GOLDEN, ids=[f"{v[8:]} {s}" for v, s, _, _ in GOLDEN])
def test_golden_frames(venue, stream, data, expected):
    assert decode(frame(stream, data), venue) == [expected]
    assert decode(json.dumps(data).encode(), venue, stream=stream) == [expected]


def test_rest_snapshot():
    expected = Depth("BTCUSDT", 1795000000141 * MS, MISSING, 9111000200, MISSING, [("94999.90", "3.000")],
                     [("95000.00", "0.700")], SNAPSHOT_LEVEL)
    body = json.dumps(USDM_BOOK).encode()
    assert snapshot(body, "BTCUSDT") == expected
    assert decode(body, USDM, symbol="BTCUSDT") == [expected]
    assert snapshot(json.dumps(SPOT_TOP).encode(), "BTCUSDT").event_ns == MISSING
    with pytest.raises(BadFrame, match="names no symbol"):
        decode(body, USDM)


def test_a_top_n_frame_is_never_a_diff_although_it_says_so():
    top, = decode(frame("btcusdt@depth5", USDM_DIFF), USDM)
    diff, = decode(frame("btcusdt@depth", USDM_DIFF), USDM)
    assert (top.bits, diff.bits) == (PARTIAL_DEPTH, 0)
    with pytest.raises(BadFrame, match="names no stream"):
        decode(json.dumps(USDM_DIFF).encode(), USDM)


def test_event_time_is_the_match_time_else_the_push_time_else_missing():
    matched, = decode(frame("btcusdt@trade", USDM_TRADE), USDM)
    pushed, = decode(frame("btcusdt@trade", {k: v for k, v in USDM_TRADE.items() if k != "T"}), USDM)
    neither, = decode(frame("btcusdt@trade", {k: v for k, v in USDM_TRADE.items() if k not in "TE"}), USDM)
    assert (matched.event_ns, pushed.event_ns, neither.event_ns) == (1795000000071 * MS, 1795000000073 * MS, MISSING)


def test_microsecond_stamps_are_told_by_their_digits():
    assert stamp_ns(1795000000071) == stamp_ns(1795000000071000) == 1795000000071 * MS
    assert stamp_ns(None) == MISSING
    for value in (0, 1795000000, 1795000000071000000, -1, 1_000_000_000_000):
        with pytest.raises(BadFrame, match="neither"):
            stamp_ns(value)


def test_next_funding_of_zero_is_missing():
    mark, = decode(frame("btcusdt@markPrice", MARK | {"T": 0}), USDM)
    assert mark.next_funding_ns == MISSING


def test_all_market_streams_give_every_usdm_symbol_and_no_coin_margined_one():
    coin = MARK | {"s": "BTCUSD_PERP", "st": 2}
    marks = decode(frame("!markPrice@arr@1s", [MARK, coin, MARK | {"s": "ETHUSDT"}]), USDM)
    assert [m.symbol for m in marks] == ["BTCUSDT", "ETHUSDT"]
    assert isinstance(decode(frame("!forceOrder@arr", FORCED | {"st": 2}), USDM)[0], Other)
    assert isinstance(decode(frame("!bookTicker", USDM_BEST | {"st": 2}), USDM)[0], Other)


@pytest.mark.parametrize("answer", [
    b'{"result":null,"id":1}', b'{"code":2,"msg":"bad"}', b'{"e":"serverShutdown","E":1795000002250}',
    b'{"error":{"code":1},"id":null}'
])
def test_answers_to_requests_carry_no_data(answer):
    assert decode(answer, SPOT) == [Other("", "control")]


@pytest.mark.parametrize("venue, stream, data", [(v, s, d) for v, s, d, m in GOLDEN if not isinstance(m, Other)])
def test_unknown_fields_are_passed_over(venue, stream, data):
    assert decode(frame(stream, data | {"zz": [1], "nq2": "x"}), venue) == decode(frame(stream, data), venue)


@pytest.mark.parametrize("stream, data, field", [
    ("btcusdt@trade", USDM_TRADE, "p"), ("btcusdt@trade", USDM_TRADE, "t"), ("btcusdt@aggTrade", USDM_AGG, "f"),
    ("btcusdt@depth", USDM_DIFF, "u"), ("btcusdt@depth", USDM_DIFF, "pu"), ("btcusdt@bookTicker", USDM_BEST, "A"),
    ("btcusdt@markPrice", MARK, "p"), ("btcusdt@kline_1m", BAR, "k"), ("btcusdt@forceOrder", FORCED, "o")])
def test_a_missing_field_is_named(stream, data, field):
    with pytest.raises(BadFrame, match=f"{stream}: .*missing required field `{field}`"):
        decode(frame(stream, {k: v for k, v in data.items() if k != field}), USDM)


@pytest.mark.parametrize("broken, says", [
    (frame("btcusdt@trade", USDM_TRADE | {"p": 95000.1}), "Expected `str`, got `float`"),
    (frame("btcusdt@trade", USDM_TRADE | {"t": "7"}), "Expected `int`, got `str`"),
    (frame("btcusdt@trade", USDM_TRADE | {"T": 17}), "neither milliseconds nor microseconds"),
    (frame("btcusdt@depth", USDM_DIFF | {"b": [["1"]]}), "length 2"),
    (frame("btcusdt@forceOrder", FORCED | {"o": FORCED["o"] | {"S": "UP"}}), "not BUY or SELL"),
    (frame("btcusdt@trade", USDM_TRADE)[:-9], "truncated"),
    (b'{"stream":"btcusdt@trade"}', "missing required field `data`"),
    (b"not json", "malformed"), (b"", "truncated"), (b"[]", "Expected `object`"), (b"{}", "names no stream")])
def test_broken_frames_say_what_is_wrong(broken, says):
    with pytest.raises(BadFrame, match=says):
        decode(broken, USDM)
