"""One recording from start to checked session: recover what a kill left, record, convert, check."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from engine import clock
from engine.record.convert import convert, recover
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.store import Session

SCREEN_S = 1.0


def record_session(options: Options, data: Path, name: str | None, keep: str, show: Callable[[Recorder], None] | None,
                   say: Callable[[str], None], **journal_options) -> dict:
    """Record until Ctrl-C or the duration, and return the `import` object of the session with its check under `check`."""
    for left in recover(data, keep):
        if left.get("session") is None:
            continue               # killed before its first frame
        said = left.get("problem") or "; ".join(left.get("repair") or []) or "nothing was damaged"
        say(f"recording {left['session']} was left unfinished: it is a session now ({said})" if "problem" not in left
            else f"recording {left['session']} could not be converted: {said}")
    name = name or f"{'+'.join(options.symbols)}-{options.endpoint.venue}-" + datetime.fromtimestamp(clock.now_ns() / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    journal = open_journal(data, name, **journal_options)
    try:
        asyncio.run(_run(options, journal, show))
    finally:
        journal.close()
    say("converting the journal")
    result = convert(journal.folder, data, keep=keep)
    if Path(result["path"], "manifest.json").is_file():
        say("checking the session")
        result["check"] = check_session(Session(result["path"]))
    return result


async def _run(options: Options, journal, show: Callable[[Recorder], None] | None) -> None:
    """Run the recorder; Ctrl-C and a stop signal end it cleanly."""
    recorder = Recorder(options, journal)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):     # Windows: the KeyboardInterrupt is met below
            loop.add_signal_handler(number, recorder.stop)
    screen = asyncio.create_task(_screen(recorder, show)) if show else None
    try:
        await recorder.run()
    except asyncio.CancelledError:
        pass
    finally:
        if screen:
            screen.cancel()
            show(recorder)


async def _screen(recorder: Recorder, show: Callable[[Recorder], None]) -> None:
    while True:
        show(recorder)
        await asyncio.sleep(SCREEN_S)
