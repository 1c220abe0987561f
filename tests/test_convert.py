"""A recording becomes a session: the tables an import gives, every frame once, whatever was damaged on the way."""

import gzip
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from capture_lines import T0_NS, agg_trade, best, diff, event_ms, spot_diff, trade
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, SourceFailed
from engine.instruments import Instrument
from engine.kernel.records import REFILLED, SNAPSHOT_LEVEL
from engine.record import convert as conversion
from engine.record.convert import convert, recover
from engine.record.frames import Request, rest_payload
from engine.record.importer import import_files
from engine.record.journal import JournalReader, JournalWriter, Origin, recording_folder
from engine.record.quality import check_session
from engine.record.segment import CONTROL, FRAME, INSTRUMENTS, QUOTE, REST, SOURCES, TIMER, Frame, pack_frame
from engine.record.store import TABLES, Session
from engine.stream import events

USDM, SPOT, BROKER, NOBODY = range(4)
ORIGINS = [Origin("usdm public", "binance_usdm", "public", "wss://fstream.binance.com/public/stream"),
           Origin("spot", "binance_spot", "", "wss://stream.binance.com/stream"), Origin("terminal", "mt5"),
           Origin("recorder", "")]
DEPTH_URL = "https://fapi.binance.com/fapi/v1/depth?symbol=BTCUSDT&limit=1000"
MS = 1_000_000
ODD = [b"[]", b"{}", b"\xff", b"null", b"{}\n{}", b'{"stream":"a@trade","data":[]}',
       b'{"stream":"!markPrice@arr","data":[]}']
Made = tuple[int, int, bytes]  # source, kind, payload


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Let no test wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def frame(data: dict, source: int = USDM) -> Made:
    return source, FRAME, json.dumps(data, separators=(",", ":")).encode()


def marker(code: str, source: int = USDM, **more) -> Made:
    return source, CONTROL, json.dumps({"code": code, **more}).encode()


def rest(url: str, body: object, **more) -> Made:
    return USDM, REST, rest_payload(Request(url, T0_NS, **more), json.dumps(body).encode())


def snapshot(last_id: int, bids=(), asks=()) -> Made:
    times = {"E": event_ms(T0_NS), "T": event_ms(T0_NS)}
    return rest(DEPTH_URL, {"lastUpdateId": last_id, **times, "bids": bids, "asks": asks})


def exchange_info(tick: str, lot: str, symbol: str = "BTCUSDT") -> Made:
    filters = [{"filterType": "PRICE_FILTER", "tickSize": tick, "minPrice": "1"},
               {"filterType": "LOT_SIZE", "stepSize": lot}]
    return rest("https://fapi.binance.com/fapi/v1/exchangeInfo", {"timezone": "UTC", "symbols": [
        {"symbol": symbol, "status": "TRADING", "filters": filters}]})


TIME = (NOBODY, TIMER, b"")


def record(data: Path, made: list[Made], name: str = "rec", **options) -> Path:
    """Journal frames a millisecond apart and return the recording."""
    folder = recording_folder(data, name)
    options = dict(sync_interval_ms=10_000, disk_reserve_bytes=0, sources=ORIGINS) | options
    with JournalWriter(folder, name, **options) as out:
        for number, (source, kind, body) in enumerate(made):
            out.append(source, kind, body, T0_NS + number * MS)
    return folder


def converted(data: Path, made: list[Made], name: str = "rec", **options) -> tuple[dict, Session]:
    """Journal frames, convert, and open the session."""
    result = convert(record(data, made, name), data, **options)
    return result, Session(result["path"])


def rows_of(session: Session, table: str) -> list[dict]:
    return session.table(table).to_pylist()


def feed_of(session: Session) -> list[tuple]:
    return [(r["seq"], r["code"], r["stream"], r["symbol"]) for r in rows_of(session, "feed")]


def seqs(session: Session) -> list[int]:
    """Return the seq of every message and feed row, once per table."""
    return sorted(n for table in TABLES for n in np.unique(session.table(table, ["seq"])["seq"].to_numpy()).tolist())


def book_frames(count: int = 30) -> list[Made]:
    """Return a little market of one symbol."""
    made = [marker("connected", symbol="BTCUSDT", stream=s) for s in ("trades", "depth", "best")]
    made.append(snapshot(100, [["61800.10", "1.000"]], [["61800.30", "2.000"]]))
    for k in range(count):
        made += [frame(diff(101 + k, 101 + k, 100 + k, [["61800.00", f"{1 + k}.000"]])),
                 frame(best(101 + k, "61800.10", "61800.30")), frame(trade(500 + k)), TIME]
    return made


# real captures


CAPTURES = {"usdm_eth": ["binance_usdm/ethusdt_20240808.gz"], "usdm_btc": ["binance_usdm/btcusdt_20240808.gz"],
            "spot": ["binance_spot/btcusdt_20240808.gz", "binance_spot/btcusdt_20240809.gz"],
            "usdm_2023": ["binance_usdm/btcusdt_20230404.dat.gz", "binance_usdm/btcusdt_20230405.dat.gz"]}


def journal_of_capture(paths: list[Path], data: Path, symbol: str, venue: str) -> int:
    """Journal the lines of capture files, the bare depth body as the REST answer it was; return the bytes."""
    with JournalWriter(recording_folder(data, "rec"), "rec", sync_interval_ms=10_000, disk_reserve_bytes=0,
                       segment_bytes=6 << 20, sources=[Origin("socket", venue)]) as out:
        for path in paths:
            for line in gzip.open(path):
                stamp, _, body = line.rstrip(b"\n").partition(b" ")
                kind = FRAME
                if body.startswith(b'{"lastUpdateId"'):
                    kind, body = REST, rest_payload(Request(DEPTH_URL.replace("BTCUSDT", symbol), T0_NS), body)
                out.append(0, kind, body, int(stamp) * (1_000 if len(stamp) == 16 else 1))
    return out.bytes


@pytest.mark.parametrize("name", [n if n == "usdm_eth" else pytest.param(n, marks=pytest.mark.slow) for n in CAPTURES])
def test_a_journaled_capture_gives_the_tables_an_import_gives(realdata, tmp_path, name):
    paths = [realdata / n for n in CAPTURES[name]]
    venue = "binance_spot" if name == "spot" else "binance_usdm"
    symbol = "ETHUSDT" if name == "usdm_eth" else "BTCUSDT"
    imported = import_files(paths, tmp_path, name="imported", timer_ms=0)
    journal_of_capture(paths, tmp_path, symbol, venue)
    result = convert(recording_folder(tmp_path, "rec"), tmp_path)
    assert result["messages"] == imported["messages"] and result["skipped"] == [] and result["journal"] == "dropped"
    assert {t: n for t, n in result["rows"].items() if t != "feed"} == {
        t: n for t, n in imported["rows"].items() if t != "feed"}
    one, two = Session(imported["path"]), Session(result["path"])
    assert one.manifest["instruments"] == two.manifest["instruments"]
    assert (one.manifest["messages"], one.manifest["gaps"]) == (two.manifest["messages"], two.manifest["gaps"])
    for table in TABLES:
        if table != "feed":
            columns = [c for c in TABLES[table].names if c != "seq"]
            assert one.table(table, columns).equals(two.table(table, columns)), table
    assert seqs(two) == list(range(1, two.manifest["last_seq"] + 1))
    assert [p.name for p in (tmp_path / "sessions").iterdir() if p.name.startswith(".")] == []


# what frames become


def test_markers_timers_and_frames_of_nothing_keep_seq_dense(tmp_path):
    made = [
        marker("connected", symbol="BTCUSDT", stream="trades"), TIME, frame(trade(1)),
        frame({"stream": "btcusdt@miniTicker", "data": {"e": "24hrMiniTicker"}}),
        (USDM, FRAME, b'{"result":null,"id":1}'),
        marker("gap", symbol="BTCUSDT", stream="trades", from_id=1, to_id=5, detail="socket closed"), frame(trade(5)),
        marker("stale", NOBODY, stream="best"), (USDM, 99, b"of a later version"), marker("resync", stream="nonsense"),
        marker("lost", NOBODY, symbol="XYZUSDT"), TIME]
    result, session = converted(tmp_path, made)
    assert feed_of(session) == [
        (1, "connected", "trades", "BTCUSDT"), (2, "timer", "", None), (4, "note", "", None), (5, "note", "", None),
        (6, "gap", "trades", "BTCUSDT"), (8, "stale", "best", None), (9, "note", "", None), (10, "note", "", None),
        (11, "note", "", None), (12, "timer", "", None)]
    six = rows_of(session, "feed")[4]
    assert (six["from_id"], six["to_id"], six["detail"], six["event_ns"]) == (1, 5, "socket closed", None)
    details = [row["detail"] for row in rows_of(session, "feed")]
    assert details[2:4] == ["btcusdt@miniTicker", "control"] and "XYZUSDT" in details[8]
    assert [(r["seq"], r["recv_ns"]) for r in rows_of(session, "trades")] == [(3, T0_NS + 2 * MS), (7, T0_NS + 6 * MS)]
    assert result["skipped"] == [{"file": "journal", "line": 10, "seq": 10,
                                  "reason": "marker 'resync' of stream 'nonsense' is not known"}]
    assert result["frames"] == 12 and session.manifest["gaps"][0]["missing"] == 3
    found = check_session(session)
    assert found["ok"], found["problems"]


def test_a_malformed_frame_is_counted_and_is_a_gap_of_its_stream(tmp_path):
    made = [
        frame(trade(1)), frame(trade(2, price="6l800.20")), frame(trade(3)),
        (USDM, FRAME, b'{"stream":"btcusdt@depth","data":{'), frame(best(1, bid="x")), (USDM, FRAME, b"garbage"),
        frame({"stream": "btcusdt@markPrice", "data": {"s": "BTCUSDT", "p": 1}}),
        frame(trade(4, symbol="")), frame(trade(5, symbol="ETHUSDT"), SPOT), frame(trade(6, symbol="ETHUSDT"), USDM),
        rest(DEPTH_URL, {"lastUpdateId": 1}), rest(DEPTH_URL, {"code": -1003}, status=429), (BROKER, QUOTE, b"{}")]
    result, session = converted(tmp_path, made)
    assert feed_of(session) == [
        (2, "gap", "trades", "BTCUSDT"), (4, "gap", "depth", "BTCUSDT"), (5, "gap", "best", "BTCUSDT"),
        (6, "gap", "", None), (7, "note", "", None), (8, "gap", "trades", None), (10, "note", "", None),
        (11, "note", "", None),
        (12, "note", "", None), (13, "note", "", None)]
    assert [skip["seq"] for skip in result["skipped"]] == sorted(s["seq"] for s in result["skipped"])
    assert {skip["seq"] for skip in result["skipped"]} == {2, 4, 5, 6, 7, 8, 10, 11, 13}
    assert session.manifest["malformed"] == 9 and seqs(session) == list(range(1, 14))
    assert "'6l800.20' is not a decimal number" in rows_of(session, "feed")[0]["detail"]


KLINE = {"t": event_ms(T0_NS), "T": event_ms(T0_NS), "i": "1m", "o": "1", "h": "1", "l": "1", "c": "1", "v": "1", "V": "1", "n": 7, "x": True}
HISTORY = "https://fapi.binance.com/fapi/v1/{}?symbol=BTCUSDT"


@pytest.mark.parametrize("number", [2**62, 2**64, -2**64])
@pytest.mark.parametrize("make, gap", [
    (lambda n: frame(trade(n)), "trades"), (lambda n: frame(agg_trade(n, 1, 1)), "trades"),
    (lambda n: frame(agg_trade(1, n, 1)), "trades"), (lambda n: frame(agg_trade(1, 1, n)), "trades"),
    (lambda n: frame(diff(n, 2, 1)), "depth"), (lambda n: frame(diff(1, n, 1)), "depth"), (lambda n: frame(diff(1, 2, n)), "depth"),
    (lambda n: frame(best(n)), "best"), (lambda n: snapshot(n), None),
    (lambda n: frame({"stream": "btcusdt@kline_1m", "data": {"s": "BTCUSDT", "k": KLINE | {"n": n}}}), None),
    (lambda n: rest(HISTORY.format("aggTrades"), [{"a": n, "p": "1", "q": "1", "f": 1, "l": 1, "T": event_ms(T0_NS), "m": True}]), None),
    (lambda n: rest(HISTORY.format("trades"), [{"id": n, "price": "1", "qty": "1", "time": event_ms(T0_NS), "isBuyerMaker": True}]), None),
    (lambda n: marker("gap", symbol="BTCUSDT", stream="trades", from_id=1, to_id=n), None),
    (lambda n: marker("gap", symbol="BTCUSDT", stream="trades", from_id=n, to_id=1), None),
    (lambda n: (BROKER, QUOTE, json.dumps({"symbol": "BTCUSD", "bid": "1", "ask": "2", "event_ns": n}).encode()), None)])
def test_a_number_that_is_no_id_is_a_malformed_frame(tmp_path, make, gap, number):
    result, session = converted(tmp_path, [frame(trade(1)), make(number), frame(trade(2))])
    assert [skip["seq"] for skip in result["skipped"]] == [2] and result["rows"]["trades"] == 2
    assert feed_of(session) == [(2, "gap", gap, "BTCUSDT") if gap else (2, "note", "", None)]
    check_session(session)


def test_broker_quotes_and_given_instruments(tmp_path):
    live = [Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2, "given", "BTCUSDT"),
            Instrument("BTCUSDT", "binance_usdm", "0.10", "0.001", 2, 3, "venue")]
    quotes = [{"symbol": "BTCUSD", "bid": "61790.5", "ask": "61807.54", "event_ns": T0_NS},
              {"symbol": "BTCUSD", "bid": "", "ask": "61807.60"}]
    made = [(NOBODY, INSTRUMENTS, json.dumps([asdict(i) for i in live]).encode()), frame(trade(1)),
            *((BROKER, QUOTE, json.dumps(quote).encode()) for quote in quotes)]
    _, session = converted(tmp_path, made)
    assert session.instruments == live
    one, two = rows_of(session, "quotes")
    assert (one["bid_price_ticks"], one["ask_price_ticks"], one["event_ns"]) == (6179050, 6180754, T0_NS)
    assert (two["bid_price_ticks"], two["ask_price_ticks"], two["event_ns"]) == (None, 6180760, None)
    assert rows_of(session, "trades")[0]["price_ticks"] == 618002


def test_steps_come_from_exchange_info_and_one_reading_does(tmp_path, monkeypatch):
    readings = []
    real = JournalReader.__iter__
    monkeypatch.setattr(JournalReader, "__iter__", lambda self: readings.append(self) or real(self))
    made = [exchange_info("0.10", "0.00100000"), *book_frames()]
    folder = record(tmp_path, made)
    session = Session(convert(folder, tmp_path)["path"])
    assert session.instruments == [Instrument("BTCUSDT", "binance_usdm", "0.1", "0.001", 2, 3, "venue")]
    assert len([r for r in readings if len(r.segments)]) == 2, "one for the repair, one for the tables"
    assert rows_of(session, "feed")[0]["detail"] == "exchangeInfo"
    assert {r["price_ticks"] for r in rows_of(session, "trades")} == {618002}


def test_a_value_off_the_stated_step_is_kept_exactly(tmp_path):
    made = [exchange_info("0.10", "0.001"), *book_frames(2), frame(trade(502, price="61800.25"))]
    _, session = converted(tmp_path, made)
    instrument = session.instruments[0]
    assert (instrument.tick_size, instrument.lot_size, instrument.scale_source) == ("0.05", "0.001", "inferred")
    assert instrument.price_text(rows_of(session, "trades")[-1]["price_ticks"]) == "61800.25"
    assert "61800.25 of BTCUSDT is not a whole number of ticks of 0.10" in " ".join(session.manifest["notes"])


def test_refilled_trades_are_taken_between_the_asked_ids_only(tmp_path):
    url = "https://fapi.binance.com/fapi/v1/{}?symbol=BTCUSDT&fromId=2"
    at, price, qty = event_ms(T0_NS), "61800.20", "0.010"
    prints = [{"id": n, "price": price, "qty": qty, "quoteQty": "1", "time": at, "isBuyerMaker": True}
              for n in range(1, 9)]
    aggregates = [{"a": n, "p": price, "q": qty, "f": n, "l": n, "T": at, "m": False} for n in (7, 8, 9)]
    made = [frame(trade(1)), marker("gap", symbol="BTCUSDT", stream="trades", from_id=1, to_id=5), frame(trade(5)),
            rest(url.format("historicalTrades"), prints, from_id=2, to_id=4), frame(agg_trade(6, 1, 1)),
            frame(agg_trade(10, 9, 9)), rest(url.format("aggTrades"), aggregates)]
    _, session = converted(tmp_path, made)
    rows = [(r["seq"], r["trade_id"], r["side"], r["bits"] & REFILLED > 0) for r in rows_of(session, "trades")]
    assert rows == [(1, 1, 1, False), (3, 5, 1, False), (4, 2, -1, True), (4, 3, -1, True), (4, 4, -1, True),
                    (5, 6, -1, False), (6, 10, -1, False), (7, 7, 1, True), (7, 8, 1, True), (7, 9, 1, True)]
    assert check_session(session)["trade_ids"] == {"breaks": 0, "missing": 0}


def test_a_break_the_recorder_did_not_mark_is_listed_and_no_row_is_made_for_it(tmp_path):
    made = book_frames(3) + [frame(trade(510)), frame(diff(120, 121, 119)),
                             *(frame(spot_diff(*ids, symbol="ETHUSDT"), SPOT) for ids in ((5, 6), (9, 9)))]
    _, session = converted(tmp_path, made)
    keys, last = ("seq", "table", "symbol", "after", "before", "missing"), len(made)
    assert [tuple(gap[key] for key in keys) for gap in session.manifest["gaps"]] == [
        (last - 3, "trades", "BTCUSDT", 502, 510, 7), (last - 2, "depth", "BTCUSDT", 103, 120, None),
        (last, "depth", "ETHUSDT", 6, 9, 2)]
    assert [row for row in feed_of(session) if row[1] == "gap"] == []
    problems = " ".join(check_session(session)["problems"])
    assert "trade ids of BTCUSDT in trades break without a gap row" in problems


def test_what_came_twice_was_acted_on_twice_and_is_stored_twice(tmp_path):
    made = [frame(trade(1)), frame(trade(1)), frame(trade(1, price="61900.00")), *[frame(diff(5, 6, 4))] * 2]
    _, session = converted(tmp_path, made)
    assert [r["trade_id"] for r in rows_of(session, "trades")] == [1, 1, 1] and seqs(session) == [1, 2, 3, 4, 5]
    assert "2 trade ids of BTCUSDT are stored twice" in " ".join(check_session(session)["problems"])


def test_parts_are_invisible(tmp_path, monkeypatch):
    made = book_frames(200)
    made = [m for n, m in enumerate(made) if n % 50 not in (7, 8, 9)] + [frame(trade(900, price="bad"))]
    _, whole = converted(tmp_path, made, "whole")
    monkeypatch.setattr(conversion, "PART_BYTES", 3_000)
    folder = record(tmp_path, made, "parts", segment_bytes=5_000)
    parts = Session(convert(folder, tmp_path)["path"])
    assert len(parts.files("trades")) > 10 and parts.manifest["recording"]["segments"] > 5
    for table in TABLES:
        assert whole.table(table).to_pylist() == parts.table(table).to_pylist(), table
    for key in ("instruments", "counts", "gaps", "messages", "first_recv_ns", "last_recv_ns", "skipped", "malformed"):
        assert whole.manifest[key] == parts.manifest[key], key
    assert len(whole.manifest["gaps"]) == 16


def test_a_converted_recording_checks_and_replays_as_events(tmp_path):
    result, session = converted(tmp_path, book_frames())
    found = check_session(session)
    assert found["ok"], found["problems"]
    assert found["book"]["compared"] == found["book"]["equal"] == 30
    rows = np.concatenate(list(events(session, {"BTCUSDT": 0})))
    assert (np.diff(rows["seq"]) >= 0).all() and rows["seq"][-1] == result["frames"]


# damage


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "journal").glob("*.seg"))


def test_a_torn_end_is_repaired_and_the_session_says_so(tmp_path):
    folder = record(tmp_path, book_frames(), segment_bytes=4_000)
    with open(segments(folder)[-1], "ab") as file:
        file.write(b"\x20\0\0\0half a frame")
    result = convert(folder, tmp_path)
    assert "the last 16 bytes, after seq 124," in result["repair"][0]
    assert Session(result["path"]).manifest["notes"] == result["repair"] and result["frames"] == 124


@pytest.mark.parametrize("which", ["middle", "first", "last two"])
def test_rot_in_a_segment_is_a_gap_of_everything_and_seq_stays_dense(tmp_path, which):
    folder = record(tmp_path, book_frames(), segment_bytes=4_000)
    paths = segments(folder)
    hit = {"middle": [2], "first": [0], "last two": [len(paths) - 2, len(paths) - 1]}[which]
    clean = {p.name: [f for f in JournalReader(folder) if f] for p in paths[:1]}[paths[0].name]
    for number in hit:
        data = bytearray(paths[number].read_bytes())
        at = len(data) // 2 if number < len(paths) - 1 else 170
        data[at] ^= 16
        paths[number].write_bytes(data)
    kept = list(JournalReader(folder))
    assert 0 < len(kept) < len(clean)
    result = convert(folder, tmp_path)
    session = Session(result["path"])
    last = session.manifest["last_seq"]
    assert seqs(session) == list(range(1, last + 1)) and result["frames"] == len(kept)
    lost = sorted(set(range(1, last + 1)) - {f.seq for f in kept})
    told = [r for r in rows_of(session, "feed") if r["code"] == "gap"]
    assert [(r["seq"], r["stream"], r["symbol"]) for r in told] == [(lost[0], "", None)]
    assert f"seq {lost[0]} to {lost[-1]} are lost" in told[0]["detail"] and str(lost[0]) in result["damage"][0]
    found = check_session(session)
    assert found["sequence"]["ok"] and not [p for p in found["problems"] if "without a gap row" in p], found["problems"]


def test_nothing_readable_is_not_thrown_away(tmp_path):
    folder = record(tmp_path, book_frames(400))
    path = segments(folder)[0]
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(BadInput, match="holds no readable frame"):
        convert(folder, tmp_path)
    assert folder.exists() and not (tmp_path / "sessions" / "rec").exists()


@pytest.mark.parametrize("size", [0, 50, 200])
def test_a_recording_killed_at_its_start_is_cleared_away(tmp_path, size):
    folder = record(tmp_path, [])
    os.truncate(segments(folder)[0], size)
    result = convert(folder, tmp_path)
    assert result["session"] is None and result["frames"] == 0
    assert list((tmp_path / "sessions").iterdir()) == []


KINDS = st.integers(1, 12).filter(lambda kind: kind != SOURCES)
BODIES = st.one_of(
    st.binary(max_size=60), st.sampled_from([body for _, _, body in book_frames(1)]), st.sampled_from(ODD))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(st.tuples(st.integers(0, 6), KINDS, BODIES), max_size=12))
def test_no_frame_whatever_it_holds_stops_a_conversion(tmp_path_factory, made):
    data = tmp_path_factory.mktemp("fuzz")
    made = [*made, frame(trade(7))]
    _, session = converted(data, made)
    assert seqs(session) == list(range(1, len(made) + 1))
    assert check_session(session)["sequence"]["ok"]


# verified, put in place, and only then let go


@pytest.mark.parametrize("harm", ["row", "text", "cut"])
def test_what_does_not_read_back_keeps_the_journal(tmp_path, monkeypatch, harm):
    folder = record(tmp_path, book_frames())
    real = conversion.VerifiedWriter.verify

    def spoiled(self, frames: int) -> None:
        path = self.folder / ("feed" if harm == "text" else "trades") / "00000.parquet"
        table = pq.read_table(path)
        if harm == "row":
            pq.write_table(table.slice(1), path)
        elif harm == "text":
            details = ["other", *table["detail"].to_pylist()[1:]]
            pq.write_table(table.set_column(table.schema.get_field_index("detail"), "detail", [details]), path)
        else:
            path.write_bytes(path.read_bytes()[:-20])
        real(self, frames)
    monkeypatch.setattr(conversion.VerifiedWriter, "verify", spoiled)
    with pytest.raises(SourceFailed, match="the journal was kept"):
        convert(folder, tmp_path)
    assert [p.name for p in (tmp_path / "sessions").iterdir()] == [folder.name]
    monkeypatch.undo()
    assert convert(folder, tmp_path)["frames"] == 124


def test_a_disk_that_fills_while_converting_keeps_the_journal(tmp_path, monkeypatch):
    folder = record(tmp_path, book_frames())

    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("engine.record.store.pq.write_table", full)
    with pytest.raises(SourceFailed, match="No space left on device.*its journal was kept"):
        convert(folder, tmp_path)
    assert [p.name for p in (tmp_path / "sessions").iterdir()] == [folder.name]


@pytest.mark.parametrize("keep", ["drop", "zstd", "raw"])
def test_the_journal_is_kept_as_asked(tmp_path, keep):
    folder = record(tmp_path, book_frames(), segment_bytes=4_000)
    expected, size = list(JournalReader(folder)), sum(p.stat().st_size for p in segments(folder))
    result = convert(folder, tmp_path, keep=keep)
    assert not folder.exists()
    if keep == "drop":
        assert result["journal"] == "dropped" and not (tmp_path / "journals").exists()
        return
    kept = tmp_path / "journals" / "rec"
    assert result["journal"] == str(kept)
    reader = JournalReader(kept)
    assert list(reader) == expected and reader.damage == []
    assert keep == "raw" or sum(p.stat().st_size for p in kept.iterdir()) < size / 2
    with pytest.raises(BadInput, match="keep='x' is not known; a journal can be kept as drop, zstd, raw"):
        convert(folder, tmp_path, keep="x")


def test_a_session_already_in_place_only_loses_its_journal(tmp_path):
    folder = record(tmp_path, book_frames())
    again = tmp_path / "copy"
    shutil.copytree(folder, again)
    first = convert(folder, tmp_path)
    before = (Path(first["path"]) / "manifest.json").read_bytes()
    shutil.move(again, folder)
    second = convert(folder, tmp_path)
    assert first | {"seconds": 0} == second | {"seconds": 0}
    assert (Path(first["path"]) / "manifest.json").read_bytes() == before and not folder.exists()


def test_a_session_of_another_origin_is_not_touched(tmp_path):
    folder = record(tmp_path, book_frames())
    other = record(tmp_path / "other", book_frames(5))
    shutil.copytree(convert(other, tmp_path / "other")["path"], tmp_path / "sessions" / "rec")
    with pytest.raises(BadInput, match="was not made from this recording"):
        convert(folder, tmp_path)
    assert folder.exists()


def test_recover_takes_what_was_left_and_passes_over_what_is_in_use(tmp_path):
    record(tmp_path, book_frames(), "one")
    record(tmp_path, book_frames(), "two")
    sessions = tmp_path / "sessions"
    for rest_of in (".one.0a1b2c3d", ".dropped-0a1b2c3d"):
        (sessions / rest_of / "trades").mkdir(parents=True)
    busy = JournalWriter(recording_folder(tmp_path, "busy"), "busy", disk_reserve_bytes=0)
    results = recover(tmp_path)
    assert [(r["session"], r.get("frames"), "problem" in r) for r in results] == [
        ("busy", None, True), ("one", 124, False), ("two", 124, False)]
    assert "in use by another process" in results[0]["problem"]
    assert sorted(p.name for p in sessions.iterdir()) == [".recording-busy", "one", "two"]
    busy.close()
    with pytest.raises(BadInput, match="is not a recording"):
        convert(sessions / "one", tmp_path)


def test_a_recording_nobody_can_convert_does_not_stop_the_others(tmp_path):
    """Its sources are of a later version, that says more of each: whatever goes wrong is told of that one recording."""
    record(tmp_path, book_frames(), "one")
    later = record(tmp_path, [], "two")
    with open(segments(later)[0], "ab") as file:
        file.write(pack_frame(Frame(0, T0_NS, 0, SOURCES, 0, b'[{"name":"x","venue":"binance_usdm","proxy":"y"}]')))
    record(tmp_path, book_frames(), "zero")
    results = recover(tmp_path)
    assert [(r["session"], r.get("frames")) for r in results] == [("one", 124), ("two", None), ("zero", 124)]
    assert "proxy" in results[1]["problem"] and str(later) in results[1]["problem"] and "\n" not in results[1]["problem"]
    assert later.exists()


def test_progress_goes_forward_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "PART_BYTES", 3_000)
    told = []
    convert(record(tmp_path, [exchange_info("0.1", "0.001"), *book_frames()]), tmp_path, lambda *at: told.append(at))
    assert len(told) > 3 and told == sorted(told) and told[-1][0] == told[-1][1]


def test_depth_snapshot_rows_say_what_they_are(tmp_path):
    _, session = converted(tmp_path, book_frames(1))
    first = [r for r in rows_of(session, "depth") if r["seq"] == 4]
    assert [r["bits"] & SNAPSHOT_LEVEL for r in first] == [SNAPSHOT_LEVEL] * 2
