"""Live runs whose engine, worker, both, or terminal are killed at drawn moments: nothing is done twice, everything ends known.

`python tests/test_live_kill.py SEED...` runs chains of kills alone and prints what each did.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from exchanges import beginning
from live_runs import ACT, LOGIN, MAGIC, Stage, Witness, acting, begun, faults_of, intents, orphans, wait_for, worker_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the workers of a process under /proc")
VICTIMS = ("engine", "worker", "both", "terminal")
SEEDS, KILLS = (1, 100, 101), 4
FAST = ("--set", "ladder.every_ms=150", "--set", "follower.behind_bps=350")
LINES = 24_000                 # of the capture, at half its speed three minutes: a position may be in doubt for one
RATES = {"latency": 0.003, "lost": 0.001, "disconnect": 0.0004, "restart": 0.0003, "failed": 0.0003, "unknown": 0.05, "placed": 0.05,
         "partial": 0.05, "retcode": 0.05}


class Feeder(threading.Thread):
    """Opens positions by hand, so that there is always something to act on."""

    def __init__(self, stage: Stage, seed: int, netting: bool):
        super().__init__(daemon=True)
        self.stage, self.dice, self.most = stage, random.Random(seed), 1 if netting else 5
        self.opened, self.stopped = 0, threading.Event()

    def run(self) -> None:
        """Open one whenever there are fewer than there may be."""
        while not self.stopped.wait(0.2):
            try:
                if len(self.stage.control("state")[0]["positions"]) < self.most:
                    self.stage.by_hand(self.dice.randrange(2), self.dice.choice([0.1, 0.37, 1.0, 2.5]), sl_bps=500.0, tp_bps=900.0)
                    self.opened += 1
            except (ValueError, OSError):
                continue               # the terminal is down


def hit(stage: Stage, live, victim: str) -> None:
    """Kill what is to be killed."""
    if victim == "terminal":
        stage.terminal.kill()
        stage.start_terminal()
        return
    workers = [pid for name in ("sent.jsonl", "quotes.jsonl") if (pid := worker_of(live.pid, name))]
    for pid in workers if victim != "engine" else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if victim in ("engine", "both"):
        live.kill()


def one_life(stage: Stage, victims: list[str], dice: random.Random) -> list[str]:
    """Run live until it acts and kill, one after the other, until the engine is dead; return what happened.

    Where the engine lives on it has to act again; at the end of the list it is ended as by Ctrl-C.
    """
    done, before, live = [], begun(stage), stage.live(*ACT, *FAST)
    if victims and victims[0] in ("engine", "both") and dice.random() < 0.3:
        time.sleep(dice.uniform(0.5, 10.0))
        hit(stage, live, victims[0])
        return [f"{victims.pop(0)} early"]
    while True:
        wait_for(lambda: acting(stage, live) and begun(stage) > before, 120, f"acts after {done}", live.said)
        if not victims:
            break
        time.sleep(dice.uniform(0.0, 1.2))
        before = begun(stage)
        done.append(victims.pop(0))
        hit(stage, live, done[-1])
        if done[-1] in ("engine", "both"):
            return done
    live.end()
    result = live.result()
    assert result["verify"]["identical"] and result["check"]["ok"], result
    return [*done, "end"]


def chain(folder: Path, capture: Path, proof: Path, seed: int, kills: int) -> str:
    """Kill so often, end cleanly, and judge everything; return what was done."""
    print("seed", seed, flush=True)            # shown when the test fails
    dice = random.Random(seed)
    victims = [victim for _ in range(0, kills, len(VICTIMS)) for victim in dice.sample(VICTIMS, len(VICTIMS))][:kills]
    netting = dice.random() < 0.4
    stage = Stage(folder, capture, speed=0.5, accounts=[{"login": LOGIN, "mode": "netting" if netting else "hedging"}],
                  rates=RATES, seed=seed, late_ms=700)
    witness, feeder, done = Witness(stage), Feeder(stage, seed, netting), []
    try:
        stage.proven(proof)
        witness.start()
        feeder.start()
        while not done or done[-1] != "end":
            stage.start_exchange()
            done += one_life(stage, victims, dice)
            assert not witness.wrong, witness.wrong
        feeder.stopped.set()
        feeder.join()
        witness.end()
        return judged(stage, witness, seed, done, feeder.opened)
    finally:
        witness.stopped.set()
        feeder.stopped.set()
        stage.close()
        assert not orphans(stage.data), "a worker was left"


def judged(stage: Stage, witness: Witness, seed: int, done: list[str], opened: int) -> str:
    """Hold what was done at the broker, what was written down and what was decided against each other; return it in words."""
    wrong = faults_of(witness, stage.data)
    compared = 0
    for path in sorted((stage.data / "runs").glob("live-act-*/live.json")):
        live = json.loads(path.read_text())
        if live["state"] not in ("ended", "killed"):
            wrong.append(f"{live['run']} is {live['state']}")
        if "instruments" not in live:
            continue
        found = json.loads((path.parent / "verify.json").read_text())
        compared += found["compared"]
        if not found["identical"]:
            wrong.append(f"{live['run']}: {found['differences'][:1]}")
    assert not wrong, "\n".join(wrong)
    known = intents(stage.data)
    ends = [entry["end"]["outcome"]["state"] for entry in known.values()]
    deals = sum(deal["magic"] == MAGIC for book in witness.books for deal in book["deals"])
    mode = stage.config["accounts"][0]["mode"]
    counts = {state: ends.count(state) for state in sorted(set(ends))}
    return (f"seed {seed} {mode}: {', '.join(done)}; {opened} opened, {len(ends)} decisions {counts}, {deals} deals, "
            f"{len(witness.sent)} orders, {compared} compared")


@pytest.fixture(scope="module")
def proof(tmp_path_factory, realdata) -> Path:
    """Return the folder of a verified shadow run, which lets a run of the same rules act."""
    folder = tmp_path_factory.mktemp("shadow")
    return make_proof(folder, beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", 4000, folder))


def make_proof(folder: Path, capture: Path) -> Path:
    """Make a shadow run."""
    stage = Stage(folder, capture, positions=[{"symbol": "BTCUSD", "side": 0, "lots": 1.0, "sl_bps": 500.0, "tp_bps": 900.0}])
    try:
        result = stage.live("--mode", "shadow", *FAST, "--seconds", "12").result(400)
        assert result["verify"]["compared"]
        return Path(result["path"])
    finally:
        stage.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_kills_leave_nothing_done_twice_and_nothing_unknown(tmp_path, realdata, proof, seed):
    capture = beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", LINES, tmp_path)
    print(chain(tmp_path, capture, proof, seed, KILLS))


if __name__ == "__main__":
    import shutil
    import tempfile
    signal.signal(signal.SIGINT, signal.default_int_handler)       # a shell's background job ignores it, and so would what it starts
    capture = Path(__file__).parents[2] / "shared" / "realdata" / "binance_usdm" / "btcusdt_20240808.gz"
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    (base / "shadow").mkdir()
    capture = beginning(capture, LINES, base)
    made = make_proof(base / "shadow", capture)
    for text in sys.argv[2:]:
        folder = base / text
        folder.mkdir()
        try:
            print(chain(folder, capture, made, int(text), int(sys.argv[1])), flush=True)
            shutil.rmtree(folder)
        except BaseException as error:
            print(f"FAILED seed {text} in {folder}: {type(error).__name__}: {error}", flush=True)
            if isinstance(error, KeyboardInterrupt):
                raise
