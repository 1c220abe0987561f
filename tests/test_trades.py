"""Trade plans: the record's own checks, and the CSV table read, written and refused."""

import csv
from datetime import datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, SourceFailed
from engine.trades import TradePlan, by_time, read_trades_csv, time_ns, utc_text, write_trades_csv

HEADER = "ticket,symbol,side,volume,open_time,price,sl,tp,close_time,close_price,max_s"
GOOD = "7,BTCUSD,buy,0.10,2026-03-07T09:03:42Z,68000.5,67900,68200,2026-03-07T09:10:00Z,68100,300"
OPEN_NS = 1_772_874_222_000_000_000


def table(tmp_path, *lines, header=HEADER, encoding="utf-8"):
    path = tmp_path / "trades.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding=encoding, newline="")
    return path


def test_a_row_is_read_exactly(tmp_path):
    assert read_trades_csv(table(tmp_path, GOOD)) == [
        TradePlan(ticket=7, symbol="BTCUSD", side=1, volume="0.10", open_ns=OPEN_NS, price="68000.5", sl="67900",
                  tp="68200", close_ns=OPEN_NS + 378 * 10**9, close_price="68100", max_hold_ns=300 * 10**9)]


@pytest.mark.parametrize("word, side", [("buy", 1), ("BUY", 1), ("Long", 1), ("1", 1), ("+1", 1),
                                        ("sell", -1), ("SELL", -1), ("short", -1), ("-1", -1)])
def test_sides_are_normalised(tmp_path, word, side):
    row = f"1,BTCUSD,{word},1,2026-03-07T09:03:42Z,,0,,,,"
    assert read_trades_csv(table(tmp_path, row))[0].side == side


@pytest.mark.parametrize("none", ["", "0", "0.0", "0.00000"])
def test_blank_and_zero_levels_are_none_and_a_blank_price_is_the_quote(tmp_path, none):
    plan = read_trades_csv(table(tmp_path, f"1,BTCUSD,buy,1,2026-03-07T09:03:42Z,,{none},{none},,,"))[0]
    assert (plan.price, plan.sl, plan.tp, plan.close_ns, plan.close_price, plan.max_hold_ns) == (None,) * 6


@pytest.mark.parametrize("text, ns", [
    ("2026-03-07T09:03:42Z", OPEN_NS), ("2026-03-07 09:03:42", OPEN_NS), ("2026-03-07T09:03", OPEN_NS - 42 * 10**9),
    ("2026-03-07T11:03:42+02:00", OPEN_NS), ("2026-03-07T04:03:42-0500", OPEN_NS),
    ("2026-03-07T09:03:42.123456789Z", OPEN_NS + 123_456_789), ("2026-03-07T09:03:42.5z", OPEN_NS + 500_000_000),
    ("1772874222", OPEN_NS), ("1772874222.25", OPEN_NS + 250_000_000), ("1772874222001", OPEN_NS + 10**6),
    ("1772874222000001", OPEN_NS + 1000), ("1772874222000000001", OPEN_NS + 1)])
def test_times_are_told_by_their_form(text, ns):
    assert time_ns(text) == ns


@settings(deadline=None)
@given(st.integers(1, 2**63 - 1))
def test_time_text_round_trips_and_agrees_with_datetime(ns):
    text = utc_text(ns)
    assert time_ns(text) == ns
    assert text[:19] == (datetime(1970, 1, 1) + timedelta(seconds=ns // 10**9)).isoformat()[:19]


@settings(deadline=None)
@given(st.datetimes(datetime(2001, 9, 10), datetime(2200, 1, 1), timezones=st.just(timezone.utc)))
def test_every_epoch_unit_means_the_same_time(moment):
    whole_s = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1)
    assert {time_ns(f"{whole_s}{'0' * zeros}") for zeros in (0, 3, 6, 9)} == {whole_s * 10**9}


@pytest.mark.parametrize("change, place, said", [
    ({"side": "hold"}, "line 2", ["side 'hold'", "buy, sell"]),
    ({"ticket": "x7"}, "line 2", ["ticket 'x7'", "whole number"]),
    ({"ticket": "0"}, "line 2", ["ticket 0", "above 0"]),
    ({"ticket": "9223372036854775808"}, "line 2", ["ticket 9223372036854775808"]),
    ({"symbol": ""}, "line 2", ["symbol ''", "BTCUSD"]),
    ({"volume": "0"}, "line 2", ["volume 0", "above 0"]),
    ({"volume": "-0.1"}, "line 2", ["volume -0.1", "above 0"]),
    ({"volume": "1e3"}, "line 2", ["volume '1e3'", "decimal number"]),
    ({"volume": "nan"}, "line 2", ["volume 'nan'", "decimal number"]),
    ({"volume": ""}, "line 2", ["volume ''", "decimal number"]),
    ({"price": "68,5"}, "line 2", ["price '68,5'", "decimal number"]),
    ({"price": "0"}, "line 2", ["price 0", "above 0"]),
    ({"open_time": "2026.03.07 09:03:42"}, "line 2", ["open_time '2026.03.07 09:03:42'", "ISO 8601"]),
    ({"open_time": "2026-02-30T09:03:42Z"}, "line 2", ["open_time '2026-02-30T09:03:42Z'", "day is out of range"]),
    ({"open_time": "2026-03-07T09:03:42+25:00"}, "line 2", ["'2026-03-07T09:03:42+25:00'", "-14:00 to +14:00"]),
    ({"open_time": "20260307090342"}, "line 2", ["open_time '20260307090342' has 14 digits"]),
    ({"open_time": ""}, "line 2", ["open_time '' is no time"]),
    ({"open_time": "0001-01-01T00:00:00"}, "line 2", ["open_time -62135596800000000000 ns", "1970 to 2262"]),
    ({"close_time": "2026-03-07T09:03:41Z"}, "line 2", ["close_time 2026-03-07T09:03:41Z is before open_time "
                                                       "2026-03-07T09:03:42Z"]),
    ({"close_time": ""}, "line 2", ["close_price 68100 has no close_time"]),
    ({"sl": "68000.5"}, "line 2", ["sl 68000.5 is on the wrong side of the entry 68000.5", "buy", "below"]),
    ({"side": "sell"}, "line 2", ["sl 67900 is on the wrong side of the entry 68000.5", "sell", "above"]),
    ({"tp": "67950"}, "line 2", ["tp 67950 is on the wrong side of the entry 68000.5", "above"]),
    ({"price": "", "sl": "68300"}, "line 2", ["sl 68300 and tp 68200 are the wrong way round for a buy"]),
    ({"max_s": "-3"}, "line 2", ["max_s -3", "above 0"]),
    ({"max_s": "1.0000000001"}, "line 2", ["max_s 1.0000000001", "9 decimals"]),
])
def test_a_wrong_value_is_named_with_its_line(tmp_path, change, place, said):
    cells = dict(zip(HEADER.split(","), GOOD.split(","))) | change
    path = tmp_path / "trades.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER.split(","), cells.values()])
    with pytest.raises(BadInput) as refused:
        read_trades_csv(path)
    assert f"{path}, {place}" in str(refused.value)
    assert all(part in str(refused.value) for part in said), str(refused.value)


@pytest.mark.parametrize("name", ["ticket", "symbol", "side", "volume", "open_time", "price", "sl", "tp"])
def test_a_missing_column_is_named(tmp_path, name):
    header = ",".join(column for column in HEADER.split(",") if column != name)
    with pytest.raises(BadInput, match=f"line 1: no column {name}; the header must name"):
        read_trades_csv(table(tmp_path, GOOD, header=header))


@pytest.mark.parametrize("header, said", [
    (HEADER.replace("max_s", "mx_s"), "line 1: unknown column 'mx_s'; did you mean 'max_s'"),
    (HEADER.replace("max_s", "close"), "line 1: column 'close_price' stands twice")])
def test_a_column_that_would_be_lost_is_refused(tmp_path, header, said):
    with pytest.raises(BadInput, match=said):
        read_trades_csv(table(tmp_path, GOOD, header=header))


def test_the_place_of_a_duplicate_ticket_is_named(tmp_path):
    with pytest.raises(BadInput, match="line 4: ticket 7 is already on line 2"):
        read_trades_csv(table(tmp_path, GOOD, "", GOOD))


@pytest.mark.parametrize("row, said", [("1,BTCUSD,buy", "line 2: 3 values .* the header has 11 columns"),
                                       ('1,"BTCUSD,buy', "line 2: not a CSV row"),
                                       ('1,"BT"CUSD,buy', "line 2: not a CSV row")])
def test_a_row_of_the_wrong_shape_is_refused(tmp_path, row, said):
    with pytest.raises(BadInput, match=said):
        read_trades_csv(table(tmp_path, row))


@pytest.mark.parametrize("raw, said", [(b"", "is empty"), (b"\n\n", "is empty"), (b"ticket\0x,1\n", "zero byte"),
                                       (b"ticket,\xff\xff\n", "byte 7: not UTF-8 text"),
                                       ("ticket".encode("utf-16")[:-1], "not UTF-16 text")])
def test_a_file_that_is_no_table_is_refused(tmp_path, raw, said):
    path = tmp_path / "trades.csv"
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=said):
        read_trades_csv(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match="nothing.csv cannot be read"):
        read_trades_csv(tmp_path / "nothing.csv")
    with pytest.raises(BadInput, match="cannot be read"):
        read_trades_csv(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(tmp_path, encoding, separator):
    header = HEADER.title().replace(",", separator)
    path = table(tmp_path, GOOD.replace(",", separator), header=header, encoding=encoding)
    assert read_trades_csv(path) == read_trades_csv(table(tmp_path, GOOD))


def test_close_is_another_name_and_remarks_are_passed_over(tmp_path):
    header = HEADER.replace("close_price", "close").replace("max_s", "comment")
    plan = read_trades_csv(table(tmp_path, GOOD, header=header))[0]
    assert (plan.close_price, plan.max_hold_ns) == ("68100", None)


def test_writing_replaces_whole_and_a_missing_folder_is_named(tmp_path):
    path = table(tmp_path, GOOD)
    plans = read_trades_csv(path)
    write_trades_csv(path, plans)
    assert read_trades_csv(path) == plans
    assert [entry.name for entry in tmp_path.iterdir()] == ["trades.csv"]
    with pytest.raises(SourceFailed, match="cannot be written"):
        write_trades_csv(tmp_path / "no" / "trades.csv", plans)


@pytest.mark.parametrize("fault", [
    {"sl": "10", "sl_bps": Fraction(20)}, {"sl_bps": Fraction(0)}, {"tp_bps": Fraction(10_000)}, {"max_hold_ns": 0},
    {"open_ns": 0}, {"side": 0}, {"symbol": " X"}, {"symbol": "A\nB"}])
def test_the_record_refuses_what_cannot_be_a_position(fault):
    with pytest.raises(ValueError, match=str(next(iter(fault.values()))).strip().split("\n")[0]):
        TradePlan(**{"ticket": 1, "symbol": "X", "side": 1, "volume": "1", "open_ns": OPEN_NS, **fault})


def digits_text(low, high):
    return st.decimals(low, high, allow_nan=False, allow_infinity=False, places=5).map(lambda value: f"{value:f}")


@st.composite
def plans(draw, ticket):
    side = draw(st.sampled_from([1, -1]))
    levels = sorted(draw(st.lists(digits_text("0.00001", "99999"), min_size=3, max_size=3, unique=True)),
                    key=Fraction, reverse=side < 0)
    sl, price, tp = (draw(st.sampled_from([None, level])) for level in levels)
    open_ns = draw(st.integers(1, 2**62))
    close_ns = draw(st.none() | st.integers(open_ns, 2**63 - 1))
    bps = st.none() | st.fractions(Fraction(1, 1000), 9999, max_denominator=10**6)
    symbol = draw(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=12))
    return TradePlan(
        ticket=ticket, symbol=symbol, side=side, volume=draw(digits_text("0.00001", "500")), open_ns=open_ns,
        price=price, sl=sl, tp=tp, close_ns=close_ns,
        close_price=draw(st.none() | digits_text("0.00001", "99999")) if close_ns else None,
        sl_bps=None if sl else draw(bps), tp_bps=None if tp else draw(bps),
        max_hold_ns=draw(st.none() | st.integers(1, 2**63 - 1)))


lists_of_plans = st.lists(st.integers(1, 2**63 - 1), unique=True, max_size=5).flatmap(
    lambda tickets: st.tuples(*(plans(ticket) for ticket in tickets)).map(list))


@settings(max_examples=60, deadline=None)
@given(lists_of_plans)
def test_csv_round_trip_is_exact_and_in_order(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("round") / "trades.csv"
    write_trades_csv(path, written)
    read = read_trades_csv(path)
    assert read == by_time(written)
    assert [(plan.open_ns, plan.ticket) for plan in read] == sorted((plan.open_ns, plan.ticket) for plan in written)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"{HEADER}\n{text}".encode())
       | st.tuples(st.integers(0, len(GOOD) - 1), st.characters(codec="utf-8")).map(
           lambda edit: f"{HEADER}\n{GOOD[:edit[0]]}{edit[1]}{GOOD[edit[0] + 1:]}\n".encode()))
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("any") / "trades.csv"
    path.write_bytes(raw)
    try:
        read_trades_csv(path)
    except BadInput as refused:
        assert str(path) in str(refused) and "\n" not in str(refused)
