"""The exchange simulator: frames as recorded, the venue's paths, requests and limits, and REST that fits the stream."""

import ast
import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from exchanges import (
    asked,
    beginning,
    capture_config,
    dial,
    drained,
    of_streams,
    played,
    read_all,
    recorded,
    with_exchange,
)
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from engine.errors import BadInput, SourceFailed
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.decode import SPOT, USDM
from engine.sim.exchange import Exchange, ExchangeConfig, run_forever
from engine.sim.limits import LIMITS, Budget
from engine.sim.tape import load_tape

STREAMS = "btcusdt@depth@0ms/btcusdt@bookTicker/btcusdt@trade"
PUBLIC = f"/public/stream?streams={STREAMS}"


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return generate(MarketConfig(seed=3, duration_s=20.0), tmp_path_factory.mktemp("market") / "m").capture


@pytest.fixture(scope="module")
def rows(capture) -> list:
    return recorded(capture)


async def request(socket: ClientConnection, **message: object) -> dict:
    await socket.send(json.dumps(message))
    return json.loads(await asyncio.wait_for(socket.recv(), 10))


def test_combined_frames_are_the_recorded_bytes_in_order(capture, rows):
    assert played(capture_config(capture), PUBLIC)[0] == of_streams(rows, "depth@0ms", "bookTicker", "trade")


def test_raw_socket_gets_the_payload_alone(capture, rows):
    got, quoted = played(capture_config(capture), "/public/ws/btcusdt@depth@0ms", "/public/ws/btcusdt%40depth%400ms")
    assert got and got == quoted == [frame.partition(b'"data":')[2][:-1] for frame in of_streams(rows, "depth@0ms")]


def test_another_speed_of_a_recorded_stream_differs_in_the_name_alone(capture, rows):
    got = played(capture_config(capture), "/public/stream?streams=btcusdt@depth@100ms")[0]
    assert got == [frame.replace(b"@depth@0ms", b"@depth@100ms") for frame in of_streams(rows, "depth@0ms")]


def test_sent_counts_what_every_socket_got(capture, rows):
    async def work(exchange):
        await read_all(exchange, PUBLIC, "/public/ws/btcusdt@trade")
        return exchange.sent

    trades, depth = len(of_streams(rows, "trade")), len(of_streams(rows, "depth@0ms"))
    sent = with_exchange(capture_config(capture), work)
    assert (sent["btcusdt@trade"], sent["btcusdt@depth@0ms"]) == (2 * trades, depth)


@pytest.mark.parametrize("venue,public,lines", [("usdm", "/public", 15_000), ("spot", "", 15_000),
                                                pytest.param("usdm", "/public", 10**9, marks=pytest.mark.slow)])
def test_real_captures_are_sent_byte_for_byte(realdata, tmp_path, venue, public, lines):
    path = beginning(realdata / f"binance_{venue}" / "btcusdt_20240808.gz", lines, tmp_path)
    rows = recorded(path)
    streams = sorted({stream for _, stream, _ in rows if stream})
    got = played(capture_config(path, aggregates=False), f"{public}/stream?streams={'/'.join(streams)}")[0]
    assert got == [frame for _, stream, frame in rows if stream]


def test_cryptofeed_capture_of_many_symbols_is_sent_byte_for_byte(realdata):
    path = next((realdata / "cryptofeed").glob("6397a047*"))
    tape = load_tape([path])
    assert tape.symbols == ["BATUSDT", "CHRUSDT", "CTKUSDT", "NEOUSDT", "SANDUSDT"] and not tape.skipped
    streams = [name for name in tape.streams if "@" in name]
    public, market = played(capture_config(path), *(f"/{side}/stream?streams={'/'.join(streams)}" for side in ("public", "market")))
    sent = [frame for number, frame in zip(tape.stream, tape.frames) if "@" in tape.streams[number]]
    assert market == [frame for frame in sent if b"@aggTrade" in frame]
    assert public == [frame for frame in sent if b"@aggTrade" not in frame]


def test_playing_again_closes_sockets_and_repeats(capture, rows):
    async def work(exchange):
        times = []
        for _ in range(2):
            async with dial(exchange, "/public/stream?streams=btcusdt@trade") as socket:
                times.append(await drained(socket))
        return times

    trades = of_streams(rows, "trade")
    assert with_exchange(capture_config(capture, start="subscription", loop=True), work) == [(trades, 1001, "the capture begins again")] * 2


def test_restamped_frames_carry_the_present(capture, rows):
    got = played(capture_config(capture, restamp=True), "/public/ws/btcusdt@trade")[0]
    moved = {json.loads(new)["T"] - json.loads(old)["data"]["T"] for new, old in zip(got, of_streams(rows, "trade"))}
    assert len(moved) == 1 and moved != {0}


def test_microseconds_are_for_spot_alone(capture, realdata, tmp_path):
    spot = capture_config(beginning(realdata / "binance_spot" / "btcusdt_20240808.gz", 2_000, tmp_path))
    micro, plain = played(spot, "/ws/btcusdt@trade?timeUnit=MICROSECOND", "/ws/btcusdt@trade")
    assert all(json.loads(a)["T"] == 1000 * json.loads(b)["T"] for a, b in zip(micro[:100], plain))
    usdm, same = played(capture_config(capture), "/public/stream?streams=btcusdt@trade&timeUnit=MICROSECOND", "/public/stream?streams=btcusdt@trade")
    assert usdm == same


@pytest.mark.parametrize("path,served", [("/public", {"depth", "bookTicker", "trade"}), ("", {"depth", "bookTicker", "trade"}),
                                         ("/market", {"aggTrade"}), ("/private", set())])
def test_a_path_serves_its_own_streams_and_acks_the_others(capture, path, served):
    async def work(exchange):
        async with dial(exchange, f"{path}/stream") as socket:
            names = [f"btcusdt@{kind}" for kind in ("depth", "bookTicker", "trade", "aggTrade")]
            assert await request(socket, method="SUBSCRIBE", params=names, id=1) == {"result": None, "id": 1}
            assert (await request(socket, method="LIST_SUBSCRIPTIONS", id=2))["result"] == names
            reader = asyncio.create_task(drained(socket))
            exchange.begin()
            await exchange.finished.wait()
            exchange.clients[0].close(1000, "")
            return {json.loads(frame)["stream"].partition("@")[2] for frame in (await reader)[0]}

    assert with_exchange(capture_config(capture), work) == served


def test_requests_and_their_errors(capture):
    async def work(exchange):
        async with dial(exchange, "/public/ws") as socket:
            async def error(**message):
                return (await request(socket, **message))["error"]["code"]

            uuid = "5e388040-46ec-49f2-b7fa-ae26c15510ff"
            assert await request(socket, method="SUBSCRIBE", params=["btcusdt@trade"], id=uuid) == {"result": None, "id": uuid}
            assert await request(socket, method="UNSUBSCRIBE", params=["btcusdt@trade"], id=None) == {"result": None, "id": None}
            assert (await request(socket, method="LIST_SUBSCRIPTIONS", id=3))["result"] == []
            assert (await request(socket, method="GET_PROPERTY", params=["combined"], id=4))["result"] is False
            assert (await request(socket, method="SET_PROPERTY", params=["combined", True], id=5))["result"] is None
            assert (await request(socket, method="GET_PROPERTY", params=["combined"], id=6))["result"] is True
            assert await error(method="SET_PROPERTY", params=["combined", 1], id=7) == 1
            assert await error(method="GET_PROPERTY", params=["other"], id=8) == 0
            assert await error(method="JUMP", id=9) == 2
            assert await error(method="SUBSCRIBE", params="btcusdt@trade", id=10) == 2
            assert await error(method="SUBSCRIBE", params=["a@trade"], id=1.5) == 2
            assert await error(method="SUBSCRIBE", params=[f"x{n}@trade" for n in range(1025)], id=11) == 2
            await socket.send("{not json")
            assert json.loads(await socket.recv())["error"]["code"] == 3

    with_exchange(capture_config(capture, limits=replace(LIMITS[USDM], messages_per_s=1000)), work)


def test_what_is_unsubscribed_stops(capture, rows):
    async def work(exchange):
        async with dial(exchange, PUBLIC) as socket:
            await request(socket, method="UNSUBSCRIBE", params=["btcusdt@trade", "btcusdt@bookTicker"], id=1)
            reader = asyncio.create_task(drained(socket))
            exchange.begin()
            await exchange.finished.wait()
            exchange.clients[0].close(1000, "")
            return (await reader)[0]

    assert with_exchange(capture_config(capture), work) == of_streams(rows, "depth@0ms")


@pytest.mark.parametrize("send", [lambda socket: socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}'), lambda socket: socket.ping(),
                                  lambda socket: socket.pong()])
def test_too_many_messages_of_any_kind_close_the_socket(capture, send):
    async def work(exchange):
        async with dial(exchange, "/public/ws") as socket:
            for _ in range(11):
                await send(socket)
            return (await drained(socket))[1:]

    assert with_exchange(capture_config(capture), work) == (1008, "Too many requests")


async def deaf(exchange: Exchange) -> bytes:
    """Return all bytes a client gets that asks for nothing and never answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", exchange.port)
    writer.write(b"GET /public/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                 b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    got = await reader.read()
    writer.close()
    return got


def test_a_ping_without_its_echo_closes_the_socket(capture):
    limits = replace(LIMITS[USDM], ping_every_s=0.05, pong_within_s=0.2)
    got = with_exchange(capture_config(capture, limits=limits), deaf)
    assert got[0] == 0x89 and got[2:2 + got[1]].isdigit(), "a ping with the venue's time comes first"
    assert got.endswith((1008).to_bytes(2, "big") + b"Pong timeout")


def test_a_ping_with_its_echo_keeps_the_socket_until_its_lifetime(capture):
    limits = replace(LIMITS[USDM], ping_every_s=20.0, pong_within_s=100.0, lifetime_s=800.0)

    async def work(exchange):
        async with dial(exchange, "/public/ws") as socket:
            return (await drained(socket))[1:]

    assert with_exchange(capture_config(capture, limits=limits, time_scale=1000.0), work) == (1001, "connection lifetime reached")


def test_venue_limits_are_those_documented():
    spot, usdm = LIMITS[SPOT], LIMITS[USDM]
    assert (spot.ping_every_s, spot.pong_within_s, spot.messages_per_s, spot.weight_per_window) == (20, 60, 5, 6000)
    assert (usdm.ping_every_s, usdm.pong_within_s, usdm.messages_per_s, usdm.weight_per_window) == (180, 600, 10, 2400)
    assert usdm.sped(60).lifetime_s == 1440


def test_new_connections_are_limited(capture):
    async def work(exchange):
        for _ in range(3):
            async with dial(exchange, "/public/ws"):
                pass
        with pytest.raises(InvalidStatus) as refused:
            await dial(exchange, "/public/ws")
        return refused.value.response.status_code

    assert with_exchange(capture_config(capture, limits=replace(LIMITS[USDM], connections=3)), work) == 429


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 30)), max_size=60))
def test_a_budget_bans_who_goes_on_and_forgets_each_window(requests):
    limits = replace(LIMITS[USDM], weight_per_window=1000, warnings=2, ban_s=50.0)
    budget, now_s, seen = Budget(limits), 0.0, []
    for weight, later_s in requests:
        now_s += later_s
        status, wait_s = budget.charge(weight, now_s)
        seen.append((now_s, weight, status, wait_s))
    banned_until_s, bans, window, used, warned = 0.0, 0, -1, 0, 0
    for now_s, weight, status, wait_s in seen:
        if now_s < banned_until_s:
            assert (status, wait_s) == (418, banned_until_s - now_s)
            continue
        if now_s // 60 != window:
            window, used, warned = now_s // 60, 0, 0
        used += weight
        warned += used > 1000
        assert status == (200 if used <= 1000 else 429 if warned <= 2 else 418)
        assert status != 429 or now_s + wait_s == pytest.approx(60 * (window + 1))
        if status == 418:
            banned_until_s, bans = now_s + 50.0 * 2**bans, bans + 1


def test_weights_429_and_418_over_the_wire(capture):
    async def work(exchange):
        await read_all(exchange)
        used = [int((await asked(exchange, f"/fapi/v1/{path}"))[1]["X-MBX-USED-WEIGHT-1M"]) for path in (
            "ping", "time", "exchangeInfo", "depth?symbol=BTCUSDT&limit=1000", "depth?symbol=BTCUSDT&limit=5", "depth?symbol=BTCUSDT",
            "aggTrades?symbol=BTCUSDT", "trades?symbol=BTCUSDT")]
        assert used == [1, 2, 3, 23, 25, 35, 55, 60]
        status = [await asked(exchange, "/fapi/v1/aggTrades?symbol=BTCUSDT") for _ in range(4)]
        assert [answer[0] for answer in status] == [200, 429, 418, 418]
        assert 1 <= int(status[1][1]["Retry-After"]) <= 3600 and status[1][2]["code"] == -1003

    limits = replace(LIMITS[USDM], weight_per_window=90, warnings=1, window_s=3600.0)
    with_exchange(capture_config(capture, limits=limits), work)


@pytest.mark.parametrize("options,word", [({"speed": 0}, "speed"), ({"venue": "coin"}, "venue"), ({"start": "later"}, "start"),
                                          ({"certificate": "a.pem"}, "certificate"), ({"blocked": 500}, "blocked"), ({"time_scale": 0}, "time scale")])
def test_wrong_configuration_is_named(options, word):
    with pytest.raises(BadInput, match=word):
        ExchangeConfig(["x"], **options)


def test_captures_that_cannot_be_played_are_named(tmp_path, capture):
    csv = tmp_path / "trades.csv"
    csv.write_text("id,price,qty,quote_qty,time,is_buyer_maker\n1,2.0,3.0,6.0,1700000000000,true\n")
    with pytest.raises(BadInput, match="raw frames"):
        load_tape([csv], USDM)
    with pytest.raises(BadInput, match="not of binance_spot"):
        load_tape([capture], SPOT)
    with pytest.raises(BadInput, match="no capture"):
        load_tape([])
    broken = tmp_path / "broken"
    broken.write_bytes(capture_lines_of(capture)[0] + b"\n" + b"1789977600008797166 {broken\n" * 101)
    with pytest.raises(BadInput, match="line 102"):
        load_tape([broken])


def capture_lines_of(capture: Path) -> list[bytes]:
    return [b"%d %s" % (stamp, frame) for stamp, _, frame in recorded(capture)]


def test_a_taken_port_is_a_failed_source(capture):
    async def work(exchange):
        with pytest.raises(SourceFailed, match=str(exchange.port)):
            await run_forever(ExchangeConfig([capture], port=exchange.port))

    with_exchange(capture_config(capture), work)


def test_run_forever_to_the_end_tells_when_it_is_ready(capture):
    told = []
    exchange = asyncio.run(run_forever(capture_config(capture, start="now"), told.append, to_end=True))
    assert told == [exchange] and exchange.finished.is_set() and exchange.market.position == len(exchange.tape)


def test_nothing_that_decides_imports_the_simulators():
    engine = Path(__file__).resolve().parents[1] / "engine"
    for path in engine.rglob("*.py"):
        if path.is_relative_to(engine / "sim") or path.name == "cli.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("engine.sim") for name in names), path
