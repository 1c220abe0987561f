"""The check of a session needs memory that hardly grows with its length, and does not depend on the parts it reads."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.kernel.records import FIRST, LAST, REFILLED, SNAPSHOT_LEVEL
from engine.record import messages, rebuild
from engine.record.quality import check_session
from engine.record.store import TABLES, SessionWriter
from sessions import START_NS, STEP_NS, insert_feed, insert_message, message_seqs, remove_message, tiny_instrument, tiny_rows, write_session

LEVELS, QUOTES, TRADES = 60, 20, 10        # of each 100 ms
MESSAGES = 1 + QUOTES + TRADES
PART_ROWS = 5_000


def _part(name: str, messages_of_step: np.ndarray, rows: int, **columns: object) -> pa.Table:
    """Return a table of messages given by their place in the session, `rows` rows for each."""
    seq = np.repeat(messages_of_step.ravel(), rows)
    recv_ns = START_NS + (seq - 1) // MESSAGES * STEP_NS + (seq - 1) % MESSAGES * 1_000_000
    symbol = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(seq), np.int16)), pa.array(["BTCUSDT"]))
    key = {"seq": seq, "recv_ns": recv_ns, "event_ns": recv_ns - 3_000_000, "symbol": symbol}
    return pa.table(key | {column: np.broadcast_to(values, len(seq)) for column, values in columns.items()}, TABLES[name])


def busy_session(data: Path, steps: int) -> Path:
    """Write a session of `steps` times 100 ms in which the book begins with a snapshot and then always has the same levels."""
    writer = SessionWriter(data / "sessions", f"busy{steps}")
    seq, place = 1 + MESSAGES * np.arange(steps)[:, None], np.arange(LEVELS)
    ids = np.arange(1, steps + 1) * 30
    side = np.where(place < LEVELS // 2, 1, -1)
    price = 600_000 + np.where(place < LEVELS // 2, -1 - place, place - LEVELS // 2 + 1)
    bits = np.full((steps, LEVELS), 0, np.uint16)
    bits[0], bits[:, 0], bits[:, -1] = SNAPSHOT_LEVEL, bits[:, 0] | FIRST, bits[:, -1] | LAST
    bits[0, 0], bits[0, -1] = SNAPSHOT_LEVEL | FIRST, SNAPSHOT_LEVEL | LAST
    of_level = np.repeat(ids, LEVELS)
    writer.write("depth", _part("depth", seq, LEVELS, side=np.tile(side, steps).astype(np.int8), price_ticks=np.tile(price, steps),
                                qty_lots=5, first_id=of_level - 29, last_id=of_level, prev_id=of_level - 30, bits=bits.ravel()))
    writer.write("best", _part("best", seq + 1 + np.arange(QUOTES), 1, bid_price_ticks=599_999, bid_qty_lots=5, ask_price_ticks=600_001,
                               ask_qty_lots=5, update_id=(ids[:, None] + np.arange(QUOTES)).ravel()))
    count = steps * TRADES
    writer.write("trades", _part("trades", seq + 1 + QUOTES + np.arange(TRADES), 1, price_ticks=600_001, qty_lots=5,
                                 side=np.ones(count, np.int8), trade_id=np.arange(count), first_id=0, last_id=0,
                                 bits=np.zeros(count, np.uint16)))
    return writer.finish({"instruments": [tiny_instrument("BTCUSDT").as_dict()], "venue": "binance_usdm", "sources": [], "gaps": []})


def test_memory_hardly_grows_with_the_length_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "ROW_GROUP_ROWS", PART_ROWS)
    check_session(busy_session(tmp_path, 50))          # what is compiled and imported is not counted
    peaks = {}
    for steps in (1_000, 3_000):
        path = busy_session(tmp_path, steps)
        tracemalloc.start()
        found = check_session(path)
        peaks[steps] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found["ok"] and found["book"] == {"compared": steps - 1, "equal": steps - 1, "crossed": 0}
    assert (peaks[3_000] - peaks[1_000]) / (2_000 * MESSAGES) < 15       # bytes for each message more; a seq alone is 8


def test_the_levels_at_hand_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "ROW_GROUP_ROWS", PART_ROWS)
    most, fold = [0], rebuild._fold

    def watched(start: int, stop: int, base: int, offset: np.ndarray, side: np.ndarray, *rest: object) -> None:
        most.append(len(side))
        fold(start, stop, base, offset, side, *rest)

    monkeypatch.setattr(rebuild, "_fold", watched)
    assert check_session(busy_session(tmp_path, 1_000))["book"]["compared"] == 999
    assert len(most) > 10 and max(most) <= PART_ROWS + LEVELS


def _damage(rows: dict, rng: np.random.Generator) -> None:
    """Make holes, silences, doubles, rows out of order and late snapshots."""
    snapshot = [row for row in rows["depth"] if row["bits"] & SNAPSHOT_LEVEL and row["symbol"] == "BTCUSDT"]
    for at in rng.choice(message_seqs(rows, "depth")[20:], 4, replace=False):       # some come late, some too early
        near = [row["last_id"] for row in rows["depth"] if row["symbol"] == "BTCUSDT" and abs(row["seq"] - at) < 20]
        made = [{key: value for key, value in row.items() if key not in ("seq", "recv_ns")} for row in snapshot]
        insert_message(rows, "depth", int(at), [row | {"last_id": int(rng.choice(near))} for row in made])
    for at in sorted(rng.choice(message_seqs(rows, "depth"), 5, replace=False), reverse=True):
        remove_message(rows, int(at))
    for stream in ("depth", "trades", "best", "best", "best", "best"):
        insert_feed(rows, int(rng.integers(10, 500)), str(rng.choice(["lost", "stale", "connected"])), stream, "BTCUSDT")
    for leap_ns in (rng.integers(0, 30, 6) * 10**9).tolist():
        since = int(rng.integers(10, 500))
        for row in (row for part in rows.values() for row in part if row["seq"] >= since):
            row["recv_ns"] += leap_ns
    trades, best = rows["trades"], rows["best"]
    for at in rng.integers(5, len(trades) - 1, 4).tolist():
        trades[at] |= {"trade_id": trades[at - 4]["trade_id"], "bits": int(rng.choice([0, REFILLED]))}
        trades.insert(at, trades[at] | {"trade_id": None, "recv_ns": trades[at]["recv_ns"] + int(rng.integers(2))})
    for at in rng.integers(5, len(best) - 9, 4).tolist():
        best[at]["update_id"], best[at + 3]["update_id"] = best[at + 3]["update_id"], best[at]["update_id"]
        if rng.random() < 0.3:
            best.insert(at, best.pop(at + 8))


@pytest.mark.parametrize("seed", range(10))
def test_the_size_of_the_parts_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    venue, symbols = ("binance_usdm", "binance_spot")[seed % 2], ("BTCUSDT", "ETHUSDT")
    rows = tiny_rows(symbols, venue, 120, seed)
    _damage(rows, rng)
    path = write_session(tmp_path, rows, venue=venue, symbols=symbols)
    found = check_session(path)
    assert found["problems"] and found["book"]["compared"] > 10
    for part_rows in (4, 60):
        monkeypatch.setattr(messages, "ROW_GROUP_ROWS", part_rows)
        assert check_session(path) == found


@pytest.mark.parametrize("steps", [200, 201])
def test_the_median_of_the_clock_is_exact(tmp_path: Path, steps: int) -> None:
    rng, apart_ns = np.random.default_rng(steps), []
    rows = tiny_rows(steps=steps)
    for name in ("depth", "trades", "best"):
        rows[name] = [row for row in rows[name] if name == "best"]
    for row in rows["best"]:
        apart_ns.append(int(rng.integers(-(10**7), 10**8)))
        row["event_ns"] = row["recv_ns"] - apart_ns[-1]
    found = check_session(write_session(tmp_path, rows))["clock"]["recv_minus_event_ms"]
    assert found == {"min": round(min(apart_ns) / 1e6, 3), "median": round(float(np.median(apart_ns)) / 1e6, 3),
                     "max": round(max(apart_ns) / 1e6, 3)}
