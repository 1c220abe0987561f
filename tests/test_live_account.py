"""What is told of an account: each change once, gone only when it is sure, and nothing of a position that is being acted on."""

import pytest

from engine.errors import BadInput
from engine.gateway.view import Unreadable
from engine.instruments import Instrument
from engine.live.account import DEAL_WAIT_READS, GONE_READS, AccountBook
from engine.live.first import FirstSeen

BROKER = Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2, "venue", "BTCUSDT")


def row(identifier: int = 7, **changes) -> dict:
    return {"identifier": identifier, "ticket": identifier, "symbol": "BTCUSD", "type": 0, "volume": 1.0, "price_open": 60_000.0,
            "sl": 59_000.0, "tp": 0.0, "time_msc": 1_000} | changes


def deal(entry: int, volume: float, price: float = 60_100.0, reason: int = 0) -> dict:
    return {"entry": entry, "volume": volume, "price": price, "reason": reason}


@pytest.fixture
def book() -> AccountBook:
    return AccountBook({"BTCUSD": BROKER}, lambda msc: msc * 1_000_000)


def told(book: AccountBook, rows: list[dict], busy=frozenset(), deals=()) -> list[tuple]:
    return [(account.ticket, *[(change.code, change.price_ticks, change.qty_lots) for change in account.changes])
            for account in book.read(rows, set(busy), lambda identifier: list(deals))]


def test_a_new_position_is_told_with_its_levels_and_when_it_was_opened(book):
    [account] = book.read([row(), row(8, symbol="EURUSD")], set(), list)
    assert account.event_ns == 1_000_000_000 and account.side == 1 and account.symbol == "BTCUSD"
    assert [(c.code, c.price_ticks, c.qty_lots) for c in account.changes] == [("opened", 6_000_000, 100), ("stop", 5_900_000, None)]
    assert told(book, [row()]) == [], "once"


def test_each_change_is_told_once_a_level_taken_away_as_unknown(book):
    told(book, [row()])
    assert told(book, [row(sl=59_500.0, tp=61_000.0)]) == [(7, ("stop", 5_950_000, None), ("take", 6_100_000, None))]
    assert told(book, [row(sl=0.0, tp=61_000.0, volume=0.4)]) == [(7, ("volume", None, 40), ("stop", None, None))]
    assert told(book, [row(sl=0.0, tp=61_000.0, volume=0.4)]) == []


@pytest.mark.parametrize(("reason", "code"), [(4, "stopped"), (5, "taken"), (0, "closed"), (6, "closed")])
def test_a_position_is_gone_only_after_two_readings_and_its_deal(book, reason, code):
    told(book, [row()])
    deals = [deal(0, 1.0)]
    for _ in range(GONE_READS + 3):
        assert told(book, [], deals=deals) == [], "the deal is not there yet"
    assert told(book, [], deals=[*deals, deal(1, 1.0, 59_990.0, reason)]) == [(7, (code, 5_999_000, None))]
    assert book.known == {}


def test_an_earlier_part_does_not_pass_for_the_last_deal(book):
    told(book, [row(volume=0.5)])
    part = [deal(0, 1.0), deal(1, 0.5, 60_050.0)]
    for _ in range(GONE_READS + 1):
        assert told(book, [], deals=part) == []
    assert told(book, [], deals=[*part, deal(1, 0.5, 60_200.0)]) == [(7, ("closed", 6_020_000, None))]


def test_a_position_that_comes_back_was_never_gone(book):
    told(book, [row()])
    assert told(book, []) == []
    assert told(book, [row()]) == [] and book.known[7].absent == 0


def test_a_deal_that_never_shows_leaves_the_price_unknown(book):
    told(book, [row()])
    found = [told(book, []) for _ in range(GONE_READS + DEAL_WAIT_READS)]
    assert found[:-1] == [[]] * (len(found) - 1) and found[-1] == [(7, ("closed", None, None))]


def test_a_position_that_is_acted_on_is_left_to_its_outcome(book):
    told(book, [row()])
    assert told(book, [row(volume=0.5, sl=59_900.0)], busy={7}) == []
    book.ended(7, 50, None, closed=False)
    assert told(book, [row(volume=0.5, sl=59_900.0)]) == [(7, ("stop", 5_990_000, None))], "what the outcome did not tell"
    book.ended(7, None, None, closed=True)
    assert told(book, [], deals=[deal(1, 1.0)]) == [] and book.known == {}


def test_a_merge_or_a_reversal_is_an_end_and_a_beginning(book):
    told(book, [row()])
    first, second = book.read([row(price_open=60_500.0, volume=2.0)], set(), list)
    assert [c.code for c in first.changes] == ["closed"] and first.changes[0].price_ticks is None
    assert [(c.code, c.qty_lots) for c in second.changes][0] == ("opened", 200)
    assert [c.side for c in book.read([row(type=1, price_open=60_500.0)], set(), list)] == [1, -1]


def test_a_new_position_waits_a_while_for_the_brokers_clock():
    clock = []
    book = AccountBook({"BTCUSD": BROKER}, lambda msc: msc * 1_000_000 if clock else None, clock_reads=3)
    assert told(book, [row()]) == told(book, [row()]) == []
    clock.append(1)
    [account] = book.read([row()], set(), list)
    assert account.event_ns == 1_000_000_000
    clock.clear()
    assert told(book, [row(), row(8)]) == []
    [account] = book.read([row(), row(8)], set(), list)
    assert (account.ticket, account.event_ns) == (8, None), "a market that is closed has no clock"


def test_a_position_for_which_there_is_no_room_is_told_once_another_ends():
    book = AccountBook({"BTCUSD": BROKER}, most=2)
    assert [ticket for ticket, *_ in told(book, [row(7), row(8), row(9)])] == [7, 8] and book.left_out == {9}
    assert told(book, [row(7), row(8), row(9)]) == []
    book.ended(8, None, None, closed=True)
    assert [ticket for ticket, *_ in told(book, [row(7), row(9)])] == [9] and book.left_out == set()


def again(tmp_path, account: str = "a") -> AccountBook:
    """A book of a run that was started again."""
    return AccountBook({"BTCUSD": BROKER}, first=FirstSeen(tmp_path / "first.json", account))


def opened(stop: int | None, lots: int = 100, *more: tuple) -> list[tuple]:
    return [(7, ("opened", 6_000_000, lots), *([("stop", stop, None)] if stop else []), *more)]


def test_after_a_restart_a_position_has_the_stop_and_the_volume_it_had_at_first(tmp_path):
    assert told(again(tmp_path), [row()]) == opened(5_900_000)
    for _ in range(3):             # each run tightens and reduces
        book = again(tmp_path)
        told(book, [row()])
        told(book, [row(sl=59_500.0, volume=0.6)])
    now = row(sl=59_500.0, volume=0.6)
    assert told(again(tmp_path), [now]) == opened(5_900_000, 100, ("volume", None, 60), ("stop", 5_950_000, None))
    assert told(again(tmp_path, "b"), [now]) == opened(5_950_000, 60), "another account has its own"
    assert told(again(tmp_path), [row(sl=0.0)]) == opened(5_900_000, 100, ("stop", None, None))


def test_a_first_stop_that_is_set_later_is_remembered_and_what_is_gone_forgotten(tmp_path):
    book = again(tmp_path)
    assert told(book, [row(sl=0.0)]) == opened(None)
    told(book, [row(sl=58_000.0)])
    told(book, [row(sl=59_000.0)])
    assert told(again(tmp_path), [row()]) == opened(5_800_000, 100, ("stop", 5_900_000, None))
    for _ in range(GONE_READS):
        told(book, [], deals=[deal(0, 1.0), deal(1, 1.0)])
    assert told(again(tmp_path), [row()]) == opened(5_900_000)


def test_a_reversal_has_a_first_stop_of_its_own(tmp_path):
    book = again(tmp_path)
    told(book, [row()])
    told(book, [row(type=1, sl=61_000.0)])
    assert FirstSeen(tmp_path / "first.json", "a").known == {"7": {"lots": 1.0, "stop": 61_000.0}}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}', '{"a": {"7": {"stop": "x"}}}'])
def test_a_memory_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "first.json").write_text(text)
    with pytest.raises(BadInput, match="first.json is not what live wrote"):
        again(tmp_path)


def test_a_reading_that_breaks_loses_no_change(book):
    told(book, [row()])
    told(book, [])
    seen = []

    def broken(identifier: int) -> list[dict]:
        raise Unreadable("the link is down")
    with pytest.raises(Unreadable):
        for account in book.read([row(8)], set(), broken):
            seen.append((account.ticket, account.changes[0].code))
    deals = [deal(0, 1.0), deal(1, 1.0)]
    for _ in range(2):
        seen += [(account.ticket, account.changes[0].code) for account in book.read([row(8)], set(), lambda identifier: deals)]
    assert seen == [(8, "opened"), (7, "closed")]
