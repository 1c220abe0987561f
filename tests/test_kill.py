"""Kills at any moment, of the recorder and of the conversion: every acknowledged frame is in the session, once."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import kill_recorder
import pyarrow.compute as pc
import pytest

from engine.record.convert import convert, recover
from engine.record.journal import JournalReader, JournalWriter, Origin, recording_folder, repair
from engine.record.segment import FRAME, TIMER
from engine.record.store import TABLES, Session

FORKS = hasattr(os, "fork")
CHILD = [sys.executable, str(Path(kill_recorder.__file__))]
FEW, MANY, PART, POINTS = 20, 200, 50, 150


class Killer:
    """Starts jobs in another process and kills them; keeps what they said."""

    def __init__(self) -> None:
        self.server = None
        if FORKS:
            self.server = subprocess.Popen([*CHILD, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        if self.server:
            self.server.stdin.close()
            self.server.stdout.close()
            self.server.wait()

    def run(self, job: dict, after_s: float | None = None) -> list[str]:
        """Do a job, killed that long after it began where it is given; return every line it said."""
        if self.server:
            self.server.stdin.write(json.dumps(job) + "\n")
            self.server.stdin.flush()
            stream, child = self.server.stdout, None
        else:
            child = subprocess.Popen([*CHILD, json.dumps(job)], stdout=subprocess.PIPE, text=True)
            stream = child.stdout
        said = [stream.readline().strip()]
        timer = None
        if after_s is not None:
            timer = threading.Thread(target=_kill, args=(int(said[0].split()[1]), after_s, child))
            timer.start()
        for line in stream:
            said.append(line.strip())
            if line.startswith("ended"):
                break
        if timer:
            timer.join()
        if child:
            child.wait()
            stream.close()
        return said


def _kill(process: int, after_s: float, child: subprocess.Popen | None) -> None:
    time.sleep(after_s)
    if child is not None:
        child.kill()
        return
    try:
        os.kill(process, 9)
    except ProcessLookupError:
        pass


@pytest.fixture(scope="module")
def killer():
    """Return the one that kills."""
    made = Killer()
    yield made
    made.close()


def acknowledged(said: list[str]) -> int:
    """Return the last seq a child said was in the journal."""
    return max((int(line.split()[1]) for line in said if line.startswith("ack ")), default=0)


def check(session: Session, least: int) -> None:
    """Compare the session with what the child is known to have appended; it holds at least `least` frames."""
    last = session.manifest["last_seq"] if session is not None else 0
    assert last >= least, f"seq {last + 1} to {least} were acknowledged and are not in the session"
    trades, feed = session.table("trades"), session.table("feed")
    sound = [n for n in range(1, last + 1) if n % 10]
    assert trades["seq"].to_pylist() == sound and feed["seq"].to_pylist() == list(range(10, last + 1, 10))
    assert trades["trade_id"].to_pylist() == sound
    assert pc.unique(feed["code"]).to_pylist() in (["timer"], [])
    assert not [t for t in TABLES if t not in ("trades", "feed") and session.manifest["rows"][t]]
    instrument = session.instruments[0]
    texts = [json.loads(kill_recorder.content(n))["data"] for n in sound]
    assert [instrument.price_ticks(t["p"]) for t in texts] == trades["price_ticks"].to_pylist()
    assert [instrument.qty_lots(t["q"]) for t in texts] == trades["qty_lots"].to_pylist()
    for table in (trades, feed):
        times = pc.add(pc.multiply(table["seq"], kill_recorder.STEP_NS), kill_recorder.T0_NS)
        assert table["recv_ns"].to_pylist() == times.to_pylist()


def one_life(killer: Killer, data: Path, seed: int) -> tuple[int, int]:
    """Record, kill, convert with up to three kills, convert; return acknowledged frames and kills while converting."""
    rng = random.Random(seed)
    job = {"data": str(data), "name": "live", "seed": seed}
    said = killer.run(job | {"do": "record"}, rng.uniform(0, 0.08) + (0 if FORKS else 1.5))
    least, kills = acknowledged(said), 0
    folder = data / "sessions" / ".recording-live"
    for _ in range(rng.randrange(4)):
        if not (folder / "journal").is_dir():
            break
        said = killer.run(job | {"do": "convert"}, rng.uniform(0, 0.25) + (0 if FORKS else 1.5))
        kills += "converted" not in said and (not FORKS or "ended -9" in said)
    results = recover(data)
    assert all("problem" not in r for r in results), results
    final = data / "sessions" / "live"
    assert [p.name for p in (data / "sessions").glob(".*")] in ([], [".recording-live"])   # the latter before any frame
    if least:
        assert final.is_dir() and not folder.exists()
    if final.is_dir():
        check(Session(final), least)
    return least, kills


@pytest.mark.parametrize("seeds", [pytest.param(range(1, FEW + 1), id="few"), *(pytest.param(
    range(first, first + PART), id=f"from_{first}", marks=pytest.mark.slow) for first in range(1_001, 1_001 + MANY, PART))])
def test_a_kill_at_a_random_moment_loses_no_acknowledged_frame(killer, tmp_path, seeds):
    frames = kills = 0
    for seed in seeds if FORKS or len(seeds) > FEW else seeds[:3]:
        print("seed", seed)                    # shown when the test fails
        least, more = one_life(killer, tmp_path / str(seed), seed)
        frames, kills = frames + least, kills + more
    print(f"{len(seeds)} recordings killed, {frames} frames acknowledged, {kills} kills while converting")


def _fixed(data: Path, count: int = 400) -> None:
    """Write a recording of several segments with a torn end."""
    folder = recording_folder(data, "live")
    with JournalWriter(folder, "live", sync_interval_ms=10_000, disk_reserve_bytes=0, segment_bytes=60_000,
                       sources=[Origin("a", "binance_usdm")]) as out:
        for n in range(1, count + 1):
            body = kill_recorder.content(n)
            recv_ns = kill_recorder.T0_NS + n * kill_recorder.STEP_NS
            out.append(0, TIMER if body is None else FRAME, body or b"", recv_ns)
    with open(sorted((folder / "journal").iterdir())[-1], "ab") as file:
        file.write(b"torn")


@pytest.mark.skipif(not FORKS, reason="starting a process for each kill takes too long without fork")
@pytest.mark.parametrize("keep", ["drop", "zstd", "raw"])
@pytest.mark.parametrize("step", [pytest.param(8, id="some"), pytest.param(1, id="every", marks=pytest.mark.slow)])
def test_a_conversion_killed_before_any_act_on_a_file_is_finished_later(killer, tmp_path, monkeypatch, keep, step):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    killed = 0
    for at in range(step, POINTS, step):
        data = tmp_path / str(at)
        _fixed(data)
        job = {"do": "convert", "data": str(data), "name": "live", "keep": keep, "at": at}
        finished = "converted" in killer.run(job)
        killed += not finished
        recover(data, keep)
        check(Session(data / "sessions" / "live"), 400)
        assert [p.name for p in (data / "sessions").iterdir()] == ["live"]
        kept = data / "journals" / "live"
        assert kept.is_dir() == (keep != "drop")
        assert keep == "drop" or len(list(JournalReader(kept))) == 400
        if finished:
            break
    print(f"{killed} conversions killed")
    assert killed > 3 and finished, "the points did not reach the end of a conversion"


def test_repair_after_a_kill_says_what_it_did(killer, tmp_path):
    job = {"data": str(tmp_path), "name": "live", "seed": 3}
    least = acknowledged(killer.run(job | {"do": "record"}, 0.1 if FORKS else 1.5))
    folder = tmp_path / "sessions" / ".recording-live"
    last = sorted((folder / "journal").glob("*.seg"))[-1]
    whole = repair(folder)["last_seq"]
    with open(last, "ab") as file:
        file.write(b"\x10\0\0\0torn")
    report = repair(folder)
    assert report["last_seq"] == whole >= least and report["cut_bytes"] == 8
    aside = f"{last.stem}.{last.stat().st_size}.cut"
    assert report["said"] == [
        f"{last.name}: the last 8 bytes, after seq {whole}, were no whole frame; they were moved to {aside}"]
    assert convert(folder, tmp_path)["frames"] == whole
