"""Commands to a live run from another terminal window: small files in the run's folder, answered beside them."""

import json
import uuid
from pathlib import Path

from engine import clock
from engine.errors import BadInput, SourceFailed, nearest
from engine.record.journal import is_held
from engine.record.store import write_text_atomic
from engine.rules import MODES
from engine.runlog import runs_folder

FOLDER, KILL = "commands", "KILL"
ANSWER_S = 5.0


def kill_file(data: Path) -> Path:
    """Return the file whose presence stops every action; it is looked at right before each order."""
    return data / "live" / KILL


def is_used(data: Path) -> bool:
    """Tell whether a live run uses this data root now."""
    return is_held(data / "live")


def running_in(data: Path) -> str:
    """Name the live run that uses a data root."""
    for path in sorted(runs_folder(data).glob("*/live.json"), reverse=True):
        live = json.loads(path.read_text(encoding="utf-8"))
        if live["state"] == "running":
            return f"live run {path.parent.name} (process {live.get('pid')})"
    return "a live run that starts or ends just now"


def running(run: Path) -> dict:
    """Return what live.json says of a run that runs now; raise where none does."""
    if not (run / "live.json").is_file():
        raise BadInput(f"{run} is not a live run; name the folder that tapeguard live printed at its start")
    live = json.loads((run / "live.json").read_text(encoding="utf-8"))
    if live["state"] != "running" or not is_used(run.resolve().parents[1]):
        raise BadInput(f"live run {run.name} has ended: nothing of it can be switched; --run names another, --data another data root")
    return live


def send(run: Path, command: dict) -> dict:
    """Leave a command for a live run that runs and return its answer."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    name = f"{clock.now_ns()}-{uuid.uuid4().hex[:8]}.json"
    write_text_atomic(folder / name, json.dumps(command))
    answer = folder / f"{name}.answer"
    for _ in range(int(ANSWER_S / 0.05)):
        if answer.exists():
            return json.loads(answer.read_text(encoding="utf-8"))
        clock.sleep_s(0.05)
    (folder / name).unlink(missing_ok=True)
    raise SourceFailed(f"live run {run.name} did not answer within {ANSWER_S:.0f} s; it hangs: tapeguard kill stops "
                       "its orders")


def take(run: Path) -> list[tuple[Path, dict]]:
    """Return the commands that wait, oldest first, each with its file."""
    found = []
    for path in sorted((run / FOLDER).glob("[0-9]*.json")) if (run / FOLDER).is_dir() else ():
        try:
            command = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(command, dict) and all(isinstance(value, str) for value in command.values()):
                found.append((path, command))
        except (OSError, ValueError):
            continue
        finally:
            path.unlink(missing_ok=True)
    return found


def answer(path: Path, reply: dict) -> None:
    """Answer a command."""
    write_text_atomic(path.with_name(f"{path.name}.answer"), json.dumps(reply))


def parse_switch(text: str) -> tuple[str, str]:
    """Read `rule=mode`."""
    rule, equals, mode = text.partition("=")
    if not equals or mode not in MODES:
        raise BadInput(f"{text}: write it as RULE=MODE; {nearest(mode, MODES)}")
    return rule, mode

