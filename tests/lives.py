"""A live run as the screen sees it, without sockets: the real loop, recorder, guard, journal and alarms, fed by rows."""

from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from rich.console import Console
from streams import Stream

from engine import clock
from engine.gateway.orders import Limits
from engine.instruments import Instrument
from engine.live.alarms import Alarms
from engine.live.broker import Health
from engine.live.guard import Guard
from engine.live.loop import Loop
from engine.live.screen import live_screen
from engine.live.terminal import Account
from engine.positions import open_desk
from engine.record.journal import JournalWriter, recording_folder
from engine.record.recorder import Options, Recorder
from engine.rules import choose, find_rules
from engine.run import Run, Settings
from engine.sources.binance import Endpoint

VENUE = Instrument("BTCUSDT", "binance_usdm", "0.10", "0.001", 2, 3, "venue")
BROKER = Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2, "given", "BTCUSDT")
SHOWN = {"login": "5***1", "server": "Simulated-Demo", "currency": "USD", "kind": "demo", "margin": "hedging"}


@contextmanager
def live_run(folder: Path, mode: str = "paper", rules: str = "all:classic", rules_dir: Path | None = None, webhook: str = ""):
    """Open a run whose kernel is interpreted."""
    name = f"live-{mode}-x"
    (folder / name).mkdir(parents=True)
    writer = JournalWriter(recording_folder(folder / "data", "s"), "s", disk_reserve_bytes=0)
    alarms = Alarms(folder / name / "log.jsonl", webhook)
    with writer:
        loop = Loop(name, writer, choose(find_rules(rules_dir), rules, []), Settings(simulate=mode == "paper"),
                    told=lambda what, row: alarms.told(what, row, loop))
        loop.act = (lambda exit: None) if mode == "act" else None
        recorder = Recorder(Options(Endpoint("binance_usdm", "ws://127.0.0.1:9", "http://127.0.0.1:9"), ["BTCUSDT"]), writer)
        health = Health(looked_s=clock.monotonic_s())
        guard = Guard(recorder.watch, health, ["BTCUSD"], tape=True, held="")
        options = SimpleNamespace(mode=mode, limits=Limits(kill_file=folder / "KILL"))
        with closing(alarms):
            yield SimpleNamespace(name=name, options=options, started_ns=clock.now_ns(), loop=loop, recorder=recorder, health=health,
                                  account=Account(5001, SHOWN, {"BTCUSD": BROKER}, {}), alarms=alarms, held={}, guard=guard)


def feed(live, stream: Stream) -> None:
    """Put rows through the loop's kernel, its decisions and fills to where they go."""
    loop = live.loop
    if loop.run is None:
        loop.instruments = [VENUE, BROKER]
        loop.desk = open_desk(loop.instruments, "0.01")
        loop.run = Run(loop.desk.pairs, [loop.choices], [loop.settings], slots=16, interpreted=True)
    with np.errstate(all="ignore"):
        decisions, fills = loop.run.feed(stream.events())
    for row in decisions:
        loop._decide(row)
    for row in fills:
        loop.told("fill", row)


def market() -> Stream:
    """Return a market with an even book in which nearly everything is sold, a whale last, with a long and a short in it."""
    stream = Stream().open(7, 1, 6_000_000, 5_940_000).open(8, -1, 6_000_000, 6_060_000)
    for n in range(340):
        if n % 50 == 0:
            stream.snapshot({600_000 - k: 1_000 for k in range(300)}, {600_001 + k: 1_000 for k in range(300)})
        stream.trade(1 if n % 10 == 0 else -1, 10).wait(0.1)
    return stream.trade(-1, 20_000).wait(0.5)


def at_broker(ticket: int, side: int = 0, volume: float = 1.0, symbol: str = "BTCUSD", profit: float = -5.0) -> dict:
    """Return a position as the terminal has it."""
    return {"identifier": ticket, "ticket": ticket, "symbol": symbol, "type": side, "volume": volume, "price_open": 60_000.0, "sl": 59_400.0,
            "tp": 0.0, "price_current": 59_995.0, "profit": profit}


def drawn(live, height: int = 60, width: int = 100, color: bool = False) -> list[str]:
    """Return the screen's lines as a terminal of this size shows them."""
    console = Console(record=True, width=width, height=height, force_terminal=True, color_system="truecolor", quiet=False,
                      file=open("/dev/null", "w", encoding="utf-8"))
    with console.file:
        console.print(live_screen(live))
    return console.export_text(styles=color).splitlines()
