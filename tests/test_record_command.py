"""The record command: what it prints, and how it is stopped, killed and refused: in one sentence, with an exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from exchanges import running

import engine.record.journal as journals
from engine.cli import main
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.quality import check_session
from engine.record.recorder import open_journal
from engine.record.session import named_after
from engine.record.store import Session
from engine.sim.exchange import Exchange, ExchangeConfig
from engine.sim.faults import Fault
from engine.sim.limits import LIMITS
from engine.sources import binance


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return generate(MarketConfig(seed=3, duration_s=20.0), tmp_path_factory.mktemp("market") / "m").capture


def sound(session: Session) -> None:
    assert check_session(session)["problems"] == []


def command(ws: str, rest: str, data: Path, *more: str, symbol: str = "BTCUSDT") -> list[str]:
    return ["record", symbol, "--ws", ws, "--rest", rest, "--data", str(data), "--reserve-gb", "0", *more]


def arguments(exchange: Exchange, data: Path, *more: str, symbol: str = "BTCUSDT") -> list[str]:
    return command(exchange.ws_url, exchange.rest_url, data, *more, symbol=symbol)


def test_the_command_line_records_checks_and_prints_one_object(capture, tmp_path, capsys):
    with running(ExchangeConfig([capture], speed=10.0)) as (exchange, _):
        assert main(arguments(exchange, tmp_path, "--seconds", "2.5", "--json", "--json-lines", "--name", "mine")) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["session"] == "mine" and result["check"]["ok"] and result["messages"]["depth"] > 10
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert len(lines) >= 2 and lines[-1]["frames"] > lines[0]["frames"]
    assert {"streams", "books", "clock_offset_ms", "journal_bytes", "not_synced", "holes"} <= lines[-1].keys()
    feed = Session(result["path"]).table("feed").to_pylist()
    clock_notes = [row["detail"] for row in feed if row["code"] == "note" and "venue clock" in row["detail"]]
    assert len(clock_notes) == 1 and "known to" in clock_notes[0]


def test_quiet_prints_no_status(capture, tmp_path, capsys):
    with running(ExchangeConfig([capture], speed=10.0)) as (exchange, _):
        assert main(arguments(exchange, tmp_path, "--seconds", "1.2", "--quiet", "--name", "mine")) == 0
    assert capsys.readouterr().err.splitlines() == ["converting the journal", "checking the session"]


def refused(capsys, code: int, *words: str) -> None:
    """Require one clear sentence on standard error, and nothing on standard output."""
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("tapeguard: ") and out == "", err
    for word in words:
        assert word in lines[0], lines[0]


def nothing_left(data: Path) -> bool:
    return not any((data / "sessions").glob("*")) and not any((data / "sessions").glob(".recording-*"))


def test_a_bad_symbol_is_named_with_the_nearest(capture, tmp_path, capsys):
    with running(ExchangeConfig([capture])) as (exchange, _):
        assert main(arguments(exchange, tmp_path, symbol="BTCUSTD")) == 2
    refused(capsys, 2, "BTCUSTD", "BTCUSDT")
    assert nothing_left(tmp_path)


MANY = "BTCUSDT ETHUSDT SOLUSDT XRPUSDT BNBUSDT ADAUSDT DOGEUSDT LTCUSDT LINKUSDT AVAXUSDT".split()


@pytest.mark.parametrize("symbols, name", [
    (["BTCUSDT"], "BTCUSDT"), (MANY[:7], "+".join(MANY[:7])), (MANY, "+".join(MANY[:7]) + "+3"), (MANY * 20, "+".join(MANY[:7]) + "+193"),
    (["BTCUSDT_261225", "币安人生USDT"], "BTCUSDT_261225+xxxxUSDT"), (["é" * 200, "BTCUSDT", "ETHUSDT"], "x" * 50 + "+BTCUSDT+1")])
def test_a_session_is_named_after_its_symbols_as_far_as_they_fit(tmp_path, symbols, name):
    assert named_after(symbols) == name
    open_journal(tmp_path, f"{name}-binance_usdm-20261126T020000Z", disk_reserve_bytes=0).close()


@pytest.mark.parametrize("symbols", [MANY, ["币安人生USDT"]])
def test_many_or_foreign_symbols_are_asked_for_like_any_other(capture, tmp_path, capsys, symbols):
    with running(ExchangeConfig([capture])) as (exchange, _):
        assert main(["record", *symbols, *arguments(exchange, tmp_path)[2:]]) == 2
    refused(capsys, 2, "binance_usdm has no symbol")


@pytest.mark.parametrize("status", [451, 403])
def test_a_blocked_region_is_said(capture, tmp_path, capsys, status):
    with running(ExchangeConfig([capture], blocked=status)) as (exchange, _):
        assert main(arguments(exchange, tmp_path)) == 3
    refused(capsys, 3, str(status), "location")
    assert nothing_left(tmp_path)


def test_sockets_that_are_blocked_alone_are_said(capture, tmp_path, capsys):
    with running(ExchangeConfig([capture])) as (exchange, _):
        with running(ExchangeConfig([capture], blocked=451)) as (blocked, _):
            assert main(command(blocked.ws_url, exchange.rest_url, tmp_path)) == 3
    refused(capsys, 3, "451", "location")


@pytest.mark.parametrize("rest, words", [
    ("http://no-such-host.invalid", ("no-such-host.invalid", "name server")),
    ("http://127.0.0.1:9", ("127.0.0.1:9", "does not answer")),
])
def test_dns_down_or_nobody_there(tmp_path, capsys, rest, words):
    assert main(command("ws://127.0.0.1:9", rest, tmp_path)) == 3
    refused(capsys, 3, *words)
    assert nothing_left(tmp_path)


def test_a_banned_address_is_said_with_the_time_left(capture, tmp_path, capsys):
    limits = replace(LIMITS["binance_usdm"], weight_per_window=0, warnings=0, ban_s=7200.0)
    with running(ExchangeConfig([capture], limits=limits)) as (exchange, _):
        assert main(arguments(exchange, tmp_path)) == 3
    refused(capsys, 3, "418", "7200 s", "wait")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("status, word", [(429, "fewer symbols"), (503, "try again later")])
def test_a_venue_that_keeps_refusing_is_said(capture, tmp_path, capsys, monkeypatch, status, word):
    monkeypatch.setattr(binance, "BACKOFF_S", (0.01,) * 3)
    faults = [Fault(0.0, "rest_status", status=status, count=9)]
    with running(ExchangeConfig([capture], start="now", faults=faults, time_scale=100.0)) as (exchange, _):
        assert main(arguments(exchange, tmp_path)) == 3
    refused(capsys, 3, f"kept answering {status}", word)


def test_a_venue_that_recovers_is_recorded(capture, tmp_path, capsys, monkeypatch):
    """Two overloads, a refusal of too many requests and a failing snapshot later."""
    monkeypatch.setattr(binance, "BACKOFF_S", (0.01,) * 3)
    faults = [Fault(0.0, "rest_status", status=503, count=2), Fault(0.0, "rest_status", status=429)]
    with running(ExchangeConfig([capture], start="now", faults=faults, time_scale=100.0, speed=5.0)) as (exchange, _):
        assert main(arguments(exchange, tmp_path, "--seconds", "2", "--json", "--name", "mine")) == 0
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["ok"] and check["book"]["compared"] > 0


@pytest.mark.parametrize("option", ["--ws", "--rest"])
@pytest.mark.parametrize("address", ["fstream.binance.com", "ftp://fstream.binance.com", "wss://", "https://[a", "https://a:99999", "wss://a:x"])
def test_an_address_that_is_no_address(tmp_path, capsys, option, address):
    assert main([*command("ws://127.0.0.1:9", "http://127.0.0.1:9", tmp_path), option, address]) == 2
    refused(capsys, 2, address, "https://HOST" if option == "--rest" else "wss://HOST")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("ws, words", [
    ("ws://127.0.0.1:9", ("127.0.0.1", "network")),
    ("ws://no-such-host.invalid", ("name server",)),
    ("", ("connected, but silent", "path")),
])
def test_sockets_that_never_deliver(capture, tmp_path, capsys, monkeypatch, ws, words):
    """Nobody there, no such name, and the wrong path: acked, and silent."""
    monkeypatch.setattr("engine.record.recorder.REACH_S", 1.0)
    config = ExchangeConfig([capture], start="now", faults=[Fault(0.0, "wrong_path", for_s=19.0)])
    with running(config) as (exchange, _):
        assert main(command(ws or exchange.ws_url, exchange.rest_url, tmp_path)) == 3
    refused(capsys, 3, "sent nothing within 1 s", *words)
    assert nothing_left(tmp_path)


def run(arguments: list[str], *before: str) -> subprocess.CompletedProcess:
    """Run the command in a process of its own, started by what stands before it."""
    code = "import sys; from engine.cli import main; sys.exit(main())"
    return subprocess.run([*before, sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(os.name == "nt", reason="folders have no such mode")
def test_a_folder_that_may_not_be_written(tmp_path):
    """The superuser may write everywhere, so here it gives that up first."""
    before = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("the superuser needs setpriv")
        before = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"]
    tmp_path.chmod(0o500)
    done = run(command("ws://127.0.0.1:9", "http://127.0.0.1:9", tmp_path / "data"), *before)
    tmp_path.chmod(0o700)
    assert done.returncode == 3 and done.stdout == "", done.stderr
    assert done.stderr.count("\n") == 1 and "Permission denied" in done.stderr and str(tmp_path) in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="there is no limit of file sizes")
def test_a_write_that_the_system_refuses_keeps_what_was_recorded(capture, tmp_path):
    """The shell's limit of file sizes makes the journal's own write fail, half way."""
    with running(ExchangeConfig([capture], speed=10.0)) as (exchange, _):
        recording = arguments(exchange, tmp_path, "--name", "full", "--seconds", "60", "--quiet")
        done = run(recording, "bash", "-c", 'ulimit -f 256; exec "$@"', "limited")
        assert done.returncode == 3 and done.stdout == "", done.stderr
        assert done.stderr.count("\n") == 1 and "File too large" in done.stderr and "kept in" in done.stderr
    with running(ExchangeConfig([capture], speed=10.0)) as (exchange, _):
        done = run(arguments(exchange, tmp_path, "--name", "next", "--seconds", "1", "--quiet"))
    assert done.returncode == 0 and "recording full was left unfinished: it is a session now" in done.stderr
    sound(Session(tmp_path / "sessions" / "full"))


def test_a_file_where_the_data_folder_should_be(tmp_path, capsys):
    (tmp_path / "data").write_text("")
    assert main(["record", "BTCUSDT", "--data", str(tmp_path / "data"), "--reserve-gb", "0"]) == 3
    refused(capsys, 3, str(tmp_path / "data"))


def test_too_little_disk_at_the_start(tmp_path, capsys):
    assert main(["record", "BTCUSDT", "--data", str(tmp_path), "--reserve-gb", "10000000"]) == 3
    refused(capsys, 3, "nothing was recorded", "10,000,000.0 GB are kept in reserve")


def test_a_disk_that_fills_up_keeps_what_was_recorded(capture, tmp_path, capsys, monkeypatch):
    """The recording ends with one sentence; the next start makes it a session."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(journals, "BUDGET_BYTES", 1 << 16)
    with running(ExchangeConfig([capture], speed=10.0)) as (exchange, _):

        def full(path):
            began = time.monotonic() - full.since > 1.5
            return usage._replace(free=10 if began else 1 << 40)

        full.since = time.monotonic()
        monkeypatch.setattr(journals.shutil, "disk_usage", full)
        code = main([*arguments(exchange, tmp_path, "--name", "full")[:-2], "--reserve-gb", "1", "--name", "full"])
    assert code == 3
    refused(capsys, 3, "reserve", "kept in", "next start")
    monkeypatch.undo()
    with running(ExchangeConfig([capture], speed=10.0)) as (exchange, _):
        assert main(arguments(exchange, tmp_path, "--name", "next", "--seconds", "1", "--quiet")) == 0
    assert "recording full was left unfinished: it is a session now" in capsys.readouterr().err
    sound(Session(tmp_path / "sessions" / "full"))


def spawned(exchange: Exchange, data: Path, name: str, most: int = 50) -> subprocess.Popen:
    """Start a recording in a process of its own and wait until it has more than so many frames."""
    command = [
        sys.executable,
        "-c",
        "import sys; from engine.cli import main; sys.exit(main())",
        *arguments(exchange, data, "--name", name, "--json", "--json-lines", "--sync-ms", "20"),
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if line.startswith("{") and json.loads(line)["kept"] > most:
            return child
    raise AssertionError(child.stdout.read())


def test_an_interrupt_ends_with_a_checked_session(capture, tmp_path):
    with running(ExchangeConfig([capture], speed=2.0)) as (exchange, _):
        child = spawned(exchange, tmp_path, "stopped")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    result = json.loads(out)
    assert result["check"]["ok"] and result["messages"]["trade"] > 0
    assert result["frames"] == result["recorded"]["last_seq"]


def test_an_interrupt_before_anything_came_is_said(capture, tmp_path):
    """While the venue makes wait, at the start."""
    faults = [Fault(0.0, "rest_status", status=429, count=99)]
    with running(ExchangeConfig([capture], start="now", faults=faults)) as (exchange, _):
        child = spawned(exchange, tmp_path, "stopped", most=-1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (3, "") and nothing_left(tmp_path)
    assert err.splitlines()[-1].startswith("tapeguard: nothing was recorded")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not there")
def test_a_killed_recording_is_recovered_by_the_next_start(capture, tmp_path, capsys):
    with running(ExchangeConfig([capture], speed=2.0)) as (exchange, _):
        child = spawned(exchange, tmp_path, "killed")
        child.kill()
        child.communicate(timeout=60)
        assert not (tmp_path / "sessions" / "killed").exists()
        assert main(arguments(exchange, tmp_path, "--name", "after", "--seconds", "1", "--json")) == 0
    out, err = capsys.readouterr()
    assert "recording killed was left unfinished: it is a session now" in err
    session = Session(tmp_path / "sessions" / "killed")
    assert session.manifest["frames"] > 50
    assert json.loads(out)["session"] == "after"
    sound(session)
