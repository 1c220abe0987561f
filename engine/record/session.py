"""One recording from start to checked session: recover what a kill left, record, convert, check."""

import asyncio
import contextlib
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine import clock
from engine.errors import SourceFailed, TapeguardError
from engine.record.convert import convert, recover
from engine.record.journal import JournalWriter, is_held
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.store import Session

SCREEN_S = 1.0
NAMED = 60                     # characters of a session's name that are its symbols
Show = Callable[[Recorder], None]
Say = Callable[[str], None]


def record_session(options: Options, data: Path, name: str | None, keep: str, show: Show | None, say: Say,
                   **journal_options) -> dict:
    """Record until Ctrl-C or the duration; return the `import` object of the session, its check under `check`."""
    for left in recover(data, keep):
        tell(left, say)
    started = datetime.fromtimestamp(clock.now_ns() / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    name = name or f"{named_after(options.symbols)}-{options.endpoint.venue}-{started}"
    journal = open_journal(data, name, **journal_options)
    recorder = None
    try:
        try:
            recorder = asyncio.run(_run(options, journal, show))
        finally:
            journal.close()
    except TapeguardError as error:
        if getattr(error, "kept", None) == 0:
            shutil.rmtree(journal.folder, ignore_errors=True)      # nothing of the market is in it
            raise
        text = f"{error}; what was recorded is kept in {journal.folder}, and the next start makes it a session"
        raise type(error)(text) from None
    say("converting the journal")
    result = convert(journal.folder, data, keep=keep)
    if result["session"] is None:
        raise SourceFailed("nothing was recorded: the end came before the venue had sent anything")
    result["recorded"] = recorder.status()
    say("checking the session")
    result["check"] = check_session(Session(result["path"]))
    return result


def named_after(symbols: Sequence[str]) -> str:
    """Return the symbols as a folder may be named: the first ones that fit and how many more, foreign letters as x."""
    parts = [re.sub(r"[^A-Za-z0-9_]", "x", symbol)[:NAMED - 10] for symbol in symbols]
    for left in range(len(parts)):
        name = "+".join(parts[:len(parts) - left] + ([str(left)] if left else []))
        if len(name) <= NAMED:
            break
    return name


def tell(left: dict, say: Say) -> None:
    """Say what became of a recording that was left behind."""
    if "problem" in left:
        if is_held(Path(left["path"])):
            say(f"recording {left['session']} is still being made by another program: left alone")
            return
        say(f"recording {left['session']} was left unfinished and could not be converted: {left['problem']}")
    elif left["session"] is not None:      # else it was killed before its first frame
        said = "; ".join(left["repair"]) or "nothing was damaged"
        say(f"recording {left['session']} was left unfinished: it is a session now ({said})")


async def _run(options: Options, journal: JournalWriter, show: Show | None) -> Recorder:
    """Run the recorder; Ctrl-C and a stop signal end it cleanly."""
    recorder = Recorder(options, journal)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):   # on Windows: cancelled
            loop.add_signal_handler(number, recorder.stop)
    screen = asyncio.create_task(_screen(recorder, show)) if show else None
    try:
        await recorder.run()
    except asyncio.CancelledError:
        pass
    except TapeguardError as error:
        error.kept = recorder.counters.kept
        raise
    finally:
        if screen:
            screen.cancel()
            show(recorder)
    return recorder


async def _screen(recorder: Recorder, show: Show) -> None:
    while True:
        show(recorder)
        await asyncio.sleep(SCREEN_S)
