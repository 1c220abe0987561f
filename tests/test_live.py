"""`tapeguard live` end to end: exchange, terminal, worker and engine are processes, the wire is real, the account is a demo."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from exchanges import beginning
from live_runs import ACT, LIMITS, MAGIC, Stage, Witness, acting, begun, faults_of, intents, orphans, status, wait_for
from replays import rewritten

from engine.record.store import Session

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds the workers of a process under /proc")]
WIDE = {"sl_bps": 500.0, "tp_bps": 900.0}
POSITIONS = [{"symbol": "BTCUSD", "side": side, "lots": 1.0, **WIDE} for side in (0, 1, 0)]


def rows(stage: Stage, session: str, table: str) -> list[dict]:
    return Session(stage.data / "sessions" / session).table(table).to_pylist()


def log(run: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]


def entries(stage: Stage) -> list[dict]:
    path = stage.data / "live" / "intents.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def seen(live) -> set[int]:
    """Return the positions the run knows of."""
    return {row["ticket"] for row in status(live).get("positions", [])}


def in_turn(stage: Stage, live, told: SimpleNamespace) -> None:
    """Do by hand and by command what a trader does while a run acts."""
    wait_for(lambda: acting(stage, live) and begun(stage) >= 2, 120, "the rules act", live.said)
    told.second = stage.live("--mode", "shadow")                      # two on one data root
    told.second.wait()
    told.shadowed = stage.ask("switch", "ladder=shadow")
    before = Counter(entry["what"] for entry in entries(stage))
    stage.by_hand(0, 0.5, **WIDE)
    told.by_hand = max(row["identifier"] for row in stage.control("state")[0]["positions"])
    wait_for(lambda: told.by_hand in seen(live), 20, "the account is read")
    stage.by_hand(1, 0.2, position_id=told.by_hand)
    told.refused = stage.ask("switch", "whale=loud")[0], stage.ask("switch", "wale=act")[0]
    told.back = stage.ask("switch", "ladder=act")
    wait_for(lambda: sum(entry["what"] == "begin" for entry in entries(stage)) > before["begin"], 20, "the ladder acts again")
    told.killed = stage.ask("kill")[1]
    told.sent = len(stage.control("log"))
    stage.by_hand(1, 0.4)                                             # without a stop
    told.gone = max(row["identifier"] for row in stage.control("state")[0]["positions"])
    wait_for(lambda: any("kill switch" in entry.get("outcome", {}).get("reason", "") for entry in entries(stage)), 20,
             "an order is refused because of the kill switch")
    told.sent_while_killed = len(stage.control("log")) - told.sent
    wait_for(lambda: told.gone in seen(live), 20, "the account is read")
    stage.by_hand(0, 0.4, position_id=told.gone)
    wait_for(lambda: told.gone not in seen(live), 20, "the account is read again")
    told.lifted = stage.ask("kill", "--lift")[1]
    stage.by_hand(0, 0.3, **WIDE)
    late = max(row["identifier"] for row in stage.control("state")[0]["positions"])
    # a rule sees a position from the first quote after it, and the price may stand still for seconds
    wait_for(lambda: {told.by_hand, late} <= {entry["begin"]["position"]["identifier"] for entry in intents(stage.data).values()
                                              if entry["begin"]}, 60, "those opened by hand are acted on too", live.said)
    stage.by_hand(0, 0.6, **WIDE)
    stage.control("fault", {"do": "latency", "ms": 700, "after_ms": 700})
    so_far = begun(stage)
    wait_for(lambda: begun(stage) > so_far, 20, "an order is on its way when the run ends")


@pytest.fixture(scope="module")
def played(tmp_path_factory, realdata):
    """Return what a refused run, a shadow run and a run that acts left, with what was asked of them meanwhile."""
    folder, told = tmp_path_factory.mktemp("live"), SimpleNamespace()
    stage = Stage(folder, beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", 20_000, folder), speed=0.5, positions=POSITIONS)
    witness = Witness(stage)
    try:
        code, lost, _ = stage.ask("kill")
        assert (code, lost["running"], lost["killed"]) == (1, False, True), "no run uses this root: a trader in the wrong folder is told"
        told.bare = stage.live("--mode", "act", rules="ladder=shadow")
        told.bare.wait()
        assert stage.ask("kill", "--lift")[0] == 0
        witness.start()
        shadow = stage.live("--mode", "shadow")
        wait_for(lambda: status(shadow).get("decisions", 0) > 3, 400, "it decides", shadow.said)       # the first compile takes a minute
        shadow.end()
        told.shadow = shadow.result()
        told.wrong = stage.live("--mode", "act", "--account", "5002", *LIMITS)
        told.wrong.wait()
        told.sent_before = len(stage.control("log"))
        stage.start_exchange()
        live = stage.live(*ACT)
        in_turn(stage, live, told)
        live.end()
        told.act, told.text = live.result(), live.said()
        witness.end()
        yield SimpleNamespace(stage=stage, witness=witness, **vars(told))
    finally:
        witness.stopped.set()
        stage.close()


def test_act_is_refused_with_every_missing_condition_named(played):
    assert played.bare.process.returncode == 2
    said = played.bare.said().splitlines()
    assert len(said) == 1 and "refused" in said[0], "the terminal is not reached for"
    for words in ("--account NUMBER", "--actions-per-minute, --actions-per-day, --max-share", "verified shadow run", "kill switch is on",
                  "no rule has the mode act"):
        assert words in said[0], words
    assert played.wrong.process.returncode == 2 and "5***1 is logged in, not the 5***2 you typed" in played.wrong.said()
    assert not [path for path in (played.stage.data / "sessions").iterdir() if path.name.startswith(".")]


def test_shadow_decides_and_sends_nothing(played):
    assert played.shadow["verify"]["identical"] and played.shadow["check"]["ok"] and played.sent_before == 0
    decided = rows(played.stage, played.shadow["session"], "decisions")
    assert decided and {row["result"] for row in decided} <= {"shadowed", "alerted"} and not any(row["decision"] for row in decided)
    assert rows(played.stage, played.shadow["session"], "orders") == []


def test_act_verifies_and_only_reduces(played):
    assert played.act["verify"]["identical"] and played.act["check"]["ok"], played.act
    assert played.act["verify"]["compared"] > 20 and played.act["verify"]["acted_positions"] >= len(POSITIONS) + 2
    assert faults_of(played.witness, played.stage.data) == []
    assert "Traceback" not in played.text and orphans(played.stage.data) == []


def test_every_decision_that_was_acted_on_has_one_outcome_even_at_the_end(played):
    decided = [row for row in rows(played.stage, played.act["session"], "decisions") if row["decision"]]
    orders = rows(played.stage, played.act["session"], "orders")
    assert [row["result"] for row in decided] == ["acted"] * len(decided)
    assert Counter(row["decision"] for row in orders) == Counter(row["decision"] for row in decided)
    dealt = {row["decision"]: row["closed_lots"] for row in orders if row["closed_lots"]}
    deals = [deal for deal in played.witness.books[0]["deals"] if deal["magic"] == MAGIC]
    assert sum(dealt.values()) * 10**6 == sum(deal["volume"] for deal in deals)
    assert all(row["state"] == "done" and row["sends"] for row in orders if row["decision"] in dealt)


def test_switches_are_recorded_with_their_reason_and_rolled_back(played):
    assert played.shadowed[1]["answers"] == [{"ok": True, "said": "ladder: act -> shadow"}]
    assert played.back[1]["answers"] == [{"ok": True, "said": "ladder: shadow -> act"}]
    assert played.refused == (2, 2)
    switches = rows(played.stage, played.act["session"], "switches")
    found = [(row["rule"], row["was"], row["mode"], row["reason"]) for row in switches]
    assert found[:2] == [(rule, "shadow", "act", "the feeds are well") for rule in ("follower", "ladder")]
    assert found[2:4] == [("ladder", "act", "shadow", "by command"), ("ladder", "shadow", "act", "by command")]
    assert found[4:] == [(rule, "act", "shadow", "the run ends") for rule in ("follower", "ladder")]
    decided = [row for row in rows(played.stage, played.act["session"], "decisions") if row["rule"] == "ladder"]
    between = [row["result"] for row in decided if switches[2]["seq"] < row["seq"] < switches[3]["seq"]]
    assert between and set(between) == {"shadowed"}
    assert [row for row in decided if row["seq"] > switches[3]["seq"] and row["result"] == "acted"]


def test_the_kill_switch_stops_orders_and_is_lifted(played):
    assert played.killed["killed"] and not played.lifted["killed"] and played.sent_while_killed <= 1
    refused = [row for row in rows(played.stage, played.act["session"], "orders") if "kill switch" in row["reason"]]
    assert refused and all((row["state"], row["code"], row["sends"]) == ("refused", "rejected", 0) for row in refused)


def test_the_account_table_tells_what_was_done_by_hand(played):
    told = rows(played.stage, played.act["session"], "account")
    of = {ticket: [row for row in told if row["ticket"] == ticket] for ticket in {row["ticket"] for row in told}}
    assert len([row for row in told if row["code"] == "opened"]) == len(of) >= 6
    assert all([row["code"] for row in each[:3]] == ["opened", "stop", "take"] for ticket, each in of.items() if ticket != played.gone)
    partly = [(row["code"], row["qty_lots"]) for row in of[played.by_hand]]
    assert ("opened", 50) in partly and ("volume", 30) in partly
    assert of[played.gone][-1]["code"] == "closed" and of[played.gone][-1]["price_ticks"]


def test_two_live_runs_on_one_data_root_are_refused(played):
    assert played.second.process.returncode == 2 and "is in use by live run" in played.second.said()


def test_verify_names_the_first_decision_that_was_altered(played, tmp_path):
    stage = played.stage
    copied, original = tmp_path / "data", Session(stage.data / "sessions" / played.act["session"])
    shutil.copytree(stage.data / "runs" / played.act["run"], copied / "runs" / played.act["run"])

    def altered(name: str, table):
        if name != "decisions":
            return table
        records = table["record"].to_pylist()
        records[3] = records[3][:-2] + ("00" if records[3][-2:] != "00" else "01")
        return table.set_column(table.column_names.index("record"), table.schema.field("record"), [records])
    rewritten(original, copied, altered)
    command = stage.start("verify", played.act["run"], "--data", str(copied))
    assert command.wait() == 1, command.said()
    seq = original.table("decisions")["trigger_seq"].to_pylist()[3]
    assert f"first difference at seq {seq}:" in command.out.read_text() and "OTHERWISE" in command.out.read_text()
    found = json.loads((copied / "runs" / played.act["run"] / "verify.json").read_text())
    assert not found["identical"] and found["different"] == 1 and found["differences"][0]["seq"] == seq
    assert stage.ask("verify", played.act["run"])[1]["identical"]
