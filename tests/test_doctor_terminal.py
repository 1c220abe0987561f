"""What the doctor finds at the terminal: each fault is one of a real worker process over a simulated terminal."""

import socket
import sys

import pytest
from patients import LOGIN, LONG_MS, SYMBOLS, examined, failed, installed, simulated

from engine.gateway.symbols import load_map, maps_path


@pytest.mark.parametrize(
    "code, text, mend",
    [
        (-10003, "IPC initialize failed, MetaTrader 5 x64 not found", "install your broker's MetaTrader 5"),
        (-10005, "IPC timeout", "Login to Trade Account"),
        (-6, "Terminal: Authorization failed", "check number, password and server"),
        (-8, "Auto-Trading using Python API disabled", "Expert Advisors"),
        (-10001, "IPC send failed", "close and start the terminal"),
        (-7, "Terminal: Unsupported function", "one-time passwords"),
    ],
)
def test_a_terminal_that_cannot_be_reached(tmp_path, monkeypatch, code, text, mend):
    installed(tmp_path, monkeypatch, {"initialize": [code, text]})
    result, found = examined(tmp_path, symbols=["BTCUSDT"])
    failed(found["terminal"], f"{text} ({code})", mend)
    assert not result["ok"] and found["worker"]["state"] == "ok" and "5.0.9999" in found["worker"]["seen"]
    assert found["account"]["state"] == found["BTCUSDT"]["state"] == "skipped"


@pytest.mark.parametrize(
    "words, seen, mend",
    [
        (("no-such-program-of-ours",), "cannot be run: No such file", "wine python.exe"),
        ((sys.executable, "-c", "raise SystemExit(7)"), "exit code 7", "whole path"),
        ((sys.executable, "-c", "print('{}')"), "no Python that runs", "whole path"),
    ],
)
def test_a_worker_command_that_does_not_run(tmp_path, words, seen, mend):
    _, found = examined(tmp_path, command=words)
    failed(found["worker"], seen, mend)
    assert found["terminal"]["state"] == "skipped"


def test_a_module_that_breaks_while_it_loads(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, {})
    (tmp_path / "modules" / "MetaTrader5.py").write_text("raise ImportError('DLL load failed')")
    _, found = examined(tmp_path)
    assert found["terminal"]["state"] == "fail" and found["worker"]["state"] == "ok"


def test_a_token_left_in_the_environment_is_not_taken_for_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPEGUARD_WORKER_TOKEN", "x" * 40)
    _, found = examined(tmp_path, terminal=simulated(tmp_path))
    assert found["worker"]["state"] == found["terminal"]["state"] == "ok"


def test_a_port_on_which_nobody_listens(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    script = tmp_path / "liar.py"
    script.write_text(f"print('{{\"port\": {port}}}', flush=True); import time; time.sleep(60)")
    _, found = examined(tmp_path, terminal=simulated(tmp_path), command=(sys.executable, str(script)))
    failed(found["worker"], f"port {port}", "127.0.0.1")


def test_a_worker_that_ends_at_once(tmp_path):
    _, found = examined(tmp_path, terminal=f"simulated:{tmp_path / 'absent.json'}")
    failed(found["worker"], "printed above", "mend what it says")


@pytest.mark.parametrize(
    "call, fault, name, seen, mend",
    [
        ("terminal_info", {"do": "algo_off", "for_ms": LONG_MS}, "algo trading", "off", "Algo Trading button"),
        (
            "terminal_info",
            {"do": "disconnect", "for_ms": LONG_MS},
            "terminal",
            "no link to the broker",
            "lower right corner",
        ),
        (
            "account_info",
            {"do": "account", "login": 60111112},
            "account",
            "60***2 on Simulated-Demo (demo, USD) is logged in, not 50***1",
            "--path",
        ),
    ],
)
def test_a_fault_of_the_terminal(tmp_path, call, fault, name, seen, mend):
    terminal = simulated(tmp_path, accounts=[{"login": LOGIN}, {"login": 60111112}], faults=[fault | {"call": call}])
    result, found = examined(tmp_path, terminal=terminal, account=LOGIN)
    failed(found[name], seen, mend)
    assert (
        not result["ok"]
        and [
            each
            for each in result["findings"]
            if each["state"] == "fail" and each["name"] not in (name, "binance", "binance sockets")
        ]
        == []
    )


def test_a_terminal_that_restarts_meanwhile(tmp_path):
    _, found = examined(tmp_path, terminal=simulated(tmp_path, faults=[{"do": "restart", "call": "account_info"}]))
    failed(found["terminal link"], "broke 1 times", "close and start the terminal", "warn")
    assert found["account"]["state"] == found["terminal"]["state"] == "ok"
    _, found = examined(tmp_path, terminal=simulated(tmp_path, faults=[{"do": "restart", "call": "account_info"}] * 2))
    failed(found["terminal"], "stopped answering: account_info: IPC recv failed (-10002)", "close and start")


@pytest.mark.parametrize(
    "ill, name, seen, mend, state",
    [
        (
            {"api_disabled": True},
            "python api",
            "does not let Python trade",
            "untick 'Disable automatic trading",
            "fail",
        ),
        ({"expert_allowed": False}, "account programs", "does not let programs trade", "ask the broker", "fail"),
        (
            {"account": {"trade_allowed": False}},
            "account trading",
            "may not trade",
            "not the investor password",
            "fail",
        ),
        ({"account": {"fifo_close": True}}, "closing order", "oldest position first", "one position a symbol", "warn"),
        ({"account": {"margin_mode": 1}}, "account type", "netting", "do not trade a managed symbol by hand", "warn"),
        ({"clock_s": 200}, "broker clock", "+200 s off any time zone", "set this machine's clock", "fail"),
    ],
)
def test_an_account_or_a_clock_that_is_not_well(tmp_path, monkeypatch, ill, name, seen, mend, state):
    installed(tmp_path, monkeypatch, ill)
    _, found = examined(tmp_path, wait_s=10.0 if "clock_s" in ill else 0.0)
    failed(found[name], seen, mend, state)


def test_a_netting_account_is_a_warning(tmp_path):
    result, found = examined(tmp_path, terminal=simulated(tmp_path, accounts=[{"login": LOGIN, "mode": "netting"}]))
    failed(found["account type"], "one position a symbol", "merges into the managed position", "warn")


def test_a_wrong_account_is_not_mapped(tmp_path):
    result, found = examined(tmp_path, terminal=simulated(tmp_path), account=70000003, confirm={"BTCUSDT": "BTCUSDm"})
    failed(found["account"], "50***1 on Simulated-Demo (demo, USD) is logged in, not 70***3", "right account")
    assert (
        found["BTCUSDT"]["state"] == "skipped"
        and not maps_path(tmp_path / "data").exists()
        and result["account"] is None
    )


@pytest.mark.parametrize("rule, hours", [("utc", "UTC,"), ("utc+3", "UTC+3 h, as of")])
def test_the_clock_of_the_broker_is_found(tmp_path, rule, hours):
    _, found = examined(tmp_path, terminal=simulated(tmp_path, clock_rule=rule), wait_s=20.0)
    assert (
        found["broker clock"]["state"] == "ok"
        and found["broker clock"]["seen"].startswith(hours)
        and rule in found["broker clock"]["seen"]
    )


def test_a_market_that_is_closed_tells_no_clock(tmp_path):
    _, found = examined(tmp_path, terminal=simulated(tmp_path, walk=None), wait_s=0.3)
    failed(found["broker clock"], "changed within 0.3 s", "while the market is open", "warn")


@pytest.mark.parametrize(
    "symbol, seen, mend",
    [
        ("BTCUSDT", "it may lead BTCUSDm (1 lot is 1 BTC in USD", "confirm it: tapeguard doctor --map BTCUSDT=BTCUSDm"),
        ("XAUUSDT", "it may lead GOLD (1 lot is 100 XAU in USD", "--map XAUUSDT=GOLD"),
        ("XRPUSDT", "none of the broker's symbols will do: XRPUSDm NO (trading is disabled)", "ask the broker"),
        ("SOLUSDT", "the broker lists nothing named after SOL", "confirm one with --map"),
        ("BITCOIN", "does not end in a currency", "such as BTCUSDT"),
    ],
)
def test_a_symbol_that_is_not_mapped(tmp_path, symbol, seen, mend):
    result, found = examined(tmp_path, terminal=simulated(tmp_path), symbols=[symbol])
    failed(found[symbol], seen, mend)
    if symbol == "BTCUSDT":
        assert [each["symbol"] for each in result["candidates"]["BTCUSDT"]] == ["BTCUSDm", "BTCEURm"]
        assert "BTCEURm NO (it is priced in EUR, not USDT)" in found[symbol]["seen"]


@pytest.mark.parametrize(
    "broker, seen, mend",
    [
        ("BTCUSDn", "no symbol 'BTCUSDn'; nothing was stored", "did you mean BTCUSDm"),
        ("BTCEURm", "priced in EUR, not USDT; nothing was stored", "tapeguard doctor BTCUSDT"),
        ("ETHUSDm", "it trades ETH, not BTC", "tapeguard doctor BTCUSDT"),
    ],
)
def test_a_broker_symbol_that_cannot_be_confirmed(tmp_path, broker, seen, mend):
    _, found = examined(tmp_path, terminal=simulated(tmp_path), confirm={"BTCUSDT": broker})
    failed(found["BTCUSDT"], seen, mend)
    assert not maps_path(tmp_path / "data").exists()


def test_a_contract_that_changed_is_held_until_it_is_confirmed_again(tmp_path):
    examined(tmp_path, terminal=simulated(tmp_path), confirm={"BTCUSDT": "BTCUSDm"})
    changed = simulated(tmp_path, symbols=[{"name": "BTCUSDm", "contract_size": 0.1}])
    _, found = examined(tmp_path, terminal=changed)
    failed(found["BTCUSDT"], "its contract size was 1 and is 0.1", "confirm it again with --map BTCUSDT=BTCUSDm")
    _, found = examined(tmp_path, terminal=changed, confirm={"BTCUSDT": "BTCUSDm"})
    assert (
        found["BTCUSDT"]["state"] == "ok"
        and load_map(tmp_path / "data", "Simulated-Demo", LOGIN)["BTCUSDT"].contract_size == "0.1"
    )
    _, found = examined(
        tmp_path, terminal=simulated(tmp_path, symbols=[{"name": "BTCUSDm", "contract_size": 0.1, "trade_mode": 0}])
    )
    failed(found["BTCUSDT"], "trading is disabled", "ask the broker")
    _, found = examined(tmp_path, terminal=simulated(tmp_path, symbols=SYMBOLS[1:], quotes=[], walk=None))
    failed(found["BTCUSDT"], "no longer has BTCUSDm", "confirm another with --map")
    maps_path(tmp_path / "data").write_text("{")
    _, found = examined(tmp_path, terminal=simulated(tmp_path))
    failed(found["symbols"], "symbols.json is no list of confirmed symbols", "confirm the symbols again")
