"""The recorder over real sockets while the simulator does seeded faults: no silent loss, and no book but the venue's.

The venue's world runs at a multiple of its speed and so do the recorder's pauses; at the end there is a calm at the
venue's own speed, so that nothing here depends on how fast the machine is. A seed reruns alone:
pytest tests/test_recorder_sockets.py -m slow -k "real and 17".
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from shown import shown

from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record import recorder as recorders
from engine.record.convert import convert
from engine.record.importer import import_files
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.store import Session
from engine.run import Pair
from engine.sim.effects import COUNTED
from engine.sim.exchange import Exchange, ExchangeConfig
from engine.sim.faults import Fault, seeded
from engine.sim.tape import Tape, load_tape
from engine.sources import binance
from engine.sources.binance import Endpoint

SILENT_S = {"trades": 60.0, "depth": 20.0, "best": 30.0, "marks": 1e9}
CALM_SHARE = 0.4  # of the tape, at its end: everything has to come back
CALM_S = 3.0  # and then to stay
PER_MINUTE = {
    "drop": 6,
    "duplicate": 6,
    "reorder": 3,
    "gap": 1,
    "malformed": 3,
    "oversized": 1,
    "clock_jump": 1,
    "silent": 1,
    "close": 3,
    "slow_consumer": 1,
    "shutdown": 1,
    "snapshot_race": 3,
    "rest_delay": 2,
    "rest_status": 3,
    "half_open": 0.5,
    "wrong_path": 1,
}
TRACELESS = ("drop", "reorder", "gap", "silent")  # of best quotes: their ids prove nothing of those before


def faults_of(tape: Tape, seed: int, rate: float) -> list[Fault]:
    """Draw the faults of a seed, and two that end only when the recorder acts; none reaches into the calm."""
    end_s = (1 - CALM_SHARE) * tape.duration_s
    names = [name for name in tape.streams if "@" in name]
    drawn = seeded(seed, {kind: rate * often for kind, often in PER_MINUTE.items()}, end_s, names)
    kept = [fault for fault in drawn if fault.at_s + fault.for_s < end_s
            and not (fault.kind in TRACELESS and fault.stream.endswith("bookTicker"))]
    # those of REST wait for a request, yet not for ever
    kept = [replace(fault, for_s=10.0) if fault.kind in COUNTED else fault for fault in kept]
    return kept + [Fault(0.3 * end_s, "half_open"), Fault(0.7 * end_s, "silent", "*@depth*")]


def recorded(capture: Path, symbol: str, data: Path, seed: int, speed: float, rate: float, monkeypatch) -> Recorder:
    """Record a capture under the faults of a seed."""
    monkeypatch.setattr(recorders, "SNAPSHOT_RETRY_S", tuple(s / speed for s in recorders.SNAPSHOT_RETRY_S))
    monkeypatch.setattr(binance, "BACKOFF_S", tuple(s / speed for s in binance.BACKOFF_S))
    monkeypatch.setattr(binance, "SETTLED_S", binance.SETTLED_S / speed)
    tape = load_tape([capture])
    limits = {kind: limit_s / speed for kind, limit_s in SILENT_S.items()}

    async def work() -> Recorder:
        config = ExchangeConfig([capture], speed=speed, start="call", faults=faults_of(tape, seed, rate), time_scale=speed)
        async with Exchange(config, tape) as exchange:
            journal = open_journal(data, "recorded", disk_reserve_bytes=0)
            endpoint = Endpoint(exchange.tape.venue, exchange.ws_url, exchange.rest_url)
            recorder = Recorder(Options(endpoint, [symbol], seed=seed, silent_s=limits, watch_s=1 / speed), journal)
            task = asyncio.create_task(recorder.run())
            while len(exchange.clients) < len(recorder.groups):
                await asyncio.sleep(0.01)
            exchange.begin()
            while exchange.market.position < tape.place_at((1 - CALM_SHARE) * tape.duration_s):
                await asyncio.sleep(0.01)
                assert not task.done(), task.exception()
            exchange.pace(1.0)
            while recorder.status()["books"] != {symbol: "synced"}:
                await asyncio.sleep(0.1)
                assert not exchange.finished.is_set(), f"the calm does not bring the book back: {recorder.status()}"
            await asyncio.sleep(CALM_S)
            print([fault.kind for fault in exchange.fired], vars(recorder.counters))
            recorder.stop()
            await task
            journal.close()
            return recorder

    return asyncio.run(work())


def tops(session: Session, symbol: str, linked) -> dict[int, tuple[int, int]]:
    """Return best bid and ask by update id, wherever the kernel shows a book."""
    own = session.instruments[0]
    run = linked(pairs=[Pair(symbol, own.tick_size, own.lot_size, "0.01", True)])
    return {last_id: top[:2] for _, last_id, top in shown(session, symbol, run)}


def unmarked(session: Session, truth: list[int]) -> list[int]:
    """Return the trade ids that are missing without a gap row that has them inside."""
    have = set(session.table("trades")["trade_id"].to_pylist())
    gaps = [(row["from_id"], row["to_id"]) for row in session.table("feed").to_pylist()
            if row["code"] == "gap" and row["stream"] == "trades" and row["from_id"] is not None]
    return [n for n in truth if min(have) < n < max(have) and n not in have
            and not any(low < n < high for low, high in gaps)]


def survived(capture: Path, truth: Session, data: Path, seed: int, speed: float, rate: float, monkeypatch, linked) -> dict:
    """Record under a seed and hold the session against the import of the same capture; return its check."""
    print(f"seed {seed}")
    symbol = truth.instruments[0].symbol
    recorder = recorded(capture, symbol, data, seed, speed, rate, monkeypatch)
    counters = recorder.counters
    assert counters.frames == counters.kept + counters.duplicates + recorder.watch.holding
    session = Session(convert(recorder.journal.folder, data)["path"])
    assert session.manifest["frames"] == recorder.journal.last_seq
    checked = check_session(session)
    print(checked["coverage"], checked["coverage_reasons"], checked["notes"])
    assert checked["problems"] == []
    assert unmarked(session, truth.table("trades")["trade_id"].to_pylist()) == []
    right, found = tops(truth, symbol, linked), tops(session, symbol, linked)
    assert [n for n in found if n in right and found[n] != right[n]] == []
    assert len(found.keys() & right.keys()) > 5 * CALM_S
    return checked


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> tuple[Path, Session]:
    folder = tmp_path_factory.mktemp("market")
    capture = generate(MarketConfig(seed=3, duration_s=200.0), folder / "m").capture
    return capture, Session(import_files([capture], folder, name="truth")["path"])


@pytest.fixture(scope="module")
def ethusdt(realdata, tmp_path_factory) -> tuple[Path, Session]:
    capture = realdata / "binance_usdm" / "ethusdt_20240808.gz"
    return capture, Session(import_files([capture], tmp_path_factory.mktemp("truth"), name="truth")["path"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_made_market(market, tmp_path, monkeypatch, linked, seed):
    survived(*market, tmp_path, seed, 30.0, 1.0, monkeypatch, linked)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_real_market(ethusdt, tmp_path, monkeypatch, linked, seed):
    survived(*ethusdt, tmp_path, seed, 20.0, 1.0, monkeypatch, linked)
