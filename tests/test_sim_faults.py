"""Faults of the exchange simulator: each does what it says, at its place on the tape, the same at every run."""

import asyncio
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from exchanges import asked, capture_config, dial, drained, of_streams, played, read_all, recorded, with_exchange
from live_runs import Command, wait_for
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from engine.cli import main
from engine.errors import BadInput
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.sim.effects import Effects
from engine.sim.exchange import Exchange
from engine.sim.faults import KINDS, Fault, read_script, seeded
from engine.sim.limits import LIMITS
from engine.sim.market import Market
from engine.sim.tape import load_tape

DEPTH = "/public/stream?streams=btcusdt@depth@0ms"
BOTH = "/public/stream?streams=btcusdt@depth@0ms/btcusdt@trade"


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return generate(MarketConfig(seed=4, duration_s=12.0), tmp_path_factory.mktemp("market") / "m").capture


@pytest.fixture(scope="module")
def rows(capture) -> list:
    return recorded(capture)


def split(rows: list, *at_s: float, kinds: tuple[str, ...] = ("depth@0ms",)) -> list[list[bytes]]:
    """Return the recorded frames of these kinds, cut at seconds of the tape."""
    edges = [rows[0][0] + round(second * 1e9) for second in at_s]
    parts = [[] for _ in range(len(edges) + 1)]
    for row in rows:
        parts[sum(row[0] >= edge for edge in edges)].append(row)
    return [of_streams(part, *kinds) for part in parts]


def faulted(capture: Path, *faults: Fault, path: str = DEPTH) -> list[bytes]:
    return played(capture_config(capture, faults=faults), path)[0]


def test_drop_duplicate_and_reorder(capture, rows):
    before, after = split(rows, 5.0)
    assert faulted(capture, Fault(5.0, "drop", "*@depth*", count=3)) == before + after[3:]
    assert faulted(capture, Fault(5.0, "duplicate", "*@depth*", count=2)) == before + [after[0]] * 2 + [after[1]] * 2 + after[2:]
    assert faulted(capture, Fault(5.0, "reorder", "*@depth*", count=2)) == before + [after[1], after[2], after[0]] + after[3:]


def test_a_frame_held_for_reordering_is_not_lost_at_the_end(capture, rows):
    every = of_streams(rows, "depth@0ms")
    at_s = (rows[-1][0] - rows[0][0]) / 1e9 - 0.25
    got = faulted(capture, Fault(at_s, "reorder", "*@depth*", count=100))
    assert sorted(got) == sorted(every) and got != every


def test_gap_loses_what_falls_into_it(capture, rows):
    before, lost, after = split(rows, 5.0, 7.0)
    assert lost and faulted(capture, Fault(5.0, "gap", "*@depth*", for_s=2.0)) == before + after


def test_a_fault_of_one_stream_leaves_the_others(capture, rows):
    trades = of_streams(rows, "trade")
    got = faulted(capture, Fault(2.0, "gap", "*@depth*", for_s=5.0), Fault(3.0, "duplicate", "*@depth*"), path=BOTH)
    assert [frame for frame in got if b"@trade" in frame] == trades


def test_malformed_and_oversized(capture, rows):
    before, after = split(rows, 5.0)
    got = faulted(capture, Fault(5.0, "malformed", "*@depth*", count=2), Fault(5.0, "oversized", "*@trade", bytes=3 << 20), path=BOTH)
    depth = [frame for frame in got if b"@depth" in frame]
    assert depth == before + [frame[:len(frame) // 2] for frame in after[:2]] + after[2:]
    big = max(got, key=len)
    assert len(big) == 3 << 20 and json.loads(big) == json.loads(split(rows, 5.0, kinds=("trade",))[1][0])


def test_clock_jump_moves_stamps_of_frames_and_rest(capture, rows):
    before, jumped, after = split(rows, 5.0, 7.0)
    got = faulted(capture, Fault(5.0, "clock_jump", ms=-1500, for_s=2.0))
    assert got[:len(before)] == before and got[len(before) + len(jumped):] == after
    for new, old in zip(got[len(before):], jumped):
        moved, data = json.loads(new)["data"], json.loads(old)["data"]
        assert (moved["E"], moved["T"]) == (data["E"] - 1500, data["T"] - 1500)
        assert {**moved, "E": 0, "T": 0} == {**data, "E": 0, "T": 0}

    async def clock(exchange: Exchange) -> int:
        exchange.begin()
        while exchange.config.faults and not exchange.fired:
            await asyncio.sleep(0)
        return (await asked(exchange, "/fapi/v1/time"))[2]["serverTime"]

    slow = {"speed": 1e-6}
    plain = with_exchange(capture_config(capture, **slow), clock)
    assert with_exchange(capture_config(capture, faults=[Fault(0.0, "clock_jump", ms=60_000, for_s=5.0)], **slow), clock) == plain + 60_000


def test_silent_stops_one_stream_of_a_socket_and_comes_back(capture, rows):
    before, lost, after = split(rows, 5.0, 7.0)
    got = faulted(capture, Fault(5.0, "silent", "*@depth*", for_s=2.0), path=BOTH)
    assert [frame for frame in got if b"@depth" in frame] == before + after
    assert [frame for frame in got if b"@trade" in frame] == of_streams(rows, "trade")
    assert [frame for frame in faulted(capture, Fault(5.0, "silent", "*@depth*"), path=BOTH) if b"@depth" in frame] == before


def test_silent_ends_when_the_stream_is_asked_for_again(capture):
    async def work(exchange):
        async with dial(exchange, DEPTH) as socket:
            exchange.begin()
            while not exchange.fired:
                await asyncio.sleep(0)
            muted = set(exchange.clients[0].muted)
            await socket.send('{"method":"SUBSCRIBE","params":["btcusdt@depth@0ms"],"id":1}')
            while b'"id":1' not in await socket.recv(decode=False):
                pass
            await asyncio.sleep(0.01)
            return muted, exchange.clients[0].muted

    muted, now = with_exchange(capture_config(capture, speed=1e-6, faults=[Fault(0.0, "silent", "*@depth*")]), work)
    assert len(muted) == 1 and not now


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1008, 1011, 1012])
def test_close_codes(capture, rows, code):
    async def work(exchange):
        async with dial(exchange, DEPTH) as socket:
            exchange.begin()
            return await drained(socket)

    got, seen, reason = with_exchange(capture_config(capture, faults=[Fault(5.0, "close", code=code, reason="why")]), work)
    before = split(rows, 5.0)[0]
    assert (seen, reason) == ((code, "why") if code != 1006 else (1006, ""))
    assert got == before if code != 1006 else got == before[:len(got)]


def test_half_open_sockets_stay_and_do_nothing(capture, rows):
    async def work(exchange):
        got = []
        async with dial(exchange, DEPTH) as dead:
            reader = asyncio.create_task(drained(dead, got))
            exchange.begin()
            await exchange.finished.wait()
            echo = await dead.ping()
            await asyncio.sleep(0.2)
            answered = echo.done()
            async with dial(exchange, DEPTH) as other:
                await asyncio.wait_for(await other.ping(), 5)
            closed = dead.close_code
        exchange.clients[0].thaw()
        await reader
        return got, answered, closed

    assert with_exchange(capture_config(capture, faults=[Fault(5.0, "half_open")]), work) == (split(rows, 5.0)[0], False, None)


def test_half_open_for_a_while_loses_that_while(capture, rows):
    before, lost, after = split(rows, 5.0, 7.0)
    assert faulted(capture, Fault(5.0, "half_open", for_s=2.0)) == before + after


def test_slow_consumer_gets_all_late_or_is_cut_off(capture, rows):
    assert faulted(capture, Fault(3.0, "slow_consumer", for_s=5.0, per_s=2.0)) == of_streams(rows, "depth@0ms")

    async def work(exchange):
        async with dial(exchange, DEPTH) as socket:
            exchange.begin()
            return await drained(socket)

    limits = LIMITS["binance_usdm"].__class__(**{**vars(LIMITS["binance_usdm"]), "buffer_bytes": 2_000})
    got, code, reason = with_exchange(capture_config(capture, limits=limits, faults=[Fault(3.0, "slow_consumer", for_s=5.0)]), work)
    assert (got, code, reason) == (split(rows, 3.0)[0], 1008, "slow consumer")


def test_slow_consumer_is_served_at_its_rate(capture):
    tape, released = load_tape([capture]), []
    client = SimpleNamespace(hold=lambda: None, release=lambda number=None: released.append(number), wants=lambda fits: True)
    venue = SimpleNamespace(clients=[client], tape_ns=lambda: tape.recv_ns[0] + 2_000_000_000)
    effects = Effects(tape, [Fault(2.0, "slow_consumer", for_s=3.0, per_s=10.0)], venue)
    effects.reach(tape.place_at(2.0))
    for second in (2.05, 2.1, 2.55, 4.0):
        effects.release(tape.recv_ns[0] + round(second * 1e9))
    effects.reach(tape.place_at(5.0))
    assert released == [0, 1, 4, 15, None]


@pytest.mark.parametrize("path,want", [("/public/ws/btcusdt@trade", lambda event: event["e"]),
                                       (DEPTH, lambda event: event["stream"] == "!serverShutdown" and event["data"]["e"])])
@pytest.mark.parametrize("for_s", [0.0, 2.0])
def test_shutdown_gives_notice_and_then_closes(capture, rows, path, want, for_s):
    async def work(exchange):
        async with dial(exchange, path) as socket:
            exchange.begin()
            return await drained(socket)

    got, code, _ = with_exchange(capture_config(capture, faults=[Fault(5.0, "shutdown", for_s=for_s)]), work)
    notices = [frame for frame in got if b"serverShutdown" in frame]
    assert len(notices) == 1 and want(json.loads(notices[0])) == "serverShutdown" and code == 1001
    kind = "trade" if "trade" in path else "depth@0ms"
    before, during, _ = split(rows, 5.0, 5.0 + for_s, kinds=(kind,))
    assert got.index(notices[0]) == len(before) and len(got) == len(before) + 1 + len(during)


def test_sockets_opened_on_a_wrong_path_are_acked_and_silent(capture):
    async def work(exchange):
        exchange.begin()
        while not exchange.fired:
            await asyncio.sleep(0)
        async with dial(exchange, "/public/stream") as socket:
            await socket.send('{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}')
            assert json.loads(await socket.recv()) == {"result": None, "id": 1}
            await asyncio.sleep(0.01)
            return dict(exchange.clients[0].names), exchange.clients[0].routes

    names, routes = with_exchange(capture_config(capture, speed=1e-6, faults=[Fault(0.0, "wrong_path", for_s=5.0)]), work)
    assert names and not routes


def test_requests_may_go_unanswered(capture):
    async def work(exchange):
        exchange.begin()
        while not exchange.fired:
            await asyncio.sleep(0)
        async with dial(exchange, "/public/stream") as socket:
            await socket.send('{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}')
            while not exchange.clients[0].names:
                await asyncio.sleep(0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.1)

    with_exchange(capture_config(capture, speed=1e-6, faults=[Fault(0.0, "no_ack", for_s=5.0)]), work)


def test_snapshot_race_serves_a_body_of_the_past_or_future_once(capture):
    async def work(exchange):
        await read_all(exchange)
        return [(await asked(exchange, "/fapi/v1/depth?symbol=BTCUSDT"))[2]["lastUpdateId"] for _ in range(2)]

    stale, right = with_exchange(capture_config(capture, faults=[Fault(1.0, "snapshot_race", diffs=-30)]), work)
    tape = load_tape([capture])
    last_ids = [json.loads(tape.data(place))["u"] for place in tape.of("BTCUSDT", "depth")]
    assert right == last_ids[-1] and last_ids[-31] < stale <= last_ids[-30]
    market = Market(tape)
    market.position = tape.of("BTCUSDT", "rest:")[0] + 1
    oldest = with_exchange(capture_config(capture, faults=[Fault(1.0, "snapshot_race", diffs=-10_000)]), work)[0]
    assert oldest == market.book("BTCUSDT")[1]


def test_rest_status_is_given_to_the_next_requests(capture):
    async def work(exchange):
        await read_all(exchange)
        return [(await asked(exchange, "/fapi/v1/time"))[0] for _ in range(3)]

    assert with_exchange(capture_config(capture, faults=[Fault(1.0, "rest_status", count=2, status=429)]), work) == [429, 429, 200]


def test_counted_faults_of_rest_end_with_their_time(capture):
    async def work(exchange):
        await read_all(exchange)
        return [(await asked(exchange, path))[0] for path in ("/fapi/v1/time", "/fapi/v1/depth?symbol=BTCUSDT")], exchange.effects.depth_shift()

    faults = [Fault(1.0, kind, count=2, for_s=2.0) for kind in ("rest_status", "snapshot_race")]
    assert with_exchange(capture_config(capture, faults=faults), work) == ([200, 200], 0)


@pytest.mark.parametrize("shift", [-300, -100, -1, 3])
def test_a_book_of_another_moment_is_the_one_folded_from_the_start(capture, monkeypatch, shift):
    played = Market(load_tape([capture]))
    found = []
    for position in range(200, len(played.tape), 997):
        played.position = position
        book = played.book("BTCUSDT", shift)
        found.append(book and (book[1], book[0].levels(20)))
    monkeypatch.setattr("engine.sim.market.KEPT_EVERY", 10**9)
    for position, expected in zip(range(200, len(played.tape), 997), found):
        market = Market(played.tape)
        market.position = position
        book = market.book("BTCUSDT", shift)
        assert expected == (book and (book[1], book[0].levels(20)))


def test_rest_delay_holds_the_answer_back(capture):
    async def work(exchange):
        exchange.begin()
        while not exchange.fired:
            await asyncio.sleep(0)
        answer = asyncio.create_task(asked(exchange, "/fapi/v1/time"))
        done, _ = await asyncio.wait({answer}, timeout=0.2)
        return bool(done), (await answer)[0]

    assert with_exchange(capture_config(capture, speed=1e-6, faults=[Fault(0.0, "rest_delay", ms=600, for_s=5.0)]), work) == (False, 200)


def test_a_seed_gives_the_same_faults_and_the_same_frames(capture):
    rates = {"drop": 60.0, "duplicate": 60.0, "reorder": 60.0, "malformed": 30.0, "gap": 10.0, "clock_jump": 10.0}
    config = capture_config(capture, seed=7, rates=rates)
    first, again = (played(config, BOTH)[0] for _ in range(2))
    assert first == again
    assert played(capture_config(capture, seed=8, rates=rates), BOTH)[0] != first


def test_seeded_faults_come_at_their_rate():
    faults = seeded(1, {kind: 6.0 for kind in KINDS}, 6_000.0, ["btcusdt@trade"])
    counts = {kind: sum(fault.kind == kind for fault in faults) for kind in KINDS}
    assert all(450 < count < 750 for count in counts.values()), counts
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert seeded(1, {"drop": 0.0}, 6_000.0, ["btcusdt@trade"]) == []


def test_every_kind_runs_to_the_end_from_a_seed(capture):
    async def work(exchange):
        exchange.begin()
        while not exchange.finished.is_set():
            try:
                async with dial(exchange, BOTH) as socket:
                    while not exchange.finished.is_set():
                        await asyncio.wait_for(socket.recv(decode=False), 0.1)
            except (ConnectionClosed, TimeoutError, OSError):
                pass
        return {fault.kind for fault in exchange.fired}

    config = capture_config(capture, seed=3, speed=40.0, rates={kind: 40.0 for kind in KINDS})
    assert with_exchange(config, work) == set(KINDS)


def test_a_script_is_read_from_json(tmp_path):
    path = tmp_path / "faults.json"
    path.write_text('[{"at_s": 1.5, "kind": "gap", "stream": "*@depth*", "for_s": 2}, {"at_s": 3, "kind": "close", "code": 1008}]')
    assert read_script(path) == [Fault(1.5, "gap", "*@depth*", for_s=2), Fault(3, "close", code=1008)]


@pytest.mark.parametrize("text,words", [
    ("{", "not JSON"), ("{}", "not a list"), ('[{"kind": "drop"}]', "entry 1"), ('[{"at_s": 1, "kind": "dorp"}]', "did you mean 'drop'"),
    ('[{"at_s": 1, "kind": "drop", "cuont": 2}]', "did you mean 'count'"), ('[{"at_s": -1, "kind": "drop"}]', "at_s -1"),
    ('[{"at_s": 1, "kind": "gap"}]', "for_s"), ('[{"at_s": 1, "kind": "close", "code": 1005}]', "1005"),
    ('[{"at_s": 1, "kind": "drop", "count": 0}]', "count 0"), ('[{"at_s": 1, "kind": "rest_status", "status": 200}]', "200"),
    ('[{"at_s": "x", "kind": "drop"}]', "at_s 'x'")])
def test_a_wrong_script_is_named(tmp_path, text, words):
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        read_script(path)


def test_faults_that_cannot_happen_are_named(capture, tmp_path):
    with pytest.raises(BadInput, match="behind the capture's end"):
        Exchange(capture_config(capture, faults=[Fault(400.0, "drop")]))
    with pytest.raises(BadInput, match="no such kind"):
        Exchange(capture_config(capture, rates={"fire": 1.0}))
    with pytest.raises(BadInput, match="cannot be read"):
        read_script(tmp_path / "absent.json")


@pytest.mark.parametrize("arguments,words", [
    (["--fault", "drop=often"], "'often' is no number"), (["--fault", "drop"], "KIND=PER_MINUTE, such as drop=2"), (["--script", "absent.json"], "cannot be read")])
def test_the_command_names_wrong_faults(capture, capsys, arguments, words):
    assert main(["sim", "exchange", str(capture), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_none_is_named(capture, capsys):
    assert main(["sim", "exchange", str(capture), "--port", "99999"]) == 2
    assert "from 0, any free one, to 65535" in capsys.readouterr().err


def test_the_command_does_what_its_script_says(capture, tmp_path):
    (tmp_path / "faults.json").write_text('[{"at_s": 1, "kind": "close", "code": 1008, "reason": "as written"}]')
    exchange = Command(tmp_path, "exchange", "sim", "exchange", str(capture), "--script", str(tmp_path / "faults.json"), "--speed", "10")

    async def work(address: str) -> None:
        async with connect(f"{address}/public/stream?streams=btcusdt@bookTicker") as socket:
            async for _ in socket:
                pass

    try:
        with pytest.raises(ConnectionClosedError) as closed:
            asyncio.run(asyncio.wait_for(work(wait_for(exchange.line, 60, "where it is")["ws"]), 20))
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "as written")
    finally:
        exchange.end()


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
def test_the_command_says_when_the_tape_is_at_its_end_and_ctrl_c_is_how_it_ends(capture, tmp_path):
    exchange = Command(tmp_path, "exchange", "sim", "exchange", str(capture), "--speed", "inf")

    async def work(address: str) -> None:
        async with connect(f"{address}/public/stream?streams=btcusdt@bookTicker", close_timeout=0.1):
            while "the capture is at its end" not in exchange.said():
                await asyncio.sleep(0.05)

    try:
        asyncio.run(asyncio.wait_for(work(wait_for(exchange.line, 60, "where it is")["ws"]), 30))
        exchange.process.send_signal(signal.SIGINT)
        assert exchange.wait(20) == 0 and len(exchange.said().splitlines()) == 1
    finally:
        exchange.kill()
