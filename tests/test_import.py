"""Recorded files to one session: the order, the rows between messages, doubles, holes, and everything refused."""

import gzip
import json

import pytest
from capture_lines import (MS, T0_NS, agg_trade, best, diff, feed_rows, imported, in_order, lines, rows_of, spot_diff,
                           trade, write)
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, SourceFailed
from engine.kernel.records import FIRST, LAST, NOT_MARKET, PARTIAL_DEPTH, SNAPSHOT_LEVEL
from engine.record import intake
from engine.record.importer import import_files
from engine.record.store import TABLES, SessionWriter

BODY = json.dumps({"lastUpdateId": 100, "E": T0_NS // MS, "T": T0_NS // MS, "bids": [["61800.20", "1.000"]],
                   "asks": [["61800.30", "2.000"]]})
SNAPSHOT_LINE = f"{T0_NS + 2 * MS} {BODY}"


def refused(tmp_path, says: str, *paths, **options) -> None:
    """Import, expecting a BadInput that says something, in one sentence, and leaves nothing behind."""
    with pytest.raises(BadInput, match=says) as caught:
        import_files(paths, tmp_path / "data", **options)
    left = list((tmp_path / "data").rglob("*")) if (tmp_path / "data").exists() else []
    assert [p for p in left if p.is_file()] == []
    assert "\n" not in str(caught.value)


def test_the_result_has_the_documented_shape(tmp_path):
    path = write(
        tmp_path / "a.gz",
        lines(trade(1), diff(101, 102, 100, [["61800.10", "0.500"]]), SNAPSHOT_LINE, best(103),
              trade(2, "0", "0", X="NA")))
    result, session = imported(tmp_path, path, name="first")
    assert set(result) == {"session", "path", "messages", "rows", "skipped", "first_recv_ns", "last_recv_ns", "seconds"}
    assert result["messages"] == {
        "trade": 2, "depth": 1, "best": 1, "snapshot": 1, "mark": 0, "liquidation": 0, "not_market": 1, "quote": 0,
        "kline": 0
    }
    assert result["rows"] == dict.fromkeys(TABLES, 0) | {"trades": 2, "depth": 3, "best": 1, "feed": 4}
    assert (result["session"], result["first_recv_ns"], result["last_recv_ns"]) == ("first", T0_NS, T0_NS + 4 * MS)
    assert session.manifest["clock"] == "receive" and session.manifest["venue"] == "binance_usdm"
    assert [r["bits"] for r in rows_of(session, "trades")] == [0, NOT_MARKET]
    depth_bits = [r["bits"] for r in rows_of(session, "depth")]
    assert depth_bits == [FIRST | LAST, SNAPSHOT_LEVEL | FIRST, SNAPSHOT_LEVEL | LAST]
    assert rows_of(session, "depth")[1] | {"seq": 0} == {
        "seq": 0, "recv_ns": T0_NS + 2 * MS, "event_ns": T0_NS, "symbol": "BTCUSDT", "side": 1, "price_ticks": 618002,
        "qty_lots": session.instruments[0].qty_lots("1.000"), "first_id": None, "last_id": 100, "prev_id": None,
        "bits": SNAPSHOT_LEVEL | FIRST}


def test_feed_rows_stand_before_what_they_announce(tmp_path):
    path = write(tmp_path / "a.gz", lines(trade(1), best(9), trade(5), start_ns=T0_NS - MS))
    _, session = imported(tmp_path, path, timer_ms=1)
    kinds = [(recv - T0_NS, table) for _, recv, table in in_order(session)]
    assert kinds == [(-MS - 2, "feed connected"), (-MS - 1, "feed connected"), (-MS, "feed timer"), (1 - MS, "trades"),
                     (0, "feed timer"), (1, "best"), (MS, "feed timer"), (MS + 1, "feed gap"), (MS + 2, "trades")]
    assert [seq for seq, _, _ in in_order(session)] == list(range(1, 10))
    gap, = feed_rows(session, "gap")
    assert (gap["symbol"], gap["stream"], gap["from_id"], gap["to_id"]) == ("BTCUSDT", "trades", 1, 5)
    assert session.manifest["gaps"] == [{
        "seq": 8, "recv_ns": T0_NS + MS + 1, "table": "trades", "symbol": "BTCUSDT", "after": 1, "before": 5,
        "missing": 3, "detail": "trade ids 2 to 4 missing"
    }]


def test_no_timers_when_not_wanted(tmp_path):
    _, session = imported(tmp_path, write(tmp_path / "a", lines(trade(1), trade(2), step_ns=10**9)), timer_ms=0)
    assert feed_rows(session, "timer") == []


def test_equal_stamps_keep_file_order_then_line_order(tmp_path):
    one = write(tmp_path / "one", lines(trade(1), trade(2), trade(3), step_ns=0))
    two = write(tmp_path / "two", lines(*(trade(k, symbol="ETHUSDT") for k in (7, 8)), step_ns=0))
    for paths, expected in (((one, two), [1, 2, 3, 7, 8]), ((two, one), [7, 8, 1, 2, 3])):
        _, session = imported(tmp_path, *paths, name=f"s{expected[0]}", timer_ms=0)
        rows = rows_of(session, "trades")
        assert [r["trade_id"] for r in rows] == expected
        assert [r["recv_ns"] - T0_NS for r in rows] == [0, 1, 2, 3, 4]
        assert session.manifest["bumped"] == 4


def test_small_steps_back_are_bumped_and_counted(tmp_path):
    rows = lines(trade(1)) + lines(trade(2), start_ns=T0_NS - 2 * 10**9) + lines(trade(3), start_ns=T0_NS + 5)
    _, session = imported(tmp_path, write(tmp_path / "a", rows), timer_ms=0)
    assert [r["trade_id"] for r in rows_of(session, "trades")] == [1, 2, 3]
    assert [r["recv_ns"] - T0_NS for r in rows_of(session, "trades")] == [0, 1, 5]
    assert session.manifest["clock_steps"] == 1


def test_microsecond_files_of_one_session_are_told_by_their_digits(tmp_path):
    path = write(tmp_path / "a.gz", lines(trade(1), trade(2), unit_ns=1000))
    result, _ = imported(tmp_path, path)
    assert (result["first_recv_ns"], result["last_recv_ns"]) == (T0_NS, T0_NS + MS)


def test_a_message_without_levels_is_one_row(tmp_path):
    path = write(tmp_path / "a", lines(diff(11, 12, 10, asks=[["61800.30", "1.000"]]), diff(13, 13, 12), trade(1)))
    _, session = imported(tmp_path, path)
    first, empty = rows_of(session, "depth")
    assert (empty["price_ticks"], empty["qty_lots"], empty["last_id"], empty["bits"]) == (None, None, 13, FIRST | LAST)
    assert (first["side"], first["price_ticks"]) == (-1, session.instruments[0].price_ticks("61800.30"))


def test_partial_depth_is_recorded_apart_and_breaks_no_chain(tmp_path):
    path = write(tmp_path / "a", lines(diff(11, 12, 10, [["61800.20", "1.000"]]),
                                       diff(1, 99, 0, [["61800.20", "1.000"]], stream="depth5@100ms"),
                                       diff(13, 14, 12, [["61800.20", "2.000"]])))
    _, session = imported(tmp_path, path)
    assert [r["bits"] & PARTIAL_DEPTH for r in rows_of(session, "depth")] == [0, PARTIAL_DEPTH, 0]
    assert session.manifest["gaps"] == []


def test_broken_diff_chains_are_found(tmp_path):
    level = [["61800.20", "1.000"]]
    usdm = write(tmp_path / "u", lines(diff(11, 12, 10, level), diff(15, 16, 12, level), diff(30, 31, 29, level)))
    _, session = imported(tmp_path, usdm)
    gap, = session.manifest["gaps"]
    assert (gap["table"], gap["after"], gap["before"], gap["missing"]) == ("depth", 16, 30, None)
    spot = write(tmp_path / "s", lines(spot_diff(11, 12, level), spot_diff(13, 16, level), spot_diff(20, 21, level)))
    _, session = imported(tmp_path, spot)
    gap, = session.manifest["gaps"]
    assert (gap["table"], gap["after"], gap["before"], gap["missing"]) == ("depth", 16, 20, 3)
    assert session.manifest["venue"] == "binance_spot"
    assert rows_of(session, "depth")[1]["prev_id"] == 12


def test_a_diff_that_comes_late_is_no_hole(tmp_path):
    level = [["61800.20", "1.000"]]
    rows = lines(diff(11, 12, 10, level), diff(13, 14, 12, level), diff(9, 10, 8, level), diff(15, 16, 14, level))
    _, session = imported(tmp_path, write(tmp_path / "a", rows))
    assert [r["last_id"] for r in rows_of(session, "depth")] == [12, 14, 10, 16]
    assert session.manifest["gaps"] == []


def test_raw_and_aggregated_ids_are_two_series(tmp_path):
    path = write(tmp_path / "a",
                 lines(trade(100), agg_trade(7, 100, 100), trade(101), agg_trade(8, 101, 101), agg_trade(10, 105, 106)))
    _, session = imported(tmp_path, path)
    assert [(g["after"], g["before"], g["detail"])
            for g in session.manifest["gaps"]] == [(8, 10, "aggTrade ids 9 to 9 missing")]


def test_doubles_are_dropped_and_counted(tmp_path):
    level = [["61800.20", "1.000"]]
    one = write(tmp_path / "one", lines(trade(1), trade(2), diff(11, 12, 10, level), diff(13, 14, 12, level)))
    two = write(tmp_path / "two",
                lines(trade(2), trade(3), diff(13, 14, 12, level), diff(15, 16, 14, level), start_ns=T0_NS + 9 * MS))
    result, session = imported(tmp_path, one, two)
    assert [r["trade_id"] for r in rows_of(session, "trades")] == [1, 2, 3]
    assert [r["last_id"] for r in rows_of(session, "depth")] == [12, 14, 16]
    assert session.manifest["duplicates"] == 2 and session.manifest["gaps"] == []
    assert result["messages"]["trade"] == 4, "messages count what was received"


def test_a_late_trade_is_kept_and_is_no_second_hole(tmp_path):
    _, session = imported(tmp_path, write(tmp_path / "a", lines(trade(1), trade(3), trade(2), trade(4))))
    assert [r["trade_id"] for r in rows_of(session, "trades")] == [1, 3, 2, 4]
    assert [(g["after"], g["before"]) for g in session.manifest["gaps"]] == [(1, 3)]


def test_blocks_and_their_size_cannot_be_seen(tmp_path, monkeypatch):
    frames = []
    for k in range(60):
        levels = [[f"{61700 - j}.{k % 10}0", "1.000"] for j in range(k % 5)]
        frames.append(trade(k, f"{61800 + k / 10:.2f}", f"0.{k + 1:03d}") if k % 3
                      else diff(10 * k + 1, 10 * k + 9, 10 * k - 21, levels))
    path = write(tmp_path / "a", lines(*frames))
    whole, first = imported(tmp_path, path, name="whole")
    for size in (1, 7):
        monkeypatch.setattr(intake, "BLOCK_MESSAGES", size)
        parts, session = imported(tmp_path, path, name=f"parts{size}")
        assert all(session.table(t).equals(first.table(t)) for t in TABLES)
        assert session.manifest["instruments"] == first.manifest["instruments"]


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=25))
@settings(max_examples=30, deadline=None)
def test_any_two_files_merge_like_a_stable_sort(tmp_path_factory, steps):
    tmp_path = tmp_path_factory.mktemp("merge")
    files, at_ns, naive = {"BTCUSDT": [], "ETHUSDT": []}, {"BTCUSDT": T0_NS, "ETHUSDT": T0_NS}, []
    for step_ns, second in steps:
        symbol = "ETHUSDT" if second else "BTCUSDT"
        at_ns[symbol] += step_ns
        files[symbol] += lines(trade(len(files[symbol]) + 1, symbol=symbol), start_ns=at_ns[symbol])
        naive.append((at_ns[symbol], symbol, len(files[symbol])))
    _, session = imported(tmp_path, *(write(tmp_path / name, rows) for name, rows in files.items() if rows), timer_ms=0)
    expected, last_ns = [], 0
    for time_ns, symbol, number in sorted(naive):
        last_ns = max(time_ns, last_ns + 1)
        expected.append((last_ns, symbol, number))
    assert [(r["recv_ns"], r["symbol"], r["trade_id"]) for r in rows_of(session, "trades")] == expected


def test_progress_reaches_the_end_and_never_goes_back(tmp_path):
    paths = [
        write(tmp_path / n, lines(*(trade(k, symbol=s) for k in range(25_000))))
        for n, s in (("a.gz", "BTCUSDT"), ("b.gz", "ETHUSDT"))
    ]
    seen = []
    import_files(paths, tmp_path / "data", progress=lambda done, total: seen.append((done, total)))
    total = sum(p.stat().st_size for p in paths)
    assert seen[-1] == (total, total) and {t for _, t in seen} == {total}
    assert [d for d, _ in seen] == sorted(d for d, _ in seen) and len(seen) >= 4


def test_step_sizes_can_be_given(tmp_path):
    path = write(tmp_path / "a", lines(trade(1, "61800.20", "0.010"), trade(2, "61800.40", "0.030")))
    _, session = imported(tmp_path, path, name="inferred")
    assert (session.instruments[0].tick_size, session.instruments[0].lot_size) == ("0.2", "0.01")
    _, session = imported(tmp_path, path, name="given", ticks={"BTCUSDT": "0.10"}, lots={"BTCUSDT": "0.001"})
    known = session.instruments[0]
    assert (known.tick_size, known.lot_size, known.scale_source) == ("0.1", "0.001", "given")
    assert [known.price_text(r["price_ticks"]) for r in rows_of(session, "trades")] == ["61800.20", "61800.40"]
    refused(tmp_path / "no", "a line 1: 61800.2 of BTCUSDT is not a whole number of ticks of 0.25", path,
            ticks={"BTCUSDT": "0.25"})
    refused(tmp_path / "no", "files hold BTCUSDT", path, ticks={"XRPUSDT": "0.1"})
    refused(tmp_path / "no", "not a positive decimal", path, lots={"BTCUSDT": "zero"})


def test_mixed_text_styles_are_noted(tmp_path):
    _, session = imported(tmp_path, write(tmp_path / "a", lines(trade(1, "61800.20"), trade(2, "61800.1"))))
    assert session.instruments[0].price_decimals == 2
    assert session.manifest["notes"] == ["BTCUSDT price texts have 1 to 2 decimals; written with 2"]


def test_malformed_lines_are_skipped_and_quoted(tmp_path):
    rows = lines(trade(1), "garbage", "1723161600003000000 {\"stream\":\"btcusdt@trade\",\"data\":{\"s\":\"BTCUSDT\"}}",
                 trade(2, "6x"), diff(1, 2, 0, [["61800.20", "1.000"], ["61800.10", "one"]]), trade(3))
    result, session = imported(tmp_path, write(tmp_path / "a", rows))
    assert [(s["file"], s["line"]) for s in result["skipped"]] == [("a", 2), ("a", 3), ("a", 4), ("a", 5)]
    reasons = [s["reason"] for s in result["skipped"]]
    for reason, says in zip(reasons, ("'garbage'", "`t`", "price '6x'", "quantity 'one'"), strict=True):
        assert says in reason
    assert [r["trade_id"] for r in rows_of(session, "trades")] == [1, 3]
    assert session.manifest["skipped"] == 4 and result["rows"]["depth"] == 0
    refused(tmp_path / "no", "a line 5: .*malformed line 4 and the limit is 3", tmp_path / "a", skip_limit=3)


def test_a_cut_gzip_is_refused(tmp_path):
    whole = gzip.compress("".join(row + "\n" for row in lines(*(trade(k) for k in range(3000)))).encode())
    (tmp_path / "cut.gz").write_bytes(whole[:len(whole) * 2 // 3])
    refused(tmp_path, r"cut\.gz is cut short or damaged after line \d+", tmp_path / "cut.gz")
    (tmp_path / "bad.gz").write_bytes(whole[:40] + b"\0" * 200 + whole[240:])
    refused(tmp_path, r"bad\.gz is cut short or damaged", tmp_path / "bad.gz")


@pytest.mark.parametrize("content, says",
                         [(b"", "is empty"), (gzip.compress(b"", mtime=0), "is empty once unpacked"),
                          (b"\n\n", "is empty once unpacked"),
                          (b"hello there\n", "begins with 'hello there', which is no format known here"),
                          (b"\x00\x01\x02", "no format known here"),
                          (b"timestamp,percentage,depth,notional\n", "bookDepth"), (b"PK\x03\x04junk", "damaged")])
def test_files_that_are_nothing_known_are_refused(tmp_path, content, says):
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path, says, tmp_path / "a")


@pytest.mark.parametrize(
    "rows, says",
    [(lines(trade(1), unit_ns=MS), "line 1: receive time 1723161600000 has 13 digits; microseconds have 16"),
     (lines(trade(1)) + lines(trade(2), unit_ns=1000), "line 2: .*16 digits where the lines above have 19"),
     (lines(trade(1), start_ns=5 * 10**18), "line 1: .*outside the years 2015 to 2099"),
     (lines(trade(1), start_ns=T0_NS // 1000 * 700), "line 1: .*outside the years 2015"),
     (lines(trade(1)) + lines(trade(2), start_ns=T0_NS - 6 * 10**9), "line 2: .*6.000 s before .*shuffled"),
     (lines(trade(1), trade(2, symbol="ETHUSDT")), "line 2 is of ETHUSDT, the lines above are of BTCUSDT"),
     (lines(trade(1), trade(2), trade(1, "61800.30")),
      "id 1 at .*a line 3 was already at .*a line 1 with another price"),
     ([f"{T0_NS} {BODY}"], "tells USD-M from spot"),
     (lines({"stream": "btcusdt@foo", "data": {}}), "tells USD-M from spot")])
def test_captures_that_cannot_be_right_are_refused(tmp_path, rows, says):
    refused(tmp_path, says, write(tmp_path / "a", rows))


def test_what_was_asked_for_must_agree_with_the_files(tmp_path):
    path = write(tmp_path / "a", lines(trade(1)))
    refused(tmp_path, "line 1 is of BTCUSDT, not ETHUSDT; a capture", path, symbol="ETHUSDT")
    refused(tmp_path, "line 1 is a frame of binance_usdm, not of binance_spot", path, venue="binance_spot")
    refused(tmp_path, "did you mean 'binance_spot'", path, venue="binance_spt")
    refused(tmp_path, "no file to import")
    refused(tmp_path, "nowhere is not a file", tmp_path / "nowhere")
    refused(tmp_path, "same bytes", path, write(tmp_path / "b", lines(trade(1))))
    refused(tmp_path, "will not do as a folder name", path, name="../up")
    spot = write(tmp_path / "s", lines(spot_diff(1, 2, [["61800.20", "1.000"]])))
    refused(tmp_path, "BTCUSDT is of binance_usdm in .*a but of binance_spot in .*s", path, spot)


def test_a_bare_snapshot_needs_its_symbol(tmp_path):
    path = write(tmp_path / "a", [f"{T0_NS} {BODY}"])
    _, session = imported(tmp_path, path, symbol="BTCUSDT", venue="binance_usdm")
    assert {r["symbol"] for r in rows_of(session, "depth")} == {"BTCUSDT"}


def test_an_existing_session_is_not_touched(tmp_path):
    path = write(tmp_path / "a", lines(trade(1)))
    imported(tmp_path, path, name="mine")
    before = {p: p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()}
    with pytest.raises(BadInput, match="session mine already exists"):
        import_files([path], tmp_path / "data", name="mine")
    imported(tmp_path, path)
    with pytest.raises(BadInput, match="BTCUSDT-binance_usdm-20240809T000000 already exists"):
        import_files([path], tmp_path / "data")
    assert all(p.read_bytes() == content for p, content in before.items())


@pytest.mark.parametrize("step", ["write", "finish"])
def test_a_full_disk_is_the_fault_of_the_disk_and_leaves_nothing(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(28, "No space left on device")
    path = write(tmp_path / "a", lines(trade(1)))
    monkeypatch.setattr(SessionWriter, step, full)
    with pytest.raises(SourceFailed, match=r"could not be written under .*sessions \(No space left on device\)"):
        import_files([path], tmp_path / "data")
    assert list((tmp_path / "data" / "sessions").iterdir()) == []


def test_a_data_root_that_is_a_file_is_told(tmp_path):
    path = write(tmp_path / "a", lines(trade(1)))
    with pytest.raises(SourceFailed, match="could not be written under"):
        import_files([path], path)


def test_times_too_far_apart_are_refused_before_they_fill_the_memory(tmp_path):
    one = write(tmp_path / "a", lines(trade(1)))
    two = write(tmp_path / "b", lines(trade(1, symbol="ETHUSDT"), start_ns=T0_NS + 400 * 86_400 * 10**9))
    refused(tmp_path, "span 400.0 days", one, two)
