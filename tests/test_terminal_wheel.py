"""The simulated terminal beside the real module on Windows, where no terminal runs: what is checked before the pipe is equal."""

import importlib
import os
import sys

import pytest

from engine.gateway import surface
from engine.gateway.terminal import SimulatedTerminal, VirtualClock
from engine.gateway.terminal_books import Book, Spec

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="the MetaTrader5 package exists for Windows only")

CALLS = [
    ("order_send", [{"action": 1, "volume": 1}], {}), ("order_send", [{"action": 1, "volume": None}], {}), ("order_send", [], {"sl": 1}),
    ("order_send", [{"comment": "x" * 30}], {}), ("order_send", [{"comment": "x" * 29}], {}), ("order_send", [{"symbol": "x" * 30}], {}),
    ("order_send", [{"action": 1.0}], {}), ("order_send", [{"position": None}], {}), ("order_send", [{"unknown": 5}], {}),
    ("order_check", [{"price": 1}], {}), ("order_check", [{"price": 1.0}], {}), ("positions_get", ["X"], {}), ("orders_get", ["X"], {}),
    ("positions_get", [], {"ticket": 1}), ("positions_get", [], {"symbol": "X"}), ("positions_get", [], {}), ("account_info", [], {}),
    ("terminal_info", [], {}), ("version", [], {}), ("symbols_total", [], {}), ("symbols_get", [], {}), ("symbol_info", ["X"], {}),
    ("symbol_info_tick", ["X"], {}), ("symbol_select", ["X", True], {}), ("market_book_add", ["X"], {}),
    ("history_deals_get", [86400, 200000], {}), ("history_deals_get", [], {"position": 5}), ("history_orders_get", [], {"ticket": 5}),
    ("copy_ticks_from", ["X", 86400, 5, -1], {}), ("copy_rates_from_pos", ["X", 1, 0, 5], {}), ("order_calc_profit", [0, "X", 1, 1, 2], {}),
]


@pytest.fixture(scope="module")
def real():
    if os.environ.get("CI") == "true":
        return importlib.import_module("MetaTrader5")          # there it may not be missing
    return pytest.importorskip("MetaTrader5")


def test_constants_are_equal(real):
    for name, value in surface.CONSTANTS.items():
        assert getattr(real, name) == value, name


@pytest.mark.parametrize("name, args, kwargs", CALLS, ids=str)
def test_answers_without_a_terminal_are_equal(real, name, args, kwargs):
    fake = SimulatedTerminal(Book([Spec("X")]), VirtualClock()).module
    expected = getattr(real, name)(*args, **kwargs), real.last_error()
    assert (getattr(fake, name)(*args, **kwargs), fake.last_error()) == expected
