"""The list of sessions: whole ones exactly, damaged ones by name, never a crash."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.record.catalog import list_sessions
from engine.record.journal import JournalWriter, recording_folder
from engine.record.store import Session
from engine.screen import sessions_table
from sessions import START_NS, tiny_session


def test_no_data_is_no_sessions(tmp_path: Path) -> None:
    assert list_sessions(tmp_path) == [] == list_sessions(tmp_path / "absent")


def test_a_whole_session_is_listed_with_its_facts(tmp_path: Path) -> None:
    path = tiny_session(tmp_path, symbols=("BTCUSDT", "ETHUSDT"), steps=20)
    (entry,) = list_sessions(tmp_path)
    session = Session(path)
    keys = [key for name in session.manifest["rows"] for key in session.table(name)["recv_ns"].to_pylist()]
    assert entry == {"session": "tiny", "path": str(path), "venue": "binance_usdm", "symbols": ["BTCUSDT", "ETHUSDT"],
                     "first_recv_ns": min(keys), "last_recv_ns": max(keys), "rows": len(keys),
                     "bytes": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()), "state": "complete"}
    assert START_NS < entry["first_recv_ns"]


def test_sessions_are_listed_by_time_and_hidden_or_loose_things_are_not(tmp_path: Path) -> None:
    tiny_session(tmp_path, "a", steps=5, first_recv_ns=20, last_recv_ns=30)
    tiny_session(tmp_path, "b", steps=5, first_recv_ns=10, last_recv_ns=15)
    (tmp_path / "sessions" / ".c.half").mkdir()
    (tmp_path / "sessions" / "notes.txt").write_text("mine", encoding="utf-8")
    assert [entry["session"] for entry in list_sessions(tmp_path)] == ["b", "a"]


def test_a_recording_that_was_left_is_told_from_one_that_runs(tmp_path: Path) -> None:
    with JournalWriter(recording_folder(tmp_path, "now"), "now", disk_reserve_bytes=0):
        JournalWriter(recording_folder(tmp_path, "dead"), "dead", disk_reserve_bytes=0).close()
        by_name = {entry["session"]: entry for entry in list_sessions(tmp_path)}
    assert by_name["now"]["state"] == "recording" and "problem" not in by_name["now"]
    rows = sessions_table(list_sessions(tmp_path)).columns[5]
    assert [*rows.cells] == ["-", "-"], "how many rows there will be is not known"
    assert by_name["dead"]["state"] == "left" and "makes a session of it" in by_name["dead"]["problem"]


def _manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        place = path / "manifest.json"
        body = json.loads(place.read_text(encoding="utf-8"))
        change(body)
        place.write_text(json.dumps(body), encoding="utf-8")
    return damage


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: (path / "manifest.json").write_text(text, encoding="utf-8")


def _shorten(path: Path) -> None:
    place = path / "trades" / "00000.parquet"
    place.write_bytes(place.read_bytes()[:-1])


@pytest.mark.parametrize("damage, words", [
    (lambda path: (path / "manifest.json").unlink(), ["no manifest.json"]),
    (_text("{"), ["manifest.json", "not valid JSON"]),
    (_text("[]"), ["manifest.json"]),
    (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"), ["manifest.json"]),
    (_manifest(lambda body: body.update(format=99)), ["format", "99"]),
    (_manifest(lambda body: body.pop("instruments")), ["instruments"]),
    (_manifest(lambda body: body.pop("files")), ["files"]),
    (_manifest(lambda body: body["instruments"][0].update(colour="red")), ["colour"]),
    (lambda path: (path / "depth" / "00000.parquet").unlink(), ["depth", "missing"]),
    (_shorten, ["trades", "bytes"]),
])
def test_damage_is_named_and_hides_no_other_session(tmp_path: Path, damage: Callable[[Path], None],
                                                    words: list[str]) -> None:
    path = tiny_session(tmp_path, "broken", steps=10)
    tiny_session(tmp_path, "whole", steps=10)
    damage(path)
    by_name = {entry["session"]: entry for entry in list_sessions(tmp_path)}
    assert by_name["whole"]["state"] == "complete" and "problem" not in by_name["whole"]
    assert by_name["broken"]["state"] == "damaged"
    assert all(word in by_name["broken"]["problem"] for word in words) and "\n" not in by_name["broken"]["problem"]
