"""Clients nobody here wrote connect to the exchange simulator, and those that keep a book build the right one.

They come with the dependency group `clients`; a test whose client is not installed is skipped.
"""

import asyncio
import importlib
import json
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from exchanges import beginning, of_streams, recorded, running

from engine.sim.exchange import Exchange, ExchangeConfig
from engine.sim.faults import Fault

LINES = 4_000                  # of a recording: some twelve seconds of USD-M, some thirty of spot
SPEED = {"usdm": 10.0, "spot": 25.0}
PUBLIC = {"usdm": "/public", "spot": ""}
API = {"usdm": "/fapi/v1", "spot": "/api/v3"}
Top = tuple[tuple[Decimal, Decimal], tuple[Decimal, Decimal]]

pytestmark = pytest.mark.filterwarnings("ignore")      # of what the clients import


def client(name: str):
    """Import a client, or skip."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed; it comes with the dependency group 'clients'")


@pytest.fixture(params=["usdm", "spot"])
def venue(request) -> str:
    return request.param


@pytest.fixture
def capture(realdata, venue, tmp_path) -> Path:
    return beginning(realdata / f"binance_{venue}" / "btcusdt_20240808.gz", LINES, tmp_path)


@pytest.fixture
def tls(tmp_path, monkeypatch) -> Iterator[dict]:
    """A certificate for the loopback address that every client here trusts."""
    trustme = client("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    places = [tmp_path / name for name in ("authority.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(places[0])
    issued.cert_chain_pems[0].write_to_path(places[1])
    issued.private_key_pem.write_to_path(places[2])
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(places[0]))
    yield {"certificate": places[1], "key": places[2]}


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
    while not exchange.finished.is_set() or before != count():
        before = count()
        await asyncio.sleep(0.2)


def diffs_of(capture: Path) -> list[dict]:
    return [json.loads(frame)["data"] for frame in of_streams(recorded(capture), "depth@0ms", "depth@100ms")]


# cryptofeed -----------------------------------------------------------------------------------------------------


def local_feed(exchange: Exchange, venue: str, path: str) -> type:
    """Return cryptofeed's own exchange class, pointed at the simulator."""
    client("cryptofeed")
    from cryptofeed.connection import RestEndpoint, Routes, WebsocketEndpoint
    from cryptofeed.exchanges import Binance, BinanceFutures

    class Local(BinanceFutures if venue == "usdm" else Binance):
        websocket_endpoints = [WebsocketEndpoint(exchange.ws_url + path)]
        rest_endpoints = [RestEndpoint(exchange.rest_url, routes=Routes(f"{API[venue]}/exchangeInfo", l2book=API[venue] + "/depth?symbol={}&limit={}"))]

    return Local


async def follow(exchange: Exchange, call: Callable, feeds: list, count: Callable[[], int]) -> None:
    """Run feeds until the tape has been played to them."""
    for feed in feeds:
        feed.start(asyncio.get_running_loop())
    while call(lambda: sum(bool(connected.routes) for connected in exchange.clients)) < len(feeds):
        await asyncio.sleep(0.02)
    call(exchange.begin)
    await until_quiet(exchange, count)
    for feed in feeds:
        await feed.shutdown()


def test_cryptofeed_builds_the_book(capture, venue, tls):
    client("cryptofeed")
    from cryptofeed.defines import L2_BOOK, TICKER, TRADES
    seen: dict[int, Top] = {}
    got = Counter()

    async def on_book(book, _):
        got["books"] += 1
        seen[book.sequence_number] = book.book.bids.index(0), book.book.asks.index(0)

    async def on_ticker(ticker, _):
        got["tickers"] += 1

    async def on_trade(trade, _):
        got["trades"] += 1
        got["quantity"] += trade.amount

    with running(ExchangeConfig([capture], speed=SPEED[venue], start="call", **tls)) as (exchange, call):
        public, market = (local_feed(exchange, venue, path) for path in ((PUBLIC[venue], "/market") if venue == "usdm" else ("", "")))
        symbol = next(name for name in public.symbols() if "PINDEX" not in name)
        feeds = [public(symbols=[symbol], channels=[L2_BOOK, TICKER], callbacks={L2_BOOK: on_book, TICKER: on_ticker}),
                 market(symbols=[symbol], channels=[TRADES], callbacks={TRADES: on_trade})]
        asyncio.run(follow(exchange, call, feeds, lambda: sum(got.values())))
    rows = recorded(capture)
    trades = [json.loads(frame)["data"] for frame in of_streams(rows, "trade")]
    assert got["tickers"] == len(of_streams(rows, "bookTicker"))
    assert got["quantity"] == sum(Decimal(row["q"]) for row in trades if row.get("X", "MARKET") == "MARKET")
    assert max(seen) == max(diff["u"] for diff in diffs_of(capture))
    Quotes(capture).check(seen, len(diffs_of(capture)) * 9 // 10)


def test_cryptofeed_resyncs_after_a_gap(realdata, tls, tmp_path):
    client("cryptofeed")
    from cryptofeed.defines import L2_BOOK
    capture = beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", LINES, tmp_path)
    seen: dict[int, Top] = {}

    async def on_book(book, _):
        seen[book.sequence_number] = book.book.bids.index(0), book.book.asks.index(0)

    faults = [Fault(4.0, "gap", "*@depth*", for_s=0.5), Fault(7.0, "drop", "*@depth*", count=2)]
    with running(ExchangeConfig([capture], speed=5.0, start="call", faults=faults, **tls)) as (exchange, call):
        feed = local_feed(exchange, "usdm", "/public")
        feeds = [feed(symbols=["BTC-USDT-PERP"] if feed.symbols() else [], channels=[L2_BOOK], callbacks={L2_BOOK: on_book})]
        asyncio.run(follow(exchange, call, feeds, lambda: len(seen)))
        assert exchange.rest.served["depth"] == 3, "one snapshot at the start and one after each fault"
    Quotes(capture).check(seen, 100)


def test_cryptofeed_follows_five_symbols_on_one_socket(realdata, tls):
    client("cryptofeed")
    from cryptofeed.defines import L2_BOOK
    capture = next((realdata / "cryptofeed").glob("6397a047*"))
    books = {}

    async def on_book(book, _):
        books[book.symbol] = book.sequence_number

    with running(ExchangeConfig([capture], speed=40.0, start="call", **tls)) as (exchange, call):
        feed = local_feed(exchange, "usdm", "/public")
        symbols = [name for name in feed.symbols() if name.endswith("-PERP")]
        asyncio.run(follow(exchange, call, [feed(symbols=symbols, channels=[L2_BOOK], callbacks={L2_BOOK: on_book})], lambda: sum(books.values())))
        last = {symbol: json.loads(exchange.tape.data(exchange.tape.of(symbol, "depth")[-1]))["u"] for symbol in exchange.tape.symbols}
    assert {name.replace("-PERP", "").replace("-", ""): number for name, number in books.items()} == last


# the official SDKs ----------------------------------------------------------------------------------------------


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


# ccxt and python-binance ----------------------------------------------------------------------------------------


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
            while not exchange.finished.is_set():
                try:
                    book = await asyncio.wait_for(ccxt_client.watch_order_book(symbol, 1000), 1)
                except TimeoutError:
                    continue
                seen[book["nonce"]] = tuple((Decimal(str(book[side][0][0])), Decimal(str(book[side][0][1]))) for side in ("bids", "asks"))
        finally:
            await ccxt_client.close()

    with running(ExchangeConfig([capture], speed=SPEED[venue])) as (exchange, _):
        asyncio.run(main(exchange))
    assert max(seen) == max(diff["u"] for diff in diffs_of(capture))
    Quotes(capture).check(seen, len(diffs_of(capture)) // 2)


def test_python_binance_builds_the_book(realdata, tmp_path):
    client("binance")
    from binance import AsyncClient, BinanceSocketManager, DepthCacheManager
    capture = beginning(realdata / "binance_spot" / "btcusdt_20240808.gz", LINES, tmp_path)
    seen: dict[int, Top] = {}

    async def main(exchange):
        binance = AsyncClient()
        binance.API_URL = exchange.rest_url + "/api"
        sockets = BinanceSocketManager(binance)
        sockets.STREAM_URL = exchange.ws_url + "/"
        try:
            async with DepthCacheManager(binance, "BTCUSDT", bm=sockets, limit=1000, ws_interval=100, conv_type=Decimal) as manager:
                while not exchange.finished.is_set():
                    try:
                        book = await asyncio.wait_for(manager.recv(), 1)
                    except TimeoutError:
                        continue
                    seen[manager._last_update_id] = tuple(map(tuple, (book.get_bids()[0], book.get_asks()[0])))
        finally:
            await binance.close_connection()

    with running(ExchangeConfig([capture], speed=SPEED["spot"])) as (exchange, _):
        asyncio.run(main(exchange))
    assert max(seen) == max(diff["u"] for diff in diffs_of(capture))
    Quotes(capture).check(seen, len(diffs_of(capture)) // 2)
