"""Only reduces risk: whatever is asked, whatever the terminal does, no exposure grows, flips, and no stop loosens."""

import os

import pytest
from gateways import World

EACH = 40                               # requests in one world


def run(seed: int, requests: int, guarded: bool = True) -> World:
    world = World(seed, guarded=guarded)
    for _ in range(requests):
        world.one()
    world.check()
    return world


def worlds(first: int, count: int, guarded: bool = True) -> dict:
    total: dict = {}
    for seed in range(first, first + count):
        try:
            world = run(seed, EACH, guarded)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None
        for key, value in world.ends.items():
            total[key] = total.get(key, 0) + value
        total["deals"] = total.get("deals", 0) + sum(deal.reason == 3 for deal in world.book.deals.values())
    return total


def test_random_requests_only_reduce_risk():
    """A failing seed is named first and reruns alone with TAPEGUARD_SEED."""
    seed = int(os.environ.get("TAPEGUARD_SEED", "1"))
    total = worlds(seed, 1 if "TAPEGUARD_SEED" in os.environ else 40)
    assert total["deals"] > 0
    assert "TAPEGUARD_SEED" in os.environ or total["done"] > 200 and total["refused"] > 100 and total["killed"] > 5 and total["in doubt"] > 0, total


def test_the_gateway_is_right_without_the_worker_s_last_look():
    total = worlds(500, 20, guarded=False)
    assert total["deals"] > 50 and total["done"] > 100, total


@pytest.mark.slow
def test_a_hundred_thousand_requests_only_reduce_risk():
    worlds(10_000, 80_000 // EACH)
    worlds(50_000, 20_000 // EACH, guarded=False)
