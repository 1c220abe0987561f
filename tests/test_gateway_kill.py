"""The engine, the worker, or both are killed at drawn moments: every decision is acted on at most once and ends known."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest
from kill_gateway import PLAN, decision, open_gateway

from engine.kernel.records import PARTIAL, TIGHTEN

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signal")
RUNS, SLOW_RUNS = 3, 200


def once(folder: Path, seed: int) -> str:
    dice = random.Random(seed)
    victim = ("engine", "worker", "both")[seed % 3]
    faults = [{"do": "latency", "ms": 20, "after_ms": 20, "call": "*"} for _ in range(4)] + [
        {"do": dice.choice(["latency", "placed", "unknown", "lost"]), "ms": 60, "after_ms": 60, "delay_ms": dice.choice([0, 150]),
         "code": 10012, "executed": dice.random() < 0.5} for _ in range(3)]
    config = {"symbols": [{"name": "BTCUSD"}], "quotes": [["BTCUSD", 6_000_000, 6_000_100]], "state": str(folder / "state.json"), "faults": faults,
              "accounts": [{"mode": dice.choice(["hedging", "netting"])}],
              "positions": [{"symbol": "BTCUSD", "side": 0, "lots": 1.0, "sl": 59_000.0, "tp": 61_000.0}]}
    (folder / "terminal.json").write_text(json.dumps(config), encoding="utf-8")
    engine = subprocess.Popen([sys.executable, str(Path(__file__).with_name("kill_gateway.py")), str(folder), "1001"], stdout=subprocess.PIPE)
    try:
        worker = int(engine.stdout.readline())
        sleep(dice.uniform(0.0, 1.5))
        for pid in [worker] * (victim != "engine") + [engine.pid] * (victim != "worker"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if victim == "worker":
            engine.wait(60)
    finally:
        engine.kill()
        engine.wait()
        engine.stdout.close()
    return check(folder, victim)


def check(folder: Path, victim: str) -> str:
    gateway, link = open_gateway(folder)
    try:
        gateway.recover()
        assert not gateway.journal.unfinished()
        state = link.ask({"call": "control", "args": ["state"]})["result"][0]
        begun = {name: entry for name, entry in gateway.journal.decisions.items() if entry["what"] == "begin"}
        own = [deal for deal in state["deals"] if deal["reason"] == 3]
        assert all(deal["entry"] == 1 for deal in own)
        by_order = {order["ticket"]: order for order in state["past_orders"]}
        for number, (action, value) in enumerate(PLAN):
            entry = begun.get(f"k/{number}")
            deals = [deal["volume"] for deal in own if entry and by_order[deal["order"]]["comment"] in
                     {each["request"].get("comment") for each in entry["attempts"]} - {None}]
            keep = value / 100 if action == PARTIAL else 0.0
            assert sum(deals) / 1e8 <= (entry["position"]["volume"] - keep + 1e-9 if entry and action != TIGHTEN else 0.0)
            if entry:
                before = len(link.ask({"call": "control", "args": ["log"]})["result"])
                assert gateway.act(decision(number, 1001)).state in ("done", "failed", "unknown")
                assert len(link.ask({"call": "control", "args": ["log"]})["result"]) == before
        stops = [entry["attempts"][-1]["stop"] for entry in begun.values() if entry["exit"]["action"] == TIGHTEN]
        for row in state["positions"]:
            assert row["type"] == 0 and row["tp"] == 6_100_000 and row["sl"] in {5_900_000, *(round(stop * 100) for stop in stops)}
        return f"{victim}: {len(begun)} begun"
    finally:
        link.stop()
        gateway.journal.close()


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_kill_leaves_nothing_over_closed_and_nothing_unknown(tmp_path, seed):
    once(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + SLOW_RUNS))
def test_two_hundred_kills(tmp_path, seed):
    once(tmp_path, seed)
