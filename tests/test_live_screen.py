"""The screen and the status of a live run: every fact a trader needs is there, in 100 columns, whatever is not known."""

import json
import re
from pathlib import Path

import pytest
from lives import at_broker, drawn, feed, live_run, market
from streams import Stream
from test_alarms import order, server, soon  # noqa: F401
from test_nearness import NEAR

from engine import clock
from engine.kernel import records as R
from engine.live.screen import Screen, live_screen
from engine.live.status import status_of
from engine.live.webhook import Webhook
from engine.record.segment import OUTCOME


@pytest.fixture
def live(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "cache"))
    with live_run(tmp_path) as made:
        yield made


def row(lines: list[str], *words: str) -> str:
    """Return the one line that has all the words."""
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, (words, found)
    return found[0]


def test_the_facts_of_positions_and_rules(live):
    feed(live, market())
    live.health.positions = [at_broker(7, profit=-4.75), at_broker(8, 1, profit=-5.25)]
    lines = drawn(live)
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith(" PAPER  live-paper-x") and "account 5***1 Simulated-Demo demo hedging USD" in lines[0]
    assert all(word in lines[1] for word in ("Ctrl-C", "tapeguard kill", "tapeguard switch"))
    row(lines, "ticket", "symbol", "lots", "entry", "stop", "take", "gain USD", "age")
    long = row(lines, "7 ", "BTCUSD", "long")
    assert re.search(r"long +1 +60000\.00 +59995\.00 +59905\.01 +- +-0\.01 +-4\.75", long), long
    at = lines.index(long)
    mine = {line.split()[0]: line for line in lines[at + 1:at + 9]}
    assert list(mine) == [choice.rule.name for choice in live.loop.choices]
    assert re.search(r"whale +paper +tighten, done +█{10} 100% \$1,200k, tier 2, side -1", mine["whale"])
    assert re.search(r"trailing_stop +paper +quiet +░+ +0%", mine["trailing_stop"])
    assert re.search(r"order_flow +paper +quiet +█{3}░{7} +33%", mine["order_flow"]), "25 of more than 75 points"
    assert re.search(r"momentum_reversal +paper +quiet +░{10} +0%", mine["momentum_reversal"])
    row(lines, "8 ", "BTCUSD", "short", "-5.25")
    decision = row(lines, "whale", "tighten", "7 BTCUSD", "stop moved to 59905.01")
    assert re.match(r"\d\d:\d\d:\d\d whale", decision)


def test_the_facts_of_feeds_and_of_the_run(live):
    feed(live, market())
    live.health.quoted_s["BTCUSD"] = clock.monotonic_s() - 2.0
    live.loop.took_ns.extend([40_000] * 99 + [3_000_000] * 2)
    live.recorder.watch.judge(b'{"stream":"btcusdt@trade","data":{"t":5}}', clock.monotonic_s())
    live.recorder.watch.judge(b'{"stream":"btcusdt@trade","data":{"t":9}}', clock.monotonic_s())
    live.recorder.watch.streams["btcusdt@trade"].frames = 2
    lines = drawn(live)
    assert re.search(r"btcusdt@trade +[\d,.]+/s +\d\.\d s +1 ok", row(lines, "btcusdt@trade"))
    assert re.search(r"btcusdt@depth@100ms +0\.0/s +- +0 not connected", row(lines, "btcusdt@depth"))
    quote = row(lines, "broker quote BTCUSD")
    assert re.search(r" 2\.\d s +basis -?\+?0\.\d\d ± 0\.00 bps, ok", quote), quote
    assert re.search(r"broker account +\d+\.\d s +journal \d+ k?B, disk free [\d.]+ GB", row(lines, "broker account"))
    assert "socket to decision 0.04 ms p50, 3.00 ms p99" in row(lines, "socket to decision")
    assert row(lines, "0 events,").endswith("0 orders")
    live.recorder.journal.disk_reserve_bytes = 10**18
    assert "\x1b[1;31mdisk free" in "\n".join(drawn(live, color=True))


def test_what_is_held_though_all_is_well_again_says_in_how_long_it_acts(live):
    live.guard.held, live.held = "no new quote of BTCUSD for 5 s", {"whale": "act"}
    live.guard._well_s = clock.monotonic_s() - 4.0
    assert "1 RULES ARE HELD: all is well again, back in 6 s; was: no new quote of BTCUSD for 5 s;" in row(drawn(live), "HELD")


def test_a_stream_that_is_lost_is_not_called_well(live):
    watch, stream = live.recorder.watch, live.recorder.watch.streams["btcusdt@trade"]
    watch.connection(stream, clock.monotonic_s())
    assert "0.0/s" in (line := row(drawn(live), "btcusdt@trade")) and line.endswith("waiting")
    watch.judge(b'{"stream":"btcusdt@trade","data":{"t":5}}', clock.monotonic_s())
    stream.frames = 1_000
    assert " ok" in row(drawn(live), "btcusdt@trade")
    watch.connection(stream, 0.0)
    assert re.search(r"btcusdt@trade +0\.0/s +- +0 not connected", row(drawn(live), "btcusdt@trade"))
    assert "\x1b[1;31mnot connected" in row(drawn(live, color=True), "btcusdt@trade")
    depth = live.recorder.watch.streams["btcusdt@depth@100ms"]
    watch.connection(depth, clock.monotonic_s())
    watch.judge(b'{"stream":"btcusdt@depth@100ms","data":{"U":1,"u":2,"pu":0}}', clock.monotonic_s())
    assert row(drawn(live), "btcusdt@depth").endswith("book waiting for a snapshot")


@pytest.mark.parametrize("mode, code", [("act", "1;37;41"), ("paper", "1;30;43"), ("shadow", "1;37;44"), ("record", "1;37;44")])
def test_the_mode_is_in_plain_sight(tmp_path, mode, code):
    with live_run(tmp_path, mode, "none") as made:
        first = drawn(made, color=True)[0]
    assert first.startswith(f"\x1b[{code}m {mode.upper()} \x1b[0m"), first


def test_a_real_account_stands_out(live):
    live.account.shown = {**live.account.shown, "kind": "real"}
    assert "\x1b[1;31mreal" in drawn(live, color=True)[0]


def test_nothing_is_known_yet(live):
    live.health.looked_s = 0.0
    lines = drawn(live)
    assert "no position is open" in lines and "basis not known yet" in row(lines, "broker quote BTCUSD")
    assert re.search(r"broker account +- ", row(lines, "broker account"))
    assert row(lines, "socket to decision").startswith("socket to decision - ms p50, - ms p99")
    status = status_of(live)
    assert status["account_age_s"] is None and status["quote_age_s"] == {"BTCUSD": None} and status["positions"] == []
    assert status["latency_ms"] == {"p50": None, "p99": None}
    json.dumps(status, allow_nan=False)


def test_what_stops_orders_is_a_banner_each(live):
    plain = drawn(live)
    assert not any(word in line for line in plain for word in ("KILL SWITCH", "HELD", "NOT READY", "BROKER:"))
    live.options.limits.kill_file.write_text("x")
    live.guard.held, live.held = "the book of BTCUSDT is not in step with the venue", {"whale": "act", "void": "act"}
    live.guard._why = live.guard.held
    live.health.problem = "the terminal has no link to the broker"
    live.health.quotes_problem = "quotes of BTCUSD cannot be read"
    lines = drawn(live)
    assert "KILL SWITCH IS ON: no order is sent" in lines[2]
    assert "2 RULES ARE HELD: the book of BTCUSDT is not in step with the venue; broker-side stops stay" in lines[3]
    assert "BROKER: the terminal has no link to the broker; quotes of BTCUSD cannot be read" in lines[4]
    live.held = {}
    assert "NOT READY: the book" in drawn(live)[3]
    live.options.mode = "record"
    assert not any("NOT READY" in line for line in drawn(live)), "a run that only records holds nothing back"


def test_a_held_rule_says_so(live):
    feed(live, market())
    live.guard.held, live.held = "x", {"whale": "act"}
    live.loop.modes["whale"] = "shadow"
    lines = drawn(live)
    assert len([line for line in lines if line.startswith("  whale             held ")]) == 2
    live.loop.modes["void"] = "off"
    assert not any(line.startswith("  void ") for line in drawn(live)), "a rule that is off has no line"


@pytest.mark.parametrize("state, reason, expected", [("refused", "the kill switch is on", "REFUSED: the kill switch is on"),
                                                     ("unknown", "no answer", "UNKNOWN: no answer"),
                                                     ("done", "", "closed at -")])
def test_what_became_of_an_order(tmp_path, monkeypatch, state, reason, expected):
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "cache"))
    with live_run(tmp_path, "act", "whale:classic") as live:
        feed(live, market())
        assert row(drawn(live), "whale", "tighten", "7 BTCUSD").endswith("under way")
        made = next(row for row, _ in live.alarms.decisions.values() if row["result"] == R.ACTED and row["ticket"] == 7
                    and live.loop.choices[row["rule"]].rule.name == "whale")
        live.alarms.frame(OUTCOME, order(state, reason, f"{live.name}/{made['seq']}/7/whale"), live.loop)
        assert row(drawn(live), "whale", "tighten", "7 BTCUSD").endswith(expected)
        assert ("refused" in row(drawn(live), "whale on position 7") if state == "refused" else True)


def test_decisions_acted_on_are_not_pushed_out_by_others(live):
    feed(live, market())
    other = next(row for row, _ in live.alarms.decisions.values()).copy()
    other["result"] = R.ALERTED
    live.alarms.told("decision", other, live.loop)
    acted = [each for each in status_of(live)["last_decisions"] if each["result"] == "acted"]
    assert acted and status_of(live)["last_decisions"][-1]["result"] != "acted"
    lines = drawn(live, height=12)
    title = next(n for n, line in enumerate(lines) if line.startswith("last decisions"))
    assert acted[-1]["rule"] in lines[title + 1] and "to 5" in lines[title + 1]


def test_positions_the_kernel_and_the_broker_disagree_on(live):
    feed(live, market())
    live.health.positions = [at_broker(8, 1, volume=2.0, profit=-8.0), at_broker(9, symbol="EURUSD"), at_broker(10)]
    lines = drawn(live)
    assert lines[lines.index(row(lines, "9 ", "EURUSD")) + 1].strip() == "no rule watches it: it was left on paper"
    seen = [line for line in lines if "not seen at the broker at its last reading" in line]
    assert len(seen) == 1
    assert "-4.00" in row(lines, "8 ", "short"), "half of what the broker has is left on paper"
    live.options.mode = "act"
    assert "its symbol is not among those of this run" in "\n".join(drawn(live))


def test_rules_give_way_to_the_height(live):
    stream = Stream()
    for ticket in range(1, 10):
        stream.open(ticket, 1, 6_000_000, 5_940_000)
    feed(live, stream.wait(1.0))
    live.health.positions = [at_broker(ticket) for ticket in range(1, 10)]
    for height in (30, 45, 60, 200):
        lines = drawn(live, height)
        assert len(lines) < height or height == 30
        assert lines[0].startswith(" PAPER") and [line.split()[0] for line in lines if " long " in line] == [str(n) for n in range(1, 10)]
        assert any(line.startswith("socket to decision") for line in lines) and any(line.startswith("last decisions") for line in lines)
    assert sum(line.startswith("  whale ") for line in drawn(live, 200)) == 9
    assert 1 <= sum(line.startswith("  whale ") for line in drawn(live, 60)) < 9
    assert sum("breakeven 0%" in line for line in drawn(live, 30)) == 9, "one line for all rules of a position"


def test_the_columns_stay_where_they_are(live):
    feed(live, market())
    live.health.positions = [at_broker(7), at_broker(8, 1)]
    status = status_of(live)
    heads = []
    for change in (0.01, 1e3):
        for position in status["positions"]:
            position.update(ticket=4_294_967_295, entry=1.2 * change, price=60_000.0, stop=None, gain=-99_999.99 * change,
                            age_s=3e5 * change, gain_r=change)
        lines = [line.plain for line in Screen(status).lines(60)]
        table = next(n for n, line in enumerate(lines) if line.startswith("ticket"))
        heads.append(lines[table])
        for name in ("lots", "entry", "price", "stop", "take"):
            edge = lines[table].index(name) + len(name)
            assert lines[table + 1][edge - 1] != " " and lines[table + 1][edge] == " ", (name, lines[table + 1])
        assert max(map(len, lines)) <= 100
    assert heads[0] == heads[1]


def test_the_webhook_s_state(live, soon):  # noqa: F811
    assert status_of(live)["webhook"] is None
    with server() as (url, _):
        pass
    live.alarms.webhook = Webhook(url)
    live.alarms.alarm("one")
    live.alarms.webhook.close()
    title = row(drawn(live), "last alarms")
    assert "0 posted, 0 waiting, 1 lost (ConnectError)" in title and "s3cr3t" not in "\n".join(drawn(live))
    assert "one" in drawn(live)[drawn(live).index(title) + 1]


# What the screen may not do


def test_looking_changes_nothing(live, tmp_path):
    """A rule's own file may try to write in `nearness`, or fail: the kernel's arrays stay as they are."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "own.py").write_text(NEAR.replace("    return -position.side * market.imbalance_10s / params.limit\n",
                                                            "    state.flow = state.flow + 1.0\n    if market.mid_ok == 1 and "
                                                            "market.seq > 5:\n        raise ValueError\n    return 0.0\n"),
                                               encoding="utf-8")
    with live_run(tmp_path / "two", rules_dir=tmp_path / "rules", rules="all") as mine:
        feed(mine, market())
        before = {name: array.copy() for name, array in mine.loop.run.arrays.items()}
        rules = status_of(mine)["positions"][0]["rules"]
        assert rules["own"]["nearness"] is None and rules["whale"]["nearness"] is not None
        live_screen(mine)
        assert all(array.tobytes() == before[name].tobytes() for name, array in mine.loop.run.arrays.items())


def test_the_status_is_plain_data_and_its_keys_are_named(live):
    feed(live, market())
    live.health.positions = [at_broker(7), at_broker(8, 1)]
    status = json.loads(json.dumps(status_of(live), allow_nan=False))
    text = (Path(__file__).parents[1] / "data" / "README.md").read_text(encoding="utf-8")
    section = text.split("## The status of a live run", 1)[1].split("\n## ", 1)[0]
    position, decision = status["positions"][0], status["last_decisions"][0]
    for name in [*status, *position, *position["rules"]["whale"], *decision, *status["basis"]["BTCUSD"]]:
        assert f"`{name}`" in section, name
    whale = position["rules"]["whale"]
    assert whale["evidence"]["usd"] == 1_200_000.0 and whale["evidence"]["stop"] == 59_905.01 and "trade_id" in whale["evidence"]
    flow = position["rules"]["order_flow"]
    assert 0 < flow["nearness"] < 1 and flow["vote"] == "hold"


def test_it_is_quick(live):
    """The screen is made in the loop's own thread: 10 positions, all rules, well under what a frame may wait."""
    stream = market()
    for ticket in range(20, 28):
        stream.open(ticket, 1, 6_000_000, 5_940_000)
    feed(live, stream.wait(0.3))
    live.loop.took_ns.extend(range(100_000))
    took_s = []
    for _ in range(20):
        began_s = clock.monotonic_s()
        live_screen(live)
        took_s.append(clock.monotonic_s() - began_s)
    assert sorted(took_s)[len(took_s) // 2] < 0.03, sorted(took_s)
