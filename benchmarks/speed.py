"""Events per second of the kernel loop and of a replay from Parquet, with memory, on a recording repeated to a wanted length.

    python benchmarks/speed.py [CAPTURE] [--rows 5000000] [--json]

Without a capture a generated market is used. Ratios and figures come from one run on one core; nothing is asserted.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.demo import market
from engine.entries import parse_entries, plan_entries
from engine.measure.synthetic import generate
from engine.positions import most_open, open_desk
from engine.quotes import QuoteModel
from engine.record.importer import import_files
from engine.record.store import TABLES, Session, SessionWriter
from engine.replay import Feed, Plan, replay
from engine.rules import choose, find_rules
from engine.run import Run, Settings

SPECS = {"none open": "every=60s,side=buy,sl=200bps,tp=200bps,max=1ms,start=10s",
         "2 open": "every=300s,side=both,sl=200bps,tp=200bps,max=240s,start=10s",
         "12 open": "every=10s,side=both,sl=20bps,tp=30bps,max=60s,start=10s"}
_IDS = ("trade_id", "first_id", "last_id", "prev_id", "update_id", "from_id", "to_id")


def repeated(session: Session, times: int, folder: Path) -> Session:
    """Write a session that holds another one many times in a row, time and ids moved on."""
    manifest = session.manifest
    span_ns = manifest["last_recv_ns"] - manifest["first_recv_ns"] + 1_000_000_000
    span_seq = manifest["last_seq"] - manifest["first_seq"] + 1
    writer = SessionWriter(folder, f"{session.id}-x{times}")
    for name in TABLES:
        table = session.table(name)
        if not table.num_rows:
            continue
        reach = {column: 1 + pc.max(table[column]).as_py() - pc.min(table[column]).as_py()
                 for column in _IDS if column in table.schema.names and pc.max(table[column]).as_py() is not None}
        step = max(reach.values(), default=0)
        for n in range(times):
            moved = table
            for column in table.schema.names:
                by = {"seq": span_seq, "recv_ns": span_ns, "event_ns": span_ns}.get(column, step if column in reach else 0)
                if by:
                    moved = moved.set_column(moved.schema.get_field_index(column), column, pc.add(moved[column], pa.scalar(n * by, pa.int64())))
            writer.write(name, moved)
    keep = {key: manifest[key] for key in ("venue", "instruments", "first_recv_ns", "first_seq")}
    path = writer.finish({**keep, "last_recv_ns": manifest["last_recv_ns"] + (times - 1) * span_ns, "last_seq": times * span_seq})
    return Session(path)


def planned(session: Session, spec: str) -> Plan:
    """Return a replay of a session with every rule on."""
    symbol = next(entry.symbol for entry in session.instruments if entry.venue != "mt5")
    trades = plan_entries(parse_entries(spec), session.manifest["first_recv_ns"], session.manifest["last_recv_ns"], symbol)
    return Plan(session, trades, choose(find_rules(), "all", []), force_model=True)


def loop_speed(session: Session, spec: str) -> dict:
    """Time the kernel alone on events already in memory."""
    plan = planned(session, spec)
    desk = open_desk(session.instruments, QuoteModel().tick_size)
    events = np.concatenate(list(Feed(plan, desk)))
    slots = most_open(plan.trades, session.manifest["last_recv_ns"]) + 2
    best = None
    for _ in range(3):
        run = Run(desk.pairs, [plan.choices], [Settings()], slots=slots)
        run.feed(events[:0])
        began = time.perf_counter()
        decisions, _ = run.feed(events)
        seconds = time.perf_counter() - began
        best = seconds if best is None else min(best, seconds)
    return {"events": len(events), "decisions": len(decisions), "events_per_second": round(len(events) / best)}


def end_to_end(path: str, spec: str, data: str) -> dict:
    """Replay from Parquet into a run folder; called in a process of its own so that its memory is its own."""
    plan = planned(Session(path), spec)
    result = replay(plan, Path(data), {})
    return {"events": result["events"], "seconds": result["seconds"], "events_per_second": result["events_per_second"],
            "peak_mb": peak_mb()}


def peak_mb() -> int | None:
    """Return the most memory this process has held, where the system tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return round(int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024)


def in_process(path: Path, spec: str, data: Path) -> dict:
    """Run `end_to_end` in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--one", str(path), spec, str(data)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(end_to_end(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capture", nargs="?", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [args.capture] if args.capture else [generate(market(1, 6), folder / "market").capture]
        source = Session(import_files(files, folder, name="source")["path"])
        rows = sum(source.manifest["rows"][table] * (2 if table == "best" else 1) for table in ("trades", "depth", "best", "feed"))
        times = max(1, round(args.rows / rows))
        long = repeated(source, times, folder / "sessions")
        short = repeated(source, max(1, times // 4), folder / "sessions") if times > 4 else source
        size = sum(file["bytes"] for file in long.manifest["files"].values())
        result = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", "rows": times * rows,
                  "bytes_per_row": round(size / (times * rows), 2), "loop": {}, "end_to_end": {}}
        for title, spec in SPECS.items():
            result["loop"][title] = loop_speed(long, spec)
        in_process(source.path, SPECS["2 open"], folder)
        for title, spec in SPECS.items():
            result["end_to_end"][title] = in_process(long.path, spec, folder)
        result["end_to_end"]["2 open, a quarter as long"] = in_process(short.path, SPECS["2 open"], folder)
    print(json.dumps(result) if args.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
