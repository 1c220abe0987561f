"""The gateway against a simulated terminal: what it does, what it makes of every answer, and what it refuses."""

import json
import os
import time
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import SteadyClock
from engine.errors import BadInput
from engine.gateway.client import DirectLink, LinkLost
from engine.gateway.intents import IntentJournal
from engine.gateway.mt5 import Gateway
from engine.gateway.mt5_worker import Desk, Intents
from engine.gateway.orders import Exit, Limits, fillings, snap, volume_to_close
from engine.gateway.retcodes import CODES, NOT_SENT, classify
from engine.gateway.server_clock import ServerClock
from engine.gateway.surface import CONSTANTS
from engine.gateway.terminal import SimulatedTerminal, VirtualClock
from engine.gateway.terminal_books import HEDGING, NETTING, Book, Spec
from engine.gateway.terminal_faults import Faults
from engine.gateway.view import QuoteAges
from engine.instruments import Instrument
from engine.kernel import records as k
from gateways import Killed, Rushed, dying

BTC = Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2)
ON_ITS_WAY = {"do": "unknown", "code": 10012, "executed": True, "delay_ms": 2000, "on_way": True}


class Rig:
    """A long position of 1 lot at 60,001 with a stop and a take profit, a gateway, and quotes that keep coming."""

    def __init__(self, script: list | None = None, mode: int = HEDGING, *, side: int = 0, sl: float = 59_000.0, tp: float = 61_000.0,
                 limits: dict | None = None, journal: IntentJournal | None = None, server: ServerClock | None = ServerClock(), **spec):  # noqa: B008
        self.clock = VirtualClock()
        self.book = Book([Spec("BTCUSD", commission_per_lot=7.0, **spec)], mode=mode)
        self.terminal = SimulatedTerminal([self.book, Book([Spec("BTCUSD")], login=6001)], self.clock, faults=Faults(script or []),
                                          feed=self._quotes())
        self.price, self.spread, self.alarms, self.sent = 6_000_000, 100, [], Intents(None)
        self.link = DirectLink(Desk(self.terminal.module, self.sent))
        self.link.restart()
        self.held = self.book.by_hand("BTCUSD", side, 1.0, sl=sl, tp=tp)
        self.journal = journal or IntentJournal()
        self.limits = replace(Limits(frozenset({5001}), frozenset({"BTCUSD"})), **(limits or {}))
        self.gateway = self.make(server)

    def make(self, server: ServerClock | None = ServerClock()) -> Gateway:  # noqa: B008
        return Gateway(self.link, self.limits, self.journal, self.clock, {"BTCUSD": BTC}, server=server, alarm=self.alarms.append)

    def _quotes(self):
        now_ns = self.clock.now_ns()
        for i in range(10**6):
            yield now_ns + i * 10**8, "BTCUSD", self.price, self.price + self.spread

    def ask(self, action: int, decision: str = "d1", **more) -> Exit:
        return Exit(decision, action, self.held.identifier, "BTCUSD", 1 if self.held.type == 0 else -1, **more)

    def act(self, action: int, decision: str = "d1", **more):
        return self.gateway.act(self.ask(action, decision, **more))

    @property
    def requests(self) -> list[dict]:
        return [request for _, request in self.terminal.log]

    @property
    def left(self) -> float:
        held = self.book.find(self.held.identifier)
        return held.volume / 1e8 if held else 0.0


@pytest.mark.parametrize("mode", [HEDGING, NETTING])
@pytest.mark.parametrize("side", [0, 1])
def test_a_close(mode, side):
    rig = Rig(mode=mode, side=side, sl=0.0, tp=0.0)
    done = rig.act(k.CLOSE)
    assert (done.state, done.code, done.sends, done.lots_closed, done.lots_left) == ("done", k.RULE_CLOSED, 1, 1.0, 0.0)
    assert done.price == (60_000.0, 60_001.0)[side] and done.net == -8.0 and rig.left == 0.0
    request = rig.requests[0]
    assert request["position"] == rig.held.ticket and request["type"] == 1 - side and request["type_filling"] == 1
    assert request["magic"] == rig.limits.magic and len(request["comment"]) <= 25 and request["price"] == done.price


def test_a_reduction_is_a_target_and_asking_twice_closes_once():
    rig = Rig()
    assert rig.act(k.PARTIAL, volume_left=60).lots_left == 0.6
    again = rig.act(k.PARTIAL, "d2", volume_left=60)
    assert again.state == "refused" and rig.left == 0.6 and len(rig.requests) == 1
    rig.held.volume = 30_000_000
    assert rig.act(k.PARTIAL, "d3", volume_left=40).state == "refused" and rig.left == 0.3


def test_a_decision_is_acted_on_once():
    rig = Rig()
    first = rig.act(k.PARTIAL, volume_left=60)
    rig.held.volume += 10**8
    assert rig.act(k.PARTIAL, volume_left=60) == first and rig.make().act(rig.ask(k.PARTIAL, volume_left=60)) == first and len(rig.requests) == 1


@pytest.mark.parametrize("side, sl, stop, expected", [
    (0, 59_000.0, 5_990_003, 59_900.0), (1, 61_000.0, 6_010_003, 60_100.05), (0, 0.0, 5_990_005, 59_900.05), (0, 59_000.0, 5_999_900, 59_998.0),
    (1, 61_000.0, 6_000_200, 60_003.0)])
def test_a_stop_is_tightened_on_the_safe_side_and_the_take_profit_stays(side, sl, stop, expected):
    rig = Rig(side=side, sl=sl, tp=61_500.0 if side == 0 else 58_500.0, tick_points=5, stops_level=200)
    done = rig.act(k.TIGHTEN, stop_ticks=stop)
    assert (done.state, done.code, done.stop, done.lots_left) == ("done", k.STOP_MOVED, expected, 1.0)
    assert rig.held.sl == round(expected * 100) and rig.requests[0]["tp"] == rig.book.specs["BTCUSD"].price(rig.held.tp) > 0


@pytest.mark.parametrize("more, reason", [
    ({"action": 7}, "neither closes"), ({"action": k.HOLD}, "neither closes"), ({"side": -1}, "other side"), ({"side": 0}, "neither 1 nor -1"),
    ({"action": k.PARTIAL, "volume_left": 200}, "closed"), ({"action": k.PARTIAL, "volume_left": 0}, "to keep"),
    ({"action": k.PARTIAL}, "to keep"), ({"action": k.TIGHTEN}, "needs a price"), ({"action": k.TIGHTEN, "stop_ticks": 5_800_000}, "not tighter"),
    ({"action": k.TIGHTEN, "stop_ticks": 5_900_000}, "not tighter"), ({"action": k.TIGHTEN, "stop_ticks": 6_100_000}, "passed"),
    ({"symbol": "XAUUSD"}, "not among those allowed"), ({"identifier": 1}, "not there"), ({"decision": "a b"}, "not a name")])
def test_what_adds_risk_or_is_not_understood_is_refused_and_logged(more, reason):
    rig = Rig()
    done = rig.gateway.act(replace(rig.ask(k.CLOSE), **more))
    assert done.state == "refused" and reason in done.reason and done.code == k.REJECTED and rig.requests == []
    assert rig.left == 1.0 and rig.held.sl == 5_900_000 and reason in rig.journal.decisions[done.decision]["end"]["outcome"]["reason"]


@pytest.mark.parametrize("limits, reason", [
    ({"accounts": frozenset({1})}, "account 5***1"), ({"symbols": frozenset()}, "not among"), ({"max_share": 0.5}, "100% of the position"),
    ({"max_spread_bps": 0.1}, "spread"), ({"actions_per_minute": 0}, "actions a minute"), ({"actions_per_day": 0}, "actions a day")])
def test_limits(limits, reason):
    rig = Rig(limits=limits)
    done = rig.act(k.CLOSE)
    assert done.state == "refused" and reason in done.reason and rig.requests == []


def test_actions_are_counted_over_the_span():
    rig = Rig(limits={"actions_per_minute": 2, "actions_per_day": 3})
    states = [rig.act(k.PARTIAL, f"d{i}", volume_left=90 - i).state for i in range(3)]
    rig.clock.sleep_s(60)
    states += [rig.act(k.PARTIAL, f"e{i}", volume_left=80 - i).state for i in range(2)]
    assert states == ["done", "done", "refused", "done", "refused"]
    rig.terminal.feed, rig.terminal.next_row = iter(()), None
    rig.clock.sleep_s(86_400)
    rig.book.push(rig.clock.now_ns(), "BTCUSD", 6_000_000, 6_000_100)
    assert rig.act(k.CLOSE, "f").state == "done"


class Wall:
    """A machine's clock over the time of a rig, made steady as the program does it, that is set by hand."""

    def __init__(self, at: VirtualClock, off_s: int = 0):
        self.off_ns = off_s * 10**9
        self.now_ns = SteadyClock(lambda: at.now_ns() + self.off_ns, at.now_ns).now_ns
        self.monotonic_s, self.sleep_s = at.monotonic_s, at.sleep_s


def by_the_wall(rig: Rig, off_s: int = 0) -> Wall:
    """Let the gateway of a rig be made anew, with a clock that can be set."""
    wall = Wall(rig.clock, off_s)
    rig.gateway = Gateway(rig.link, rig.limits, rig.journal, wall, {"BTCUSD": BTC}, alarm=rig.alarms.append)
    refreshed(rig)
    return wall


def refreshed(rig: Rig) -> None:
    """Let quotes change, as without the server's clock they have to."""
    for _ in range(3):
        rig.price += 100
        rig.clock.sleep_s(0.2)
        tick = rig.link.ask({"call": "symbol_info_tick", "args": ["BTCUSD"]})["result"]
        rig.gateway.ages.age_s("BTCUSD", tick, rig.gateway.clock.now_ns())


def drained(rig: Rig, for_s: float = 20.0) -> list:
    """Bring on what was started until it ended; return how."""
    ended, end_ns = [], rig.clock.now_ns() + round(for_s * 1e9)
    while rig.gateway.queue and rig.clock.now_ns() < end_ns:
        ended += rig.gateway.poll()
        rig.clock.sleep_s(0.05)
    return ended


@pytest.mark.parametrize("limit", ["actions_per_minute", "actions_per_day"])
def test_actions_that_wait_together_do_not_pass_the_limit_together(limit):
    rig = Rig(limits={limit: 1})
    held = [rig.held, *(rig.book.by_hand("BTCUSD", 0, 1.0) for _ in range(4))]
    rig.spread = 100_000
    rig.clock.sleep_s(0.3)
    for number, each in enumerate(held):
        rig.gateway.start(replace(rig.ask(k.CLOSE, f"d{number}"), identifier=each.identifier))
    rig.gateway.poll()
    rig.clock.sleep_s(0.3)
    rig.spread = 100
    ended = drained(rig)
    assert sorted(each.state for each in ended) == ["done"] + ["refused"] * 4 and len(rig.requests) == 1
    assert all("limit of 1 actions" in each.reason for each in ended if each.state == "refused")


def test_a_decision_that_is_old_is_refused():
    rig = Rig()
    decided_ns = rig.clock.now_ns()
    rig.clock.sleep_s(4.9)
    assert rig.act(k.PARTIAL, volume_left=60, decided_ns=decided_ns).state == "done"
    rig.clock.sleep_s(56.1)
    done = rig.act(k.CLOSE, "d2", decided_ns=decided_ns)
    assert done.state == "refused" and "the decision is 61 s old" in done.reason and len(rig.requests) == 1


def test_a_decision_of_the_future_is_refused():
    rig = Rig()
    done = rig.act(k.CLOSE, decided_ns=rig.clock.now_ns() + 3600 * 10**9)
    assert done.state == "refused" and "3600 s ahead of this machine's clock" in done.reason and rig.requests == []
    assert rig.act(k.CLOSE, "d2", decided_ns=rig.clock.now_ns() + 9 * 10**8).state == "done"


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_a_clock_that_is_set_neither_stops_nor_shortens_a_wait(off_s):
    rig = Rig([ON_ITS_WAY | {"delay_ms": 4000}])
    wall = by_the_wall(rig)
    rig.gateway.start(rig.ask(k.PARTIAL, volume_left=60))
    rig.gateway.poll()
    wall.off_ns = off_s * 10**9
    done, = drained(rig, 10.0)
    assert done.state == "done" and len(rig.requests) == 1 and rig.left == 0.6


@pytest.mark.parametrize("off_s, restart", [(-3600, False), (3600, False), (-3600, True)])
def test_a_clock_that_is_set_neither_ends_nor_lengthens_a_doubt(off_s, restart):
    rig = Rig([ON_ITS_WAY | {"executed": False}], NETTING)
    wall = by_the_wall(rig)
    assert rig.gateway.act(rig.ask(k.CLOSE)).state == "unknown"
    wall.off_ns = off_s * 10**9
    if restart:
        by_the_wall(rig, off_s)
    rig.clock.sleep_s(rig.limits.doubt_s - 2)
    assert "in doubt" in rig.gateway.act(rig.ask(k.CLOSE, "d2")).reason
    rig.clock.sleep_s(2)
    refreshed(rig)
    assert rig.gateway.act(rig.ask(k.CLOSE, "d3")).state == "done"


def test_a_decision_that_grows_old_while_it_waits_is_not_begun():
    rig = Rig(limits={"max_decision_age_s": 1.0})
    rig.spread = 100_000
    rig.clock.sleep_s(0.3)
    rig.gateway.start(rig.ask(k.CLOSE, decided_ns=rig.clock.now_ns()))
    rig.gateway.poll()
    rig.clock.sleep_s(1.2)
    rig.spread = 100
    done, = drained(rig)
    assert done.state == "refused" and "the decision is 1 s old" in done.reason and rig.requests == []


def test_a_decision_that_grows_old_while_it_is_tried_again_is_given_up():
    rig = Rig([{"do": "retcode", "code": code} for code in (10024, 10024, 10024, 10021, 10021, 10021, 10018)])
    decided_ns = rig.clock.now_ns()
    done = rig.act(k.CLOSE, decided_ns=decided_ns)
    assert done.state == "failed" and "the decision is 10 s old, 5 s are allowed" in done.reason and done.retcodes[:3] == [10024] * 3
    assert rig.terminal.log[-1][0] - decided_ns < 5e9 and rig.left == 1.0 and rig.alarms


def test_when_it_ends_what_is_under_way_is_finished_and_nothing_is_begun():
    rig = Rig([{"do": "placed", "delay_ms": 2000}])
    other = rig.book.by_hand("BTCUSD", 0, 0.5)
    rig.gateway.start(rig.ask(k.CLOSE))
    assert rig.gateway.poll() == [] and len(rig.requests) == 1
    rig.gateway.ending = True
    assert "ends" in rig.gateway.act(replace(rig.ask(k.CLOSE, "d2"), identifier=other.identifier)).reason
    assert [each.state for each in drained(rig)] == ["done"] and len(rig.requests) == 1


def test_the_kill_switch(tmp_path):
    rig = Rig(limits={"kill_file": tmp_path / "STOP"})
    (tmp_path / "STOP").touch()
    assert "kill switch" in rig.act(k.CLOSE).reason and rig.requests == []
    (tmp_path / "STOP").unlink()
    assert rig.act(k.CLOSE, "d2").state == "done"


def test_a_decision_that_comes_with_a_reason_against_it_is_refused_and_journaled():
    rig = Rig()
    rig.gateway.start(rig.ask(k.CLOSE), "the feeds are not well")
    done, = rig.gateway.poll()
    assert (done.state, done.reason, done.code, done.sends) == ("refused", "the feeds are not well", k.REJECTED, 0) and rig.requests == []
    assert rig.journal.known("d1")["what"] == "refused" and rig.act(k.CLOSE) == done and rig.act(k.CLOSE, "d2").state == "done"


@pytest.mark.parametrize("asked", range(3))
def test_what_may_not_be_sent_is_not_sent_at_the_beginning_before_the_request_or_once_it_is_on_disk(asked):
    rig, answers = Rig(), [""] * asked + ["held: a feed is late"]
    rig.gateway.may_send = lambda exit: answers.pop(0)
    done = rig.act(k.CLOSE)
    assert (done.state, done.reason, done.sends) == ("refused", "held: a feed is late", 0) and rig.requests == [] and answers == []
    assert not rig.journal.unfinished() and not rig.gateway.busy and rig.alarms == []
    rig.gateway.may_send = lambda exit: ""
    assert rig.act(k.CLOSE) == done and rig.act(k.CLOSE, "d2").state == "done"


def test_the_rest_of_a_decision_is_not_sent_when_it_may_not_be_sent_any_more():
    rig = Rig([{"do": "partial", "share": 0.5}])
    rig.gateway.may_send = lambda exit: "switched off" if rig.requests else ""
    done = rig.act(k.CLOSE)
    assert (done.state, done.code, done.reason, done.sends) == ("failed", k.RULE_REDUCED, "switched off", 1) and rig.left == 0.5
    assert len(rig.requests) == 1 and rig.alarms


@pytest.mark.parametrize("code, sends, state", [
    (10004, 2, "done"), (10006, 2, "done"), (10007, 1, "failed"), (10013, 2, "done"), (10014, 2, "done"), (10015, 2, "done"), (10017, 1, "failed"),
    (10018, 2, "done"), (10019, 1, "failed"), (10020, 2, "done"), (10021, 2, "done"), (10023, 2, "done"), (10024, 2, "done"), (10026, 1, "failed"),
    (10027, 1, "failed"), (10028, 2, "done"), (10029, 2, "done"), (10030, 2, "done"), (10035, 2, "done"), (10036, 2, "done"), (10038, 2, "done"),
    (10039, 2, "done"), (10045, 1, "failed"), (10046, 1, "failed"), (10099, 2, "done")])
def test_what_each_return_code_leads_to(code, sends, state):
    rig = Rig([{"do": "retcode", "code": code}])
    done = rig.act(k.CLOSE)
    assert (done.state, done.sends) == (state, sends), done
    assert done.retcodes[0] == code and rig.left == (0.0 if state == "done" else 1.0) and (state == "done") is not bool(rig.alarms)


@pytest.mark.parametrize("code", [10004, 10006, 10013, 10018, 10021, 10024, 10028, 10029, 10030])
def test_no_answer_is_met_for_ever(code):
    rig = Rig([{"do": "retcode", "code": code} for _ in range(50)])
    done = rig.act(k.CLOSE)
    assert done.state in ("failed", "unknown") and done.sends <= 6 and rig.left == 1.0 and rig.alarms


def test_every_code_of_the_module_has_a_class_and_only_the_unknown_is_unknown():
    codes = {value for name, value in CONSTANTS.items() if name.startswith("TRADE_RETCODE_")}
    assert codes == set(CODES) - {10046}
    assert {code for code in CONSTANTS.values() if code in NOT_SENT} == set(NOT_SENT)
    for error in (-1, -3, -10000, -10001, -10002, -77):
        assert classify(None, error).kind == "ask"
    for error in (-2, -8, -10003, -10004):
        assert classify(None, error).kind != "ask"


@pytest.mark.parametrize("fault", [
    {"do": "unknown", "code": 10012}, {"do": "unknown", "code": 10011}, {"do": "unknown", "code": 10031}, {"do": "lost"}, {"do": "unsent"}])
@pytest.mark.parametrize("mode", [HEDGING, NETTING])
@pytest.mark.parametrize("action", [k.CLOSE, k.PARTIAL, k.TIGHTEN])
def test_an_unknown_answer_is_reconciled_before_anything_is_sent_again(fault, mode, action):
    more = {k.CLOSE: {}, k.PARTIAL: {"volume_left": 60}, k.TIGHTEN: {"stop_ticks": 5_950_000}}[action]
    for executed, delay_ms, hidden_ms in ((True, 0, 0), (True, 1500, 500), (False, 0, 0)):
        rig = Rig([fault | {"executed": executed, "delay_ms": delay_ms, "hidden_ms": hidden_ms}], mode)
        begun_ns = rig.clock.now_ns()
        done = rig.act(action, **more)
        again = not executed and not (mode == NETTING and action != k.TIGHTEN)
        assert len(rig.requests) == 1 + again if fault["do"] != "unsent" or executed else len(rig.requests) == again
        assert done.state == ("done" if executed or again else "unknown"), done
        if not executed:
            assert rig.clock.now_ns() - begun_ns >= rig.limits.settle_s * 1e9
        want = {k.CLOSE: 0.0, k.PARTIAL: 0.6, k.TIGHTEN: 1.0}[action]
        assert rig.left == (want if executed or again else 1.0)
        if done.state == "unknown":
            assert rig.alarms and "in doubt" in rig.act(action, "d2", **more).reason


@pytest.mark.parametrize("sold", [0.1, 0.5])
@pytest.mark.parametrize("keep", [20, 50])
@pytest.mark.parametrize("mode", [HEDGING, NETTING])
def test_what_is_sold_by_hand_in_a_doubt_is_not_taken_for_the_answer(mode, keep, sold):
    """By hand down to the volume that was to be kept, or less far: the request that is on its way is the only one that goes out."""
    rig = Rig([ON_ITS_WAY], mode)
    rig.gateway.start(rig.ask(k.PARTIAL, volume_left=keep))
    assert rig.gateway.poll() == [] and len(rig.requests) == 1
    sold = min(sold, 1 - rig.requests[0]["volume"])
    rig.book.by_hand("BTCUSD", 1, sold, position_id=rig.held.identifier)
    done, = drained(rig)
    rig.clock.sleep_s(3)
    rig.terminal.pump()
    assert len(rig.requests) == 1 == done.sends and rig.held.type == 0 and rig.left == round(keep / 100 - sold, 8), done


def test_a_position_that_others_brought_where_it_was_to_be_stays_in_doubt_after_it():
    rig = Rig([{"do": "unknown", "code": 10012, "executed": True, "delay_ms": 4000, "on_way": True}], NETTING)
    rig.gateway.start(rig.ask(k.PARTIAL, volume_left=50))
    rig.gateway.poll()
    rig.book.by_hand("BTCUSD", 1, 0.5, position_id=rig.held.identifier)
    done, = drained(rig, 3.0)
    assert done.state == "done" and done.code == k.REJECTED
    for gateway in (rig.gateway, rig.make()):
        assert "in doubt" in gateway.act(rig.ask(k.CLOSE, f"d{id(gateway)}")).reason and len(rig.requests) == 1
    rig.clock.sleep_s(rig.limits.doubt_s)
    assert rig.act(k.CLOSE, "d3").state == "refused" and rig.left == 0.0 and len(rig.requests) == 1


@pytest.mark.parametrize("mode", [HEDGING, NETTING])
@pytest.mark.parametrize("sold", [0.0, 0.1])
def test_after_a_restart_what_was_sold_by_hand_is_not_taken_for_the_answer_either(mode, sold):
    rig = Rig(mode=mode)
    rig.terminal.faults.add(ON_ITS_WAY | {"delay_ms": 20_000})
    killed(rig, rig.ask(k.PARTIAL, volume_left=20))
    if sold:
        rig.book.by_hand("BTCUSD", 1, sold, position_id=rig.held.identifier)
    gateway = rig.make()
    ended, = gateway.recover()
    assert ended.state == "failed"
    for later in (gateway, rig.make()):                    # the doubt outlives one more restart
        assert "in doubt" in later.act(rig.ask(k.PARTIAL, f"d{id(later)}", volume_left=20)).reason and len(rig.requests) == 1
    rig.clock.sleep_s(20)
    rig.terminal.pump()
    assert rig.held.type == 0 and rig.left == round(0.2 - sold, 8)


@pytest.mark.parametrize("mode", [HEDGING, NETTING])
def test_an_exception_out_of_the_module_is_an_unknown_answer(mode):
    rig = Rig([ON_ITS_WAY], mode)
    send = rig.terminal.module.order_send

    def sent(request):
        send(request)
        raise SystemError("returned a result with an exception set")
    rig.terminal.module.order_send = sent
    done = rig.act(k.PARTIAL, volume_left=30)
    assert (done.state, done.code, done.retcodes, done.lots_left) == ("done", k.RULE_REDUCED, [-10002], 0.3) and len(rig.requests) == 1
    assert rig.held.type == 0 and rig.left == 0.3


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("lag_ms", [900, 60_000])
def test_a_reduction_waits_for_the_deal_that_says_what_it_was_worth(restart, lag_ms):
    rig = Rig()
    rig.terminal.servers[5001].deal_lag_ms = lag_ms
    if restart:
        killed(rig, rig.ask(k.PARTIAL, volume_left=60))
        done, = rig.make().recover()
    else:
        done = rig.act(k.PARTIAL, volume_left=60)
    assert (done.state, done.lots_left) == ("done", 0.6) and len(rig.requests) == 1
    if lag_ms < 1000:
        assert (done.code, done.lots_closed, done.price, done.net) == (k.RULE_REDUCED, 0.4, 60_000.0, -3.2)
    else:                                  # it is waited for as long as a doubt takes
        assert (done.code, done.lots_closed, done.price, done.net) == (k.REJECTED, None, None, None)
        assert rig.limits.settle_s <= (rig.clock.now_ns() - rig.terminal.log[0][0]) / 1e9 < rig.limits.settle_s + 2


def test_placed_is_followed_until_filled_or_dead():
    rig = Rig([{"do": "placed", "delay_ms": 2000}])
    done = rig.act(k.CLOSE)
    assert done.state == "done" and done.sends == 1 and done.retcodes == [10008]
    rig = Rig([{"do": "placed", "delay_ms": 2000, "dies": True}])
    done = rig.act(k.CLOSE)
    assert done.state == "done" and done.retcodes == [10008, 10009] and rig.left == 0.0


def test_the_rest_of_a_partial_fill_is_sent():
    rig = Rig([{"do": "partial", "share": 0.5}, {"do": "partial", "share": 0.5}])
    done = rig.act(k.PARTIAL, volume_left=20)
    assert done.state == "done" and [request["volume"] for request in rig.requests] == [0.8, 0.4, 0.2] and done.lots_closed == 0.8


def test_a_reduction_that_filled_in_part_and_fails_then_tells_what_is_left():
    rig = Rig([{"do": "partial", "share": 0.6}])
    ask = rig.link.ask

    def widen(message, timeout_s=None):
        reply = ask(message)
        if message["call"] == "order_send":
            rig.spread = 100_000
        return reply
    rig.link.ask = widen
    done = rig.act(k.PARTIAL, volume_left=50)
    assert (done.state, done.code, done.lots_left, done.lots_closed) == ("failed", k.RULE_REDUCED, 0.7, 0.3)
    assert "spread" in done.reason and done.retcodes == [10010] and rig.left == 0.7 and rig.alarms


def test_a_volume_over_the_symbol_s_largest_goes_in_parts():
    rig = Rig(volume_max=0.4)
    done = rig.act(k.CLOSE)
    assert done.state == "done" and [request["volume"] for request in rig.requests] == [0.4, 0.4, 0.2]


@pytest.mark.parametrize("ours", [True, False])
def test_a_position_that_turned_around_is_alarmed_and_booked_as_gone(ours):
    rig = Rig([] if ours else [{"do": "retcode", "code": 10018}], NETTING)
    rig.book.netting_reverses, rig.link.desk = True, Rushed(rig.terminal.module, rig.sent)
    ask = rig.link.ask

    def by_hand(message, timeout_s=None):
        if message["call"] == "order_send" and ours:
            rig.book.by_hand("BTCUSD", 1, 0.4)           # after the last look: the deal of 1 lot is 0.4 too large
        reply = ask(message)
        if message["call"] == "order_send" and not ours:
            rig.book.by_hand("BTCUSD", 1, 1.4)
        return reply
    rig.link.ask = by_hand
    done = rig.act(k.CLOSE)
    assert rig.held.type == 1 and rig.left == 0.4
    assert (done.state, done.code, done.lots_left, done.stop) == ("failed", k.RULE_CLOSED if ours else k.RECORDED_CLOSE, 0.0, None)
    if ours:
        assert "REVERSED" in done.reason and "0.4 lots" in done.reason and done.lots_closed == 0.6
    assert len(rig.alarms) == 1 and len(rig.requests) == 1


@pytest.mark.parametrize("fault, reason", [
    ({"do": "disconnect", "for_ms": 60_000, "call": "terminal_info"}, "no link to the broker"),
    ({"do": "algo_off", "for_ms": 60_000, "call": "terminal_info"}, "Algo Trading"),
    ({"do": "account", "login": 6001, "call": "account_info"}, "account 6***1")])
def test_a_terminal_that_is_not_fit_is_not_asked(fault, reason):
    rig = Rig([fault])
    done = rig.act(k.CLOSE)
    assert done.state == "refused" and reason in done.reason and rig.requests == []


def test_the_account_is_looked_at_once_more_at_the_last_moment():
    rig = Rig([{"do": "account", "login": 6001, "call": "account_info", "skip": 2}])
    done = rig.act(k.CLOSE)
    assert done.state == "failed" and "6***1" in done.reason and rig.requests == []


def test_empty_positions_behind_a_lost_link_are_no_close():
    rig = Rig([{"do": "disconnect", "for_ms": 600, "call": "positions_get"}])
    done = rig.act(k.CLOSE)
    assert done.state == "done" and done.code == k.RULE_CLOSED and done.sends == 1


def test_a_position_the_broker_closed_meanwhile_is_booked_as_the_broker_s():
    rig = Rig([{"do": "retcode", "code": 10018}])
    rig.gateway.start(rig.ask(k.CLOSE))
    assert rig.gateway.poll() == []
    rig.book.server_close(rig.held, 4, "[sl 59000.00]")
    ended = []
    while not ended:
        rig.clock.sleep_s(1.0)
        ended = rig.gateway.poll()
    assert ended[0].state == "done" and ended[0].code == k.STOPPED and ended[0].sends == 1


def test_inside_the_freeze_level_it_waits():
    rig = Rig(freeze_level=500, sl=59_998.0)
    done = rig.act(k.CLOSE)
    assert done.state == "refused" and "freeze level" in done.reason and rig.requests == []


def test_a_stale_quote_is_not_traded_on():
    rig = Rig()
    rig.terminal.feed, rig.terminal.next_row = iter(()), None
    rig.clock.sleep_s(30)
    done = rig.act(k.CLOSE)
    assert done.state == "refused" and "s old" in done.reason


def test_without_the_server_s_clock_a_quote_has_to_change_first():
    ages, tick = QuoteAges(), {"time_msc": 5, "bid": 1.0, "ask": 2.0}
    assert ages.age_s("X", tick, 10**9) is None and ages.age_s("X", tick, 2 * 10**9) is None
    assert ages.age_s("X", tick | {"bid": 1.5}, 3 * 10**9) == 1.0 and ages.age_s("X", tick | {"bid": 1.5}, 5 * 10**9) == 3.0
    assert ages.age_s("X", tick | {"bid": 0.0}, 5 * 10**9) is None
    rig = Rig(server=None)
    rig.price = 6_000_100
    assert rig.act(k.CLOSE).state in ("done", "refused")


@pytest.mark.parametrize("side", [0, 1])
def test_where_a_broker_asks_for_one_the_price_may_move_by_so_many_bps(side):
    rig = Rig(side=side, exemode=1, sl=0.0, tp=0.0)
    ask, moved = rig.link.ask, [60 * (2 * side - 1), 13_000 * (2 * side - 1)]

    def move(message, timeout_s=None):
        if message["call"] == "order_send":            # by 0.1 bps of 60,000 while the order is on its way, and by 21.7
            rig.price += moved.pop(0) if moved else 0
            rig.clock.sleep_s(0.35)
            rig.terminal.pump()
        return ask(message)
    rig.link.ask = move
    done = rig.act(k.PARTIAL, volume_left=60)
    assert done.state == "done" and done.retcodes == [10009] and rig.requests[0]["deviation"] == 12_000 + 1 * side
    done = rig.act(k.CLOSE, "d2")
    assert done.state == "done" and done.retcodes == [10004, 10009] and rig.left == 0.0


@pytest.mark.parametrize("exemode, mask, expected", [
    (0, 0, [1, 0, 2]), (1, 1, [1, 0, 2]), (2, 0, []), (2, 1, [0]), (2, 2, [1]), (2, 3, [1, 0]), (2, 4, []), (3, 0, [2]), (3, 1, [0, 2]),
    (3, 7, [1, 0, 2])])
def test_filling_modes_come_from_the_mask_and_the_execution(exemode, mask, expected):
    assert fillings({"trade_exemode": exemode, "filling_mode": mask}) == expected


def test_the_next_filling_mode_is_tried():
    rig = Rig([{"do": "retcode", "code": 10030}])
    rig.act(k.CLOSE)
    assert [request["type_filling"] for request in rig.requests] == [1, 0]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**7), st.sampled_from(["0.01", "0.05", "0.25", "1", "0.00001"]), st.booleans())
def test_a_price_is_snapped_by_less_than_a_tick(ticks, size, up):
    price, tick = Decimal(ticks) / 1000, Decimal(size)
    snapped = snap(price, tick, up)
    assert snapped % tick == 0 and 0 <= (snapped - price) * (1 if up else -1) < tick


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**5), st.integers(0, 10**5), st.sampled_from([0.01, 0.1, 0.001, 1.0, 0.02]), st.sampled_from([0.5, 100.0, 10**6]),
       st.sampled_from([1, 1, 2, 10]))
def test_never_more_than_is_over_the_target(held, keep, step, largest, least):
    """And where it goes in parts, each part can be dealt: what is left to close is nothing, or no less than the symbol's least."""
    spec = {"volume_step": step, "volume_max": largest, "volume_min": least * step}
    volume = volume_to_close(held * step, keep * step, spec)
    assert volume <= max(held - keep, 0) * step + 1e-9 and volume <= largest + 1e-9 or keep >= held
    more = (held - keep) * step - volume
    if (held - keep) * step - 1e-9 > largest >= 2 * least * step:
        assert volume >= least * step - 1e-9 and more > least * step - 1e-9


@pytest.mark.parametrize("held, keep, parts", [(1.0, 0, [0.9, 0.1]), (1.5, 50, [0.9, 0.1]), (2.0, 0, [0.95, 0.95, 0.1]), (1.3, 35, [0.95])])
def test_a_part_leaves_no_less_than_can_be_dealt(held, keep, parts):
    rig = Rig(volume_max=0.95, volume_min=0.1)
    rig.held.volume = round(held * 1e8)
    done = rig.act(k.PARTIAL, volume_left=keep) if keep else rig.act(k.CLOSE)
    assert done.state == "done" and [request["volume"] for request in rig.requests] == parts and rig.left == keep / 100


def test_the_journal_outlives_the_process_and_a_torn_tail(tmp_path):
    path = tmp_path / "gateway.jsonl"
    rig = Rig(journal=IntentJournal(path))
    first = rig.act(k.PARTIAL, volume_left=60)
    rig.journal.close()
    lines = [json.loads(line)["what"] for line in path.read_text().splitlines()]
    assert lines == ["begin", "attempt", "end"]
    with open(path, "ab") as file:
        file.write(b'{"what": "attempt", "deci')
    rig.journal = IntentJournal(path)
    assert rig.make().act(rig.ask(k.PARTIAL, volume_left=60)) == first
    assert rig.make().act(rig.ask(k.CLOSE, "d2")).state == "done"
    rig.journal.close()
    again = IntentJournal(path)
    again.close()
    assert set(again.decisions) == {"d1", "d2"}
    path.write_text("what\n" + path.read_text())
    with pytest.raises(BadInput, match="line 1"):
        IntentJournal(path)


@pytest.mark.parametrize("tail", [b"\0" * 300, b'{"what": "end", "dec' + b"\0" * 50, b'{"what": "attempt", "deci', b'{"what"', b"{"])
def test_what_a_power_loss_left_at_the_end_of_the_journal_is_cut_off(tmp_path, tail):
    path = tmp_path / "gateway.jsonl"
    rig = Rig(journal=IntentJournal(path))
    rig.act(k.PARTIAL, volume_left=60)
    rig.journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    for number in (2, 3, 4):
        rig.journal = IntentJournal(path)
        assert rig.make().act(rig.ask(k.PARTIAL, f"d{number}", volume_left=60 - number)).state == "done"
        rig.journal.close()
    assert path.read_bytes().startswith(whole + b'{"what": "begin", "decision": "d2"') and set(rig.journal.decisions) == {"d1", "d2", "d3", "d4"}
    path.write_bytes(whole + b"\0" * 300 + b"\n" + path.read_bytes()[len(whole):])       # as an earlier version went on after it
    rig.journal = IntentJournal(path)
    rig.journal.close()
    assert set(rig.journal.decisions) == {"d1", "d2", "d3", "d4"}


@pytest.mark.parametrize("executed", [True, False])
@pytest.mark.parametrize("action, more", [(k.CLOSE, {}), (k.PARTIAL, {"volume_left": 60}), (k.TIGHTEN, {"stop_ticks": 5_950_000})])
def test_after_a_kill_it_finds_out_what_became_of_the_order_and_sends_nothing(executed, action, more):
    rig = Rig()
    killed(rig, rig.ask(action, **more), executed=executed)
    gateway, sent = rig.make(), len(rig.requests)
    ended, = gateway.recover()
    assert ended.state == ("done" if executed else "failed") and len(rig.requests) == sent
    assert gateway.act(rig.ask(action, **more)) == ended and gateway.recover() == [] and len(rig.requests) == sent
    if executed:
        assert ended.code == {k.CLOSE: k.RULE_CLOSED, k.PARTIAL: k.RULE_REDUCED, k.TIGHTEN: k.STOP_MOVED}[action]


def killed(rig: Rig, *exits: Exit, executed: bool = True) -> None:
    """Kill the engine in the middle of each of these."""
    with dying(rig.link, executed):
        for exit in exits:
            with pytest.raises(Killed):
                rig.gateway.act(exit)


@pytest.mark.parametrize("fault", [
    {"do": "disconnect", "for_ms": 200_000, "call": "terminal_info"}, {"do": "account", "login": 6001, "call": "account_info"}])
def test_what_cannot_be_found_out_after_a_kill_stays_open_and_its_position_untouched(fault):
    rig = Rig()
    other = rig.book.by_hand("BTCUSD", 0, 0.5)
    killed(rig, rig.ask(k.PARTIAL, volume_left=60), replace(rig.ask(k.CLOSE, "d2"), identifier=other.identifier))
    gateway, sent = rig.make(), len(rig.requests)
    rig.terminal.faults.add(fault)
    begun_ns = rig.clock.now_ns()
    assert gateway.recover() == [] and [entry["decision"] for entry in rig.journal.unfinished()] == ["d1", "d2"]
    assert rig.clock.now_ns() - begun_ns < 62e9 and len(rig.alarms) == 1 and "not known yet" in rig.alarms[0]
    assert "not reconciled" in gateway.act(rig.ask(k.CLOSE, "d3")).reason and len(rig.requests) == sent
    rig.clock.sleep_s(200)
    rig.terminal.login = 5001
    assert [each.state for each in gateway.recover()] == ["done", "done"] and rig.journal.unfinished() == []
    assert gateway.act(rig.ask(k.CLOSE, "d4")).state == "done"


def test_many_that_cannot_be_found_out_are_waited_for_once():
    rig = Rig()
    held = [rig.held, *(rig.book.by_hand("BTCUSD", 0, 1.0) for _ in range(4))]
    killed(rig, *(replace(rig.ask(k.CLOSE, f"d{number}"), identifier=each.identifier) for number, each in enumerate(held)))
    gateway, left = rig.make(), [2]
    ask = rig.link.ask

    def down(message, timeout_s=None):                  # the link breaks right after the account could be read
        left[0] -= 1
        if left[0] < 0:
            raise LinkLost("gone")
        return ask(message)
    rig.link.ask, rig.link.restart = down, lambda: False
    begun_ns = rig.clock.now_ns()
    gateway.recover()
    assert 1.0 < (rig.clock.now_ns() - begun_ns) / 1e9 / rig.limits.give_up_s < 1.2 and len(rig.journal.unfinished()) == 5


def test_what_was_begun_on_another_account_is_left_for_that_account():
    rig = Rig()
    killed(rig, rig.ask(k.CLOSE))
    rig.limits, rig.terminal.login = replace(rig.limits, accounts=frozenset({6001})), 6001
    gateway = rig.make()
    assert gateway.recover() == [] and len(rig.journal.unfinished()) == 1 and rig.alarms == []
    rig.limits = replace(rig.limits, accounts=frozenset({5001, 6001}))
    gateway = rig.make()
    assert gateway.recover() == [] and len(rig.journal.unfinished()) == 1
    rig.terminal.login = 5001
    assert [each.state for each in gateway.recover()] == ["done"]


def test_a_doubt_outlives_a_restart():
    rig = Rig([{"do": "unknown", "code": 10012, "executed": False}], NETTING)
    assert rig.act(k.CLOSE).state == "unknown"
    assert "in doubt" in rig.make().act(rig.ask(k.CLOSE, "d2")).reason
    rig.clock.sleep_s(rig.limits.doubt_s)
    assert rig.make().act(rig.ask(k.CLOSE, "d3")).state == "done"


def test_many_positions_are_seen_to_at_once_and_one_at_a_time_each():
    rig = Rig([{"do": "unknown", "code": 10012, "executed": False}])
    other = rig.book.by_hand("BTCUSD", 0, 0.5)
    rig.gateway.start(rig.ask(k.CLOSE))
    rig.gateway.poll()
    assert "under way" in rig.act(k.TIGHTEN, "d2", stop_ticks=5_950_000).reason
    begun_ns = rig.clock.now_ns()
    assert rig.gateway.act(replace(rig.ask(k.CLOSE, "d3"), identifier=other.identifier)).state == "done"
    assert rig.clock.now_ns() - begun_ns < 2e9 and rig.left == 1.0


def test_a_worker_that_dies_is_restarted():
    rig = Rig()
    ask, left = rig.link.ask, [1]

    def lose(message, timeout_s=None):
        if message["call"] == "order_send" and left:
            left.pop()
            ask(message)
            raise LinkLost("gone")
        return ask(message)
    rig.link.ask = lose
    done = rig.act(k.CLOSE)
    assert done.state == "done" and len(rig.requests) == 1 and rig.link.restarts == 2


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_that_dies_before_the_order_goes_out_has_sent_nothing(late):
    rig = Rig()
    ask, left = rig.link.ask, [1]

    def lose(message, timeout_s=None):
        if message["call"] == "order_ready" and left:
            left.pop()
            if late:
                ask(message)
            raise LinkLost("gone")
        return ask(message)
    rig.link.ask = lose
    done = rig.act(k.PARTIAL, volume_left=60)
    assert done.state == "done" and done.sends == 2 and len(rig.requests) == 1 and rig.left == 0.6


def slow_disk(rig: Rig, for_s: float, then=lambda: None) -> None:
    """Let the next sync of the journal take so long, and something happen meanwhile."""
    def sync():
        def wait():
            rig.clock.sleep_s(for_s)
            then()
        rig.journal.sync_meanwhile = lambda: lambda: None
        return wait
    rig.journal.sync_meanwhile = sync


def test_a_kill_or_an_age_that_comes_while_the_disk_is_waited_for_stops_the_order(tmp_path):
    rig = Rig(limits={"kill_file": tmp_path / "STOP"})
    slow_disk(rig, 0.3, (tmp_path / "STOP").touch)
    done = rig.act(k.CLOSE)
    assert done.state == "refused" and "kill switch" in done.reason and rig.requests == [] and rig.alarms == []
    rig = Rig()
    slow_disk(rig, 30.0)
    done = rig.act(k.CLOSE, decided_ns=rig.clock.now_ns())
    assert done.state == "refused" and "30 s old" in done.reason and rig.requests == [] and not rig.journal.unfinished()


def test_after_a_slow_disk_it_looks_and_plans_again():
    rig = Rig()
    slow_disk(rig, 0.4)
    assert rig.act(k.PARTIAL, volume_left=80).sends == 1
    slow_disk(rig, 2.0, lambda: rig.book.by_hand("BTCUSD", 1, 0.1, position_id=rig.held.identifier))
    done = rig.act(k.PARTIAL, "d2", volume_left=60)
    assert done.state == "done" and done.sends == 2 and [request["volume"] for request in rig.requests] == [0.2, 0.1] and rig.left == 0.6
    slow_disk(rig, 2.0, lambda: setattr(rig, "spread", 100_000))
    done = rig.act(k.CLOSE, "d3")
    assert done.state == "failed" and "spread" in done.reason and len(rig.requests) == 2
    rig.spread = 100
    rig.clock.sleep_s(0.3)
    rig.journal.sync_meanwhile = lambda: lambda: rig.clock.sleep_s(1.0)
    done = rig.act(k.CLOSE, "d4")
    assert done.state == "failed" and "the disk took 1.0 s" in done.reason and len(rig.requests) == 2 and rig.alarms


def test_no_order_goes_out_before_its_intent_is_on_disk(tmp_path, monkeypatch):
    rig, seen, sync = Rig(journal=IntentJournal(tmp_path / "intents.jsonl")), [], os.fsync
    ask = rig.link.ask

    def slow(descriptor):
        time.sleep(0.05)
        sync(descriptor)
        seen.append("on disk")

    def heard(message, timeout_s=None):
        seen.append(message["call"])
        return ask(message)
    monkeypatch.setattr(os, "fsync", slow)
    rig.link.ask = heard
    assert rig.act(k.CLOSE).state == "done"
    at = seen.index("order_ready")
    assert seen[at:at + 3] == ["order_ready", "on disk", "order_send"]
    rig.journal.close()

    def full(descriptor):
        raise OSError(28, "No space left on device")
    rig = Rig(journal=IntentJournal(tmp_path / "full.jsonl"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        rig.act(k.CLOSE)
    assert rig.requests == [] and rig.left == 1.0
    rig.journal.close()
