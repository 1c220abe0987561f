"""The table of requirements names a module and a test for each of R1 to R77, and each of them is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| R")]
TESTS = {path.name: set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)) for path in (ROOT / "tests").glob("test_*.py")}


def test_one_row_for_each_requirement():
    assert [row[0] for row in ROWS] == [f"R{number}" for number in range(1, 78)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_named_module_and_test_exists(row):
    name, asks, modules, shown, note = row
    places, tests = re.findall(r"`([^`]+)`", modules), re.findall(r"`([^`]+)`", shown)
    assert asks and places and tests
    for place in places:
        assert (ROOT / place).is_file(), place
    for test in tests:
        file, _, function = test.partition("::")
        assert function in TESTS.get(file, set()), test
    number = int(name[1:])
    if 3 <= number <= 34:
        assert any(re.search(rf"_{name}_", test) for test in tests), f"{name} needs a test named after it"
    elif not any(re.search(rf"_{name}_", test) for test in tests):
        assert len(note) > 5, f"{name} has no test of its own and no reason"


def test_a_missing_test_would_be_seen():
    with pytest.raises(AssertionError):
        test_every_named_module_and_test_exists(["R3", "x", "`engine/run.py`", "`test_run.py::test_nothing`", ""])
