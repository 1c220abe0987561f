"""Small capture files for tests, written in the shape of the real ones."""

import gzip
import json
from pathlib import Path

from engine.record.importer import import_files
from engine.record.store import TABLES, Session

T0_NS = 1_723_161_600_000_000_000
MS = 1_000_000


def event_ms(at_ns: int) -> int:
    return at_ns // MS + 1


def trade(trade_id: int, price="61800.20", qty="0.010", maker=False, symbol="BTCUSDT", at=T0_NS, **more) -> dict:
    """Return a USD-M trade frame."""
    data = {
        "e": "trade", "E": event_ms(at), "T": event_ms(at), "s": symbol, "t": trade_id, "p": price, "q": qty,
        "X": "MARKET", "m": maker
    }
    return {"stream": f"{symbol.lower()}@trade", "data": data | more}


def agg_trade(agg_id: int, first: int, last: int, price="61800.20", qty="0.010", symbol="BTCUSDT", at=T0_NS) -> dict:
    """Return a USD-M aggTrade frame."""
    return {
        "stream": f"{symbol.lower()}@aggTrade", "data": {
            "e": "aggTrade", "E": event_ms(at), "T": event_ms(at), "s": symbol, "a": agg_id, "p": price, "q": qty,
            "f": first, "l": last, "m": True
        }
    }


def diff(first: int, last: int, prev: int, bids=(), asks=(), symbol="BTCUSDT", at=T0_NS, stream="depth@0ms") -> dict:
    """Return a USD-M depth diff frame."""
    return {
        "stream": f"{symbol.lower()}@{stream}", "data": {
            "e": "depthUpdate", "E": event_ms(at), "T": event_ms(at), "s": symbol, "U": first, "u": last, "pu": prev,
            "b": bids, "a": asks
        }
    }


def best(update_id: int, bid="61800.20", ask="61800.30", symbol="BTCUSDT", at=T0_NS) -> dict:
    """Return a USD-M bookTicker frame."""
    return {
        "stream": f"{symbol.lower()}@bookTicker", "data": {
            "e": "bookTicker", "u": update_id, "s": symbol, "b": bid, "B": "1.000", "a": ask, "A": "2.000",
            "T": event_ms(at), "E": event_ms(at)
        }
    }


def spot_diff(first: int, last: int, bids=(), asks=(), symbol="BTCUSDT", at=T0_NS) -> dict:
    """Return a spot depth diff frame."""
    return {"stream": f"{symbol.lower()}@depth@100ms", "data": {
        "e": "depthUpdate", "E": event_ms(at), "s": symbol, "U": first, "u": last, "b": bids, "a": asks}}


def lines(*frames: dict | str, step_ns: int = MS, start_ns: int = T0_NS, unit_ns: int = 1) -> list[str]:
    """Return capture lines one step apart; a text stands as it is."""
    return [f if isinstance(f, str) else f"{(start_ns + k * step_ns) // unit_ns} {json.dumps(f, separators=(',', ':'))}"
            for k, f in enumerate(frames)]


def write(path: Path, rows: list[str]) -> Path:
    """Write lines to a file, packed when its name ends in .gz."""
    data = "".join(row + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def imported(tmp_path: Path, *paths: Path, **options) -> tuple[dict, Session]:
    """Import files and open the session."""
    result = import_files(paths, tmp_path / "data", **options)
    return result, Session(result["path"])


def rows_of(session: Session, table: str) -> list[dict]:
    """Return a table's rows."""
    return session.table(table).to_pylist()


def feed_rows(session: Session, code: str) -> list[dict]:
    """Return the feed rows of one code."""
    return [row for row in rows_of(session, "feed") if row["code"] == code]


def in_order(session: Session) -> list[tuple[int, int, str]]:
    """Return (seq, recv_ns, table) of every message and feed row."""
    found = set()
    for table in TABLES:
        found.update((r["seq"], r["recv_ns"], f"feed {r['code']}" if table == "feed" else table)
                     for r in rows_of(session, table))
    return sorted(found)
