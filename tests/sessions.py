"""Small valid sessions for tests: a seeded book with diffs, snapshot, best quotes, trades and feed rows."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from engine.instruments import Instrument
from engine.kernel.records import FIRST, LAST, SNAPSHOT_LEVEL
from engine.record.store import TABLES, SessionWriter

START_NS = 1_723_161_600_000_000_000
STEP_NS = 100_000_000
Rows = dict[str, list[dict]]


def tiny_instrument(symbol: str, venue: str = "binance_usdm") -> Instrument:
    """Return an instrument with a tick of 0.10 (spot 0.01) and a lot of 0.001 (spot 0.00001)."""
    if venue == "binance_spot":
        return Instrument(symbol, venue, "0.01", "0.00001", 8, 8)
    return Instrument(symbol, venue, "0.10", "0.001", 2, 3)


class _Market:
    """One symbol's book and id series, changed by random but never crossing steps."""

    def __init__(self, symbol: str, venue: str, rng: random.Random):
        self.symbol, self.venue, self.rng = symbol, venue, rng
        mid = 600_000 + 1000 * rng.randrange(50)
        self.bids = {mid - k: rng.randint(1, 900) for k in range(1, 21)}
        self.asks = {mid + k: rng.randint(1, 900) for k in range(1, 21)}
        self.update_id, self.trade_id = 5_000_000, 700_000

    def diff(self) -> list[dict]:
        """Change one to four levels and return the depth rows of the message."""
        changes = {}
        for _ in range(self.rng.randint(1, 4)):
            side = self.rng.choice((1, -1))
            own, other = (self.bids, self.asks) if side > 0 else (self.asks, self.bids)
            best, far = (max(own), min(other)) if side > 0 else (min(own), max(other))
            price = best + side * self.rng.randint(-8, 1)
            if price == far or (price > far) == (side > 0):
                continue
            lots = 0 if price in own and len(own) > 5 and self.rng.random() < 0.4 else self.rng.randint(1, 900)
            if lots:
                own[price] = lots
            else:
                own.pop(price)
            changes[side, price] = lots
        previous = self.update_id
        first = previous + 1 if self.venue == "binance_spot" else previous + self.rng.randint(1, 9)
        self.update_id = first + self.rng.randint(0, 20)
        levels = [(side, price, lots) for (side, price), lots in sorted(changes.items(), reverse=True)]
        return _frame(levels or [(1, None, None)], 0, first_id=first, last_id=self.update_id, prev_id=previous)

    def snapshot(self) -> list[dict]:
        """Return the rows of a full snapshot at the present update id."""
        levels = [(1, price, self.bids[price]) for price in sorted(self.bids, reverse=True)]
        levels += [(-1, price, self.asks[price]) for price in sorted(self.asks)]
        return _frame(levels, SNAPSHOT_LEVEL, first_id=None, last_id=self.update_id, prev_id=None)

    def best(self) -> list[dict]:
        """Return the best quote row of the present update id."""
        bid, ask = max(self.bids), min(self.asks)
        return [dict(bid_price_ticks=bid, bid_qty_lots=self.bids[bid], ask_price_ticks=ask, ask_qty_lots=self.asks[ask],
                     update_id=self.update_id)]

    def trade(self) -> list[dict]:
        """Return a trade at the best price of a random side."""
        self.trade_id += 1
        side = self.rng.choice((1, -1))
        price = min(self.asks) if side > 0 else max(self.bids)
        return [dict(price_ticks=price, qty_lots=self.rng.randint(1, 500), side=side, trade_id=self.trade_id,
                     first_id=None, last_id=None, bits=0)]


def _frame(levels: list[tuple], bits: int, **ids: int | None) -> list[dict]:
    rows = [dict(side=side, price_ticks=price, qty_lots=lots, bits=bits, **ids) for side, price, lots in levels]
    rows[0]["bits"] |= FIRST
    rows[-1]["bits"] |= LAST
    return rows


def tiny_rows(symbols: tuple[str, ...] = ("BTCUSDT",), venue: str = "binance_usdm", steps: int = 200,
              seed: int = 1) -> Rows:
    """Return the rows of every table: `steps` steps of 100 ms, seq dense from 1, a timer row each second."""
    rng = random.Random(seed)
    rows: Rows = {name: [] for name in TABLES}
    clock = {"seq": 0, "now_ns": START_NS}

    def put(table: str, symbol: str | None, made: list[dict], event: bool = True) -> None:
        clock["seq"] += 1
        clock["now_ns"] += rng.randint(1_000_000, 4_000_000)
        event_ns = (clock["now_ns"] - 5_000_000) // 1_000_000 * 1_000_000 if event else None
        key = dict(seq=clock["seq"], recv_ns=clock["now_ns"], event_ns=event_ns, symbol=symbol)
        rows[table] += [{**key, **row} for row in made]

    def feed(code: str, stream: str = "", symbol: str | None = None) -> None:
        put("feed", symbol, [dict(code=code, stream=stream, from_id=None, to_id=None, detail="")], event=False)

    markets = [_Market(symbol, venue, rng) for symbol in symbols]
    feed("connected")
    for step in range(steps):
        clock["now_ns"] = START_NS + step * STEP_NS
        if step % 10 == 0:
            feed("timer")
        for market in markets:
            diff, best = market.diff(), market.best()
            if step == 3:  # the snapshot overtakes the diff that brings it about
                put("depth", market.symbol, market.snapshot(), event=venue != "binance_spot")
            put("depth", market.symbol, diff)
            put("best", market.symbol, best, event=venue != "binance_spot")
            for _ in range(rng.randint(0, 2)):
                put("trades", market.symbol, market.trade())
    return rows


def write_session(data: Path, rows: Rows, session_id: str = "tiny", venue: str = "binance_usdm",
                  symbols: tuple[str, ...] = ("BTCUSDT",), **manifest: object) -> Path:
    """Write rows as the session `data/sessions/<session_id>`; `manifest` adds to or replaces manifest entries."""
    writer = SessionWriter(data / "sessions", session_id)
    for name, made in rows.items():
        writer.write(name, pa.Table.from_pylist(made, schema=TABLES[name]))
    keys = [(row["seq"], row["recv_ns"]) for made in rows.values() for row in made]
    facts = dict(venue=venue, symbols=list(symbols), instruments=[tiny_instrument(s, venue).as_dict() for s in symbols],
                 first_seq=min(keys)[0], last_seq=max(keys)[0], first_recv_ns=min(k[1] for k in keys),
                 last_recv_ns=max(k[1] for k in keys), clock="receive", gaps=[])
    return writer.finish({**facts, **manifest})


def tiny_session(data: Path, session_id: str = "tiny", symbols: tuple[str, ...] = ("BTCUSDT",),
                 venue: str = "binance_usdm", steps: int = 200, seed: int = 1,
                 edit: Callable[[Rows], None] | None = None, **manifest: object) -> Path:
    """Write a valid little session under `data/sessions`; `edit` changes the rows before they are written."""
    rows = tiny_rows(symbols, venue, steps, seed)
    if edit:
        edit(rows)
    return write_session(data, rows, session_id, venue, symbols, **manifest)


def insert_message(rows: Rows, table: str, at_seq: int, made: list[dict]) -> None:
    """Put a message in at a seq, half way in time between its neighbours; it and all later ones move up by one."""
    times = {row["seq"]: row["recv_ns"] for part in rows.values() for row in part}
    recv_ns = (times.get(at_seq - 1, times[at_seq] - 2) + times[at_seq]) // 2
    for part in rows.values():
        for row in part:
            row["seq"] += row["seq"] >= at_seq
    rows[table] += [{**dict(seq=at_seq, recv_ns=recv_ns, event_ns=None, symbol=None), **row} for row in made]
    rows[table].sort(key=lambda row: row["seq"])


def insert_feed(rows: Rows, at_seq: int, code: str, stream: str = "", symbol: str | None = None,
                from_id: int | None = None, to_id: int | None = None) -> None:
    """Put a feed row in at a seq."""
    row = dict(symbol=symbol, code=code, stream=stream, from_id=from_id, to_id=to_id, detail="")
    insert_message(rows, "feed", at_seq, [row])


def remove_message(rows: Rows, seq: int) -> None:
    """Take a message out as if it had never been received; all later ones move down by one."""
    for name, part in rows.items():
        rows[name] = [row for row in part if row["seq"] != seq]
        for row in rows[name]:
            row["seq"] -= row["seq"] > seq


def message_seqs(rows: Rows, table: str, symbol: str = "BTCUSDT") -> list[int]:
    """Return the seq of each message of a table and symbol, in order; snapshots left out."""
    own = [row for row in rows[table] if row["symbol"] == symbol and not row.get("bits", 0) & SNAPSHOT_LEVEL]
    return sorted({row["seq"] for row in own})
