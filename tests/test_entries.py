"""Systematic entries: the text that asks for them, and the moments they fall on."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.entries import EntrySpec, parse_entries, plan_entries
from engine.errors import BadInput
from engine.trades import by_time, read_trades_csv, write_trades_csv

S = 10**9
FIRST_NS = 1_772_874_222_123_456_789


def test_the_whole_text_is_read():
    text = "every=10s,side=both,sl=20bps,tp=30bps,max=300s,start=5m,volume=0.10,symbol=BTCUSD,seed=4"
    assert parse_entries(text) == EntrySpec(
        every_ns=10 * S, sl_bps=Fraction(20), tp_bps=Fraction(30), side="both", max_hold_ns=300 * S, start_ns=300 * S,
        volume="0.10", symbol="BTCUSD", seed=4)


def test_only_the_interval_and_the_stop_must_be_given():
    assert parse_entries(" EVERY = 1m , SL = 0.2% ") == EntrySpec(every_ns=60 * S, sl_bps=Fraction(20))


@pytest.mark.parametrize("text, ns", [("250ms", S // 4), ("1.5s", 3 * S // 2), ("2m", 120 * S), ("1h", 3600 * S),
                                      ("0.000000001s", 1), ("0.1ms", 10**5)])
def test_times_are_exact(text, ns):
    assert parse_entries(f"every={text},sl=1bps").every_ns == ns


@pytest.mark.parametrize("text, bps", [("20bps", Fraction(20)), ("0.1bps", Fraction(1, 10)), ("0.2%", Fraction(20)),
                                       (".05%", Fraction(5))])
def test_distances_are_exact(text, bps):
    spec = parse_entries(f"every=1s,sl={text},tp={text}")
    assert (spec.sl_bps, spec.tp_bps) == (bps, bps)


@pytest.mark.parametrize("text, said", [
    ("every=10s", "sl is missing; add sl=20bps"),
    ("sl=20bps", "every is missing; add every=10s"),
    ("every=10s,sl=20bps,sid=buy", "unknown key 'sid'; did you mean 'side'"),
    ("every=10s,sl=20bps,zzz=1", "unknown key 'zzz'; known: every, max, seed"),
    ("every=10s,sl=20bps,side=bth", "side 'bth' is unknown; did you mean 'both'"),
    ("every=10s,sl=20bps,every=5s", "every is given twice, as '10s' and '5s'"),
    ("every=10s,sl=20bps,", "'' is no key=value"),
    ("", "'' is no key=value"),
    ("every=10s,sl", "'sl' is no key=value"),
    ("every=10s,sl=", "'sl=' is no key=value"),
    ("every=10,sl=20bps", "every '10' has no number and unit of ms, s, m, h; 10s would be right"),
    ("every=10d,sl=20bps", "every '10d' has no number and unit"),
    ("every=0s,sl=20bps", "every '0s' is not a whole number of nanoseconds above 0"),
    ("every=-5s,sl=20bps", "every '-5s' is not a whole number of nanoseconds above 0"),
    ("every=0.0001ms,sl=20bps,max=0s", "max '0s' is not a whole number"),
    ("every=0.0000000001s,sl=20bps", "every '0.0000000001s' is not a whole number of nanoseconds"),
    ("every=10s,sl=20", "sl '20' has no number and unit of bps, %; 20bps would be right"),
    ("every=10s,sl=0bps", "sl '0bps' is not between 0 and 100 %"),
    ("every=10s,sl=20bps,tp=100%", "tp '100%' is not between 0 and 100 %"),
    ("every=10s,sl=20bps,start=-1s", "start '-1s' is not a whole number"),
    ("every=10s,sl=20bps,volume=0", "volume 0 is not above 0"),
    ("every=10s,sl=20bps,volume=1 lot", "volume '1 lot' is no decimal number"),
    ("every=10s,sl=20bps,seed=-1", "seed '-1' is no whole number"),
])
def test_a_wrong_text_is_named_with_its_value(text, said):
    with pytest.raises(BadInput) as refused:
        parse_entries(text)
    assert f"entries {text!r}: {said}" in str(refused.value)


def test_entries_fall_on_multiples_after_the_warm_up_and_leave_room_for_the_hold():
    spec = parse_entries("every=10s,side=buy,sl=20bps,tp=30bps,max=300s")
    plans = plan_entries(spec, 1_000_000_001 * S, 1_000_000_400 * S, "BTCUSD")
    assert [plan.open_ns - 1_000_000_000 * S for plan in plans] == [70 * S, 80 * S, 90 * S, 100 * S]
    assert [plan.ticket for plan in plans] == [1, 2, 3, 4]
    plan = plans[0]
    assert (plan.symbol, plan.side, plan.volume) == ("BTCUSD", 1, "1.0")
    assert (plan.price, plan.sl, plan.tp, plan.close_ns) == (None,) * 4
    assert (plan.sl_bps, plan.tp_bps, plan.max_hold_ns) == (20, 30, 300 * S)


@pytest.mark.parametrize("side, sides", [("buy", [1, 1, 1]), ("sell", [-1, -1, -1]), ("alternate", [1, -1, 1]),
                                         ("both", [1, -1, 1, -1, 1, -1])])
def test_sides(side, sides):
    plans = plan_entries(parse_entries(f"every=10s,side={side},sl=20bps,start=0s"), 1000 * S, 1025 * S, "BTCUSD")
    assert [plan.side for plan in plans] == sides
    assert len({plan.open_ns for plan in plans}) == 3


def test_the_text_may_name_the_symbol():
    spec = parse_entries("every=10s,sl=20bps,symbol=ETHUSD")
    assert {plan.symbol for plan in plan_entries(spec, 1000 * S, 2000 * S, "BTCUSD")} == {"ETHUSD"}


specs = st.builds(EntrySpec, every_ns=st.integers(S // 2, 50 * S), sl_bps=st.just(Fraction(20)),
                  side=st.sampled_from(["buy", "sell", "both", "alternate"]),
                  max_hold_ns=st.none() | st.integers(1, 30 * S), start_ns=st.integers(0, 30 * S),
                  seed=st.none() | st.integers(0, 5))


@settings(deadline=None)
@given(specs, st.integers(1, 10**18), st.integers(170 * S, 200 * S))
def test_every_moment_that_fits_is_planned_once_and_in_order(spec, first_ns, length_ns):
    last_ns = first_ns + length_ns
    plans = plan_entries(spec, first_ns, last_ns, "BTCUSD")
    assert plans == by_time(plans) and [plan.ticket for plan in plans] == list(range(1, len(plans) + 1))
    moments = sorted({plan.open_ns for plan in plans})
    assert len(plans) == len(moments) * (2 if spec.side == "both" else 1)
    assert moments[0] >= first_ns + spec.start_ns and moments[-1] + (spec.max_hold_ns or 0) <= last_ns
    slots = [moment // spec.every_ns for moment in moments]
    assert slots == list(range(slots[0], slots[0] + len(slots)))
    if spec.seed is None:
        assert all(moment % spec.every_ns == 0 for moment in moments)
        assert moments[0] - spec.every_ns < first_ns + spec.start_ns
        assert moments[-1] + spec.every_ns + (spec.max_hold_ns or 0) > last_ns


@settings(deadline=None)
@given(specs, st.integers(1, 10**18), st.integers(170 * S, 200 * S), st.integers(0, 50 * S))
def test_a_longer_recording_only_adds_entries(spec, first_ns, length_ns, more_ns):
    short = plan_entries(spec, first_ns, first_ns + length_ns, "BTCUSD")
    assert plan_entries(spec, first_ns, first_ns + length_ns + more_ns, "BTCUSD")[:len(short)] == short


def test_a_seed_moves_the_moments_and_gives_the_same_again():
    def moments(seed):
        spec = parse_entries(f"every=10s,side=buy,sl=20bps,seed={seed}")
        return [plan.open_ns for plan in plan_entries(spec, FIRST_NS, FIRST_NS + 600 * S, "BTCUSD")]
    assert moments(1) == moments(1) != moments(2)
    assert len({moment % (10 * S) for moment in moments(1)}) > 40


def test_a_recording_too_short_is_refused_with_what_it_would_take():
    said = "no entry fits: the recording lasts 344.8 s, and start= 60 s, every= 10 s and max= 300 s"
    with pytest.raises(BadInput, match=said):
        plan_entries(parse_entries("every=10s,sl=20bps,max=300s"), FIRST_NS, FIRST_NS + 3448 * S // 10, "BTCUSD")


def test_more_trades_than_the_limit_are_refused_before_they_are_made():
    with pytest.raises(BadInput, match="entries every 0.001 s over 86400 s are more than 1000000 trades"):
        plan_entries(parse_entries("every=1ms,sl=20bps"), FIRST_NS, FIRST_NS + 86400 * S, "BTCUSD")


def test_entries_survive_the_csv(tmp_path):
    spec = parse_entries("every=10s,sl=0.333bps,tp=1%,max=1.5s,seed=9")
    plans = plan_entries(spec, FIRST_NS, FIRST_NS + 600 * S, "BTCUSD")
    write_trades_csv(tmp_path / "entries.csv", plans)
    assert read_trades_csv(tmp_path / "entries.csv") == plans
