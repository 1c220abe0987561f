"""The doctor as a person runs it, and its checks of this machine and of the venue; each fault is made for real."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from exchanges import running
from patients import LOGIN, NOBODY, command, examined, failed, simulated

from engine import doctor as doctors
from engine.cli import main
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.sim.exchange import ExchangeConfig
from engine.sim.faults import Fault
from engine.sources.binance import Endpoint

UNWELL = ("no-such-program-of-ours",)  # a worker command: leaves the terminal out


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return generate(MarketConfig(seed=3, duration_s=60.0), tmp_path_factory.mktemp("market") / "m").capture


@contextlib.contextmanager
def venue(capture: Path, **more):
    """Yield an exchange whose clock is right, unless a fault moves it."""
    with running(ExchangeConfig([capture], **{"restamp": True, "start": "now"} | more)) as (exchange, _):
        yield exchange


def test_all_is_well_after_the_symbol_is_confirmed(capture, tmp_path):
    with venue(capture) as exchange:
        at = [
            "--ws",
            exchange.ws_url,
            "--rest",
            exchange.rest_url,
            "--data",
            str(tmp_path / "data"),
            "--terminal",
            simulated(tmp_path),
        ]
        first = command("BTCUSDT", *at)
        assert (
            first.returncode == 1
            and "confirm it: tapeguard doctor --map BTCUSDT=BTCUSDm" in first.stdout
            and not (tmp_path / "data").exists()
        )
        second = command("--map", "btcusdt=BTCUSDm", "--account", str(LOGIN), "--json", *at)
        third = command(*at)
    result = json.loads(second.stdout)
    assert (
        second.returncode == 0 and result["ok"] and result["account"] == {"login": "50***1", "server": "Simulated-Demo"}
    )
    assert result["maps"]["BTCUSDT"]["broker_symbol"] == "BTCUSDm" and {
        each["state"] for each in result["findings"]
    } == {"ok"}, second.stdout
    clock = next(each["seen"] for each in result["findings"] if each["name"] == "broker clock")
    assert clock.startswith(("UTC+2 h", "UTC+3 h")) and "new_york+7" in clock
    assert (
        third.returncode == 0
        and "Nothing is in the way" in third.stdout
        and "leads BTCUSDm, confirmed 20" in third.stdout
    )
    assert all(str(LOGIN) not in text for run in (first, second, third) for text in (run.stdout, run.stderr))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has the module")
def test_no_module_on_this_system_and_no_way_to_the_venue(tmp_path):
    run = command(
        "BTCUSDT", "--data", str(tmp_path), "--rest", "http://no-such-host.invalid", "--ws", "ws://no-such-host.invalid"
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr
    for words in (
        f"there is no MetaTrader5 module for {sys.platform}",
        '--worker-command "wine python.exe"',
        "no-such-host.invalid",
        "name server (DNS)",
    ):
        assert words in run.stdout, run.stdout


@pytest.mark.parametrize("ms, state", [(5000, "fail"), (-5000, "fail"), (600, "warn")])
def test_a_clock_that_is_off(capture, tmp_path, ms, state):
    with venue(capture, faults=[Fault(0.0, "clock_jump", ms=ms, for_s=1e6)]) as exchange:
        _, found = examined(
            tmp_path, endpoint=Endpoint("binance_usdm", exchange.ws_url, exchange.rest_url), command=UNWELL
        )
    failed(found["clock"], "ahead of Binance" if ms < 0 else "behind Binance", "by a time server", state)
    assert found["binance"]["state"] == found["binance sockets"]["state"] == "ok"


def test_a_venue_that_plays_a_tape_tells_nothing_of_the_clock(capture, tmp_path):
    with venue(capture, restamp=False) as exchange:
        _, found = examined(tmp_path, endpoint=Endpoint("binance_usdm", exchange.ws_url, exchange.rest_url), command=UNWELL)
    assert found["clock"]["state"] == "skipped" and "a tape of the past" in found["clock"]["seen"]


def test_a_venue_that_refuses_this_place(capture, tmp_path):
    with venue(capture, blocked=451) as exchange:
        run = command(
            "--rest",
            exchange.rest_url,
            "--ws",
            exchange.ws_url,
            "--data",
            str(tmp_path),
            "--json",
            "--worker-command",
            "no-such-program-of-ours",
        )
    assert run.returncode == 1
    found = {each["name"]: each for each in json.loads(run.stdout)["findings"]}
    for name in ("binance", "binance sockets"):
        failed(found[name], "refuses this location or network (451)", "where it does")
    assert found["clock"]["state"] == "skipped"


def test_sockets_alone_that_are_blocked_and_a_symbol_the_venue_does_not_have(capture, tmp_path):
    with venue(capture) as exchange, venue(capture, blocked=403) as blocked:
        at = Endpoint("binance_usdm", blocked.ws_url, exchange.rest_url)
        _, found = examined(tmp_path, endpoint=at, symbols=["BTCUSTD"], terminal=simulated(tmp_path))
    failed(found["binance sockets"], "(403)", "where it does")
    failed(found["BTCUSTD"], "the venue has no such symbol", "did you mean BTCUSDT?")
    assert found["binance"]["state"] == "ok"


def test_a_venue_of_another_kind(capture, tmp_path):
    with venue(capture) as exchange:
        at = Endpoint("binance_spot", exchange.ws_url, exchange.rest_url)
        _, found = examined(tmp_path, endpoint=at, command=UNWELL)
    failed(found["binance"], "404", "the right --venue")


def test_a_way_that_leads_nowhere(tmp_path, monkeypatch):
    """A port nobody listens on, and one at which nobody answers."""
    _, found = examined(tmp_path, command=UNWELL)
    failed(found["binance"], "does not answer at http://127.0.0.1:9", "port 443")
    failed(found["binance sockets"], "cannot be opened", "firewall")
    monkeypatch.setattr(doctors, "ROUTE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        at = Endpoint("binance_usdm", f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
        _, found = examined(tmp_path, endpoint=at, command=UNWELL)
    failed(found["binance"], "Timeout", "firewall or proxy holds them back")
    failed(found["binance sockets"], "TimeoutError", "firewall")


def test_too_little_disk_and_a_file_in_the_way(tmp_path):
    _, found = examined(tmp_path, reserve_bytes=10**18, command=UNWELL)
    failed(found["disk"], "nothing would be recorded", "--reserve-gb")
    (tmp_path / "data").write_text("")
    _, found = examined(tmp_path, command=UNWELL)
    failed(found["data folder"], "cannot be written: Not a directory", "--data")


@pytest.mark.skipif(
    sys.platform != "linux"
    or not shutil.which("unshare")
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="no file system can be mounted here",
)
@pytest.mark.parametrize(
    "options, name, seen", [("size=1m", "disk", "0.0 GB free"), ("size=1m,ro", "data folder", "Read-only file system")]
)
def test_a_disk_that_is_full_and_one_that_may_only_be_read(tmp_path, options, name, seen):
    """A small file system of its own, seen by this one process."""
    script = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    run = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            script,
            str(tmp_path),
            sys.executable,
            "-m",
            "engine.cli",
            "doctor",
            "--data",
            str(tmp_path),
            "--rest",
            NOBODY.rest,
            "--ws",
            NOBODY.ws,
            "--worker-command",
            "no-such-program-of-ours",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = {each["name"]: each for each in json.loads(run.stdout)["findings"]}
    assert run.returncode == 1
    failed(found[name], seen, "--data")


@pytest.mark.parametrize(
    "name, metadata, finding, seen",
    [
        ("httpx-0.1", "Name: httpx\nVersion: 0.1\n", "packages", "httpx is 0.1, httpx>=0.28 is needed"),
        (
            "tapeguard-9",
            "Name: tapeguard\nVersion: 9\nRequires-Python: >=3.99\nRequires-Dist: no-such-package-of-ours>=1\n",
            "python",
            ">=3.99 is needed",
        ),
        (
            "tapeguard-9",
            "Name: tapeguard\nVersion: 9\nRequires-Dist: no-such-package-of-ours>=1\n",
            "packages",
            "no-such-package-of-ours>=1 is missing",
        ),
    ],
)
def test_versions_that_will_not_do(tmp_path, name, metadata, finding, seen):
    folder = tmp_path / "site" / f"{name}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}")
    run = command(
        "--data",
        str(tmp_path),
        "--rest",
        NOBODY.rest,
        "--ws",
        NOBODY.ws,
        "--worker-command",
        "no-such-program-of-ours",
        "--json",
        PYTHONPATH=str(tmp_path / "site"),
    )
    found = {each["name"]: each for each in json.loads(run.stdout)["findings"]}
    failed(found[finding], seen, "install")


@pytest.mark.parametrize(
    "arguments, words",
    [(["--map", "BTCUSDT"], "VENUE=BROKER"), (["--map", "=X"], "VENUE=BROKER"), (["--wait", "-1"], "from 0 to 3,600")],
)
def test_wrong_use_is_said(capsys, arguments, words):
    assert main(["doctor", *arguments]) == 2
    assert words in capsys.readouterr().err
