"""Formats of which no recording is at hand, written here to their documented columns."""

import gzip
import hashlib
import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from capture_lines import MS, T0_NS, feed_rows, imported, lines, rows_of, trade, write

from engine.errors import BadInput
from engine.kernel.records import AGGREGATED, FIRST, LAST, SNAPSHOT_LEVEL
from engine.record.importer import import_files
from engine.record.quality import check_session

T0_MS = T0_NS // MS
SPOT_TRADES = [
    f"{100 + k},61800.0{k}000000,0.0{k + 1}000000,1.0,{T0_MS + k},{'True' if k % 2 else 'False'},True" for k in range(4)
]
USDM_TRADES = ["id,price,qty,quote_qty,time,is_buyer_maker",
               *(f"{100 + k},6180{k}.1,0.01{k},1.0,{T0_MS + k},{'true' if k % 2 else 'false'}" for k in range(4))]
USDM_AGG = ["agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
            *(f"{20 + k},6180{k}.1,0.01{k},{100 + 3 * k},{102 + 3 * k},{T0_MS + k},true" for k in range(4))]
SPOT_AGG = [f"{20 + k},61800.0{k},0.01,{100 + k},{100 + k},{(T0_MS + k) * 1000 + 7},False,True" for k in range(4)]
USDM_BEST = ["update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time",
             f"900,61800.1,1.5,61800.2,2.5,{T0_MS},{T0_MS + 4}"]
BARS = [
    f"{T0_MS + 60_000 * k},61800.1,61810.0,61790.0,61800.5,12.5,{T0_MS + 60_000 * k + 59_999},7725.0,300,6.25,3862.0,0"
    for k in range(2)
]
BAR_HEADER = ("open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
              "taker_buy_quote_volume,ignore")


def zipped(path, name, rows):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, "".join(row + "\n" for row in rows))
    return path


def refused(tmp_path, says, *paths, **options):
    with pytest.raises(BadInput, match=says):
        import_files(paths, tmp_path / "data", **options)
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


@pytest.mark.parametrize("pack", ["zip", "csv", "csv.gz"])
@pytest.mark.parametrize("rows, venue", [(SPOT_TRADES, "binance_spot"), (USDM_TRADES, "binance_usdm")])
def test_archive_trades(tmp_path, pack, rows, venue):
    path = tmp_path / f"BTCUSDT-trades-2024-08-09.{pack}"
    zipped(path, "BTCUSDT-trades-2024-08-09.csv", rows) if pack == "zip" else write(path, rows)
    result, session = imported(tmp_path, path, timer_ms=0)
    found = rows_of(session, "trades")
    assert (session.manifest["venue"], session.manifest["clock"], result["messages"]["trade"]) == (venue, "event", 4)
    assert [(r["trade_id"], r["side"], r["event_ns"], r["recv_ns"], r["bits"]) for r in found] == [
        (100 + k, -1 if k % 2 else 1, T0_NS + k * MS, T0_NS + k * MS, 0) for k in range(4)]
    texts = [row.split(",")[1:3] for row in rows[-4:]]
    instrument, = session.instruments
    assert [[instrument.price_text(r["price_ticks"]), instrument.qty_text(r["qty_lots"])] for r in found] == texts


def test_archive_aggregates_of_futures_come_late(tmp_path):
    _, session = imported(tmp_path,
                          write(tmp_path / "BTCUSDT-aggTrades-2024-08-09.csv", USDM_AGG),
                          latency_ms=2.5,
                          timer_ms=0)
    found = rows_of(session, "trades")
    assert [(r["trade_id"], r["first_id"], r["last_id"], r["bits"]) for r in found] == [
        (20 + k, 100 + 3 * k, 102 + 3 * k, AGGREGATED) for k in range(4)]
    assert {r["recv_ns"] - r["event_ns"] for r in found} == {102_500_000}
    _, session = imported(tmp_path, write(tmp_path / "ETHUSDT-aggTrades-2025-08-09.csv", SPOT_AGG), timer_ms=0)
    found = rows_of(session, "trades")
    assert session.manifest["venue"] == "binance_spot", "eight columns"
    assert [(r["event_ns"], r["recv_ns"]) for r in found] == [(T0_NS + k * MS + 7000,) * 2 for k in range(4)]


def test_archive_best_quotes_and_bars(tmp_path):
    best = write(tmp_path / "BTCUSDT-bookTicker-2024-03-01.csv", USDM_BEST)
    bars = write(tmp_path / "BTCUSDT-1m-2024-08-09.csv", [BAR_HEADER, *BARS])
    result, session = imported(tmp_path, best, bars)
    assert (result["messages"]["best"], result["messages"]["kline"]) == (1, 2)
    quote, = rows_of(session, "best")
    tick = session.instruments[0]
    assert (tick.price_text(quote["ask_price_ticks"]), tick.qty_text(quote["bid_qty_lots"])) == ("61800.2", "1.5")
    assert (quote["update_id"], quote["event_ns"]) == (900, T0_NS)
    bar = rows_of(session, "klines")[1]
    assert (bar["open_ns"], bar["close_ns"], bar["interval"], bar["trades"], bar["closed"]) == (
        T0_NS + 60_000 * MS, T0_NS + 119_999 * MS, "1m", 300, True)
    assert bar["recv_ns"] >= bar["close_ns"] == bar["event_ns"], "a bar is not known before it closes"
    assert [tick.price_text(bar[f"{x}_ticks"])
            for x in ("open", "high", "low", "close")] == ["61800.1", "61810.0", "61790.0", "61800.5"]


def test_bars_without_header_say_their_venue_only_late(tmp_path):
    late = write(tmp_path / "BTCUSDT-1m-2024-08-09.csv", BARS)
    assert imported(tmp_path, late)[1].manifest["venue"] == "binance_spot"
    early = write(tmp_path / "BTCUSDT-1m-2021-01-01.csv", [row.replace("1723", "1609") for row in BARS])
    refused(tmp_path / "no", "before 2022-08-11 and no header, .*--venue", early)
    assert imported(tmp_path, early, venue="binance_usdm")[1].manifest["venue"] == "binance_usdm"


def test_checksum_beside_a_file_is_held_against_it(tmp_path):
    path = zipped(tmp_path / "BTCUSDT-trades-2024-08-09.zip", "x.csv", SPOT_TRADES)
    beside = tmp_path / "BTCUSDT-trades-2024-08-09.zip.CHECKSUM"
    beside.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    result, _ = imported(tmp_path, path, beside)
    assert result["messages"]["trade"] == 4
    beside.write_text("0" * 64 + f"  {path.name}\n")
    refused(tmp_path / "no", "has SHA-256 .* but BTCUSDT-trades-2024-08-09.zip.CHECKSUM lists 0000", path)


def test_overlapping_archive_files_in_any_order(tmp_path):
    one = write(tmp_path / "BTCUSDT-trades-2024-08.csv", [SPOT_TRADES[k] for k in (2, 0, 1, 0)])
    two = write(tmp_path / "BTCUSDT-trades-2024-08-09.csv", [SPOT_TRADES[k] for k in (3, 1)])
    _, session = imported(tmp_path, one, two)
    assert [r["trade_id"] for r in rows_of(session, "trades")] == [100, 101, 102, 103]
    assert session.manifest["duplicates"] == 2 and session.manifest["gaps"] == []
    other = write(tmp_path / "BTCUSDT-trades-2024-08-10.csv", [SPOT_TRADES[1].replace("0.02", "0.03")])
    refused(tmp_path / "no", "id 101 at .*-08-10.csv line 1 was already at .*line 3 with another qty", one, other)


def test_time_goes_before_id_and_id_orders_equal_times(tmp_path):
    rows = [f"{i},61800.01,0.01,1.0,{T0_MS + i % 2},True,True" for i in (9, 12, 10, 11)]
    _, session = imported(tmp_path, write(tmp_path / "BTCUSDT-trades-2024-08-09.csv", rows), timer_ms=0)
    assert [(r["trade_id"], r["recv_ns"] - T0_NS) for r in rows_of(session, "trades")] == [
        (10, 0), (12, 2), (9, MS), (11, MS + 1)], "the hole before 12 has a row at 1 ns"
    assert [(g["after"], g["before"]) for g in session.manifest["gaps"]] == [(10, 12)]


@pytest.mark.parametrize("row, says",
                         [(SPOT_TRADES[0].replace(str(T0_MS), str(T0_NS)),
                           "line 1: time 1723161600000000000 has 19 digits; milliseconds have 13"),
                          (SPOT_TRADES[0].replace(str(T0_MS), "4923161600000"), "line 1: time .* outside the years")])
def test_archive_times_in_another_unit_are_refused(tmp_path, row, says):
    refused(tmp_path, says, write(tmp_path / "BTCUSDT-trades-2024-08-09.csv", [row]))


def test_malformed_archive_rows_are_quoted(tmp_path):
    rows = [
        SPOT_TRADES[0], "1,2", SPOT_TRADES[1].replace("101,", "x,"), SPOT_TRADES[2].replace("False", "Maybe"),
        SPOT_TRADES[3]
    ]
    result, session = imported(tmp_path, write(tmp_path / "BTCUSDT-trades-2024-08-09.csv", rows))
    assert [(s["line"], s["reason"])
            for s in result["skipped"]] == [(2, "'1,2' has 2 cells, not 7"), (3, "id 'x' is not a whole number"),
                                            (4, "is_buyer_maker 'Maybe' is neither true nor false")]
    assert feed_rows(session, "gap")[0]["to_id"] == 103


def test_an_archive_file_must_name_its_symbol(tmp_path):
    path = write(tmp_path / "trades.csv", SPOT_TRADES)
    refused(tmp_path, "names no symbol; name it like BTCUSDT-trades-2024-08-08.zip or give --symbol", path)
    assert imported(tmp_path, path, symbol="BTCUSDT")[1].instruments[0].symbol == "BTCUSDT"
    named = write(tmp_path / "ETHUSDT-trades-2024-08-09.csv", SPOT_TRADES[:1])
    refused(tmp_path / "no", "line 1 is of ETHUSDT, not of BTCUSDT", named, symbol="BTCUSDT")
    refused(tmp_path / "no", "is a file of binance_spot, not of binance_usdm", named, venue="binance_usdm")


TARDIS = "exchange,symbol,timestamp,local_timestamp,"


def tardis_rows(*rows: tuple) -> list[str]:
    """Return rows of (ms, ms received, other cells)."""
    return [f"binance-futures,BTCUSDT,{(T0_MS + at) * 1000},{(T0_MS + got) * 1000},{cells}" for at, got, cells in rows]


def test_tardis_book(tmp_path):
    path = write(tmp_path / "binance-futures_incremental_book_L2_2024-08-09_BTCUSDT.csv.gz", [
        TARDIS + "is_snapshot,side,price,amount",
        *tardis_rows((0, 1, "true,bid,61800.1,1.5"), (0, 1, "true,ask,61800.2,2"), (1, 1, "false,bid,61800.1,3"),
                     (2, 3, "false,ask,61800.2,0"), (3, 3, "false,bid,61800,4"), (5, 6, "false,ask,61800.3,1"))])
    result, session = imported(tmp_path, path, timer_ms=0)
    assert (result["messages"]["snapshot"], result["messages"]["depth"]) == (1, 3)
    found = rows_of(session, "depth")
    assert [(r["side"], r["bits"]) for r in found] == [
        (1, SNAPSHOT_LEVEL | FIRST), (-1, SNAPSHOT_LEVEL | LAST), (1, FIRST | LAST), (1, FIRST), (-1, LAST),
        (-1, FIRST | LAST)]
    assert [r["seq"] for r in found] == [2, 2, 3, 4, 4, 5]
    assert [(r["recv_ns"] - T0_NS) // MS for r in found] == [1, 1, 1, 3, 3, 6]
    assert {r["first_id"] for r in found} | {r["last_id"] for r in found} | {r["prev_id"] for r in found} == {None}
    assert session.instruments[0].price_decimals == -1 and session.manifest["clock"] == "receive"


def test_tardis_trades_quotes_and_liquidations(tmp_path):
    trades = write(tmp_path / "binance-futures_trades_2024-08-09_BTCUSDT.csv", [
        TARDIS + "id,side,price,amount", *tardis_rows((0, 1, "7,buy,61800.1,1.5"), (2, 3, "8,sell,61800.2,0.5"))])
    best = write(tmp_path / "binance-futures_book_ticker_2024-08-09_BTCUSDT.csv", [
        TARDIS + "ask_amount,ask_price,bid_price,bid_amount", *tardis_rows((1, 2, "2,61800.2,61800.1,1.5"),
                                                                           (1, 2, ",,61800.1,1.5"))
    ])
    forced = write(tmp_path / "binance-futures_liquidations_2024-08-09_BTCUSDT.csv", [
        TARDIS + "id,side,price,amount", *tardis_rows((4, 5, ",sell,61800.1,1.5"))])
    result, session = imported(tmp_path, trades, best, forced, timer_ms=0)
    assert [result["messages"][k] for k in ("trade", "best", "liquidation")] == [2, 2, 1]
    assert [(r["trade_id"], r["side"]) for r in rows_of(session, "trades")] == [(7, 1), (8, -1)]
    full, half = rows_of(session, "best")
    tick = session.instruments[0]
    assert [tick.price_text(full[f"{s}_price_ticks"]) for s in ("bid", "ask")] == ["61800.1", "61800.2"]
    assert [tick.qty_text(full[f"{s}_qty_lots"]) for s in ("bid", "ask")] == ["1.5", "2"]
    assert (half["ask_price_ticks"], half["ask_qty_lots"]) == (None, None)
    order, = rows_of(session, "liquidations")
    assert (order["side"], order["average_price_e8"], order["filled_lots"]) == (-1, None, None)


def tardis_checked(tmp_path, exchange, *steps):
    """Return the check of a book told in steps of 100 ms, each of (is_snapshot, side, price, amount)."""
    cells = [(100 * k, 100 * k + 5, f"{snap},{side},{price:.1f},{amount}")
             for k, step in enumerate(steps) for snap, side, price, amount in step]
    path = write(tmp_path / f"{exchange}_incremental_book_L2_2024-08-09_BTCUSDT.csv", [
        TARDIS + "is_snapshot,side,price,amount", *(row.replace("binance-futures", exchange) for row in tardis_rows(*cells))])
    return check_session(imported(tmp_path, path, timer_ms=0)[1])


def ladder_of(bid):
    return [("true", side, bid + away / 10, 1) for side, ways in (("bid", range(-4, 1)), ("ask", range(1, 6))) for away in ways]


@pytest.mark.parametrize("exchange", ["binance-futures", "binance"])
def test_a_tardis_book_without_update_ids_is_checked_from_each_snapshot_on(tmp_path, exchange):
    """It walks down by a tick a step and begins anew with a second snapshot: nothing in that is crossed."""
    walk = [[("false", "bid", bid / 10, 0), ("false", "bid", bid / 10 - 0.5, 1), ("false", "ask", bid / 10, 1)]
            for bid in range(1000, 960, -1)]
    found = tardis_checked(tmp_path, exchange, ladder_of(100.0), *walk, ladder_of(96.0), [("false", "bid", 96.0, 3)])
    assert found["ok"] and found["book"]["crossed"] == 0, found["problems"]
    assert found["coverage"]["BTCUSDT.depth"] == 1.0


@pytest.mark.parametrize("exchange", ["binance-futures", "binance"])
def test_a_false_level_in_a_tardis_book_without_update_ids_is_found(tmp_path, exchange):
    steps = [("false", "bid", 100.0, 2)], [("false", "bid", 99.9, 3)], [("false", "bid", 100.3, 7)], [("false", "bid", 99.8, 2)]
    found = tardis_checked(tmp_path, exchange, ladder_of(100.0), *steps)
    assert found["book"]["crossed"] == 1 and not found["ok"]


def test_tardis_files_of_other_exchanges_are_refused(tmp_path):
    rows = [TARDIS + "id,side,price,amount", *tardis_rows((0, 1, "7,buy,61800.1,1.5"))]
    refused(tmp_path, "line 2 is of exchange 'bybit'",
            write(tmp_path / "a.csv", [r.replace("binance-futures", "bybit") for r in rows]))
    refused(tmp_path, "has a header and no rows", write(tmp_path / "b.csv", rows[:1]))
    mixed = write(tmp_path / "c.csv", [*rows, rows[1].replace("binance-futures", "binance").replace(",7,", ",8,")])
    assert imported(
        tmp_path, mixed)[0]["skipped"][0]["reason"] == "exchange 'binance' is not binance-futures as in the lines above"


EXPORT = ["<DATE>\t<TIME>\t<BID>\t<ASK>\t<LAST>\t<VOLUME>\t<FLAGS>",
          "2024.08.09\t03:00:00.000\t61800.10\t61817.00\t\t\t6",
          "2024.08.09\t03:00:00.250\t\t61817.50\t\t\t4",
          "2024.08.09\t03:00:00.251\t\t\t61817.50\t1\t8",
          "2024.08.09\t03:00:01.000\t61800.20\t\t\t\t2"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-16", "utf-8-sig"])
def test_mt5_export(tmp_path, encoding):
    path = tmp_path / "BTCUSD_202408090300_202408090301.csv"
    path.write_bytes("\r\n".join(EXPORT).encode(encoding))
    _, session = imported(tmp_path, path, server_offset_s=10_800, timer_ms=0)
    tick, = session.instruments
    found = rows_of(session, "quotes")
    assert [(tick.price_text(r["bid_price_ticks"]), tick.price_text(r["ask_price_ticks"])) for r in found] == [
        ("61800.10", "61817.00"), ("61800.10", "61817.50"), ("61800.20", "61817.50")]
    assert [r["event_ns"] - T0_NS for r in found] == [0, 250 * MS, 1000 * MS]
    assert (tick.symbol, tick.venue, session.manifest["server_offset_s"],
            session.manifest["clock"]) == ("BTCUSD", "mt5", 10_800, "event")


def test_mt5_export_side_not_known_yet_is_missing(tmp_path):
    path = write(tmp_path / "BTCUSD_20240809.csv", [EXPORT[0], EXPORT[2], "2024.13.09\t03:00:00\t1\t2\t\t\t6", "junk"])
    result, session = imported(tmp_path, path)
    assert [(r["bid_price_ticks"] is None, r["ask_price_ticks"] is None)
            for r in rows_of(session, "quotes")] == [(True, False)]
    assert [s["line"] for s in result["skipped"]] == [3, 4]
    assert session.manifest["server_offset_s"] is None, "nothing in an export tells the broker's clock"


TICK = np.dtype([("time", "i8"), ("bid", "f8"), ("ask", "f8"), ("last", "f8"), ("volume", "u8"), ("time_msc", "i8"),
                 ("flags", "u4"), ("volume_real", "f8")])


def ticks(bids, asks) -> np.ndarray:
    rows = np.zeros(len(bids), TICK)
    rows["bid"], rows["ask"], rows["time_msc"] = bids, asks, T0_MS + np.arange(len(bids)) * 100
    return rows


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_saved_tick_arrays(tmp_path, kind):
    rows, path = ticks([61800.1, 61800.25, 0.0], [61817.0, 61817.05, 61817.1]), tmp_path / f"BTCUSD.r_20240809.{kind}"
    if kind == "npy":
        np.save(path, rows)
    else:
        pq.write_table(pa.table({n: rows[n]
                                 for n in TICK.names} | {"collected_msc": rows["time_msc"] - 7_200_100}), path)
    _, session = imported(tmp_path, path, timer_ms=0)
    tick, = session.instruments
    assert (tick.symbol, tick.tick_size, tick.price_decimals) == ("BTCUSD.r", "0.05", 2)
    found = rows_of(session, "quotes")
    assert [r["bid_price_ticks"] and tick.price_text(r["bid_price_ticks"])
            for r in found] == ["61800.10", "61800.25", None]
    offset_s, clock = (None, "event") if kind == "npy" else (7200, "receive")
    assert (session.manifest["server_offset_s"], session.manifest["clock"]) == (offset_s, clock)
    shift = 0 if kind == "npy" else 7200 * 10**9
    assert [r["event_ns"] for r in found] == [T0_NS - shift + k * 100 * MS for k in range(3)]
    assert found[0]["recv_ns"] == T0_NS - shift - (0 if kind == "npy" else 100 * MS)


def test_tick_arrays_that_cannot_be_exact_are_refused(tmp_path):
    np.save(tmp_path / "BTCUSD_20240809.npy", ticks([61800.1, 61800.1 + 1 / 3], [61817.0, 61817.0]))
    refused(tmp_path, r"row 2: price .*61800\.4333.* at most 8 decimals", tmp_path / "BTCUSD_20240809.npy")
    np.save(tmp_path / "X_20240809.npy", ticks([float("nan")], [61817.0]))
    refused(tmp_path, "row 1: price .*nan", tmp_path / "X_20240809.npy")
    np.save(tmp_path / "Y.npy", np.zeros(3))
    refused(tmp_path, "has no column time_msc and no bid and no ask", tmp_path / "Y.npy")
    (tmp_path / "Z.npy").write_bytes((tmp_path / "BTCUSD_20240809.npy").read_bytes()[:-20])
    refused(tmp_path, "cannot be read as an array of ticks", tmp_path / "Z.npy")
    (tmp_path / "W.parquet").write_bytes(b"PAR1junk")
    refused(tmp_path, "cannot be read as an array of ticks", tmp_path / "W.parquet")


def tick_json(*rows: dict, symbol="BTCUSD") -> str:
    return json.dumps({"metadata": {"symbol": symbol}, "ticks": list(rows)})


def tick_row(at_ms: int, behind_ms: int | None = 3_600_600, bid=61800.1, ask=61817.0) -> dict:
    row = {"time_msc": T0_MS + 3_600_000 + at_ms, "bid": bid, "ask": ask}
    return row if behind_ms is None else row | {"collected_msc": row["time_msc"] - behind_ms}


def test_tick_json_with_a_venue_capture(tmp_path):
    path = tmp_path / "BTCUSD_ticks.json"
    path.write_text(tick_json(tick_row(0), tick_row(500), {"bid": 1}, tick_row(700, bid="x")))
    capture = write(tmp_path / "btcusdt.gz", lines(trade(1), trade(2)))
    result, session = imported(tmp_path, path, capture)
    assert [i.pair for i in session.instruments] == ["BTCUSDT", ""]
    assert session.manifest["server_offset_s"] == 3600 and session.manifest["venue"] == "binance_usdm+mt5"
    assert [r["event_ns"] - T0_NS for r in rows_of(session, "quotes")] == [0, 500 * MS]
    assert [s["line"] for s in result["skipped"]] == [3, 4]


def test_a_clock_difference_that_is_no_time_zone_is_refused(tmp_path):
    path = tmp_path / "ticks.json"
    path.write_text(tick_json(tick_row(0, behind_ms=3_600_000 + 400_000), tick_row(100, behind_ms=4_000_000)))
    refused(tmp_path, "4000.0 s ahead .* no multiple of 15 minutes", path)
    assert imported(tmp_path, path, server_offset_s=3600)[1].manifest["server_offset_s"] == 3600
    path.write_text(tick_json(tick_row(0), tick_row(1, behind_ms=None)))
    refused(tmp_path / "no", "collected_msc on 1 of 2 ticks", path)
    path.write_text('{"metadata": {}, "ticks": []}')
    refused(tmp_path / "no", "no tick JSON with metadata.symbol and ticks", path)
    path.write_text('{"metadata": {"symbol": "BTCUSD"}, "ticks": [')
    refused(tmp_path / "no", "no tick JSON", path)


def test_cryptofeed_seconds_are_exact(tmp_path):
    body = json.dumps(trade(1)).encode()
    text = b"".join([
        b"configuration: {}\n", b"wss://x/stream?streams=a <-> 1723161600.5\n", b"1723161600.1234567: " + body + b"\n",
        b"1723161600.12345678912: " + body + b"\n", b"nonsense\n"
    ])
    (tmp_path / "a.gz").write_bytes(gzip.compress(text))
    result, session = imported(tmp_path, tmp_path / "a.gz")
    assert result["first_recv_ns"] == T0_NS + 123_456_700
    assert [s["line"] for s in result["skipped"]] == [4, 5]


def test_a_zip_of_several_files_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("b", "2")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    refused(tmp_path, "holds 2 files, not one", tmp_path / "a.zip")
