"""The clock that everything is stamped by, over clocks of a test that are put back and forward."""

import random
import threading

from hypothesis import given
from hypothesis import strategies as st

from engine.clock import SLEW, STEP_NS, SteadyClock

S = 1_000_000_000
T0 = 1_700_000_000 * S


class Machine:
    """A wall clock and a monotonic one; time passes only when told to."""

    def __init__(self):
        self.passed, self.off = 0, 0
        self.clock = SteadyClock(lambda: T0 + self.passed + self.off, lambda: 5 + self.passed)

    def later(self, seconds: float) -> int:
        self.passed += round(seconds * S)
        return self.clock.now_ns()


def test_time_goes_on_when_the_clock_is_put_back_and_comes_back_to_it():
    machine = Machine()
    assert machine.later(10) == T0 + 10 * S
    machine.off = -600 * S
    assert machine.later(0.001) == T0 + 10 * S + 1_000_000 and machine.clock.put_back_ns == 600 * S
    before = machine.clock.now_ns()
    assert machine.later(100) - before == 100 * S - 100 * S // SLEW
    machine.later(60_000)
    assert machine.clock.now_ns() == T0 + machine.passed - 600 * S, "the machine's own again"


def test_a_clock_put_forward_is_followed_at_once_and_makes_good_what_was_put_back():
    machine = Machine()
    machine.off = -10 * S
    machine.later(0.001)
    machine.off = 0
    assert machine.later(1) == T0 + machine.passed and machine.clock.ahead_ns == 0
    machine.off = 3600 * S
    assert machine.later(1) == T0 + machine.passed + machine.off


@given(st.lists(st.tuples(st.integers(0, 5 * S), st.integers(-700 * S, 700 * S)), max_size=40))
def test_it_is_never_behind_the_machine_and_never_goes_back_but_by_what_passes_for_drift(steps):
    machine, last = Machine(), 0
    for passed, step in steps:
        machine.passed, machine.off = machine.passed + passed, machine.off + step
        now = machine.clock.now_ns()
        assert now >= T0 + machine.passed + machine.off and now > last - STEP_NS
        last = now


def test_threads_count_a_step_once():
    machine = Machine()
    for _ in range(20):
        before = machine.clock.put_back_ns
        machine.off -= S
        threads = [threading.Thread(target=lambda: [machine.clock.now_ns() for _ in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert machine.clock.put_back_ns - before == S
        machine.later(random.Random(1).random())
