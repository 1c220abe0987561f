"""Follow an exchange at a given address with cryptofeed, in a process of its own: it keeps symbols and certificates for good.

Reads one line of JSON, follows until its input closes and nothing more comes, and prints what it saw as JSON.
"""

import asyncio
import json
import sys
from collections import Counter
from decimal import Decimal

from cryptofeed.connection import RestEndpoint, Routes, WebsocketEndpoint
from cryptofeed.defines import L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import Binance, BinanceFutures


def local(asked: dict, path: str) -> type:
    """Return cryptofeed's own exchange class at other addresses."""
    class Local(BinanceFutures if asked["venue"] == "usdm" else Binance):
        websocket_endpoints = [WebsocketEndpoint(asked["ws"] + path)]
        rest_endpoints = [RestEndpoint(asked["rest"], routes=Routes(asked["api"] + "/exchangeInfo", l2book=asked["api"] + "/depth?symbol={}&limit={}"))]

    return Local


async def main(asked: dict) -> dict:
    """Follow books and best quotes on one socket, trades on another."""
    tops, last, got, quantity = {}, {}, Counter(), Counter()

    async def on_book(book, _):
        got["books"] += 1
        last[book.symbol] = book.sequence_number
        tops[book.sequence_number] = [list(map(str, book.book.bids.index(0))), list(map(str, book.book.asks.index(0)))]

    async def on_ticker(ticker, _):
        got["tickers"] += 1

    async def on_trade(trade, _):
        got["trades"] += 1
        quantity[trade.symbol] += Decimal(trade.amount)

    public, market = local(asked, asked["public"]), local(asked, asked["market"])
    symbols = [name for name in public.symbols() if not name.endswith("-PINDEX")]
    feeds = [public(symbols=symbols, channels=[L2_BOOK, TICKER], callbacks={L2_BOOK: on_book, TICKER: on_ticker}),
             market(symbols=symbols, channels=[TRADES], callbacks={TRADES: on_trade})]
    for feed in feeds:
        feed.start(asyncio.get_running_loop())
    await asyncio.to_thread(sys.stdin.read)
    before = None
    while before != got:
        before = got.copy()
        await asyncio.sleep(0.4)
    for feed in feeds:
        await feed.shutdown()
    return {"tops": tops, "last": last, "got": got, "quantity": {name: str(total) for name, total in quantity.items()}}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.stdin.readline())))))
