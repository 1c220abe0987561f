"""The synthetic market as text: a recorder's USD-M capture lines, and a collector's MetaTrader 5 ticks."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from engine.instruments import decimal_text
from engine.measure.market_book import Book
from engine.measure.market_model import MarketConfig, PricePath, instrument

BROKER_TICK = "0.01"
_MS = 1_000_000


@dataclass(frozen=True)
class UpdateIds:
    """Ids of book updates: one per best quote, and first, last and previous per depth message."""

    best: np.ndarray
    first: np.ndarray
    last: np.ndarray
    previous: np.ndarray


def update_ids(config: MarketConfig, book: Book, rows: int) -> UpdateIds:
    """Return ids with holes between messages, as the futures venue has them, so that only `pu` proves continuity.

    A message whose window holds a best quote ends with that quote's id.
    """
    draw = config.stream("update ids")
    frames = len(book.frame_row)
    hole, quiet = draw.integers(0, 60, frames), draw.integers(1, 40, frames)
    steps = draw.integers(1, 120, rows)
    before_row = np.concatenate([[-1], book.frame_row[:-1]])
    busy = book.frame_row > before_row
    steps[before_row[busy] + 1] += 2 + hole[busy]
    alone = np.where(busy, 0, 2 + hole + quiet)
    np.add.at(steps, np.minimum(book.frame_row + 1, rows - 1)[~busy], alone[~busy])
    start = 5_123_000_000_000
    best = start + np.cumsum(steps)
    so_far = np.cumsum(alone)
    anchor = np.maximum.accumulate(np.where(busy, np.arange(frames), 0))
    last = best[book.frame_row] + so_far - so_far[anchor]
    previous = np.concatenate([[start], last[:-1]])
    return UpdateIds(best, previous + 1 + hole, last, previous)


def texts(values: np.ndarray, write: Callable[[int], str]) -> list[str]:
    """Return the text of each integer, each different one written once."""
    different, place = np.unique(values, return_inverse=True)
    written = np.array([write(value) for value in different.tolist()], object)
    return written[place].tolist()


def best_lines(config: MarketConfig, path: PricePath, ids: UpdateIds) -> list[str]:
    """Return one `@bookTicker` message per row of the path."""
    venue = instrument(config.symbol)
    head = f'{{"stream":"{config.symbol.lower()}@bookTicker","data":{{"e":"bookTicker","u":'
    columns = (texts(path.bid_ticks, venue.price_text), texts(path.bid_lots, venue.qty_text),
               texts(path.ask_ticks, venue.price_text), texts(path.ask_lots, venue.qty_text))
    return [f'{head}{u},"s":"{config.symbol}","b":"{bid}","B":"{bid_qty}","a":"{ask}","A":"{ask_qty}",'
            f'"T":{ms},"E":{ms}}}}}'
            for u, ms, bid, bid_qty, ask, ask_qty in zip(ids.best.tolist(), (path.time_ns // _MS).tolist(), *columns)]


def trade_lines(config: MarketConfig, path: PricePath, rows: np.ndarray, first_id: int) -> list[str]:
    """Return one `@trade` message per row that begins with a print."""
    venue = instrument(config.symbol)
    head = f'{{"stream":"{config.symbol.lower()}@trade","data":{{"e":"trade","E":'
    prices = texts(path.trade_ticks[rows], venue.price_text)
    lots = texts(path.qty_lots[rows], venue.qty_text)
    columns = zip((path.time_ns[rows] // _MS).tolist(), prices, lots, (path.side[rows] < 0).tolist())
    return [f'{head}{ms},"T":{ms},"s":"{config.symbol}","t":{trade_id},"p":"{price}","q":"{qty}","X":"MARKET",'
            f'"m":{"true" if maker_bought else "false"}}}}}'
            for trade_id, (ms, price, qty, maker_bought) in enumerate(columns, first_id)]


def depth_lines(config: MarketConfig, book: Book, ids: UpdateIds) -> list[str]:
    """Return one `@depth@0ms` message per frame."""
    venue = instrument(config.symbol)
    head = f'{{"stream":"{config.symbol.lower()}@depth@0ms","data":{{"e":"depthUpdate","E":'
    sides = []
    for changes in (book.bids, book.asks):
        pairs = [f'["{price}","{qty}"]' for price, qty in
                 zip(texts(changes.ticks, venue.price_text), texts(changes.lots, venue.qty_text))]
        edges = np.searchsorted(changes.frame, np.arange(len(book.frame_ns) + 1)).tolist()
        sides.append([",".join(pairs[low:high]) for low, high in zip(edges, edges[1:])])
    columns = zip((book.frame_ns // _MS).tolist(), ids.first.tolist(), ids.last.tolist(), ids.previous.tolist(), *sides)
    return [f'{head}{ms},"T":{ms},"s":"{config.symbol}","U":{first},"u":{last},"pu":{previous},'
            f'"b":[{bids}],"a":[{asks}]}}}}'
            for ms, first, last, previous, bids, asks in columns]


def snapshot_line(config: MarketConfig, book: Book, ids: UpdateIds, frame: int) -> str:
    """Return the REST body of the book after a depth message; its id lies inside the next, as the venue's rule asks."""
    venue = instrument(config.symbol)
    ms = int(book.frame_ns[frame]) // _MS
    bids, asks = (",".join(f'["{venue.price_text(ticks)}","{venue.qty_text(lots)}"]' for ticks, lots in
                           zip(*(part.tolist() for part in book.snapshot(frame, side)))) for side in (1, -1))
    return f'{{"lastUpdateId":{int(ids.first[frame + 1])},"E":{ms + 1},"T":{ms},"bids":[{bids}],"asks":[{asks}]}}'


def tick_json(config: MarketConfig, server_ms: np.ndarray, received_ms: np.ndarray, bid: np.ndarray,
              ask: np.ndarray) -> str:
    """Return broker ticks in the collector's JSON layout; bid and ask are whole steps of 0.01, times in ms."""
    def price(steps: int) -> str:
        return decimal_text(steps, BROKER_TICK, 5)

    stamps = texts(server_ms // 1_000, _stamp)
    columns = zip(stamps, server_ms.tolist(), received_ms.tolist(), texts(bid, price), texts(ask, price),
                  (ask - bid).tolist(), ((ask - bid) * 100 / bid).tolist())
    ticks = ",\n".join(
        f'    {{\n      "timestamp": "{stamp}",\n      "time_msc": {server},\n      "collected_msc": {received},\n'
        f'      "bid": {bid_text},\n      "ask": {ask_text},\n      "last": 0.00000,\n      "tick_volume": 0,\n'
        f'      "real_volume": 0.00,\n      "chart_tick_volume": {number},\n      "spread_points": {spread},\n'
        f'      "spread_pct": {share:.6f},\n      "tick_flags": "BID ASK",\n      "session": "london",\n'
        f'      "server_time": "{stamp}"\n    }}'
        for number, (stamp, server, received, bid_text, ask_text, spread, share) in enumerate(columns, 1))
    return f"{_tick_head(config, int(server_ms[0]), int(received_ms[0]))}{ticks}\n  ],\n{_tick_tail(server_ms)}"


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y.%m.%d %H:%M:%S")


def _tick_head(config: MarketConfig, server_ms: int, received_ms: int) -> str:
    """Return the metadata; like the real collector's it says offset 0 although `time_msc` is broker server time."""
    server = _stamp(server_ms // 1_000)
    return f"""{{
  "metadata": {{
    "symbol": "{config.broker_symbol}",
    "broker_type": "mt5",
    "broker": "synthetic",
    "server": "Synthetic-Demo",
    "broker_utc_offset_hours": 0,
    "local_device_time": "{_stamp(received_ms // 1_000)}",
    "broker_server_time": "{server}",
    "start_time": "{server}",
    "start_time_unix": {server_ms // 1_000},
    "timeframe": "TICK",
    "data_format_version": "1.3.0",
    "data_collector": "mt5",
    "market_type": "forex_cfd",
    "symbol_info": {{
      "point_value": 0.01000000,
      "digits": 2,
      "tick_size": 0.01000000,
      "tick_value": 0.01000000
    }}
  }},
  "ticks": [
"""


def _tick_tail(server_ms: np.ndarray) -> str:
    return f"""  "errors": {{
    "by_severity": {{
      "negligible": 0,
      "serious": 0,
      "fatal": 0
    }},
    "details": [
    ]
  }},
  "summary": {{
    "total_ticks": {len(server_ms)},
    "total_errors": 0,
    "data_stream_status": "HEALTHY",
    "timing": {{
      "end_time": "{_stamp(int(server_ms[-1]) // 1_000)}",
      "duration_minutes": {(int(server_ms[-1]) - int(server_ms[0])) / 60_000:.1f}
    }}
  }}
}}
"""
