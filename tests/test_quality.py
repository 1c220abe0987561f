"""The check of a session: whole ones pass, every kind of damage is found and named."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli import main
from engine.errors import BadInput
from engine.kernel.records import AGGREGATED, LAST, PARTIAL_DEPTH, REFILLED, SNAPSHOT_LEVEL
from engine.record.quality import check_session
from engine.record.store import Session, file_sha256
from naive_book import NaiveBook, compare, session_messages, session_quotes
from sessions import (STEP_NS, insert_feed, insert_message, message_seqs, remove_message, tiny_rows, tiny_session,
                      write_session)

SECOND_NS = 1_000_000_000


def checked(tmp_path: Path, edit: Callable[[dict], object] | None = None, **options: object) -> dict:
    """Return the check of a tiny session with edited rows."""
    return check_session(tiny_session(tmp_path, edit=edit, **options))


def only_problem(found: dict) -> str:
    """Return the one problem of a check that fails by it."""
    assert not found["ok"] and len(found["problems"]) == 1, found["problems"]
    return found["problems"][0]


@pytest.mark.parametrize("venue", ["binance_usdm", "binance_spot"])
def test_a_whole_session_passes_and_every_key_is_there(tmp_path: Path, venue: str) -> None:
    path = tiny_session(tmp_path, symbols=("BTCUSDT", "ETHUSDT"), venue=venue)
    stages: list[str] = []
    found = check_session(path, stages.append)
    assert found["problems"] == [] and found["ok"] is True and found["session"] == "tiny" and len(stages) >= 4
    assert found["sequence"]["ok"] is True and found["sequence"]["gaps"] == []
    assert found["trade_ids"] == {"breaks": 0, "missing": 0}
    assert found["book"]["compared"] == found["book"]["equal"] >= 390 and found["book"]["crossed"] == 0
    assert found["files"] == {"verified": 4, "altered": []}
    assert 3 < found["clock"]["recv_minus_event_ms"]["median"] < 7
    assert set(found["coverage"]) == {f"{s}.{t}" for s in ("BTCUSDT", "ETHUSDT") for t in ("trades", "depth", "best")}
    assert all(share > 0.95 for share in found["coverage"].values())
    json.dumps(found)


def _flip(path: Path) -> None:
    place = path / "best" / "00000.parquet"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)


def _not_parquet(path: Path) -> None:
    place, manifest = path / "best" / "00000.parquet", path / "manifest.json"
    place.write_bytes(b"PAR1 but not really PAR1")
    body = json.loads(manifest.read_text(encoding="utf-8"))
    body["files"]["best/00000.parquet"] = {"sha256": file_sha256(place), "bytes": place.stat().st_size}
    manifest.write_text(json.dumps(body), encoding="utf-8")


@pytest.mark.parametrize("damage, words, altered", [
    (_flip, "best/00000.parquet was altered", ["best/00000.parquet"]),
    (lambda path: (path / "best" / "00000.parquet").unlink(), "best/00000.parquet is missing", []),
    (lambda path: (path / "best" / "1.parquet").write_bytes(b"x"), "best/1.parquet is in the folder but not", []),
    (lambda path: (path / "note.txt").write_text("x", encoding="utf-8"), "note.txt is in the folder but not", []),
    (_not_parquet, "best/00000.parquet is not readable Parquet", []),
])
def test_damaged_files_are_named(tmp_path: Path, damage: Callable[[Path], object], words: str,
                                 altered: list[str]) -> None:
    path = tiny_session(tmp_path, steps=30)
    damage(path)
    found = check_session(path)
    assert not found["ok"] and found["problems"][0].startswith(words) and found["files"]["altered"] == altered


def test_a_folder_without_a_manifest_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no manifest.json"):
        check_session(tmp_path)


def _drop_row(rows: dict) -> None:
    del rows["best"][5]


def _drop_last_level(rows: dict) -> None:
    place = next(i for i, row in enumerate(rows["depth"]) if not row["bits"] & LAST)
    while not rows["depth"][place]["bits"] & LAST:
        place += 1
    del rows["depth"][place]


def _twice_in_one_table(rows: dict) -> None:
    rows["trades"].insert(6, {**rows["trades"][5], "trade_id": None})


def _twice_over_tables(rows: dict) -> None:
    rows["best"][5]["seq"] = rows["best"][5]["seq"] - 1
    rows["best"][5]["recv_ns"] -= 10**9


def _swap_times(rows: dict) -> None:
    one, two = rows["best"][5], rows["best"][6]
    one["recv_ns"], two["recv_ns"] = two["recv_ns"], one["recv_ns"]


def _equal_times(rows: dict) -> None:
    seq = rows["feed"][1]["seq"]
    rows["feed"][1]["recv_ns"] = next(r["recv_ns"] for t in rows.values() for r in t if r["seq"] == seq + 1)


def _unordered(rows: dict) -> None:
    rows["trades"][5], rows["trades"][6] = rows["trades"][6], rows["trades"][5]


@pytest.mark.parametrize("edit, words", [
    (_drop_row, " is missing between depth and "), (_drop_last_level, "are not one whole message"),
    (_twice_in_one_table, "is used by more than one message of trades"),
    (_twice_over_tables, "is used by both depth and best"),
    (_swap_times, "is not after"), (_equal_times, "is not after"), (_unordered, "stands in trades after a higher one"),
])
def test_a_broken_sequence_is_named(tmp_path: Path, edit: Callable[[dict], None], words: str) -> None:
    found = checked(tmp_path, edit)
    assert found["sequence"]["ok"] is False and not found["ok"]
    assert any("the sequence is broken" in text and words in text for text in found["problems"])


def test_a_manifest_that_promises_other_rows_is_named(tmp_path: Path) -> None:
    found = checked(tmp_path, last_seq=7, steps=20)
    assert "the manifest says 7" in only_problem(found) and not found["sequence"]["ok"]


def test_rows_of_one_feed_frame_may_share_a_seq(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        base = dict(code="lost", from_id=None, to_id=None, detail="")
        insert_message(rows, "feed", 300, [{**base, "stream": "trades"}, {**base, "stream": "best"}])
        insert_feed(rows, 301, "connected")
    assert checked(tmp_path, edit)["sequence"]["ok"] is True


@pytest.mark.parametrize("venue", ["binance_usdm", "binance_spot"])
@pytest.mark.parametrize("mark", ["none", "before", "after", "named", "other stream", "other place", "lost"])
def test_a_hole_in_the_book_needs_a_gap_row(tmp_path: Path, venue: str, mark: str) -> None:
    rows = tiny_rows(venue=venue)
    seqs = message_seqs(rows, "depth")
    after, before = ([row for row in rows["depth"] if row["seq"] == seq][0] for seq in (seqs[99], seqs[101]))
    ids = dict(from_id=after["last_id"], to_id=before["first_id"])
    remove_message(rows, seqs[100])
    at = seqs[101] - 1
    if mark == "before":
        insert_feed(rows, at, "gap", "depth", "BTCUSDT")
    elif mark == "after":
        insert_feed(rows, at + 1, "gap", "", None)
    elif mark == "named":
        insert_feed(rows, at + 40, "gap", "depth", "BTCUSDT", **ids)
    elif mark == "other stream":
        insert_feed(rows, at, "gap", "trades", "BTCUSDT")
    elif mark == "other place":
        insert_feed(rows, at + 40, "gap", "depth", "BTCUSDT")
    elif mark == "lost":
        insert_feed(rows, at, "lost")
        insert_feed(rows, at + 1, "connected")
    found = check_session(write_session(tmp_path, rows, venue=venue))
    missing = before["first_id"] - after["last_id"] - 1 if venue == "binance_spot" else None
    assert found["sequence"]["gaps"] == [{"table": "depth", "symbol": "BTCUSDT", "after": after["last_id"],
                                          "before": before["first_id"], "missing": missing}]
    assert found["sequence"]["ok"] is True and found["book"]["equal"] == found["book"]["compared"] < 110
    if mark in ("none", "other stream", "other place"):
        assert "update ids of BTCUSDT in depth break without a gap row" in only_problem(found)
    else:
        assert found["ok"], found["problems"]
        assert "1 recorded gaps: depth of BTCUSDT" in found["notes"]
    assert found["coverage"]["BTCUSDT.depth"] < 0.52 and found["coverage"]["BTCUSDT.best"] > 0.97


@pytest.mark.parametrize("venue", ["binance_usdm", "binance_spot"])
@pytest.mark.parametrize("hole", [False, True])
def test_update_ids_that_begin_anew_hide_no_hole_after_them(tmp_path: Path, venue: str, hole: bool) -> None:
    rows = tiny_rows(venue=venue, steps=400)
    seqs = message_seqs(rows, "depth")
    for row in rows["depth"] + rows["best"]:
        if row["seq"] >= seqs[200]:
            for name in {"first_id", "last_id", "prev_id", "update_id"} & row.keys():
                row[name] -= 4_000_000
    insert_feed(rows, seqs[200], "gap", "depth", "BTCUSDT", 5_000_000, 1_000_000)
    if hole:
        remove_message(rows, message_seqs(rows, "depth")[300])
    found = check_session(write_session(tmp_path, rows, venue=venue))
    assert not [note for note in found["notes"] if "already passed" in note]
    if hole:
        assert "update ids of BTCUSDT in depth break without a gap row" in only_problem(found)
    else:
        assert found["ok"], found["problems"]


def test_an_old_diff_sent_again_is_no_hole(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        seqs = message_seqs(rows, "depth")
        again = [dict(row) for row in rows["depth"] if row["seq"] == seqs[50]]
        for row in again:
            del row["seq"], row["recv_ns"]
        insert_message(rows, "depth", seqs[53], again)
    found = checked(tmp_path, edit)
    assert found["ok"] and "already passed" in found["notes"][0]


def test_missing_trades_are_counted_and_need_a_gap_row(tmp_path: Path) -> None:
    rows = tiny_rows()
    first = message_seqs(rows, "trades")[50:53]
    after = next(row["trade_id"] for row in rows["trades"] if row["seq"] == first[0]) - 1
    for seq in reversed(first):
        remove_message(rows, seq)
    found = check_session(write_session(tmp_path, rows))
    assert found["trade_ids"] == {"breaks": 1, "missing": 3} and found["sequence"]["ok"] is True
    assert found["sequence"]["gaps"] == [{"table": "trades", "symbol": "BTCUSDT", "after": after, "before": after + 4,
                                          "missing": 3}]
    assert "trade ids of BTCUSDT in trades break without a gap row" in only_problem(found)
    insert_feed(rows, message_seqs(rows, "trades")[50], "gap", "trades", "BTCUSDT", after, after + 4)
    assert check_session(write_session(tmp_path, rows, "marked"))["ok"]


def test_refilled_trades_heal_a_hole_and_aggregated_ones_count_apart(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        for number, row in enumerate(rows["trades"]):
            row["bits"], row["trade_id"] = (AGGREGATED, 9_000 + number // 2) if number % 2 else (0, 50 + number // 2)
        late = rows["trades"][10]
        late["bits"], late["trade_id"], rows["trades"][8]["trade_id"] = REFILLED, 54, 55
    found = checked(tmp_path, edit)
    assert found["trade_ids"] == {"breaks": 0, "missing": 0} and found["ok"], found["problems"]


def test_a_trade_stored_twice_is_named(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        rows["trades"][9]["trade_id"] = rows["trades"][8]["trade_id"]
    assert any("1 trade ids of BTCUSDT are stored twice" in text for text in checked(tmp_path, edit)["problems"])


def test_a_snapshot_from_before_the_diffs_is_named(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        for row in rows["depth"]:
            if row["bits"] & SNAPSHOT_LEVEL:
                row["last_id"] -= 1_000
    found = checked(tmp_path, edit)
    assert "1 snapshots of BTCUSDT do not link" in only_problem(found)
    assert found["book"]["compared"] == 0 and found["coverage"]["BTCUSDT.depth"] == 0


@pytest.mark.parametrize("claimed", [True, False])
def test_a_snapshot_the_recorder_refused_is_no_problem_and_one_it_vouched_for_is(tmp_path: Path, claimed: bool) -> None:
    """A recorder keeps every answer of the venue, old ones too; a resync row with its id says that a book begins."""
    def edit(rows: dict) -> None:
        snapshot = [row for row in rows["depth"] if row["bits"] & SNAPSHOT_LEVEL]
        for row in snapshot:
            row["last_id"] -= 1_000
        if claimed:
            insert_feed(rows, snapshot[0]["seq"] + 1, "resync", "depth", "BTCUSDT", None, snapshot[0]["last_id"])
        insert_feed(rows, 2, "connected", "depth", "BTCUSDT")
    found = checked(tmp_path, edit)
    assert any("1 snapshots of BTCUSDT do not link" in text for text in found["problems" if claimed else "notes"])
    assert found["ok"] is not claimed and found["coverage"]["BTCUSDT.depth"] == 0


def test_a_session_without_snapshot_has_no_book_and_says_so(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        remove_message(rows, next(row["seq"] for row in rows["depth"] if row["bits"] & SNAPSHOT_LEVEL))
    found = checked(tmp_path, edit)
    assert found["ok"] and found["coverage"]["BTCUSDT.depth"] == 0
    assert found["notes"] == ["depth of BTCUSDT has no snapshot, so its book cannot be rebuilt"]


def test_partial_depth_is_no_book_and_is_covered_by_its_silence(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        remove_message(rows, next(row["seq"] for row in rows["depth"] if row["bits"] & SNAPSHOT_LEVEL))
        for row in rows["depth"]:
            row["bits"] |= PARTIAL_DEPTH
            row["prev_id"] = 7
    found = checked(tmp_path, edit)
    assert found["ok"] and found["book"]["compared"] == 0 and found["coverage"]["BTCUSDT.depth"] > 0.98


@pytest.mark.parametrize("absent", [("best",), ("best", "trades")])
def test_a_book_without_best_quotes_is_still_watched_for_crossing(tmp_path: Path, absent: tuple[str, ...]) -> None:
    rows = tiny_rows()
    ask = rows["best"][100]["ask_price_ticks"]
    row = next(row for row in rows["depth"] if row["seq"] > rows["best"][100]["seq"] and row["price_ticks"])
    row.update(side=1, price_ticks=ask + 3, qty_lots=5)
    for name in absent:
        for seq in reversed(message_seqs(rows, name)):
            remove_message(rows, seq)
    found = check_session(write_session(tmp_path, rows))
    assert found["book"] == {"compared": 0, "equal": 0, "crossed": 1} and "crossed 1 times" in only_problem(found)


def test_a_changed_quantity_shows_against_the_best_quotes(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        for row in rows["best"][40:44]:
            row["bid_qty_lots"] += 1
    found = checked(tmp_path, edit)
    assert found["book"]["compared"] - found["book"]["equal"] == 4
    assert "differs from the venue's best quotes 4 times" in only_problem(found)


def test_a_crossed_book_is_named(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        best = rows["best"][100]
        row = next(row for row in rows["depth"] if row["seq"] > best["seq"] and row["price_ticks"])
        row.update(side=1, price_ticks=best["ask_price_ticks"] + 3, qty_lots=5)
    found = checked(tmp_path, edit)
    assert found["book"]["crossed"] == 1 and any("crossed 1 times" in text for text in found["problems"])
    assert found["book"]["compared"] <= 105  # nothing is believed until the next snapshot


def test_a_symbol_the_manifest_lacks_is_named(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        rows["trades"][-1]["symbol"] = "XRPUSDT"
    assert "trades has a symbol at seq" in only_problem(checked(tmp_path, edit))


def test_what_a_check_notes_is_shown_to_a_person_too(tmp_path: Path, capsys) -> None:
    assert main(["check", str(tiny_session(tmp_path, "archive", clock="event"))]) == 0
    assert "note: " in (said := " ".join(capsys.readouterr().out.split())) and "made from the venue's times" in said


def test_the_clock_offset_is_signed_and_unknown_for_venue_time(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        for part in rows.values():
            for row in part:
                row["event_ns"] = row["recv_ns"] + 1_269 * 10**6 if row["event_ns"] else None
    found = checked(tmp_path, edit)
    assert found["clock"]["recv_minus_event_ms"] == {"min": -1269.0, "median": -1269.0, "max": -1269.0}
    assert any("1269 ms behind" in note for note in found["notes"])
    found = check_session(tiny_session(tmp_path, "archive", clock="event"))
    assert found["clock"] == {"source": "event", "recv_minus_event_ms": {"min": None, "median": None, "max": None}}
    assert any("made from the venue's times" in note for note in found["notes"])


def test_coverage_leaves_out_loss_and_silence(tmp_path: Path) -> None:
    rows = tiny_rows(steps=1000)
    begin, quarter = rows["feed"][0]["recv_ns"], 25 * SECOND_NS
    for name in ("best", "depth", "trades"):     # best is silent for 25 s of 100 s, depth and trades are lost
        for seq in reversed(message_seqs(rows, name)):
            at = next(row["recv_ns"] for row in rows[name] if row["seq"] == seq) - begin
            if quarter <= at < 2 * quarter:
                remove_message(rows, seq)
    lost = next(row["seq"] for row in rows["feed"] if row["recv_ns"] - begin >= quarter)
    again = next(row["seq"] for row in rows["feed"] if row["recv_ns"] - begin >= 2 * quarter)
    insert_feed(rows, again, "connected", "trades")
    insert_feed(rows, lost, "lost", "trades")
    insert_feed(rows, lost, "lost", "depth")
    found = check_session(write_session(tmp_path, rows))
    shares, why = found["coverage"], found["coverage_reasons"]
    assert shares["BTCUSDT.best"] == pytest.approx(0.85, abs=0.01)     # 10 s of silence are let pass
    assert shares["BTCUSDT.trades"] == pytest.approx(0.75, abs=0.01)
    assert shares["BTCUSDT.depth"] == pytest.approx(0.25, abs=0.02)    # no snapshot after the loss
    assert why["BTCUSDT.best"].keys() == {"stale"}
    assert why["BTCUSDT.trades"]["lost"] == pytest.approx(0.25, abs=0.01)
    assert why["BTCUSDT.depth"] == pytest.approx({"lost": 0.25, "resync": 0.5, "gap": 0.0}, abs=0.01)


def test_coverage_names_the_reason_for_every_moment_it_leaves_out(tmp_path: Path) -> None:
    """100 s: nothing before 10, a hole from 20 to 24, a loss from 40 to 50, marked stale from 60 to 65, silent from 80."""
    rows = tiny_rows(steps=1000)
    begin = rows["feed"][0]["recv_ns"]

    def at(seconds: float) -> int:
        return min(row["seq"] for row in rows["feed"] if row["recv_ns"] - begin >= seconds * SECOND_NS - 10**7)

    rows["feed"][0].update(code="note")
    for name in ("trades", "best"):
        for low, high in ((0, 10), (20, 24), (40, 50), (60, 65), (80, 100)):
            for seq in reversed([s for s in message_seqs(rows, name) if at(low) < s < (at(high) if high < 100 else 1e9)]):
                remove_message(rows, seq)
    for seconds, code in ((65, "resync"), (60, "stale"), (50, "connected"), (40, "lost")):
        for name in ("trades", "best"):
            insert_feed(rows, at(seconds), code, name, "BTCUSDT")
    insert_feed(rows, at(24), "gap", "trades", "BTCUSDT")
    found = check_session(write_session(tmp_path, rows))
    best, trades = (found["coverage_reasons"][f"BTCUSDT.{name}"] for name in ("best", "trades"))
    assert best == pytest.approx({"not_started": 0.1, "lost": 0.1, "stale": 0.05 + 0.1}, abs=0.005)
    assert trades["gap"] == pytest.approx(0.04, abs=0.01) and trades["lost"] == pytest.approx(0.1, abs=0.005)
    for stream, share in found["coverage"].items():
        assert share + sum(found["coverage_reasons"][stream].values()) == pytest.approx(1.0, abs=1e-5)


def test_a_stream_connected_but_never_heard_is_covered_for_its_silence_only(tmp_path: Path) -> None:
    rows = tiny_rows(steps=400)
    for seq in reversed(message_seqs(rows, "best")):
        remove_message(rows, seq)
    insert_feed(rows, 2, "connected", "best", "BTCUSDT")
    share = check_session(write_session(tmp_path, rows))["coverage"]["BTCUSDT.best"]
    assert share == pytest.approx(10 * SECOND_NS / (400 * STEP_NS), abs=0.01)


def test_depth_connected_but_never_heard_is_no_book(tmp_path: Path) -> None:
    def edit(rows: dict) -> None:
        for seq in sorted({row["seq"] for row in rows["depth"]}, reverse=True):
            remove_message(rows, seq)
        insert_feed(rows, 2, "connected", "depth", "BTCUSDT")
    found = checked(tmp_path, edit)
    assert found["coverage"]["BTCUSDT.depth"] == 0 and "resync" in found["coverage_reasons"]["BTCUSDT.depth"]


@pytest.mark.parametrize("venue", ["binance_usdm", "binance_spot"])
@pytest.mark.parametrize("seed", range(12))
def test_the_rebuild_agrees_with_the_naive_one(tmp_path: Path, venue: str, seed: int) -> None:
    rng = random.Random(seed)
    rows = tiny_rows(venue=venue, steps=150, seed=seed)
    strict = venue == "binance_usdm"
    book = NaiveBook(strict)
    path = write_session(tmp_path, rows, "whole", venue=venue)
    snapshots = []
    for message in session_messages(Session(path), "BTCUSDT"):
        list(book.take(message))
        if book.chained and rng.random() < 0.06:
            levels = [(1, p, q) for p, q in book.bids.items()] + [(-1, p, q) for p, q in book.asks.items()]
            snapshots.append((message.last_id, levels))
    for last_id, levels in snapshots:  # each arrives somewhat early or late
        seqs = message_seqs(rows, "depth")
        id_of = {row["seq"]: row["last_id"] for row in rows["depth"]}
        here = next(i for i, seq in enumerate(seqs) if id_of[seq] >= last_id)
        at = seqs[min(max(here + rng.randint(-3, 3), 0), len(seqs) - 1)]
        made = [dict(symbol="BTCUSDT", side=s, price_ticks=p, qty_lots=q, first_id=None, last_id=last_id, prev_id=None,
                     bits=SNAPSHOT_LEVEL) for s, p, q in levels]
        made[0]["bits"] |= 1
        made[-1]["bits"] |= LAST
        insert_message(rows, "depth", at, made)
    for seq in sorted(rng.sample(message_seqs(rows, "depth"), 8), reverse=True):
        remove_message(rows, seq)
    for seq in rng.sample(message_seqs(rows, "depth"), 12):    # overtaken by up to four later ones
        made = [row for row in rows["depth"] if row["seq"] == seq and not row["bits"] & SNAPSHOT_LEVEL]
        following = [at for at in message_seqs(rows, "depth") if at > seq]
        if made and len(following) > 4:
            remove_message(rows, seq)
            for row in made:
                del row["seq"], row["recv_ns"]
            insert_message(rows, "depth", following[rng.randrange(4)], made)
    for row in rng.sample(rows["depth"], 5):
        if row["qty_lots"]:
            row["qty_lots"] += rng.randint(0, 2)
        if row["price_ticks"] and rng.random() < 0.3:
            row["price_ticks"] += rng.choice((-12, 12))
    path = write_session(tmp_path, rows, "holes", venue=venue)
    session = Session(path)
    naive = compare(session_messages(session, "BTCUSDT"), session_quotes(session, "BTCUSDT"), strict)
    book_found = check_session(path)["book"]
    assert book_found == {name: naive[name] for name in ("compared", "equal", "crossed")} and naive["compared"] > 0
