"""What doctor tests need: terminals that are not well, and the doctor run in this process or as a person does."""

import json
import os
import subprocess
import sys
from pathlib import Path

from engine.doctor import Options, doctor
from engine.sources.binance import Endpoint

LOGIN = 50987651
NOBODY = Endpoint("binance_usdm", "ws://127.0.0.1:9", "http://127.0.0.1:9")
LONG_MS = 10**8
WALK = {"seed": 1, "symbol": "BTCUSDm", "bid": 6_000_000, "spread": 100, "every_ms": 20, "step": 5}
SYMBOLS = [
    {"name": "BTCUSDm"},
    {"name": "BTCEURm", "currency_profit": "EUR"},
    {"name": "ETHUSDm", "currency_base": "ETH", "volume_step": 0.1},
    {"name": "GOLD", "currency_base": "XAU", "contract_size": 100.0},
    {"name": "XRPUSDm", "currency_base": "XRP", "trade_mode": 0},
]
# a module by the real name, over a simulated terminal that is not well: what a worker imports
MODULE = """
import json, time
from engine.gateway.terminal_config import build

class Clock:
    def now_ns(self):
        return time.time_ns() + int(ill.get("clock_s", 0) * 1e9)

with open({path!r}) as file:
    config, ill = json.load(file)
terminal = build(config, Clock())
terminal.api_disabled = ill.get("api_disabled", False)
terminal.server.expert_allowed = ill.get("expert_allowed", True)
globals().update({{name: each for name, each in vars(terminal.module).items() if not name.startswith("__")}})
__version__ = "5.0.9999"
_account_info = account_info

def initialize(*args, **kwargs):
    if "initialize" in ill:
        return False
    return terminal.module.initialize()

def last_error():
    return tuple(ill["initialize"]) if "initialize" in ill else terminal.module.last_error()

def account_info():
    row = _account_info()
    if row is None or "account" not in ill:
        return row
    return type(row)((row._asdict() | ill["account"]).values())
"""


def config(**more) -> dict:
    return {
        "symbols": SYMBOLS,
        "quotes": [["BTCUSDm", 6_000_000, 6_000_100]],
        "walk": WALK,
        "accounts": [{"login": LOGIN}],
    } | more


def simulated(folder: Path, **more) -> str:
    path = folder / "terminal.json"
    path.write_text(json.dumps(config(**more)), encoding="utf-8")
    return f"simulated:{path}"


def installed(folder: Path, monkeypatch, ill: dict, **more) -> None:
    """Put a MetaTrader5 module where the worker's Python finds it."""
    (folder / "modules").mkdir()
    (folder / "ill.json").write_text(json.dumps([config(**more), ill]), encoding="utf-8")
    (folder / "modules" / "MetaTrader5.py").write_text(MODULE.format(path=str(folder / "ill.json")), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder / "modules"))


def examined(folder: Path, **options) -> tuple[dict, dict[str, dict]]:
    """Return the doctor's result, and its findings by name; the venue is left out unless given."""
    given = Options(folder / "data", **{"endpoint": NOBODY, "reserve_bytes": 0, "wait_s": 0.0} | options)
    result = doctor(given)
    assert str(LOGIN) not in json.dumps(result)
    by_name = {each["name"]: each for each in result["findings"]}
    assert len(by_name) == len(result["findings"]) and all(
        each["mend"] for each in result["findings"] if each["state"] in ("warn", "fail")
    )
    return result, by_name


def failed(found: dict, seen: str, mend: str, state: str = "fail") -> None:
    assert found["state"] == state and seen in found["seen"] and mend in found["mend"], found


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the doctor as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "engine.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"COLUMNS": "400"} | environment,
        check=False,
    )
