"""The sessions under a data root, damaged ones included."""

from pathlib import Path

from engine.errors import BadInput
from engine.record.journal import PREFIX, is_held, recordings
from engine.record.recording import Recording
from engine.record.store import Session, sessions_folder


def list_sessions(data: Path) -> list[dict]:
    """Return one entry per session folder, oldest first; a damaged one has a `problem` sentence and what is known."""
    root = sessions_folder(Path(data))
    if not root.is_dir():
        return []
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    entries = [*map(_entry, folders), *map(_in_progress, recordings(data))]
    return sorted(entries, key=lambda entry: (entry["first_recv_ns"] or 0, entry["session"]))


def _in_progress(path: Path) -> dict:
    """Return the entry of a recording that is no session yet."""
    entry = {"session": path.name.removeprefix(PREFIX), "path": str(path), "venue": None, "symbols": [], "first_recv_ns": None,
             "last_recv_ns": None, "rows": None, "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
             "state": "recording"}
    if not is_held(path):
        entry |= {"state": "left", "problem": "nothing records it any more; the next record or live makes a session of it"}
    try:
        found = Recording(path)
    except BadInput:
        return entry           # nothing of the market is in it yet
    venues = sorted({i.venue for i in found.instruments})
    return entry | {"venue": ", ".join(venues), "symbols": [i.symbol for i in found.instruments],
                    "first_recv_ns": found.manifest["first_recv_ns"], "last_recv_ns": found.manifest["last_recv_ns"]}


def _entry(path: Path) -> dict:
    entry = {"session": path.name, "path": str(path), "venue": None, "symbols": [], "first_recv_ns": None,
             "last_recv_ns": None, "rows": None, "bytes": None, "state": "damaged"}
    try:
        entry["bytes"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        session = Session(path)
        manifest = session.manifest
        entry |= {"symbols": [instrument.symbol for instrument in session.instruments],
                  "venue": manifest.get("venue") or ", ".join(sorted({i.venue for i in session.instruments})) or None,
                  "first_recv_ns": manifest.get("first_recv_ns"), "last_recv_ns": manifest.get("last_recv_ns"),
                  "rows": sum(manifest["rows"].values())}
        for name in sorted({relative.split("/")[0] for relative in manifest["files"]}):
            session.files(name)
        entry["state"] = manifest.get("state", "complete")
    except BadInput as error:
        entry["problem"] = str(error)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        entry["problem"] = f"{path / 'manifest.json'} lacks or has a wrong {error}; import or record the session again"
    except OSError as error:
        entry["problem"] = f"{path} cannot be read: {error}"
    return entry
