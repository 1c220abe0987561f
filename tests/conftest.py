"""Shared fixtures: where the recordings are, and what happens when they are not."""

import os
from pathlib import Path

import pytest

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the folder of real recordings; skip without it, fail without it in CI."""
    if not REALDATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the recordings are not at {REALDATA}, and CI needs them")
        pytest.skip("the folder of real recordings is not here")
    return REALDATA
