"""Invariant 11: nothing unknown is zero. A window not yet filled, a broken feed, a book with a hole: the feature is absent."""

import numpy as np
import pytest
from replays import at_second, broken_kernel, interpreted, new_run, shipped

import engine.stream
from engine.kernel import records as R
from engine.run import Run

PRESETS = ("classic", "robust")

TAPE = ("imbalance_10s imbalance_30s imbalance_180s imbalance_600s imbalance_3600s trades_10s trades_30s volume_ratio flow_10s_lots "
        "flow_30s_lots big_buys_60s big_sells_60s cluster_buy_usd cluster_sell_usd z_move_30s z_flow_30s z_residual_30s").split()
TOP = ("move_1s_bps move_5s_bps move_10s_bps move_30s_bps move_60s_bps ofi_10s sigma_bps high_10s_2 high_20s_2 low_10s_2 low_20s_2 "
       "move_recent_bps move_older_bps z_move_30s z_residual_30s").split()
SIDES = ("depth_5bps_lots depth_10bps_lots depth_25bps_lots depth_100bps_lots void_id void_near_bps void_deficit void_cost_lots thin_id "
         "thin_near_bps wall_near_bps wall_lots").split()
BOOK = [(None, "top5_imbalance"), *((side, name) for side in ("bid", "ask") for name in SIDES)]


def is_absent(value) -> bool:
    return value == R.MISSING if isinstance(value, int | np.integer) else bool(np.isnan(value))


def known(run: Run, names) -> list[str]:
    """Return which of the features are there."""
    market = run.arrays["market"][0]
    pairs = [(None, name) if isinstance(name, str) else name for name in names]
    return [f"{side or ''}.{name}" for side, name in pairs if not is_absent((market[side] if side else market)[name])]


def feed_row(events: np.ndarray, n: int, code: int, stream: int) -> np.ndarray:
    """Return a feed row that arrives just before events[n]."""
    row = engine.stream.empty_events(1)
    row["seq"], row["recv_ns"] = events["seq"][n - 1], events["recv_ns"][n - 1]
    row["kind"], row["code"], row["id"], row["bits"] = R.FEED, code, stream, R.FIRST | R.LAST
    return row


@pytest.mark.parametrize("second, there", [(9.0, ()), (12.0, {"imbalance_10s", "trades_10s", "flow_10s_lots", "move_10s_bps", "ofi_10s"}),
                                           (45.0, {"imbalance_30s", "flow_30s_lots", "move_30s_bps", "high_20s_2"}),
                                           (85.0, {"big_buys_60s", "sigma_bps", "z_residual_30s"})])
def test_a_feature_is_absent_until_its_window_is_covered(generated, second, there):
    run = new_run(generated, shipped("robust"))
    run.feed(generated.events[:at_second(generated.events, second)])
    longest = {"trades": 10, "flow": 10, "move": 10}
    found = {name.strip(".") for name in known(run, [*TAPE, *TOP])}
    spans = {name: 70 if name.startswith(("z_", "sigma")) else 60 if name.startswith("big_") else 180 if name == "volume_ratio"
             else 30 if name.startswith("cluster") else 20 if name.startswith(("high", "low", "move_recent", "move_older"))
             else int(name.split("_")[1][:-1]) if name.split("_")[1][:-1].isdigit() else longest.get(name.split("_")[0], 10)
             for name in {*TAPE, *TOP}}
    assert {name for name in found if spans[name] > second} == set()
    assert set(there) <= found


@pytest.mark.parametrize("code", [R.LOST, R.GAP, R.STALE])
@pytest.mark.parametrize("stream, names", [(R.TRADE, TAPE), (R.BEST, TOP), (R.DEPTH, BOOK), (R.MISSING, [*TAPE, *TOP, *BOOK])])
def test_a_broken_feed_makes_its_features_absent_at_once(generated, code, stream, names):
    """At the very row that tells of it, and again after every later row until the feed is whole and its windows are filled."""
    events = generated.events
    at = at_second(events, 120.0)
    run = new_run(generated, shipped("robust"))
    run.feed(events[:at])
    assert len(known(run, names)) >= 8
    run.feed(feed_row(events, at, code, stream))
    assert known(run, names) == []


def test_trades_come_back_only_with_their_windows(generated):
    events = generated.events
    lost, back = at_second(events, 120.0), at_second(events, 121.0)
    quiet = events[lost:back]
    run = new_run(generated, shipped("classic"))
    run.feed(events[:lost])
    run.feed(feed_row(events, lost, R.LOST, R.TRADE))
    run.feed(quiet[quiet["kind"] != R.TRADE])
    assert known(run, TAPE) == [] and not run.arrays["market"]["tape_ok"][0]
    run.feed(feed_row(events, back, R.CONNECTED, R.TRADE))
    at = back
    for second, expected in ((130.5, set()), (132.0, {".imbalance_10s", ".trades_10s", ".flow_10s_lots"}),
                             (152.0, {".imbalance_30s", ".cluster_buy_usd"})):
        until = at_second(events, second)
        run.feed(events[at:until])
        at = until
        found = set(known(run, TAPE))
        assert expected <= found and (expected or not found), second
    assert ".big_buys_60s" not in found


NEEDS = {R.TRADE: {"order_flow", "whale"}, R.BEST: {"momentum_reversal", "divergence", "order_flow", "void"},
         R.DEPTH: {"void", "order_flow"}}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stream", [R.TRADE, R.BEST, R.DEPTH])
def test_no_rule_speaks_on_a_feed_it_needs_while_that_is_lost(generated, stream, preset):
    """Messages of the lost feed stop, the others go on; rules that need it are silent, price-only rules are not."""
    events = generated.events
    at = at_second(events, 90.0)
    choices = shipped(preset)
    names = [choice.rule.name for choice in choices]
    rest = events[at:]
    gone = {R.TRADE: (R.TRADE,), R.BEST: (R.BEST, R.DEPTH, R.SNAPSHOT), R.DEPTH: (R.DEPTH, R.SNAPSHOT)}[stream]
    run = new_run(generated, choices)
    run.feed(events[:at])
    run.feed(feed_row(events, at, R.LOST, stream))
    decisions, _ = run.feed(rest[~np.isin(rest["kind"], gone)])
    spoke = {names[r] for r in decisions["rule"]}
    assert spoke & NEEDS[stream] == set() and {"trailing_stop", "tighter_stop"} <= spoke
    free = new_run(generated, choices)
    free.feed(events[:at])
    assert {names[r] for r in free.feed(rest)[0]["rule"]} & NEEDS[stream], "the market has to give these rules a reason"


def test_a_hole_in_the_book_is_not_read_over(generated):
    """The planted gap: from the diff that proves it to the next snapshot there is no depth feature."""
    events = generated.events
    run = new_run(generated, shipped("classic"))
    run.feed(events[:at_second(events, 198.0)])
    assert known(run, BOOK)
    broken = 0
    for start in range(at_second(events, 198.0), at_second(events, 206.0), 20):
        run.feed(events[start:start + 20])
        status = int(run.arrays["core"]["book_status"][0])
        if status == R.BOOK_BROKEN:
            broken += 1
            assert known(run, BOOK) == [] and run.arrays["market"]["book_ok"][0] == 0
    assert broken > 10 and status == R.BOOK_SYNCED and known(run, BOOK)


def test_silence_makes_the_touch_and_the_book_absent(generated):
    """No message and no word of a fault: after `stale_ns` nothing is claimed any more."""
    events = generated.events
    at = at_second(events, 120.0)
    rest = events[at:at_second(events, 135.0)]
    run = new_run(generated, shipped("robust"))
    run.feed(events[:at])
    run.feed(rest[np.isin(rest["kind"], (R.TIMER, R.TRADE, R.QUOTE))])
    assert known(run, [*TOP, *BOOK]) == [] and not run.arrays["market"]["mid_ok"][0] and not run.arrays["market"]["book_ok"][0]


def test_the_change_over_an_outage_is_no_order_flow(generated):
    """The first touch after a loss says nothing about the orders between: it is not counted."""
    events = generated.events
    lost, back = at_second(events, 120.0), at_second(events, 125.0)
    quiet = events[lost:back]
    run = new_run(generated, shipped("robust"))
    run.feed(events[:lost])
    run.feed(feed_row(events, lost, R.LOST, R.BEST))
    run.feed(quiet[~np.isin(quiet["kind"], (R.BEST, R.DEPTH, R.SNAPSHOT))])
    run.feed(feed_row(events, back, R.CONNECTED, R.BEST))
    first = back + int(np.flatnonzero(np.isin(events["kind"][back:], (R.BEST,)))[1]) + 1
    rows = events[back:first]
    run.feed(rows[~np.isin(rows["kind"], (R.DEPTH, R.SNAPSHOT, R.TIMER))])
    assert run.arrays["slot"][0, 5] == 0 and run.arrays["slot"][0, 6] == 0
    assert run.arrays["core"]["mid_from_ns"][0] == rows["recv_ns"][-1]


def test_a_kernel_that_reads_over_a_loss_would_be_seen(generated, own_cache):
    """The same features, a kernel that takes every window for covered."""
    kernel = broken_kernel(own_cache, "tape.py",
                           "    return core.tape_from_ns != MISSING and core.tape_from_ns <= market.now_ns - _WINDOW_NS[w]",
                           "    return True")
    run, *_ = interpreted(generated, [], generated.events[:at_second(generated.events, 2.0)], kernel=kernel)
    assert known(run, TAPE)
    good, *_ = interpreted(generated, [], generated.events[:at_second(generated.events, 2.0)])
    assert known(good, TAPE) == []
