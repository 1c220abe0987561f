"""A long shadow run of `tapeguard live` with faults on both sides; prints JSON: whether the replay agrees, and the engine's memory.

    python benchmarks/live_soak.py CAPTURE --minutes 60 --speed 10

Exchange, terminal, worker and engine are processes. The tape of the exchange runs at the speed given, so an hour of market takes
six minutes; the timers of the engine, and the faults of the terminal, run in wall time. All is drawn from the seed. Single best
quotes are not dropped or held back: their ids prove nothing of those before, so nobody could know of it.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from soak import lengthened

from engine.gateway.terminal_client import control_of
from engine.sim.faults import seeded

SAMPLE_S, WARM_SHARE, ROOT = 2.0, 0.25, Path(__file__).parents[1]
VENUE_FAULTS = {"drop": 2.0, "duplicate": 2.0, "reorder": 1.0, "malformed": 0.5, "close": 0.2, "silent": 0.05, "shutdown": 0.05}
TRACELESS = ("drop", "reorder", "silent")
BROKER_RATES = {"latency": 0.002, "disconnect": 0.0002, "restart": 0.0002, "lost": 0.0002, "failed": 0.0005}
WIDE = {"symbol": "BTCUSD", "sl_bps": 60.0, "tp_bps": 120.0}


def started(folder: Path, name: str, *arguments: str) -> subprocess.Popen:
    """Start a command; its output goes to files."""
    with open(folder / f"{name}.out", "wb") as out, open(folder / f"{name}.err", "wb") as err:
        return subprocess.Popen([sys.executable, "-m", "engine.cli", *arguments], stdout=out, stderr=err, cwd=ROOT)


def said(folder: Path, name: str, process: subprocess.Popen) -> dict:
    """Return the JSON object a command prints when it is ready."""
    while not (text := (folder / f"{name}.out").read_text()).endswith("\n"):
        if process.poll() is not None:
            raise SystemExit((folder / f"{name}.err").read_text())
        time.sleep(0.1)
    return json.loads(text)


def resident_mb(pid: int) -> float | None:
    """Return the memory a process holds, without what is only mapped from files; None once it is gone."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) / 1024
    except (OSError, KeyError):
        return None


def traded(control, dice: random.Random) -> int:
    """Close the oldest position by hand where there are many, and open one; return how many were opened."""
    try:
        rows = control("state")[0]["positions"]
        if len(rows) >= 6:
            row = rows[0]
            control("by_hand", {"symbol": "BTCUSD", "side": 1 - row["type"], "lots": row["volume"] / 1e8, "position_id": row["identifier"]})
        control("by_hand", WIDE | {"side": dice.randrange(2), "lots": dice.choice([0.1, 0.5, 1.0])})
        return 1
    except (ValueError, OSError):
        return 0                       # hit by its stop meanwhile


def watched(live: subprocess.Popen, folder: Path, control, dice: random.Random, until_s: float) -> tuple[list, int]:
    """Sample the engine's memory and trade by hand until the time is over; return samples and positions opened."""
    samples, opened, begun_s = [], 0, time.monotonic()
    while time.monotonic() - begun_s < until_s and live.poll() is None:
        time.sleep(SAMPLE_S)
        opened += traded(control, dice)
        held = resident_mb(live.pid)
        if held is not None:
            samples.append((round(time.monotonic() - begun_s, 1), round(held, 1)))
    return samples, opened


def memory(samples: list[tuple[float, float]]) -> dict:
    """Return what the memory did after the first part of the run: medians of its first and last third, and the slope between."""
    late = samples[int(len(samples) * WARM_SHARE):]
    third = max(len(late) // 3, 1)
    first, last = (statistics.median(held for _, held in part) for part in (late[:third], late[-third:]))
    hours = (late[-1][0] - late[0][0]) * 2 / 3 / 3600
    return {"samples": len(samples), "first_mb": first, "last_mb": last, "most_mb": max(held for _, held in samples),
            "mb_per_wall_hour": round((last - first) / hours, 1) if hours else None, "every_20th": samples[::20]}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0, help="of the market")
    parser.add_argument("--speed", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print("seed", args.seed, file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix="live-soak-"))
    running = []
    try:
        wall_s = args.minutes * 60 / args.speed
        tape = lengthened([args.capture], folder, (wall_s + 60) * args.speed)
        drawn = seeded(args.seed, VENUE_FAULTS, wall_s * args.speed, [f"btcusdt@{name}" for name in ("trade", "depth@*", "bookTicker")])
        kept = [vars(fault) for fault in drawn if fault.kind not in TRACELESS or not fault.stream.endswith("bookTicker")]
        (folder / "faults.json").write_text(json.dumps(kept))
        running.append(started(folder, "exchange", "sim", "exchange", str(tape), "--speed", str(args.speed),
                               "--script", str(folder / "faults.json")))
        where = said(folder, "exchange", running[-1])
        follow = {"symbol": "BTCUSD", "stream": "btcusdt@bookTicker", "ws": where["ws"], "path": "/public"}
        config = {"symbols": [{"name": "BTCUSD"}], "follow": [follow], "rates": BROKER_RATES, "seed": args.seed,
                  "positions": [WIDE | {"side": side, "lots": 1.0} for side in (0, 1)]}
        (folder / "terminal.json").write_text(json.dumps(config))
        address = folder / "address.json"
        running.append(started(folder, "terminal", "sim", "terminal", str(folder / "terminal.json"), "--address", str(address)))
        said(folder, "terminal", running[-1])
        live = started(folder, "live", "live", "BTCUSDT", "--mode", "shadow", "--ws", where["ws"], "--rest", where["rest"], "--terminal",
                       f"simulated:@{address}", "--map", "BTCUSDT=BTCUSD", "--data", str(folder / "data"), "--reserve-gb", "0.5", "--json")
        running.append(live)
        samples, opened = watched(live, folder, control_of(address), random.Random(args.seed), wall_s)
        live.send_signal(signal.SIGINT)
        code = live.wait()
        text = (folder / "live.out").read_text()
        found = json.loads(text) if text else {"verify": {}, "check": {}, "said": (folder / "live.err").read_text()[-2000:]}
        check = found["check"]
        print(json.dumps({"seed": args.seed, "market_minutes": args.minutes, "wall_s": round(wall_s), "speed": args.speed, "exit": code,
                          "verify": {key: found["verify"].get(key) for key in ("identical", "compared", "different")},
                          "check_ok": check.get("ok"), "messages": check.get("sequence", {}).get("messages"),
                          "coverage": check.get("coverage"), "problems": check.get("problems"), "positions_opened": opened,
                          "memory": memory(samples), "folder": str(folder), **({"said": found["said"]} if not text else {})}))
    finally:
        for process in reversed(running):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    main()
