"""The worked transcript says what is so: its questions are asked again of the recording it was made from."""

import json
import re
from pathlib import Path

import pytest

from engine.analysis.library import Library
from engine.errors import BadInput

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "transcript.md").read_text(encoding="utf-8")
ASKED = re.findall(r"^`(\w+) (\{[^\n]*\})`\n\n(?:```json\n(.*?)```|> ([^\n]*)\n)", TEXT, re.M | re.S)


def differing(told, answer, place: str = "") -> list[str]:
    """Return the places at which what is told is not in the answer; a list may be cut at its end."""
    if isinstance(told, dict) and isinstance(answer, dict):
        return [each for key, value in told.items() for each in (differing(value, answer[key], f"{place}.{key}") if key in answer else [f"{place}.{key}"])]
    if isinstance(told, list) and isinstance(answer, list) and len(told) <= len(answer):
        return [each for n, value in enumerate(told) for each in differing(value, answer[n], f"{place}[{n}]")]
    same = told == pytest.approx(answer, rel=1e-4) if isinstance(told, float) and isinstance(answer, float) else told == answer
    return [] if same else [f"{place}: {told!r} is {answer!r}"]


def test_the_answers_of_the_transcript_are_those_of_the_recording(btc_session):
    library = Library(btc_session.path.parents[1])
    asked = 0
    for tool, arguments, told, refused in ASKED:
        if tool not in ("analyse_symbol", "get_order_flow", "get_order_flow_trend"):
            continue
        asked += 1
        if refused:
            with pytest.raises(BadInput, match=re.escape(refused)):
                getattr(library, tool)(**json.loads(arguments))
        else:
            assert differing(json.loads(told), getattr(library, tool)(**json.loads(arguments))) == [], (tool, arguments)
    assert asked == 6 and len(ASKED) == 10


def test_a_difference_would_be_seen():
    assert differing({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.5}, 3]}) == [".a[1].b: 2.0 is 2.5"] and differing({"a": 1}, {}) == [".a"]
    assert differing({"a": None}, {"a": 0}) and not differing({"a": [1]}, {"a": [1, 2], "c": 3})
