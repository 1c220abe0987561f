"""Bytes and milliseconds of every analysis tool, asked over MCP by the official SDK's client.

    python benchmarks/analysis.py [CAPTURE...] [--asks 20] [--json]

The captures (files of one recording) are imported into a temporary data root and replayed with every rule; without one a generated
market is used. `first` folds the recording to its end; `anew` asks of an earlier moment, which folds it again; `again` is the median
of repeated questions. Nothing is asserted.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from mcp import Client

from engine.analysis.library import DEFAULT_ENTRIES
from engine.analysis.moment import canonical
from engine.analysis.server import build_server
from engine.demo import market
from engine.entries import parse_entries, plan_entries
from engine.measure.synthetic import generate
from engine.positions import open_desk
from engine.record.importer import import_files
from engine.record.store import Session
from engine.replay import Plan, replay
from engine.rules import choose, find_rules


def prepared(captures: list[Path], folder: Path) -> tuple[Session, str, str]:
    """Return a session, its first symbol, and the name of a run of it."""
    paths = captures
    if not paths:
        made = generate(market(1, 10.0), folder / "market")
        paths = [made.capture, made.ticks]
    session = Session(import_files(paths, folder, name="recorded")["path"])
    manifest, symbol = session.manifest, open_desk(session.instruments, "0.01").pairs[0].symbol
    spec = parse_entries(DEFAULT_ENTRIES)
    plan = Plan(session, plan_entries(spec, manifest["first_recv_ns"], manifest["last_recv_ns"], symbol), choose(find_rules(), "all", []))
    return session, symbol, replay(plan, folder, {"entries": DEFAULT_ENTRIES})["run"]


async def ask(client: Client, tool: str, arguments: dict) -> tuple[dict, float]:
    """Return an answer and its milliseconds."""
    start = time.perf_counter()
    result = await client.call_tool(tool, arguments)
    took = (time.perf_counter() - start) * 1e3
    if result.is_error:
        raise SystemExit(f"{tool} {arguments}: {result.content[0].text}")
    return result.structured_content, took


async def measured(folder: Path, symbol: str, run: str, asks: int) -> dict:
    """Return what each question costs, in the order asked."""
    rows = []
    async with Client(build_server(folder)) as client:
        schemas = sum(len(canonical(tool.model_dump(mode="json", exclude_none=True))) for tool in (await client.list_tools()).tools)
        closed = (await ask(client, "list_positions", {"run": run, "ended_by": "rule_closed", "limit": 1}))[0]["positions"]
        any_one = (await ask(client, "list_positions", {"run": run, "limit": 1}))[0]["positions"]
        ticket = (closed or any_one)[0]["ticket"]
        questions = [("analyse_symbol", {"symbol": symbol}), ("get_order_flow", {"symbol": symbol}), ("get_order_flow_trend", {"symbol": symbol})]
        questions += [(tool, {**arguments, "detail": "full"}) for tool, arguments in questions]
        questions += [("list_sessions", {}), ("list_positions", {"run": run}), ("explain_exit", {"run": run, "ticket": ticket}),
                      ("explain_exit", {"run": run, "ticket": ticket, "detail": "full"})]
        for tool, arguments in questions:
            answer, first = await ask(client, tool, arguments)
            again = [(await ask(client, tool, arguments))[1] for _ in range(asks)]
            rows.append({"tool": tool, "detail": arguments.get("detail", "brief"), "bytes": len(canonical(answer).encode()), "first_ms": first,
                         "again_ms": statistics.median(again), "slowest_ms": max(again)})
        _, anew = await ask(client, "analyse_symbol", {"symbol": symbol, "at": "+30s"})
        answer, took = await ask(client, "measure_rules", {"session": "recorded"})
        rows.append({"tool": "measure_rules", "detail": "brief", "bytes": len(canonical(answer).encode()), "first_ms": took, "again_ms": None,
                     "slowest_ms": None})
    return {"rows": rows, "anew_ms": anew, "tools_bytes": schemas}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        session, symbol, run = prepared(args.captures, Path(root))
        made = asyncio.run(measured(Path(root), symbol, run, args.asks))
    length_s = (session.manifest["last_recv_ns"] - session.manifest["first_recv_ns"]) / 1e9
    made |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "rows_stored": sum(session.manifest["rows"].values()), "length_s": length_s}
    if args.json:
        print(json.dumps(made))
        return
    print(f"{symbol}, {length_s:.0f} s, {made['rows_stored']:,} rows; {made['machine']}")
    print(f"{'tool':<22}{'detail':<8}{'bytes':>8}{'first ms':>10}{'again ms':>10}{'slowest':>10}")
    for row in made["rows"]:
        times = "".join(f"{'-' if row[name] is None else format(row[name], ',.1f'):>10}" for name in ("first_ms", "again_ms", "slowest_ms"))
        print(f"{row['tool']:<22}{row['detail']:<8}{row['bytes']:>8,}{times}")
    print(f"analyse_symbol of an earlier moment, folded anew: {made['anew_ms']:,.0f} ms; all tools with their schemas: {made['tools_bytes']:,} bytes")


if __name__ == "__main__":
    main()
