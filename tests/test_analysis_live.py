"""The analysis of a recording in progress is the analysis of its session at that moment, byte for byte, over real sockets."""

import asyncio
from pathlib import Path

import pytest

from engine.analysis.library import Library
from engine.analysis.moment import Moment, canonical
from engine.analysis.summary import analyse_moment, signal_answer, trend_answer
from engine.errors import BadInput
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.catalog import list_sessions
from engine.record.convert import convert
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.recording import Recording, find_recording
from engine.record.store import Session
from engine.sim.exchange import Exchange, ExchangeConfig
from engine.sources.binance import Endpoint

LOOKS = 4


def answers(moment: Moment) -> str:
    return canonical([analyse_moment(moment, "BTCUSDT"), analyse_moment(moment, "BTCUSDT", "BUY", "brief"),
                      signal_answer(moment, "BTCUSDT", 30), trend_answer(moment, "BTCUSDT", 60)])


def looked_at(capture: Path, data: Path, speed: float) -> tuple[dict[int, str], Session, list[dict]]:
    """Record a capture over sockets; return what was said of it at moments on the way, and the session it became."""
    said, listed = {}, []

    async def work() -> Path:
        async with Exchange(ExchangeConfig([capture], speed=speed, start="call")) as exchange:
            journal = open_journal(data, "now", disk_reserve_bytes=0, segment_bytes=200_000)
            recorder = Recorder(Options(Endpoint(exchange.tape.venue, exchange.ws_url, exchange.rest_url), exchange.tape.symbols), journal)
            task = asyncio.create_task(recorder.run())
            while sum(bool(client.names) for client in exchange.clients) < len(recorder.groups):
                await asyncio.sleep(0.01)
            with pytest.raises(BadInput, match="no message of the market yet"):
                journal.flush()
                Recording(journal.folder)
            exchange.begin()
            asked, kept = Library(data), set()
            for _ in range(LOOKS):
                await asyncio.sleep(0.6)
                journal.flush()
                live = find_recording(data, "now")
                at_ns = live.manifest["last_recv_ns"]
                said[at_ns] = answers(Moment.of_session(live, at_ns))
                assert answers(asked.moment(live, at_ns)) == said[at_ns], "gone on from the last question"
                kept |= {id(moment) for moment in asked._moments.values()}
            assert len(kept) == 1 and journal.segments > 1, "each question folds what is new"
            tail = next(iter(asked._moments.values()))._tail
            assert tail.first >= journal.segments - 1, "and reads no more than the last segments for it"
            other = find_recording(data, "now")
            other.manifest["first_recv_ns"] -= 1
            assert id(asked.moment(other, at_ns)) not in kept, "another recording in the same folder"
            listed.extend(list_sessions(data))
            library = Library(data).analyse_symbol("BTCUSDT", "now")
            assert library["record"].startswith("now@") and library["key"]
            recorder.stop()
            await task
            journal.close()
            return journal.folder

    folder = asyncio.run(work())
    return said, Session(convert(folder, data)["path"]), listed


def test_what_was_said_live_is_what_the_session_says(tmp_path):
    capture = generate(MarketConfig(seed=4, duration_s=120.0), tmp_path / "market").capture
    said, session, listed = looked_at(capture, tmp_path, 4)
    assert len(said) == LOOKS
    for at_ns, text in said.items():
        assert text == answers(Moment.of_session(session, at_ns))
    assert len(set(said.values())) == LOOKS, "the moments differ"
    assert [(entry["session"], entry["state"], entry["symbols"]) for entry in listed] == [("now", "recording", ["BTCUSDT"])]
    assert find_recording(tmp_path, "now") is None


def test_a_real_market_recorded_over_sockets(realdata, tmp_path):
    said, session, _ = looked_at(realdata / "binance_usdm" / "btcusdt_20240808.gz", tmp_path, 20)
    for at_ns, text in said.items():
        assert text == answers(Moment.of_session(session, at_ns))
    assert len(said) == LOOKS and session.manifest["rows"]["trades"] > 1000
