"""Clients nobody here wrote connect to the exchange simulator, and those that keep a book build the right one.

They are listed in tests/clients.txt; a test whose client is not installed is skipped.
"""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
from exchanges import beginning, of_streams, recorded, running

from engine.sim.exchange import Exchange, ExchangeConfig
from engine.sim.faults import Fault

LINES = 3_000                  # of a recording: twelve seconds of USD-M, 28 of spot
SPEED = {"usdm": 10.0, "spot": 25.0}
PUBLIC = {"usdm": "/public", "spot": ""}
WAIT_S = 60
API = {"usdm": "/fapi/v1", "spot": "/api/v3"}
Top = tuple[tuple[Decimal, Decimal], tuple[Decimal, Decimal]]

pytestmark = pytest.mark.filterwarnings("ignore")      # of what the clients import


def client(name: str):
    """Import a client, or skip."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed; see tests/clients.txt")


@pytest.fixture(params=["usdm", pytest.param("spot", marks=pytest.mark.slow)])
def venue(request) -> str:
    return request.param


@pytest.fixture
def capture(realdata, venue, tmp_path) -> Path:
    return beginning(realdata / f"binance_{venue}" / "btcusdt_20240808.gz", LINES, tmp_path)


class Quotes:
    """The venue's own best quotes by update id, as recorded."""

    def __init__(self, capture: Path):
        rows = [json.loads(frame)["data"] for frame in of_streams(recorded(capture), "bookTicker")]
        self.tops = {row["u"]: ((Decimal(row["b"]), Decimal(row["B"])), (Decimal(row["a"]), Decimal(row["A"]))) for row in rows}
        self.ids = sorted(self.tops)

    def at(self, update_id: int) -> Top:
        """Return the best quote that stood at an update id."""
        return self.tops[self.ids[bisect_right(self.ids, update_id) - 1]]

    def check(self, seen: dict[int, Top], least: int) -> None:
        """Require that a client had enough books, that all but the odd one told the venue's quote, and so did the last."""
        assert len(seen) >= least
        wrong = [update_id for update_id, top in seen.items() if top != self.at(update_id)]
        assert len(wrong) <= 2, wrong
        assert seen[max(seen)] == self.at(max(seen))


async def until_quiet(exchange: Exchange, count: Callable[[], int]) -> None:
    """Wait until the tape has been played and the client has got through what it was sent."""
    before = None
    async with asyncio.timeout(WAIT_S):
        while not exchange.finished.is_set() or before != count():
            before = count()
            await asyncio.sleep(0.3)


async def until_silent(exchange: Exchange, next_book: Callable[[], Awaitable], take: Callable[[object], None]) -> None:
    """Take books of a client until the tape has been played and no more come."""
    async with asyncio.timeout(WAIT_S):
        while True:
            last = exchange.finished.is_set()
            try:
                take(await asyncio.wait_for(next_book(), 0.5))
            except TimeoutError:
                if last:
                    return


def diffs_of(capture: Path) -> list[dict]:
    return [json.loads(frame)["data"] for frame in of_streams(recorded(capture), "depth@0ms", "depth@100ms")]


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> dict[str, Path]:
    """A certificate for the loopback address, for cryptofeed takes no socket without TLS."""
    authority = client("trustme").CA()
    issued = authority.issue_cert("127.0.0.1")
    places = {name: tmp_path_factory.mktemp("tls") / f"{name}.pem" for name in ("authority", "certificate", "key")}
    authority.cert_pem.write_to_path(places["authority"])
    issued.cert_chain_pems[0].write_to_path(places["certificate"])
    issued.private_key_pem.write_to_path(places["key"])
    return places


def cryptofeed_follows(exchange: Exchange, call: Callable, venue: str, tls: dict[str, Path]) -> dict:
    """Play the tape to cryptofeed in a process of its own and return what it saw."""
    client("cryptofeed")
    asked = {"ws": exchange.ws_url, "rest": exchange.rest_url, "venue": venue, "api": API[venue],
             "public": PUBLIC[venue], "market": "/market" if venue == "usdm" else ""}
    trusted = {name: str(tls["authority"]) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    with subprocess.Popen([sys.executable, Path(__file__).with_name("cryptofeed_follow.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, env={**os.environ, **trusted}) as child:
        try:
            child.stdin.write(json.dumps(asked) + "\n")
            child.stdin.flush()
            until_s = time.monotonic() + WAIT_S
            while call(lambda: sum(bool(connected.routes) for connected in exchange.clients)) < 2:
                assert child.poll() is None and time.monotonic() < until_s, "cryptofeed did not connect"
                time.sleep(0.05)
            call(exchange.begin)
            while not exchange.finished.is_set():
                assert child.poll() is None and time.monotonic() < until_s
                time.sleep(0.05)
            return json.loads(child.communicate(timeout=WAIT_S)[0])
        finally:
            child.kill()


def tops_of(seen: dict) -> dict[int, Top]:
    return {int(number): tuple(tuple(map(Decimal, level)) for level in top) for number, top in seen["tops"].items()}


def test_cryptofeed_builds_the_book(capture, venue, tls):
    config = ExchangeConfig([capture], speed=SPEED[venue], start="call", certificate=tls["certificate"], key=tls["key"])
    with running(config) as (exchange, call):
        seen = cryptofeed_follows(exchange, call, venue, tls)
    rows, tops = recorded(capture), tops_of(seen)
    trades = [json.loads(frame)["data"] for frame in of_streams(rows, "trade")]
    assert seen["got"]["tickers"] == len(of_streams(rows, "bookTicker"))
    assert Decimal(*seen["quantity"].values()) == sum(Decimal(row["q"]) for row in trades if row.get("X", "MARKET") == "MARKET")
    assert max(tops) == max(diff["u"] for diff in diffs_of(capture))
    Quotes(capture).check(tops, len(diffs_of(capture)) // 2)


@pytest.mark.slow
def test_cryptofeed_resyncs_after_gaps(realdata, tls, tmp_path):
    capture = beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", LINES, tmp_path)
    faults = [Fault(5.0, "gap", "*@depth*", for_s=0.5), Fault(9.0, "drop", "*@depth*", count=2)]
    config = ExchangeConfig([capture], speed=4.0, start="call", faults=faults, certificate=tls["certificate"], key=tls["key"])
    with running(config) as (exchange, call):
        seen = cryptofeed_follows(exchange, call, "usdm", tls)
        assert exchange.rest.served["depth"] == 3, "one body at the start and one after each fault"
    Quotes(capture).check(tops_of(seen), len(diffs_of(capture)) // 2)


@pytest.mark.slow
def test_cryptofeed_follows_five_symbols_on_one_socket(realdata, tls):
    capture = next((realdata / "cryptofeed").glob("6397a047*"))
    config = ExchangeConfig([capture], speed=40.0, start="call", certificate=tls["certificate"], key=tls["key"])
    with running(config) as (exchange, call):
        seen = cryptofeed_follows(exchange, call, "usdm", tls)
        last = {symbol: json.loads(exchange.tape.data(exchange.tape.of(symbol, "depth")[-1]))["u"] for symbol in exchange.tape.symbols}
    assert {name.removesuffix("-PERP").replace("-", ""): number for name, number in seen["last"].items()} == last


def official(exchange: Exchange, venue: str):
    """Return the official SDK's client of a venue, pointed at the simulator."""
    client("binance_common")
    from binance_common.configuration import ConfigurationRestAPI, ConfigurationWebSocketStreams
    rest = ConfigurationRestAPI(api_key="key", api_secret="secret", base_path=exchange.rest_url)
    streams = ConfigurationWebSocketStreams(stream_url=exchange.ws_url)
    if venue == "usdm":
        client("binance_sdk_derivatives_trading_usds_futures")
        from binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures import (
            DerivativesTradingUsdsFutures,
        )
        return DerivativesTradingUsdsFutures(config_rest_api=rest, config_ws_streams=streams)
    client("binance_sdk_spot")
    from binance_sdk_spot.spot import Spot
    return Spot(config_rest_api=rest, config_ws_streams=streams)


def test_official_sdk_gets_every_stream(capture, venue):
    async def main(exchange, call) -> dict[str, list]:
        got = {"depth": [], "best": [], "trades": []}
        connection = await official(exchange, venue).websocket_streams.create_connection()
        try:
            if venue == "usdm":
                streams = {"depth": connection.diff_book_depth_streams("btcusdt", update_speed="100ms"),
                           "best": connection.individual_symbol_book_ticker_streams("btcusdt"), "trades": connection.aggregate_trade_streams("btcusdt")}
            else:
                streams = {"depth": connection.diff_book_depth("btcusdt", update_speed="100ms"), "best": connection.book_ticker("btcusdt"),
                           "trades": connection.trade("btcusdt")}
            for name, stream in streams.items():
                (await stream).on("message", got[name].append)
            assert (await connection.list_subscribe())["result"]
            call(exchange.begin)
            await until_quiet(exchange, lambda: sum(map(len, got.values())))
        finally:
            await connection.close_connection(close_session=True)
        return got

    with running(ExchangeConfig([capture], speed=SPEED[venue], start="call")) as (exchange, call):
        got = asyncio.run(main(exchange, call))
        trades = exchange.tape.of("BTCUSDT", "aggTrade" if venue == "usdm" else "trade")
        assert len(got["trades"]) == len(trades)
    rows = recorded(capture)
    assert [event.u for event in got["depth"]] == [diff["u"] for diff in diffs_of(capture)]
    want = [json.loads(frame)["data"] for frame in of_streams(rows, "bookTicker")]
    assert [(event.u, event.b, event.A) for event in got["best"]] == [(row["u"], row["b"], row["A"]) for row in want]


def test_official_sdk_reads_every_answer(capture, venue):
    with running(ExchangeConfig([capture], speed=float("inf"), start="now")) as (exchange, call):
        while not exchange.finished.is_set():
            time.sleep(0.01)
        rest = official(exchange, venue).rest_api
        best = Quotes(capture)
        if venue == "usdm":
            book, info, clock = rest.order_book("BTCUSDT", limit=1000), rest.exchange_information(), rest.check_server_time()
            aggregates, old = rest.compressed_aggregate_trades_list("BTCUSDT", limit=5), rest.old_trades_lookup("BTCUSDT", limit=5)
        else:
            book, info, clock = rest.depth("BTCUSDT", limit=1000), rest.exchange_info(), rest.time()
            aggregates, old = rest.agg_trades("BTCUSDT", limit=5), rest.historical_trades("BTCUSDT", limit=5)
        assert [limit.count for limit in old.rate_limits][0] == (20 + 1 + 1 + 20 + 200 if venue == "usdm" else 50 + 20 + 1 + 4 + 25)
        book, clock = book.data(), clock.data()
        top = tuple((Decimal(level[0]), Decimal(level[1])) for level in (book.bids[0], book.asks[0]))
        assert len(book.bids) == len(book.asks) == 1000 and top == best.at(book.last_update_id)
        assert info.data().symbols[0].symbol == "BTCUSDT" and clock.server_time == call(exchange.now_ms)
        trades = [row for row in (json.loads(frame)["data"] for frame in of_streams(recorded(capture), "trade")) if row.get("X", "MARKET") == "MARKET"]
        assert [row.id for row in old.data()] == [row["t"] for row in trades[-5:]] and aggregates.data()[-1].l == trades[-1]["t"]


def test_ccxt_builds_the_book(capture, venue):
    client("ccxt")
    import ccxt.pro
    seen: dict[int, Top] = {}

    async def main(exchange):
        ccxt_client = ccxt.pro.binanceusdm() if venue == "usdm" else ccxt.pro.binance()
        kind, symbol = ("linear", "BTC/USDT:USDT") if venue == "usdm" else ("spot", "BTC/USDT")
        ccxt_client.options["fetchMarkets"] = {"types": [kind]}
        ccxt_client.has["fetchCurrencies"] = False
        addresses = ccxt_client.urls["api"]
        addresses |= {"fapiPublic": exchange.rest_url + API["usdm"], "public": exchange.rest_url + API["spot"]}
        addresses["ws"] |= {kind: exchange.ws_url + "/ws"}
        try:
            await until_silent(exchange, lambda: ccxt_client.watch_order_book(symbol, 1000), lambda book: seen.update(
                {book["nonce"]: tuple((Decimal(str(book[side][0][0])), Decimal(str(book[side][0][1]))) for side in ("bids", "asks"))}))
        finally:
            await ccxt_client.close()

    with running(ExchangeConfig([capture], speed=SPEED[venue])) as (exchange, _):
        asyncio.run(main(exchange))
    assert max(seen) == max(diff["u"] for diff in diffs_of(capture))
    Quotes(capture).check(seen, len(diffs_of(capture)) // 2)


@pytest.mark.slow
def test_python_binance_builds_the_book(realdata, tmp_path, monkeypatch):
    client("binance")
    from binance import AsyncClient, BinanceSocketManager, DepthCacheManager
    from binance.ws.reconnecting_websocket import ReconnectingWebsocket
    monkeypatch.setattr(ReconnectingWebsocket, "TIMEOUT", 1)       # how long it waits for its reader when it closes
    capture = beginning(realdata / "binance_spot" / "btcusdt_20240808.gz", LINES, tmp_path)
    seen: dict[int, Top] = {}

    async def main(exchange):
        binance = AsyncClient()
        binance.API_URL = exchange.rest_url + "/api"
        sockets = BinanceSocketManager(binance)
        sockets.STREAM_URL = exchange.ws_url + "/"
        try:
            async with DepthCacheManager(binance, "BTCUSDT", bm=sockets, limit=1000, ws_interval=100, conv_type=Decimal) as manager:
                await until_silent(exchange, manager.recv, lambda book: seen.update(
                    {manager._last_update_id: tuple(map(tuple, (book.get_bids()[0], book.get_asks()[0])))}))
        finally:
            await binance.close_connection()

    with running(ExchangeConfig([capture], speed=SPEED["spot"])) as (exchange, _):
        asyncio.run(main(exchange))
    assert max(seen) == max(diff["u"] for diff in diffs_of(capture))
    Quotes(capture).check(seen, len(diffs_of(capture)) // 2)
