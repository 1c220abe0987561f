"""An engine to be killed: it starts a worker on the configured terminal and asks for one exit after the other."""

import sys
from pathlib import Path

from engine.gateway.client import WorkerLink
from engine.gateway.intents import IntentJournal
from engine.gateway.mt5 import Gateway
from engine.gateway.orders import Exit, Limits
from engine.gateway.server_clock import ServerClock
from engine.gateway.terminal_config import WallClock
from engine.instruments import Instrument
from engine.kernel.records import CLOSE, PARTIAL, TIGHTEN

INSTRUMENT = Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2)
LIMITS = Limits(frozenset({5001}), frozenset({"BTCUSD"}), actions_per_minute=1000, actions_per_day=1000, max_quote_age_s=3600.0,
                settle_s=0.6, doubt_s=0.1, give_up_s=10.0, max_spread_bps=100.0)
PLAN = [(PARTIAL, 80), (TIGHTEN, 5_930_000), (PARTIAL, 50), (TIGHTEN, 5_950_000), (PARTIAL, 20), (CLOSE, 0)]


def decision(number: int, identifier: int) -> Exit:
    """Return one step of the plan."""
    action, value = PLAN[number]
    return Exit(f"k/{number}", action, identifier, "BTCUSD", 1, **({"volume_left": value} if action == PARTIAL else
                                                                   {"stop_ticks": value} if action == TIGHTEN else {}))


def open_gateway(folder: Path) -> tuple[Gateway, WorkerLink]:
    """Return a gateway over a fresh worker."""
    link = WorkerLink(folder / "sent.jsonl", terminal=f"simulated:{folder / 'terminal.json'}", timeout_s=2.0)
    link.restart()
    return Gateway(link, LIMITS, IntentJournal(folder / "gateway.jsonl"), WallClock(), {"BTCUSD": INSTRUMENT}, server=ServerClock()), link


if __name__ == "__main__":
    gateway, link = open_gateway(Path(sys.argv[1]))
    sys.stdout.write(f"{link.process.pid}\n")
    sys.stdout.flush()
    for step in range(len(PLAN)):
        gateway.act(decision(step, int(sys.argv[2])))
    link.stop()
