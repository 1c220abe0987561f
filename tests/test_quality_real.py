"""The check of real recordings: the figures known of them come out, and a single lost message is noticed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.record.importer import import_files
from engine.record.quality import check_session
from engine.record.store import Session
from naive_book import compare, session_messages, session_quotes
from sessions import message_seqs, remove_message, write_session

RECORDINGS = {
    "BTC 2023": (["binance_usdm/btcusdt_20230404.dat.gz", "binance_usdm/btcusdt_20230405.dat.gz"], (16_110, 16_110)),
    "BTC 2024": (["binance_usdm/btcusdt_20240808.gz"], (6_547, 6_547)),
    "ETH 2024": (["binance_usdm/ethusdt_20240808.gz"], (6_581, 6_581)),
    # two of 6,493 are best prices removed between the last best quote and the diff
    "spot BTC": (["binance_spot/btcusdt_20240808.gz", "binance_spot/btcusdt_20240809.gz"], (6_493, 6_491)),
}


@pytest.fixture(scope="session")
def recording(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that imports one of RECORDINGS, once."""
    data = tmp_path_factory.mktemp("recordings")

    def imported(name: str) -> Path:
        path = data / "sessions" / name.replace(" ", "-")
        if not path.exists():
            import_files([realdata / file for file in RECORDINGS[name][0]], data, name=path.name)
        return path
    return imported


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_rebuild_to_the_venues_own_best_quotes(recording: Callable[[str], Path], name: str) -> None:
    found = check_session(recording(name))
    assert found["ok"], found["problems"]
    assert (found["book"]["compared"], found["book"]["equal"]) == RECORDINGS[name][1] and found["book"]["crossed"] == 0
    assert found["trade_ids"] == {"breaks": 0, "missing": 0} and found["sequence"]["gaps"] == []
    assert all(share > 0.99 for share in found["coverage"].values())
    if name != "BTC 2023":
        assert -1280 < found["clock"]["recv_minus_event_ms"]["median"] < -1260


def test_the_naive_book_agrees_on_a_recording(recording: Callable[[str], Path]) -> None:
    session = Session(recording("BTC 2024"))
    found = compare(session_messages(session, "BTCUSDT"), session_quotes(session, "BTCUSDT"), strict=True)
    assert found == {"applied": 6_547, "crossed": 0, "compared": 6_547, "equal": 6_547}


def test_a_single_lost_diff_of_a_recording_is_noticed(recording: Callable[[str], Path], tmp_path: Path) -> None:
    session = Session(recording("BTC 2024"))
    rows = {name: session.table(name).to_pylist() for name in ("best", "trades", "feed")} | {
        "depth": [row for row in session.table("depth").to_pylist() if row["seq"] < 60_000]}
    last = max(row["seq"] for row in rows["depth"])
    rows = {name: [row for row in part if row["seq"] <= last] for name, part in rows.items()}
    remove_message(rows, message_seqs(rows, "depth")[2_000])
    path = write_session(tmp_path, rows, instruments=[entry.as_dict() for entry in session.instruments])
    found = check_session(path)
    assert not found["ok"] and len(found["problems"]) == 1
    assert "update ids of BTCUSDT in depth break without a gap row" in found["problems"][0]
    assert found["book"]["compared"] == found["book"]["equal"] == 1_996


def test_real_gaps_are_counted(realdata: Path, tmp_path: Path) -> None:
    files = sorted((realdata / "trades_with_gaps").iterdir())
    found = check_session(import_files(files, tmp_path, name="gaps", timer_ms=1_000)["path"])
    assert found["trade_ids"] == {"breaks": 26, "missing": 25_595} and found["ok"], found["problems"]
    assert max(gap["missing"] for gap in found["sequence"]["gaps"]) == 24_645
    assert 0.85 < found["coverage"]["LTCUSDT.trades"] < 0.9 and found["clock"]["source"] == "event"
