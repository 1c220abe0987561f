"""The recorder under mixed faults, seed by seed: nothing is lost silently, no rule sees a book with a hole.

The venue, its sockets and its REST are simulated in virtual time. A seed that fails is printed first and reruns alone:
pytest tests/test_recorder_faults.py -k "seed and 17".
"""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from shown import shown
from virtual import SYMBOL, Venue, of_group, run_virtual

from engine.record.convert import convert
from engine.record.decode import Trade
from engine.record.frames import Feed, read_frame
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.segment import FRAME, JournalReader
from engine.record.store import Session
from engine.record.watch import BUFFERED, HELD, MISSING_RANGES
from engine.run import Pair, Run
from engine.sources.binance import Endpoint

SILENT_S = {"trades": 6.0, "depth": 3.0, "best": 5.0, "marks": 4.0}
FIRST_S, LAST_S, CALM_S = 3.0, 20.0, 40.0
QUICK = 12


def venue_of(seed: int) -> str:
    return "binance_spot" if seed % 3 == 0 else "binance_usdm"


class Faults:
    """What can go wrong, each drawn from the seed."""

    def __init__(self, venue: Venue, rng: random.Random):
        self.venue, self.rng = venue, rng
        self.kinds = [
            self.cut,
            self.close,
            self.outage,
            self.drop,
            self.twice,
            self.reorder,
            self.malformed,
            self.mute,
            self.deaf,
            self.wrong_path,
            self.lag,
            self.shutdown,
            self.rest_status,
            self.rest_garbage,
            self.rest_slow,
            self.old_snapshot,
            self.gap,
        ]
        self.done: list[str] = []

    def one(self) -> None:
        fault = self.rng.choice(self.kinds)
        self.done.append(fault.__name__)
        fault()

    def stream(self) -> str:
        return f"{SYMBOL.lower()}@" + self.rng.choice(("trade", "depth@100ms", "bookTicker"))

    def sockets(self) -> list:
        groups = sorted({socket.group for socket in self.venue.sockets})
        return of_group(self.venue, self.rng.choice([None, *groups]))

    def cut(self) -> None:
        for socket in self.sockets():
            socket.cut()

    def close(self) -> None:
        code = self.rng.choice((1001, 1008, 1011, 1012))
        for socket in self.sockets():
            socket.cut(code, "drawn")

    def outage(self) -> None:
        self.venue.refuse_until_s = asyncio.get_running_loop().time() + self.rng.uniform(0.5, 6.0)
        self.cut()

    def chained(self) -> str:
        return f"{SYMBOL.lower()}@" + self.rng.choice(
            ("trade", "depth@100ms")
        )  # best quotes prove nothing of those before

    def drop(self) -> None:
        self.venue.drop[self.chained()] += self.rng.randint(1, 4)

    def twice(self) -> None:
        self.venue.twice[self.stream()] += self.rng.randint(1, 4)

    def reorder(self) -> None:
        self.venue.late[self.chained()] += self.rng.randint(1, 3)

    def malformed(self) -> None:
        self.venue.broken[self.stream()] += self.rng.randint(1, 2)

    def mute(self) -> None:
        name = self.chained()
        for socket in self.sockets():
            socket.muted.add(name)

    def deaf(self) -> None:
        for socket in self.sockets():
            socket.muted |= set(socket.streams)

    def wrong_path(self) -> None:
        self.venue.misroute_until_s = asyncio.get_running_loop().time() + self.rng.uniform(0.5, 4.0)
        self.cut()

    def lag(self) -> None:
        for socket in self.sockets()[:1]:
            socket.latency_s = self.rng.uniform(0.2, 1.5)

    def shutdown(self) -> None:
        loop, after_s = asyncio.get_running_loop(), self.rng.uniform(0.2, 8.0)
        for socket in self.sockets():
            socket.send(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":%d}}' % self.venue.now_ms())
            loop.call_later(after_s, socket.cut, 1012, "shutdown")

    def rest_status(self) -> None:
        self.venue.status += self.rng.choices((429, 503, 500, 0), k=self.rng.randint(1, 3))

    def rest_garbage(self) -> None:
        self.venue.garbage += 1

    def rest_slow(self) -> None:
        self.venue.rest_latency_s = self.rng.uniform(0.5, 4.0)
        asyncio.get_running_loop().call_later(self.rng.uniform(2.0, 6.0), setattr, self.venue, "rest_latency_s", 0.03)

    def old_snapshot(self) -> None:
        self.venue.stale_by = self.rng.randint(1, 60)
        if self.rng.random() < 0.5:
            self.drop()

    def gap(self) -> None:
        self.venue.dark = True
        asyncio.get_running_loop().call_later(self.rng.uniform(0.2, 5.0), setattr, self.venue, "dark", False)


@dataclass
class Recording:
    """What a seed left: the venue with everything it sent, the recorder, and the folder of the journal."""

    seed: int
    venue: Venue
    recorder: Recorder
    folder: Path
    faults: list[str]
    peak: dict[str, int] = field(default_factory=dict)


def recorded(seed: int, data: Path, monkeypatch) -> Recording:
    """Record a venue in virtual time while the faults of a seed are done to it, then a calm."""
    rng = random.Random(seed)
    venue = Venue(seed, venue_of(seed), pace_s=0.08)

    async def main() -> Recording:
        journal = open_journal(data, f"seed{seed}", sync_interval_ms=1e7, disk_reserve_bytes=0)
        lifetime_s = rng.choice((82_800.0, rng.uniform(4.0, 15.0)))
        options = Options(
            Endpoint(venue.venue, "wss://venue", "https://venue"),
            [SYMBOL],
            seed=seed,
            silent_s=SILENT_S,
            lifetime_s=lifetime_s,
            overlap_s=rng.uniform(0.3, 3.0),
            refresh_s=rng.choice((300.0, 7.0)),
        )
        recorder = Recorder(options, journal)
        venue.install(monkeypatch, recorder)
        faults, market = Faults(venue, rng), asyncio.create_task(venue.live())
        task = asyncio.create_task(recorder.run())
        loop, peak = asyncio.get_running_loop(), Counter()
        for at_s in sorted(rng.uniform(FIRST_S, LAST_S) for _ in range(rng.randint(1, 8))):
            await asyncio.sleep(max(0.0, 1000.0 + at_s - loop.time()))
            faults.one()
        until_s = 1000.0 + LAST_S + CALM_S
        while loop.time() < until_s:
            await asyncio.sleep(0.5)
            assert not task.done(), task.exception()
            for name, size in sizes(recorder).items():
                peak[name] = max(peak[name], size)
        calm(recorder)
        recorder.stop()
        await task
        market.cancel()
        journal.close()
        return Recording(seed, venue, recorder, journal.folder, faults.done, dict(peak))

    return run_virtual(monkeypatch, main)


def sizes(recorder: Recorder) -> dict[str, int]:
    """Return how much the recorder remembers."""
    streams = recorder.watch.streams.values()
    return {
        "held": max(len(s.held) for s in streams),
        "missing": max(len(s.missing) for s in streams),
        "seen": max(len(s.seen or ()) for s in streams),
        "diffs": max(len(b.diffs) for b in recorder.watch.books.values()),
        "tasks": len(asyncio.all_tasks()),
        "sockets": sum(len(g.alive) for g in recorder.groups),
    }


def calm(recorder: Recorder) -> None:
    """Long after the last fault everything flows again."""
    status = recorder.status()
    assert set(status["books"].values()) == {"synced"}
    waiting = {name for name, stream in status["streams"].items() if stream["state"] != "ok"}
    assert waiting <= {f"{SYMBOL.lower()}@forceOrder"}, waiting
    assert all(1 <= len(group.alive) <= 2 for group in recorder.groups)
    assert recorder.watch.holding == sum(len(s.held) for s in recorder.watch.streams.values())


def key_of(frame: bytes) -> tuple:
    """Return stream and id of a frame as the venue sent it; of an unreadable one its bytes."""
    try:
        outer = json.loads(frame)
    except ValueError:
        return "unreadable", frame
    data, kind = outer["data"], outer["stream"].partition("@")[2].partition("@")[0]
    return kind, data[{"trade": "t", "depth": "u", "bookTicker": "u"}.get(kind, "E")]


def verify(recording: Recording) -> None:
    """Hold the journal against what the venue sent: each frame once, each missing id in a gap row."""
    reader, taken, gaps, refilled = JournalReader(recording.folder), Counter(), {"trades": [], "depth": []}, Counter()
    for frame in reader:
        found = read_frame(frame, reader.sources)
        if frame.kind == FRAME:
            taken[key_of(frame.payload)] += 1
        elif isinstance(found, Feed):
            if found.code == "gap" and found.stream in gaps:
                gaps[found.stream].append((found.from_id, found.to_id))
        else:
            refilled.update(row.trade_id for row in found if isinstance(row, Trade))
    assert not reader.damage
    sent = Counter(key_of(frame) for frame in recording.venue.delivered)
    # a late trade may find that it was fetched over REST meanwhile
    assert not set(taken) - set(sent), "a frame that never arrived is in the journal"
    gone = {(kind, number) for kind, number in set(sent) - set(taken) if kind != "trade" or number not in refilled}
    assert not gone, "a frame that arrived is missing"
    doubled = {key: n for key, n in taken.items() if n > 1 and key[0] not in ("unreadable", "")}  # "": shutdown notices
    assert not doubled, doubled
    unreadable = {key: n for key, n in sent.items() if key[0] == "unreadable"}
    assert unreadable == {key: n for key, n in taken.items() if key[0] == "unreadable"}
    assert recording.recorder.counters.frames == len(recording.venue.delivered)
    live = {number for kind, number in taken if kind == "trade"}
    assert not live & set(refilled) and set(refilled.values()) <= {1}
    have = live | set(refilled)
    lost = set(range(min(have), max(have))) - have
    bare = [number for number in lost if not any(low < number < high for low, high in gaps["trades"])]
    assert not bare, f"trade ids {bare[:5]} are missing without a gap row"
    kept = {number for kind, number in taken if kind == "depth"}
    bare = [
        (before, last)
        for before, last in recording.venue.diffs
        if min(kept) < last < max(kept)
        and last not in kept
        and not any(low <= before and last < high for low, high in gaps["depth"])
    ]
    assert not bare, f"diffs {bare[:5]} are missing without a gap row"
    limits = {"held": HELD, "missing": MISSING_RANGES, "seen": 4096, "diffs": BUFFERED, "tasks": 40, "sockets": 4}
    assert all(recording.peak[name] <= limit for name, limit in limits.items()), recording.peak


def replayed(recording: Recording, session: Session, run: Run) -> None:
    """Feed the session to the kernel frame by frame: whenever its book is there, it is the venue's book of that id."""
    market, seen = run.arrays["market"], 0
    for seq, last_id, top in shown(session, SYMBOL, run):
        seen += 1
        assert top == recording.venue.truth[last_id], f"seq {seq}: the book is not the venue's"
    assert market["book_ok"][0] and market["tape_ok"][0] and market["mid_ok"][0], (
        "the calm did not bring everything back"
    )
    assert seen > 100


@pytest.fixture(scope="module")
def kernel(linked):
    """Return a function that gives a fresh run for a venue; its arrays are made once."""
    runs = {}

    def fresh(venue: str) -> Run:
        if venue not in runs:
            run = linked(pairs=[Pair(SYMBOL, "0.10", "0.001", "0.01", venue == "binance_usdm")])
            runs[venue] = run, run.snapshot()
        run, state = runs[venue]
        run.restore(state)
        return run

    return fresh


def whole(seed: int, tmp_path: Path, monkeypatch, kernel) -> None:
    """Record under the faults of a seed, verify the journal, convert, check, and replay the session."""
    print(f"seed {seed}")
    recording = recorded(seed, tmp_path, monkeypatch)
    print(recording.faults)
    verify(recording)
    result = convert(recording.folder, tmp_path)
    checked = check_session(Session(result["path"]))
    assert checked["problems"] == []
    replayed(recording, Session(result["path"]), kernel(recording.venue.venue))


@pytest.mark.parametrize("seed", range(QUICK))
def test_seed(seed, tmp_path, monkeypatch, kernel):
    whole(seed, tmp_path, monkeypatch, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(QUICK, 520))
def test_seed_of_many(seed, tmp_path, monkeypatch, kernel):
    whole(seed, tmp_path, monkeypatch, kernel)
