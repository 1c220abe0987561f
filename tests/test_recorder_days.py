"""Days of a recording in virtual time: rotation, shutdown, outages, refills, silence, the clock."""

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pyarrow.compute as pc
import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from virtual import SYMBOL, Venue, run_virtual

from engine import clock
from engine.errors import SourceFailed
from engine.kernel.records import REFILLED
from engine.record.convert import convert
from engine.record.frames import Feed, read_frame
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.segment import REST, JournalReader
from engine.record.store import Session
from engine.sources import binance
from engine.sources.binance import ATTEMPTS_S, Budget, Endpoint, Rest

HOUR_S = 3600.0
SLOW = {"trades": 1e9, "depth": 1e9, "best": 1e9, "marks": 1e9}


def recording(
    tmp_path: Path, monkeypatch, work, venue: str = "binance_usdm", seed: int = 1, pace_s: float = 0.1, **options
):
    """Run `work(venue, recorder)` beside a recorder in virtual time; return them and the feed rows."""
    market = Venue(seed, venue, pace_s)

    async def main() -> Recorder:
        journal = open_journal(tmp_path, "virtual", sync_interval_ms=1e7, disk_reserve_bytes=0, segment_seconds=1e9)
        recorder = Recorder(
            Options(Endpoint(venue, "wss://venue", "https://venue"), [SYMBOL], seed=seed, **options), journal
        )
        market.install(monkeypatch, recorder)
        living = asyncio.create_task(market.live())
        task = asyncio.create_task(recorder.run())
        doing = asyncio.create_task(work(market, recorder))
        await asyncio.wait({task, doing}, return_when=asyncio.FIRST_COMPLETED)
        recorder.stop()
        try:
            await task
            await doing
        finally:
            living.cancel()
            journal.close()
        return recorder

    recorder = run_virtual(monkeypatch, main)
    reader = JournalReader(recorder.journal.folder)
    feed = [
        (frame, row)
        for frame in reader
        if isinstance(row := read_frame(frame, reader.sources), Feed) and row.code != "timer"
    ]
    return market, recorder, feed


def codes(feed: list) -> Counter:
    return Counter(row.code for _, row in feed)


def finished(recorder: Recorder, data: Path) -> tuple[Session, dict]:
    session = Session(convert(recorder.journal.folder, data)["path"])
    checked = check_session(session)
    assert checked["problems"] == []
    return session, checked


async def cut_after_24_hours(venue: Venue) -> None:
    """Cut every connection when it is a day old, as the venue does."""
    due = {}
    while True:
        await asyncio.sleep(60.0)
        now_s = asyncio.get_running_loop().time()
        for socket in venue.sockets:
            if now_s - due.setdefault(id(socket), now_s) >= 24 * HOUR_S - 60:
                socket.cut(1001, "connection lifetime reached")


def test_rotation_at_23_hours_makes_no_hole(tmp_path, monkeypatch):
    async def work(venue, recorder):
        cutting = asyncio.create_task(cut_after_24_hours(venue))
        await asyncio.sleep(26 * HOUR_S)
        cutting.cancel()

    monkeypatch.setattr("engine.record.recorder.TIMER_NS", 600 * 10**9)
    venue, recorder, feed = recording(tmp_path, monkeypatch, work, pace_s=15.0, silent_s=SLOW, refresh_s=1e9)
    assert recorder.counters.connections == 2 * 2 and recorder.counters.losses == 2
    assert set(codes(feed)) == {"connected", "resync", "note"} and codes(feed)["connected"] == 3
    _, checked = finished(recorder, tmp_path)
    assert checked["trade_ids"]["missing"] == 0 and checked["sequence"]["gaps"] == []
    assert checked["book"]["equal"] == checked["book"]["compared"] > 200


@pytest.mark.parametrize("latencies", [(0.005, 0.005), (0.3, 0.002), (0.002, 0.3)])
@pytest.mark.parametrize("venue", ["binance_usdm", "binance_spot"])
def test_two_sockets_at_once_record_each_message_once(tmp_path, monkeypatch, latencies, venue):
    """Whichever of the two is faster, by less than a frame may wait: no double, no hole, nothing out of order."""

    async def work(market, recorder):
        queue = list(latencies) * 20
        real = market.connect

        async def connect(url, **options):
            socket = await real(url, **options)
            socket.latency_s = 0.6 * queue.pop(0) if "market" not in url else 0.005
            return socket

        monkeypatch.setattr(binance, "connect", connect)
        await asyncio.sleep(60.0)

    market, recorder, feed = recording(tmp_path, monkeypatch, work, venue, pace_s=0.02, lifetime_s=6.0, overlap_s=2.0)
    assert recorder.counters.connections >= 8 and recorder.counters.duplicates > 100
    assert codes(feed)["gap"] == 0 and codes(feed)["lost"] == 0
    session, checked = finished(recorder, tmp_path)
    assert checked["trade_ids"]["missing"] == 0 and checked["sequence"]["gaps"] == []
    ids = session.table("trades")["trade_id"].to_numpy()
    assert (np.diff(ids) == 1).all()
    quotes = session.table("best")["update_id"].to_pylist()
    assert len(quotes) == len(set(quotes))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("venue", ["binance_usdm", "binance_spot"])
def test_a_younger_socket_that_dies_while_it_is_ahead_makes_no_hole(tmp_path, monkeypatch, venue, both):
    """What it brought is waited for as before: the older socket still brings it; where that dies too, it is not lost."""

    async def work(market, recorder):
        queue, real = [0.15, 0.002], market.connect
        group = recorder.groups[0]

        async def connect(url, **options):
            socket = await real(url, **options)
            socket.latency_s = queue.pop(0) if "market" not in url and queue else 0.005
            return socket

        monkeypatch.setattr(binance, "connect", connect)
        while len(group.alive) < 2 or recorder.watch.holding < 5:
            await asyncio.sleep(0.01)
        older, younger = (socket for socket in market.sockets if socket.group == group.name)
        held = recorder.watch.holding
        younger.cut()
        if both:
            older.cut()
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
        assert len(group.alive) == 1 - both and recorder.watch.holding == (0 if both else held)
        await asyncio.sleep(1.0)

    market, recorder, feed = recording(tmp_path, monkeypatch, work, venue, pace_s=0.02, lifetime_s=6.0, overlap_s=2.0)
    counters = recorder.counters
    assert counters.frames == counters.kept + counters.duplicates + recorder.watch.holding
    if not both:
        assert codes(feed)["gap"] == codes(feed)["lost"] == 0
        _, checked = finished(recorder, tmp_path)
        assert checked["trade_ids"]["missing"] == 0 and checked["sequence"]["gaps"] == []


def test_a_shutdown_notice_brings_the_successor_before_the_cut(tmp_path, monkeypatch):
    async def work(venue, recorder):
        await asyncio.sleep(10.0)
        for socket in list(venue.sockets):
            socket.send(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":%d}}' % venue.now_ms())
            asyncio.get_running_loop().call_later(8.0, socket.cut, 1012)
        await asyncio.sleep(30.0)

    _, recorder, feed = recording(tmp_path, monkeypatch, work)
    assert recorder.counters.connections == 4
    assert codes(feed)["lost"] == codes(feed)["gap"] == 0


def most_in_a_window(times: list[float]) -> int:
    return max(sum(at <= other < at + ATTEMPTS_S for other in times) for at in times)


@pytest.mark.parametrize("kind", ["refused", "closed at once"])
def test_reconnecting_backs_off_and_stays_within_the_budget(tmp_path, monkeypatch, kind):
    async def work(venue, recorder):
        await asyncio.sleep(5.0)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 1200.0
        if kind == "refused":
            venue.refuse_until_s = until_s
        while loop.time() < until_s:
            for socket in list(venue.sockets):
                socket.cut(1008, "no")
            await asyncio.sleep(0.2)
        await asyncio.sleep(120.0)

    venue, recorder, feed = recording(tmp_path, monkeypatch, work, pace_s=1.0)
    assert most_in_a_window(venue.connects) < 40  # two groups, 30 s apart in the end, jittered
    gaps_s = np.diff(sorted(venue.connects))
    assert gaps_s.max() < 61.0
    assert all(
        stream.frames and not stream.silent
        for stream in recorder.watch.streams.values()
        if stream.kind in ("trades", "depth")
    )
    assert all(book.synced for book in recorder.watch.books.values())
    finished(recorder, tmp_path)


def test_a_handshake_that_is_told_to_wait_waits(tmp_path, monkeypatch):
    """Every attempt during a ban makes it longer; the other sockets come from the same address."""

    async def work(market, recorder):
        await asyncio.sleep(5.0)
        market.refusal = InvalidStatus(Response(418, "I'm a teapot", Headers({"Retry-After": "300"})))
        market.refuse_until_s = asyncio.get_running_loop().time() + 290.0
        for socket in list(market.sockets):
            socket.cut(1008, "no")
        await asyncio.sleep(400.0)

    market, recorder, _ = recording(tmp_path, monkeypatch, work, pace_s=1.0)
    refused = [at for at in market.connects if 1005.0 <= at < 1005.0 + 300.0]
    assert 1 <= len(refused) <= len(recorder.groups)
    assert all(book.synced for book in recorder.watch.books.values())
    finished(recorder, tmp_path)


def test_the_budget_never_lets_more_through():
    class Clock:
        now_s = 0.0

    async def work(monkeypatch_sleep):
        budget, made = Budget(5, 10.0), []
        for _ in range(23):
            await budget.take()
            made.append(asyncio.get_running_loop().time())
        return made

    with pytest.MonkeyPatch.context() as patch:
        made = run_virtual(patch, lambda: work(None))
    assert all(sum(at <= other < at + 10.0 for other in made) <= 5 for at in made) and made[-1] >= made[0] + 40.0


def test_two_seeds_do_not_come_back_at_the_same_moment():
    pauses = []
    for seed in (1, 2):
        group = binance.Group(
            Endpoint("binance_usdm", "wss://a", "https://a"), "public", [], None, None, Budget(), seed
        )
        pauses.append([group._pause_s(n) for n in range(8)])
    assert pauses[0] != pauses[1]
    assert all(0.5 * base <= pause <= 1.5 * base for pause, base in zip(pauses[0][1:], (*binance.BACKOFF_S, 30.0)))


@pytest.mark.parametrize("venue, trades, rows", [("binance_spot", "trade", True), ("binance_usdm", "trade", False)])
def test_lost_trades_are_fetched_by_id_where_the_venue_allows(tmp_path, monkeypatch, venue, trades, rows):
    async def work(market, recorder):
        await asyncio.sleep(10.0)
        market.drop[f"{SYMBOL.lower()}@trade"] = 7
        await asyncio.sleep(20.0)
        for socket in list(market.sockets):
            socket.cut()
        await asyncio.sleep(20.0)

    market, recorder, feed = recording(tmp_path, monkeypatch, work, venue, trades=trades)
    session, checked = finished(recorder, tmp_path)
    table = session.table("trades")
    refilled = table.filter(pc.greater(pc.bit_wise_and(table["bits"], REFILLED), 0))
    gaps = [row for _, row in feed if row.code == "gap" and row.stream == "trades"]
    assert gaps and sum(row.to_id - row.from_id - 1 for row in gaps) >= 7
    if not rows:
        assert len(refilled) == 0 and checked["trade_ids"]["missing"] >= 7 and not market.requests["historicalTrades"]
        return
    assert len(refilled) == recorder.counters.refilled == sum(row.to_id - row.from_id - 1 for row in gaps)
    assert checked["trade_ids"] == {"breaks": 0, "missing": 0}
    truth = {row["t"]: (row["p"], row["q"], row["m"]) for row in market.trades}
    for row in refilled.to_pylist():
        price, qty, maker = truth[row["trade_id"]]
        assert (row["price_ticks"], row["qty_lots"], row["side"]) == (
            round(float(price) * 10),
            round(float(qty) * 1000),
            -1 if maker else 1,
        )


@pytest.mark.parametrize("fault", ["refused", "empty"])
@pytest.mark.parametrize("times, asked", [(1, 2), (3, 4), (99, 4)])
def test_trades_that_cannot_be_fetched_at_once_are_asked_for_again(tmp_path, monkeypatch, fault, times, asked):
    """The network is just back, or REST is behind the socket: within a minute both are over, or the hole stays."""

    async def work(market, recorder):
        await asyncio.sleep(10.0)
        market.trade_faults += [fault] * times
        market.drop[f"{SYMBOL.lower()}@trade"] = 7
        await asyncio.sleep(120.0)

    market, recorder, _ = recording(tmp_path, monkeypatch, work, "binance_spot", trades="trade")
    _, checked = finished(recorder, tmp_path)
    counters, filled = recorder.counters, times < asked
    assert counters.holes == 1 and market.requests["historicalTrades"] == asked
    assert (counters.refilled, counters.not_refilled) == ((7, 0) if filled else (0, 1))
    assert checked["trade_ids"]["missing"] == (0 if filled else 7)


@pytest.mark.parametrize(
    "kind, code, most_s",
    [("depth@100ms", "stale", 12.0), ("bookTicker", "stale", 33.0), ("markPrice@1s", "note", 12.0)],
)
def test_a_stream_that_stops_alone_is_found(tmp_path, monkeypatch, kind, code, most_s):
    name, at_s = f"{SYMBOL.lower()}@{kind}", 1020.0

    async def work(venue, recorder):
        await asyncio.sleep(at_s - 1000.0)
        for socket in venue.sockets:
            socket.muted.add(name)
        await asyncio.sleep(60.0)
        assert not recorder.watch.streams[name].silent and recorder.watch.streams[name].stale == 1

    _, recorder, feed = recording(tmp_path, monkeypatch, work)
    found = [
        (frame.recv_ns / 1e9 % 100000 - 1000, row) for frame, row in feed if row.code == code and name in row.detail
    ]
    assert len(found) == 1
    seconds = recorder_seconds(feed, found[0][1]) - 20.0
    assert 0 < seconds < most_s
    assert recorder.counters.stale == 1 and recorder.counters.connections == 3 and codes(feed)["lost"] == 0
    assert all(book.synced for book in recorder.watch.books.values())
    finished(recorder, tmp_path)


def recorder_seconds(feed: list, row: Feed) -> float:
    """Return the seconds from the first connection to a feed row."""
    first = next(frame.recv_ns for frame, other in feed if other.code == "connected")
    return (next(frame.recv_ns for frame, other in feed if other is row) - first) / 1e9


def test_a_quiet_symbol_is_not_taken_for_a_broken_one(tmp_path, monkeypatch):
    """A message every 20 s on average, all night: its own pace is learnt, and the socket is left alone in the end."""

    async def work(venue, recorder):
        await asyncio.sleep(4 * HOUR_S)

    _, recorder, feed = recording(tmp_path, monkeypatch, work, "binance_spot", pace_s=15.0)
    late = [
        frame for frame, row in feed if row.code == "stale" and frame.recv_ns > feed[0][0].recv_ns + 1 * HOUR_S * 1e9
    ]
    assert len(late) <= 3


def test_the_venues_clock_is_measured_and_noted(tmp_path, monkeypatch):
    async def work(venue, recorder):
        await asyncio.sleep(1500.0)

    _, recorder, feed = recording(tmp_path, monkeypatch, work, pace_s=1.0)
    notes = [row.detail for _, row in feed if "venue clock" in row.detail]
    assert len(notes) == 3
    for text in notes:
        offset_ms, known_ms = (
            float(part.split(" ms")[0]) for part in (text.split("ours ")[1], text.split("known to ")[1])
        )
        assert abs(offset_ms - 70.0) <= known_ms + 1.0 and known_ms < 31.0
    assert recorder.counters.offset_ms == pytest.approx(70.0, abs=31.0)


def test_a_journal_that_fails_within_a_socket_ends_the_recording(tmp_path, monkeypatch):
    """Nothing can be raised through a socket's read; the error comes out of `run`."""

    async def work(venue, recorder):
        await asyncio.sleep(5.0)

        def fail(*_args):
            raise SourceFailed("the disk is full")

        monkeypatch.setattr(recorder.journal, "append", fail)
        await asyncio.sleep(5.0)
        raise AssertionError("still recording")

    with pytest.raises(SourceFailed, match="disk is full"):
        recording(tmp_path, monkeypatch, work)


def test_a_stop_is_heard_while_the_venue_makes_wait(tmp_path, monkeypatch):
    """Refused for minutes at the start, nothing is recorded yet: Ctrl-C must not have to wait for it."""

    async def work(venue, recorder):
        venue.status += [429] * 50
        began_s = asyncio.get_running_loop().time()
        await asyncio.sleep(1.0)
        recorder.stop()
        while not recorder.rest.client.is_closed:
            await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - began_s < 2.0

    _, recorder, _ = recording(tmp_path, monkeypatch, work)
    assert recorder.counters.kept == 0


def test_a_snapshot_that_comes_after_the_loss_is_not_shown_to_the_kernel(tmp_path, monkeypatch):
    """Asked while the socket was up, answered when it is not: nobody could tell which diffs follow it."""

    async def work(venue, recorder):
        venue.rest_latency_s = 4.0
        await asyncio.sleep(20.0)
        while not recorder.watch.books[SYMBOL].synced:
            await asyncio.sleep(0.5)
        recorder.watch.books[SYMBOL].restart()
        await asyncio.sleep(1.0)
        venue.refuse_until_s = asyncio.get_running_loop().time() + 8.0
        for socket in list(venue.sockets):
            socket.cut()
        before = recorder.counters.refused_snapshots
        await asyncio.sleep(8.0)
        assert recorder.counters.refused_snapshots == before + 1
        await asyncio.sleep(40.0)

    _, recorder, feed = recording(tmp_path, monkeypatch, work)
    lost, back = (
        next(frame.seq for frame, row in feed if row.code == code and row.stream == "depth" and frame.seq > after)
        for code, after in (("lost", 0), ("connected", 20))
    )
    shown = [
        frame.seq
        for frame in JournalReader(recorder.journal.folder)
        if frame.kind == REST and b"/depth?" in frame.payload[:200]
    ]
    assert lost < back and not [seq for seq in shown if lost < seq < back]
    finished(recorder, tmp_path)


@pytest.mark.parametrize("cut", [False, True])
def test_ids_that_begin_anew_make_a_new_chain(tmp_path, monkeypatch, cut):
    """The snapshot after the mark is held against the diffs after it only, as the recorder did."""

    async def work(market, recorder):
        await asyncio.sleep(30.0)
        market.begin_anew()
        if cut:
            for socket in list(market.sockets):
                socket.cut()
        await asyncio.sleep(120.0)

    _, recorder, feed = recording(tmp_path, monkeypatch, work)
    assert [row.stream for _, row in feed if "anew" in row.detail] == ["depth"]
    _, checked = finished(recorder, tmp_path)
    assert not [note for note in checked["notes"] if "do not link" in note or "already passed" in note], checked["notes"]
    assert checked["coverage"]["BTCUSDT.depth"] > 0.6 and checked["book"]["equal"] == checked["book"]["compared"]


def answering(*answers: httpx.Response | Exception) -> Rest:
    queue = list(answers)

    async def answer(request):
        found = queue.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return Rest(
        Endpoint("binance_spot", "wss://a", "https://a"), httpx.AsyncClient(transport=httpx.MockTransport(answer))
    )


@pytest.mark.parametrize(
    "answers, words",
    [
        ([httpx.Response(418, headers={"Retry-After": "7200"})], ["banned", "7200 s"]),
        ([httpx.Response(451)], ["451", "location"]),
        ([httpx.Response(403)], ["403"]),
        ([httpx.Response(400, content=b'{"code":-1121}')], ["400", "-1121"]),
        ([httpx.Response(429, headers={"Retry-After": "1"})] * 5, ["kept answering 429", "fewer symbols"]),
        ([httpx.Response(503)] * 3, ["kept answering 503", "later"]),
        ([httpx.ConnectError("Name or service not known")], ["does not answer", "name server"]),
    ],
)
def test_rest_fails_in_one_sentence(answers, words, monkeypatch):
    async def work():
        with pytest.raises(SourceFailed) as caught:
            await answering(*answers).get("depth", symbol="BTCUSDT")
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)

    run_virtual(monkeypatch, work)


def test_rest_obeys_retry_after_and_the_weight(monkeypatch):
    async def work():
        loop = asyncio.get_running_loop()
        rest = answering(httpx.Response(429, headers={"Retry-After": "17"}), httpx.Response(200, content=b"{}"))
        began_s = loop.time()
        assert (await rest.get("depth"))[0] == b"{}" and loop.time() - began_s >= 17.0
        rest = answering(
            httpx.Response(200, headers={"X-MBX-USED-WEIGHT-1M": "5500"}, content=b"{}"),
            httpx.Response(200, content=b"{}"),
        )
        await rest.get("depth")
        began_s = loop.time()
        await rest.get("depth")
        assert 0 < loop.time() - began_s <= 60.0 and loop.time() % 60 < 1.0 or (binance.clock.now_ns() / 1e9) % 60 < 1.0

    run_virtual(monkeypatch, work)


def test_a_ban_is_not_shortened_by_what_was_asked_before_it(monkeypatch):
    """Two requests are on their way: one is told of a ban of 900 s, and then the other of a wait of 7 s."""
    asked = []

    async def answer(request):
        name = request.url.path.rpartition("/")[2]
        asked.append((name, asyncio.get_running_loop().time()))
        if name == "time":
            await asyncio.sleep(0.1)
            return httpx.Response(418, headers={"Retry-After": "900"})
        await asyncio.sleep(0.2)
        return httpx.Response(429, headers={"Retry-After": "7"}) if len(asked) < 3 else httpx.Response(200, content=b"{}")

    async def work():
        rest = Rest(Endpoint("binance_spot", "wss://a", "https://a"), httpx.AsyncClient(transport=httpx.MockTransport(answer)))
        banned, depth = await asyncio.gather(rest.get("time"), rest.get("depth"), return_exceptions=True)
        assert "banned" in str(banned) and depth[0] == b"{}"
        assert [name for name, _ in asked] == ["time", "depth", "depth"] and asked[2][1] >= asked[0][1] + 900.0

    run_virtual(monkeypatch, work)


def test_who_waits_already_hears_of_a_longer_ban(monkeypatch):
    async def work():
        loop = asyncio.get_running_loop()
        rest = answering(httpx.Response(200, content=b"{}"))
        began_s = loop.time()
        rest.until_s = began_s + 7.0
        loop.call_later(3.0, setattr, rest, "until_s", began_s + 900.0)
        await rest.get("depth")
        assert loop.time() >= began_s + 900.0

    run_virtual(monkeypatch, work)


@pytest.mark.parametrize("body", [b"<html>", b'{"symbols": 3}', b"[]"])
def test_an_exchange_info_that_is_none(body, monkeypatch):
    async def work():
        with pytest.raises(SourceFailed, match="exchangeInfo with something else"):
            await answering(httpx.Response(200, content=body)).instruments(["BTCUSDT"])

    run_virtual(monkeypatch, work)


def test_a_clock_that_is_put_back_is_told_once(tmp_path, monkeypatch):
    back_s = [7.0]                     # before this recording began
    monkeypatch.setattr(clock, "put_back_s", lambda: back_s[0])

    async def work(market, recorder):
        await asyncio.sleep(5)
        back_s[0] += 600.25
        await asyncio.sleep(5)

    _, recorder, feed = recording(tmp_path, monkeypatch, work)
    notes = [row.detail for _, row in feed if row.code == "note" and "put back" in row.detail]
    assert len(notes) == 1 and "put back by 600.250 s" in notes[0]
    assert recorder.status()["clock_put_back_s"] == 600.25
