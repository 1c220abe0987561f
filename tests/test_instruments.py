"""Exact decimal text to integers and back, one value at a time and whole columns at a time."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.instruments import SHORTEST, Instrument, decimal_text, scaled
from engine.kernel.records import MISSING
from engine.record.columns import Scale, decimal_of, parse_decimals, rescale, steps_of

BTC = Instrument("BTCUSDT", "binance_usdm", "0.1", "0.001", 2, 3)
whole_and_decimals = st.tuples(st.integers(0, 10**12), st.integers(0, 6))


def text_of(mantissa: int, decimals: int) -> str:
    digits = str(mantissa).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits


def test_text_of_this_file_is_an_oracle():
    assert [text_of(5, 0), text_of(5, 2), text_of(123, 2)] == ["5", "0.05", "1.23"]


@given(whole_and_decimals)
def test_scaled_is_exact(value):
    mantissa, decimals = value
    assert scaled(text_of(mantissa, decimals), 6) == mantissa * 10 ** (6 - decimals)


@pytest.mark.parametrize("text", ["", ".", "abc", "1e5", "1,5", "--1", "1.2.3", " 1x", "0.1234567"])
def test_scaled_refuses_what_is_no_exact_number(text):
    with pytest.raises(ValueError):
        scaled(text, 6)


def test_price_and_quantity_texts():
    assert BTC.price_ticks("61800.20") == 618002
    assert BTC.price_text(618002) == "61800.20"
    assert BTC.qty_lots("2.507") == 2507
    assert BTC.qty_text(0) == "0.000"
    assert BTC.usd_per_ticklot == Fraction(1, 10_000)


@pytest.mark.parametrize("text", ["61800.25", "abc", "", "1/0", "NaN", "Infinity"])
def test_a_price_off_the_grid_is_bad_input(text):
    with pytest.raises(BadInput, match="BTCUSDT"):
        BTC.price_ticks(text)


@given(st.integers(0, 10**15), st.sampled_from(["0.1", "0.01", "0.5", "0.25", "0.00001", "1", "10", "2.5"]))
def test_shortest_text_round_trips(steps, step):
    text = decimal_text(steps, step, SHORTEST)
    assert Decimal(text) == steps * Decimal(step)
    assert not ("." in text and text.endswith(("0", ".")))


@given(st.lists(whole_and_decimals, min_size=1, max_size=30))
def test_columns_parse_like_decimal(values):
    texts = [text_of(*value) for value in values]
    parsed = parse_decimals(texts)
    assert parsed.good.all()
    assert [Decimal(int(m)).scaleb(-int(d))
            for m, d in zip(parsed.mantissa, parsed.decimals, strict=True)] == [Decimal(t) for t in texts]
    assert parsed.written.tolist() == [decimals for _, decimals in values]
    assert all(d == 0 or m % 10 for m, d in zip(parsed.mantissa, parsed.decimals, strict=True))


@given(st.lists(st.text("0123456789.-e+x \u00e9", max_size=24), min_size=1, max_size=20))
def test_columns_call_good_only_what_is_a_plain_number(texts):
    parsed = parse_decimals(texts)
    for text, good in zip(texts, parsed.good, strict=True):
        whole, point, fraction = text.partition(".")
        plain = (whole + fraction).isascii() and whole.isdigit() and (fraction.isdigit() if point else True)
        plain = plain and (whole == "0" or not whole.startswith("0"))
        if len(whole) + len(fraction.rstrip("0")) <= 18:
            assert good == plain, text
        else:
            assert not good


@given(st.lists(whole_and_decimals, min_size=1, max_size=30))
def test_the_inferred_step_divides_every_value_and_the_texts_come_back(values):
    scale = Scale()
    half = len(values) // 2
    for part in (values[:half], values[half:]):
        if part:
            scale.take(parse_decimals([text_of(*value) for value in part]), "X")
    step = Fraction(scale.step_text())
    assert all((Fraction(mantissa, 10**decimals) / step).denominator == 1 for mantissa, decimals in values)
    assert str(step.numerator).rstrip("0") in ("1", "2", "25", "5") or step.denominator > 1


@pytest.mark.parametrize("texts, step", [
    (["61800.20", "61800.30"], "0.1"),
    (["2681.62", "2681.63"], "0.01"),
    (["1.50", "2.25"], "0.25"),
    (["3", "7"], "1"),
    (["0", "0.000"], "1"),
    (["1.5", "2.0"], "0.5"),
    (["100", "250"], "50"), (["60000", "130000"], "10000"),
    (["0.00001234", "0.00001235"], "0.00000001"),
])
def test_inferred_steps(texts, step):
    scale = Scale()
    scale.take(parse_decimals(texts), "X")
    assert scale.step_text() == step


@pytest.mark.parametrize("texts, decimals, noted", [
    (["1.20", "1.00"], 2, False), (["1.2", "81"], SHORTEST, False), (["5", "7"], 0, False), (["1.20", "1.5"], 2, True),
    (["0", "1.20"], 2, True), (["0", "7"], 0, False),
])
def test_text_style(texts, decimals, noted):
    scale = Scale()
    scale.take(parse_decimals(texts), "X")
    assert (scale.style()[0], bool(scale.style()[1])) == (decimals, noted)


def test_numbers_too_wide_together_are_bad_input_and_never_wrap():
    scale = Scale()
    with pytest.raises(BadInput, match="100000000000000 and others of 8 decimals"):
        scale.take(parse_decimals(["100000000000000", "0.00000001"]), "BTCUSDT quantities")
    with pytest.raises(BadInput, match="64 bits"):
        rescale(np.array([10**18]), 0, 1, "prices")


def test_steps_of_names_the_value_beside_the_grid():
    assert steps_of(np.array([15, MISSING, 30]), 2, "0.05", "X")[0].tolist() == [3, MISSING, 6]
    assert steps_of(np.array([15, 31]), 2, "0.05", "X")[1] == (1, "0.31")
    assert decimal_of(1200, 2) == "12"
