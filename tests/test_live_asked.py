"""What a replay shows of each rule: only seconds with a position, with all feeds well and with the rule in shadow or act count."""

import numpy as np
import pytest

from engine.instruments import Instrument
from engine.kernel import records as R
from engine.live.asked import Asked, by_second
from engine.positions import open_desk
from engine.rules import choose, find_rules
from engine.run import Run, Settings
from streams import Stream

VENUE = Instrument("BTCUSDT", "binance_usdm", "0.10", "0.001", 2, 3, "venue")
BROKER = Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2, "given", "BTCUSDT")
DESK = open_desk([VENUE, BROKER], "0.01")
BOOK = {600_000 - n: 1000 for n in range(50)}, {600_001 + n: 1000 for n in range(50)}


def switch(stream: Stream, rule: str, mode: int) -> None:
    stream.frame({"kind": R.SWITCH, "symbol": R.EVERY_SYMBOL, "id": sorted(find_rules()).index(rule), "code": mode})


def well(position: bool = True) -> Stream:
    """Return a market in which everything is well, with an open position."""
    stream = Stream().feed(R.CONNECTED).snapshot(*BOOK).trade(1, 5)
    return stream.open(7, 1, 5_999_500) if position else stream


def lived(stream: Stream, seconds: float, quotes: bool = True) -> Stream:
    """Let time pass with depth too."""
    for _ in range(round(seconds * 2)):
        stream.wait(0.5, quotes)
        stream.snapshot(*BOOK)
    return stream


def asked(stream: Stream, rules: str = "whale=shadow,void=alert", sizes: int = 10**6) -> dict:
    run = Run(DESK.pairs, [choose(find_rules(), rules, [])], [Settings()], slots=8, interpreted=True)
    seen, decisions = Asked(run, 5.0), []
    rows = stream.events()
    for at in range(0, len(rows), sizes):
        for piece in by_second(rows[at:at + sizes]):
            seen.look(int(piece["recv_ns"][0]))
            with np.errstate(all="ignore"):
                decisions.append(run.feed(piece)[0])
    return seen.told(np.concatenate(decisions), DESK)["BTCUSDT"]


def test_seconds_count_for_the_rules_in_shadow_or_act():
    found = asked(lived(well(), 12))
    assert set(found) == {"whale"} and found["whale"]["decisions"] == 0 and 10 <= found["whale"]["seconds"] <= 13
    assert found == asked(lived(well(), 12), sizes=7)


@pytest.mark.parametrize(("code", "stream"), [(R.LOST, R.TRADE), (R.GAP, R.DEPTH), (R.STALE, R.MISSING), (R.LOST, R.QUOTE)])
def test_seconds_without_a_feed_do_not_count(code, stream):
    market = lived(well(), 4).feed(code, stream)
    if stream == R.QUOTE:
        market.wait(8, quotes=False)
    else:
        market.wait(8)             # with no snapshot that would bring the book back, and nothing that says trades are whole again
    found = asked(market)["whale"]["seconds"]
    assert 3 <= found <= 6, found


def test_a_quote_too_old_does_not_count():
    assert 8 <= asked(lived(lived(well(), 4), 10, quotes=False))["whale"]["seconds"] <= 11


def test_seconds_without_a_position_do_not_count():
    assert asked(lived(well(position=False), 6)) == {}
    found = asked(lived(lived(well(position=False), 6).open(7, 1, 5_999_500), 4))
    assert 3 <= found["whale"]["seconds"] <= 5


def test_a_rule_switched_off_is_not_asked_any_more():
    stream = lived(well(), 3)
    switch(stream, "whale", R.MODE_OFF)
    switch(stream, "void", R.MODE_ACT)
    lived(stream, 5)
    found = asked(stream)
    assert 2 <= found["whale"]["seconds"] <= 4 and 4 <= found["void"]["seconds"] <= 6


@pytest.mark.parametrize(("mode", "counted"), [("alert", 0), ("shadow", 1), ("act", 1)])
def test_decisions_count_in_shadow_and_act_only(mode, counted):
    stream = lived(well(position=False), 2).open(7, 1, 5_999_500, 5_900_000)
    found = asked(lived(stream, 2), f"tighter_stop={mode}")
    assert found.get("tighter_stop", {"decisions": 0})["decisions"] == counted
