"""The recorder over real sockets: against an import of the same capture, and under seeded faults."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from engine.kernel.records import PARTIAL_DEPTH, SNAPSHOT_LEVEL
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.convert import convert
from engine.record.importer import import_files
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.store import Session
from engine.sim.exchange import MAX, Exchange, ExchangeConfig
from engine.sim.faults import Fault
from engine.sources.binance import Endpoint

QUIET_S = 0.5
COMPARED = ("trades", "best", "marks", "liquidations")


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return generate(MarketConfig(seed=3, duration_s=20.0), tmp_path_factory.mktemp("market") / "m").capture


def endpoint_of(exchange: Exchange) -> Endpoint:
    return Endpoint(exchange.tape.venue, exchange.ws_url, exchange.rest_url)


async def played(exchange: Exchange, recorder: Recorder, sockets: int) -> None:
    """Let a recorder connect, play the capture to its end and let everything arrive."""
    task = asyncio.create_task(recorder.run())
    while sum(bool(client.names) for client in exchange.clients) < sockets:
        await asyncio.sleep(0.01)
        assert not task.done(), task.exception()
    exchange.begin()
    await asyncio.wait_for(exchange.finished.wait(), 300)
    before = -1
    while recorder.counters.frames > before or any(book.wanted for book in recorder.watch.books.values()):
        before = recorder.counters.frames
        await asyncio.sleep(QUIET_S)
    recorder.stop()
    await task


def recorded(
    captures: list[Path], data: Path, trades: str = "trade", speed: float = MAX, **options
) -> tuple[Session, Recorder, Exchange]:
    """Record captures served by the simulator over real sockets and return the session."""

    async def work() -> tuple[Recorder, Exchange]:
        async with Exchange(ExchangeConfig(captures, speed=speed, start="call", **options)) as exchange:
            journal = open_journal(data, "recorded", disk_reserve_bytes=0)
            recorder = Recorder(Options(endpoint_of(exchange), exchange.tape.symbols, trades), journal)
            await played(exchange, recorder, len(recorder.groups))
            journal.close()
            return recorder, exchange

    recorder, exchange = asyncio.run(work())
    result = convert(recorder.journal.folder, data)
    return Session(result["path"]), recorder, exchange


def columns(session: Session, name: str) -> pa.Table:
    """Return a table without what recording gives anew, its prices and quantities as exact decimals."""
    table = session.table(name)
    rows = table.drop_columns(["seq", "recv_ns"]).set_column(1, "symbol", table["symbol"].cast(pa.string()))
    for stem, size in (("ticks", "tick_size"), ("lots", "lot_size")):
        sizes = {i.symbol: Decimal(getattr(i, size)) for i in session.instruments}
        for column in [name for name in rows.column_names if name.endswith(stem)]:
            values = [
                None if v is None else format((v * sizes[s]).normalize(), "f")
                for v, s in zip(rows[column].to_pylist(), rows["symbol"].to_pylist())
            ]
            rows = rows.set_column(rows.column_names.index(column), column, pa.array(values, pa.string()))
    return rows


def same(left: Session, right: Session, trades: str) -> None:
    """Compare two sessions of one capture: trades, quotes, marks and diffs row by row, and the books they lead to."""
    for name in COMPARED:
        assert len(left.table(name)) == len(right.table(name)), name
        for symbol in [i.symbol for i in right.instruments]:
            first, second = (
                each.filter(pc.equal(each["symbol"], symbol)) for each in (columns(left, name), columns(right, name))
            )
            assert first.equals(second), f"{name} of {symbol}"
    bits = SNAPSHOT_LEVEL | PARTIAL_DEPTH
    for symbol in [i.symbol for i in right.instruments]:
        depth = []
        for session in (left, right):
            rows = columns(session, "depth")
            rows = rows.filter(pc.equal(rows["symbol"], symbol))
            depth.append(
                rows.filter(
                    pc.equal(pc.bit_wise_and(rows["bits"], pa.scalar(bits, pa.uint16())), pa.scalar(0, pa.uint16()))
                )
            )
        assert depth[0].equals(depth[1]), f"diffs of {symbol}"
        assert top(left, symbol) == top(right, symbol), f"the book of {symbol}"


def top(session: Session, symbol: str, levels: int = 20) -> tuple[list, list]:
    """Return the best levels of a book after the last diff, folded in the plainest way from the last snapshot."""
    rows = columns(session, "depth")
    rows = rows.filter(pc.equal(rows["symbol"], symbol)).to_pylist()
    last_id = [row["last_id"] for row in rows if row["bits"] & SNAPSHOT_LEVEL][-1]
    book = {
        (row["side"], row["price_ticks"]): row["qty_lots"]
        for row in rows
        if row["bits"] & SNAPSHOT_LEVEL and row["last_id"] == last_id
    }
    for row in rows:
        if row["bits"] & bits_of_no_diff == 0 and row["last_id"] > last_id:
            book[row["side"], row["price_ticks"]] = row["qty_lots"]
    held = [(side, Decimal(price)) for (side, price), lots in book.items() if price is not None and Decimal(lots)]
    return tuple(sorted((price for side, price in held if side == s), reverse=s > 0)[:levels] for s in (1, -1))


bits_of_no_diff = SNAPSHOT_LEVEL | PARTIAL_DEPTH


def sound(session: Session) -> dict:
    checked = check_session(session)
    assert checked["problems"] == []
    return checked


def test_a_recorded_capture_is_the_imported_one(capture, tmp_path):
    session, recorder, exchange = recorded([capture], tmp_path)
    same(session, Session(import_files([capture], tmp_path, name="imported")["path"]), "trade")
    assert recorder.counters.frames == recorder.counters.kept == sum(exchange.sent.values())
    assert (recorder.counters.holes, recorder.counters.losses) == (0, 0)
    assert session.manifest["first_seq"] == 1 and session.manifest["last_seq"] == session.manifest["frames"]
    sound(session)


def test_a_small_real_capture(realdata, tmp_path):
    capture = realdata / "binance_usdm" / "btcusdt_20230404.dat.gz"
    session, _, _ = recorded([capture], tmp_path)
    same(session, Session(import_files([capture], tmp_path, name="imported")["path"]), "trade")
    book = sound(session)["book"]
    assert book["compared"] > 1000 and book["equal"] == book["compared"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names, trades",
    [
        (["binance_usdm/btcusdt_20230404.dat.gz", "binance_usdm/btcusdt_20230405.dat.gz"], "trade"),
        (["binance_usdm/btcusdt_20240808.gz"], "trade"),
        (["binance_usdm/ethusdt_20240808.gz"], "trade"),
        (["binance_spot/btcusdt_20240808.gz", "binance_spot/btcusdt_20240809.gz"], "trade"),
        (["cryptofeed/6397a047_BINANCE_FUTURES-1125a2.0.gz"], "aggTrade"),
        (["cryptofeed/8980a803_BINANCE-ee25be.0.gz"], "aggTrade"),
    ],
)
def test_every_real_capture(realdata, tmp_path, names, trades):
    captures = [realdata / name for name in names]
    session, _, _ = recorded(captures, tmp_path, trades)
    same(session, Session(import_files(captures, tmp_path, name="imported")["path"]), trades)
    sound(session)


def test_a_wrong_path_is_found_within_seconds(capture, tmp_path):
    """Sockets that are acked and stay silent are replaced, and the session says which streams were silent."""

    async def work() -> Recorder:
        config = ExchangeConfig([capture], speed=1.0, start="now", faults=[Fault(0.0, "wrong_path", for_s=5.0)])
        async with Exchange(config) as exchange:
            journal = open_journal(tmp_path, "recorded", disk_reserve_bytes=0)
            limits = {"depth": 1.0, "best": 1.5, "trades": 1.5, "marks": 1.5}
            recorder = Recorder(
                Options(endpoint_of(exchange), ["BTCUSDT"], silent_s=limits, watch_s=0.1, overlap_s=0.2), journal
            )
            task = asyncio.create_task(recorder.run())
            book, trades = recorder.watch.books["BTCUSDT"], recorder.watch.streams["btcusdt@trade"]
            while not (book.synced and trades.frames or exchange.finished.is_set()):
                await asyncio.sleep(0.05)
            recorder.stop()
            await task
            journal.close()
            return recorder

    recorder = asyncio.run(work())
    assert recorder.counters.stale >= 3 and recorder.counters.connections >= 4
    session = Session(convert(recorder.journal.folder, tmp_path)["path"])
    rows = session.table("feed").to_pylist()
    first = min(row["recv_ns"] for row in rows if row["code"] == "connected")
    stale = {row["stream"]: (row["recv_ns"] - first) / 1e9 for row in rows if row["code"] == "stale"}
    assert {"depth", "best", "trades"} <= stale.keys() and max(stale.values()) < 3.0
    assert any(row["code"] == "note" and "markPrice" in row["detail"] for row in rows)
    assert len(session.table("depth")) and len(session.table("trades"))
