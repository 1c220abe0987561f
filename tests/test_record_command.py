"""The record command: what it prints, and how it is stopped, killed and refused: in one sentence, with an exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from exchanges import running

import engine.record.journal as journals
from engine.cli import main
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.quality import check_session
from engine.record.store import Session
from engine.sim.exchange import Exchange, ExchangeConfig


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return generate(MarketConfig(seed=3, duration_s=20.0), tmp_path_factory.mktemp("market") / "m").capture


def sound(session: Session) -> None:
    assert check_session(session)["problems"] == []


def arguments(exchange: Exchange, data: Path, *more: str, symbol: str = "BTCUSDT") -> list[str]:
    return [
        "record",
        symbol,
        "--ws",
        exchange.ws_url,
        "--rest",
        exchange.rest_url,
        "--data",
        str(data),
        "--reserve-gb",
        "0",
        *more,
    ]


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


@pytest.mark.parametrize("status", [451, 403])
def test_a_blocked_region_is_said(capture, tmp_path, capsys, status):
    with running(ExchangeConfig([capture], blocked=status)) as (exchange, _):
        assert main(arguments(exchange, tmp_path)) == 3
    refused(capsys, 3, str(status), "location")
    assert nothing_left(tmp_path)


def test_sockets_that_are_blocked_alone_are_said(capture, tmp_path, capsys):
    with running(ExchangeConfig([capture])) as (exchange, call):
        with running(ExchangeConfig([capture], blocked=451)) as (blocked, _):
            assert (
                main(
                    [
                        "record",
                        "BTCUSDT",
                        "--ws",
                        blocked.ws_url,
                        "--rest",
                        exchange.rest_url,
                        "--data",
                        str(tmp_path),
                        "--reserve-gb",
                        "0",
                    ]
                )
                == 3
            )
    refused(capsys, 3, "451", "location")


@pytest.mark.parametrize(
    "rest, words",
    [
        ("http://no-such-host.invalid", ("no-such-host.invalid", "name server")),
        ("http://127.0.0.1:9", ("127.0.0.1:9", "does not answer")),
    ],
)
def test_dns_down_or_nobody_there(tmp_path, capsys, rest, words):
    assert (
        main(
            [
                "record",
                "BTCUSDT",
                "--rest",
                rest,
                "--ws",
                "ws://127.0.0.1:9",
                "--data",
                str(tmp_path),
                "--reserve-gb",
                "0",
            ]
        )
        == 3
    )
    refused(capsys, 3, *words)
    assert nothing_left(tmp_path)


def test_an_address_that_is_no_address(capture, tmp_path, capsys):
    with running(ExchangeConfig([capture])) as (exchange, _):
        assert (
            main(
                [
                    "record",
                    "BTCUSDT",
                    "--ws",
                    "fstream.binance.com",
                    "--rest",
                    exchange.rest_url,
                    "--data",
                    str(tmp_path),
                    "--reserve-gb",
                    "0",
                ]
            )
            == 2
        )
    refused(capsys, 2, "fstream.binance.com", "wss://")


def test_sockets_that_never_deliver(capture, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("engine.record.recorder.REACH_S", 1.0)
    with running(ExchangeConfig([capture])) as (exchange, _):
        assert (
            main(
                [
                    "record",
                    "BTCUSDT",
                    "--ws",
                    "ws://127.0.0.1:9",
                    "--rest",
                    exchange.rest_url,
                    "--data",
                    str(tmp_path),
                    "--reserve-gb",
                    "0",
                ]
            )
            == 3
        )
    refused(capsys, 3, "sent nothing within 1 s", "127.0.0.1")


def test_a_folder_that_may_not_be_written(capture, tmp_path, capsys, monkeypatch):
    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    assert main(["record", "BTCUSDT", "--data", str(tmp_path), "--reserve-gb", "0"]) == 3
    refused(capsys, 3, "Permission denied", str(tmp_path))


def test_a_file_where_the_data_folder_should_be(tmp_path, capsys):
    (tmp_path / "data").write_text("")
    assert main(["record", "BTCUSDT", "--data", str(tmp_path / "data"), "--reserve-gb", "0"]) == 3
    refused(capsys, 3, str(tmp_path / "data"))


def test_too_little_disk_at_the_start(tmp_path, capsys):
    assert main(["record", "BTCUSDT", "--data", str(tmp_path), "--reserve-gb", "10000000"]) == 3
    refused(capsys, 3, "nothing was recorded", "reserve")


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


def spawned(exchange: Exchange, data: Path, name: str) -> subprocess.Popen:
    """Start a recording in a process of its own and wait until it has frames on disk."""
    command = [
        sys.executable,
        "-c",
        "import sys; from engine.cli import main; sys.exit(main())",
        *arguments(exchange, data, "--name", name, "--json", "--json-lines", "--sync-ms", "20"),
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if line.startswith("{") and json.loads(line)["kept"] > 50:
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
