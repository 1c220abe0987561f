"""What one check of the doctor found."""

from dataclasses import dataclass

OK, WARN, FAIL, SKIPPED = "ok", "warn", "fail", "skipped"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, what was seen, and how to mend it where it is not well."""

    name: str
    state: str  # ok | warn | fail | skipped
    seen: str
    mend: str = ""
