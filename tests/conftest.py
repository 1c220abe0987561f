"""Shared fixtures: where the recordings are, and what happens when they are not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from replays import generated, market, only_interpreted, own_cache, real, warm  # noqa: F401

from engine.record.importer import import_files
from engine.record.store import Session
from engine.rules import choose, find_rules
from engine.run import Pair, Run, Settings

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the folder of real recordings; skip without it, fail without it in CI."""
    if not REALDATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the recordings are not at {REALDATA}, and CI needs them")
        pytest.skip("the folder of real recordings is not here")
    return REALDATA


@pytest.fixture(scope="session")
def linked() -> Callable[..., Run]:
    """Return a function that makes a Run; every one is linked from all shipped rules, so that the kernel is compiled once."""
    rules = find_rules()
    btc = Pair("BTCUSDT", "0.10", "0.001", "0.01", True)

    def make(wanted: str = "none", changes: list[str] | None = None, *, pairs: list[Pair] | None = None, settings: Settings | None = None,
             variants: list[tuple[str, Settings]] | None = None, slots: int = 4, interpreted: bool = False) -> Run:
        asked = variants or [(wanted, settings or Settings())]
        return Run(pairs or [btc], [choose(rules, text, changes or []) for text, _ in asked], [each for _, each in asked],
                   slots=slots, interpreted=interpreted)
    return make


@pytest.fixture(scope="session")
def btc_session(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return the 344 seconds of BTCUSDT of 2024-08-08, imported once."""
    data = tmp_path_factory.mktemp("btc")
    return Session(import_files([realdata / "binance_usdm" / "btcusdt_20240808.gz"], data, name="btc")["path"])
