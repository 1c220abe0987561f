"""Errors a user can cause, and the exit code each one ends with.

TapeguardError
├── BadInput      2  wrong use, or a file or value that cannot be taken
├── CheckFailed   1  the answer to the question asked is "no"
└── SourceFailed  3  a venue, a broker or the disk did not do its part
"""

import difflib
from collections.abc import Iterable


class TapeguardError(Exception):
    """Ends the program with one sentence and `exit_code`."""

    exit_code = 2


class BadInput(TapeguardError):
    """Names the file, the place and the value, and what would be right."""


class CheckFailed(TapeguardError):
    """The question was answered, and the answer is no."""

    exit_code = 1


class SourceFailed(TapeguardError):
    """Something outside this program failed."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the closest known name, or all of them when nothing is close."""
    names = sorted(known)
    if not names:
        return "there is none"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
