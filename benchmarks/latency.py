"""How long the live path takes: socket read to decision, decision to `order_send` entered in the terminal; prints JSON.

    python benchmarks/latency.py [--seconds 20] [--rates 1000,5000] [--runs 3] [--burst 1] [--tls]

A process sends frames at a steady rate, another is the simulated terminal, and `tapeguard live --mode act` runs here, after
the shadow run it demands: a rule tightens one stop about three times a second and now and then reduces another position. `folded` is from
the read of the socket until a frame is folded and every rule was asked; `journaled` from the read of the frame that decided
until the system has its decision; `sent` from there to `order_send` entered, with its parts. Of several runs the one with the
lowest p99 stands here: the machine may be busy with other work.
"""

import argparse
import gc
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from frames import certified, started

from engine.gateway.orders import Limits
from engine.gateway.terminal_client import control_of
from engine.gateway.terminal_server import serve_terminal
from engine.live.options import LiveOptions, Terminal
from engine.live.session import LiveSession
from engine.record.recorder import Options
from engine.record.segment import FRAME
from engine.rules import choose, find_rules
from engine.run import Settings
from engine.sources.binance import Socket

RULE = '''"""Decides at a steady pace, on whatever comes.

Why:    latency can be measured only where something is decided.
Source: none.
Blind:  to everything.
"""
from dataclasses import dataclass

HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE = range(5)


@dataclass(frozen=True)
class Params:
    every_ns: int = 350_000_000


@dataclass
class State:
    stop_ticks: int = 0
    share: float = 0.0
    occasion: int = 0
    acted_ns: int = 0


def on_event(params, state, market, position):
    """Tighten a long by one tick, reduce a short by one step."""
    if not position.gain_bps > -1e6 or not market.mid_ok:
        return HOLD
    every_ns = params.every_ns if position.side > 0 else 4 * params.every_ns
    turn = (position.age_ns + position.side * params.every_ns // 4) // every_ns + 2
    if position.side > 0:
        if turn == state.acted_ns:
            return HOLD
        state.acted_ns = turn
        state.stop_ticks = position.stop_ticks + 1
        return TIGHTEN
    state.share = 1.0 / position.initial_volume
    state.occasion = turn
    return PARTIAL
'''
ACCOUNT = 5001
TERMINAL = {"symbols": [{"name": "BTCUSD"}], "accounts": [{"login": ACCOUNT}],
            "walk": {"seed": 1, "symbol": "BTCUSD", "bid": 6_000_000, "spread": 100, "every_ms": 100, "step": 5},
            "positions": [{"symbol": "BTCUSD", "side": 0, "lots": 1.0, "sl": 50_000.0, "tp": 90_000.0},
                          {"symbol": "BTCUSD", "side": 1, "lots": 100.0, "sl": 90_000.0, "tp": 50_000.0}]}
SHARES = {"p50": 50, "p99": 99, "p99_9": 99.9, "most": 100}
SETTLE_S = 2.0                     # after the rules may act, before anything is measured


class Measured(LiveSession):
    """A live run that notes when what happened; it decides and sends as any other."""

    def __init__(self, options: LiveOptions, data: Path, begin):
        super().__init__(options, data, lambda text: None)
        self.begin = begin                     # lets the source send
        self.folded: list[tuple[int, int]] = []        # frame folded less socket read, and less frame read
        self.journaled: list[int] = []         # decision flushed less socket read
        self.sent: dict[str, int] = {}         # decision: when it was handed over
        self.read_ns = 0
        self.marks: list[tuple] = []           # wall, process time, thread time, frames
        self.pauses_ns: list[int] = []         # of the garbage collector

    async def _live(self, show) -> None:
        tap, plain = self.recorder.tap, Socket.data_received

        def timed(seq, recv_ns, source, kind, payload):
            if kind != FRAME:
                self.read_ns = recv_ns
            tap(seq, recv_ns, source, kind, payload)
            if kind == FRAME and self.marks:
                now_ns = time.time_ns()
                self.folded.append((now_ns - self.read_ns, now_ns - recv_ns))

        def read(socket, data):
            self.read_ns = time.time_ns()
            plain(socket, data)

        def collected(phase, _info):
            if phase == "start":
                self.collecting_ns = time.thread_time_ns()
            elif self.marks:
                self.pauses_ns.append(time.thread_time_ns() - self.collecting_ns)
        self.recorder.tap, Socket.data_received = timed, read
        gc.callbacks.append(collected)
        try:
            await super()._live(show)
        finally:
            Socket.data_received = plain
            gc.callbacks.remove(collected)

    def _act(self, exit) -> None:
        now_ns = time.time_ns()
        if self.marks:
            self.journaled.append(now_ns - self.read_ns)
            self.sent[exit.decision] = now_ns
        super()._act(exit)

    def watch(self, _session) -> None:
        """Start the source when both sockets are there, and the measurement when the rules may act."""
        if self.begin and all(group.alive for group in self.recorder.groups):
            self.begin()
            self.begin = None
        self.guard.max_lag_s = float("inf")    # the frames bear a time of their own
        now = time.perf_counter(), time.process_time(), time.thread_time(), self.recorder.counters.frames
        if not self.guard.held and not self.held:
            self.ready_s = getattr(self, "ready_s", now[0])
            if now[0] - self.ready_s > SETTLE_S:
                self.marks = [self.marks[0] if self.marks else now, now]


def terminal(config: dict, address: Path, pipe) -> None:
    """Serve the simulated terminal until killed."""
    serve_terminal(config, address, pipe.send)


def spread(values_ns) -> dict:
    """Return percentiles in milliseconds, and of how many."""
    values = np.asarray(values_ns, float) / 1e6
    if not len(values):
        return {"count": 0}
    return {"count": len(values)} | {name: round(float(np.percentile(values, share)), 4) for name, share in SHARES.items()}


def order_times(session: Measured, intents: Path, log: list) -> dict:
    """Return the parts of the way from a decision to `order_send` entered, in nanoseconds."""
    parts = defaultdict(list)
    for line in intents.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        handed_ns = session.sent.get(entry["decision"])
        if handed_ns is None or entry["what"] != "attempt" or not entry["intent"].endswith("/1"):
            continue
        found = next((at_ns for at_ns, request in log if at_ns > entry["at_ns"] and entry["request"].items() <= request.items()), None)
        if found:
            parts["sent"].append(found - handed_ns)
            parts["sent_planned"].append(entry["at_ns"] - handed_ns)
            parts["sent_written_and_checked"].append(found - entry["at_ns"])
    return parts


@contextmanager
def broker(folder: Path) -> Iterator[Path]:
    """Yield the address of a terminal process with positions that nobody acted on yet."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    address, state = folder / "address.json", folder / "state.json"
    state.unlink(missing_ok=True)
    process = context.Process(target=terminal, args=(TERMINAL | {"state": str(state)}, address, there), daemon=True)
    process.start()
    try:
        here.recv()
        yield address
    finally:
        process.kill()
        process.join()


def live(folder: Path, mode: str, seconds: float, rate: float, args: argparse.Namespace, certificate: str) -> dict:
    """Make one live run with a broker of its own and return its figures."""
    with broker(folder) as address:
        return figures(folder, mode, seconds, rate, args.burst, certificate, address)


def figures(folder: Path, mode: str, seconds: float, rate: float, burst: int, certificate: str, address: Path) -> dict:
    """Make one live run and return its figures; raise where its replay decides otherwise."""
    data = folder / "data"
    server, pipe, endpoint, trust = started(rate, certificate, burst)
    choices = choose(find_rules(folder / "rules", shipped=False), "pace=act", [])
    limits = Limits(actions_per_minute=100_000, actions_per_day=1_000_000, max_share=1.0)
    options = LiveOptions(mode, Options(endpoint, ["BTCUSDT"], ssl=trust, duration_s=seconds), choices,
                          Terminal(f"simulated:@{address}"), {"BTCUSDT": "BTCUSD"}, limits,
                          ("actions_per_minute", "actions_per_day", "max_share"), ACCOUNT, Settings(cooldown_ns=100_000_000),
                          hold_back_s=1.0, journal={"disk_reserve_bytes": 1 << 28})
    session = Measured(options, data, lambda: pipe.send("begin"))
    try:
        result = session.run(session.watch)
    finally:
        server.kill()
        server.join()
    if not result["verify"]["identical"]:
        raise SystemExit(f"the replay decides otherwise: {result['verify']['differences'][:1]}")
    if mode == "shadow":
        return {}
    wall_s, process_s, thread_s, frames = (b - a for a, b in zip(*session.marks, strict=True))
    folded = np.array(session.folded)
    parts = order_times(session, data / "live" / "intents.jsonl", control_of(address)("log"))
    return {"messages_per_s": round(frames / wall_s), "cpu_us_per_message": round(process_s / frames * 1e6, 1),
            "cpu_share_of_a_core": round(process_s / wall_s, 3), "loop_thread_us_per_message": round(thread_s / frames * 1e6, 1),
            "folded_ms": spread(folded[:, 0]), "folded_of_one_frame_ms": spread(folded[:, 1]), "journaled_ms": spread(session.journaled),
            "collector_cpu_ms": spread(session.pauses_ns),
            **{f"{name}_ms": spread(values) for name, values in parts.items()}}


def best(runs: list[dict]) -> dict:
    """Return of each figure the one of the run that did best in it."""
    found = {}
    for name in runs[0]:
        key = (lambda run: run[name]["p99"]) if isinstance(runs[0][name], dict) else (lambda run: run[name])     # noqa: B023
        found[name] = min(runs, key=key)[name]
    return found


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rates", default="1000,5000", help="messages a second")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--burst", type=int, default=1, help="frames sent at once at the least; 20 is one of each kind in a packet")
    parser.add_argument("--tls", action="store_true")
    args = parser.parse_args()
    result = {"python": platform.python_version(), "machine": platform.machine(), **vars(args)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rules = folder / "rules"
        rules.mkdir()
        (rules / "pace.py").write_text(RULE, encoding="utf-8")
        certificate = certified(folder) if args.tls else ""
        live(folder, "shadow", 6.0, 1000.0, args, certificate)
        for rate in map(float, args.rates.split(",")):
            runs = []
            for number in range(args.runs):
                print(f"{rate:.0f} messages a second, run {number + 1}", file=sys.stderr)
                runs.append(live(folder, "act", args.seconds, rate, args, certificate))
            result[f"{rate:.0f}"] = best(runs)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
