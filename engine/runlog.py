"""One folder for each run: manifest, the exact source that decided, trades, decisions, orders and fills."""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import BadInput, SourceFailed
from engine.kernel import records as R
from engine.kernel.market import DECISION, FILL
from engine.record.store import write_text_atomic
from engine.words import ACTIONS, FILL_CODES, RESULTS, RULE_MODES

NEEDED = ("session", "session_path", "session_manifest_sha256", "inputs", "digest", "quote_model", "force_model", "volume_step",
          "recorded_exits", "settings", "rules")
_WORDS = {"action": ACTIONS, "result": RESULTS, "mode": RULE_MODES, "code": FILL_CODES}


def runs_folder(data: Path) -> Path:
    """Return where runs live under a data root."""
    return data / "runs"


def as_table(rows: np.ndarray, rules: list[str], symbols: list[str]) -> pa.Table:
    """Return record rows as a table: codes as words, MISSING and NaN as null."""
    columns: dict[str, pa.Array] = {}
    for name in rows.dtype.names:
        values = np.ascontiguousarray(rows[name])
        words = {"rule": rules, "symbol": symbols, **_WORDS}.get(name)
        if words is not None:
            index = pa.array(values.astype(np.int32), mask=values < 0)
            columns[name] = pa.DictionaryArray.from_arrays(index, pa.array(words, pa.string()))
        elif values.dtype.kind == "f":
            columns[name] = pa.array(values, mask=np.isnan(values))
        else:
            columns[name] = pa.array(values, mask=values == R.MISSING)
    return pa.table(columns)


class RunWriter:
    """Writes a run beside its place as it happens; `finish` renames it, `abandon` leaves nothing."""

    def __init__(self, data: Path, rules: list[str], symbols: list[str], kernel: Path):
        self.folder = runs_folder(data) / f".{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise SourceFailed(f"cannot write a run under {runs_folder(data)} ({error.strerror}); name a folder that can be written "
                               "with --data") from None
        self.rules, self.symbols = rules, symbols
        self.digest = hashlib.sha256()
        self._writers: dict[str, pq.ParquetWriter] = {}
        shutil.copytree(kernel, self.folder / "kernel", ignore=shutil.ignore_patterns("__pycache__"))
        self._write("decisions", np.zeros(0, DECISION))
        self._write("orders", np.zeros(0, DECISION))
        self._write("fills", np.zeros(0, FILL))

    def _write(self, name: str, rows: np.ndarray) -> None:
        table = as_table(rows, self.rules, self.symbols)
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self.folder / f"{name}.parquet", table.schema, compression="zstd")
        if len(rows):
            self._writers[name].write_table(table)

    def add(self, decisions: np.ndarray, fills: np.ndarray) -> None:
        """Append what one piece of the stream led to."""
        self.digest.update(np.ascontiguousarray(decisions).tobytes())
        if len(decisions):
            self._write("decisions", decisions)
            self._write("orders", decisions[decisions["result"] == R.ACTED])
        if len(fills):
            self._write("fills", fills)

    def finish(self, name: str, manifest: dict) -> Path:
        """Close the files, write the manifest, and put the run in its place under the first free name."""
        for writer in self._writers.values():
            writer.close()
        final = self.folder.parent / name
        number = 1
        while True:
            while final.exists():
                number += 1
                final = self.folder.parent / f"{name}-{number}"
            write_text_atomic(self.folder / "manifest.json", json.dumps({"run": final.name, **manifest}, indent=1) + "\n")
            try:
                os.replace(self.folder, final)
                return final
            except OSError:
                if not final.exists():     # another process took the name in between
                    raise

    def abandon(self) -> None:
        """Remove everything written so far."""
        for writer in self._writers.values():
            writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def read_manifest(run: Path) -> dict:
    """Return a run's manifest."""
    path = run / "manifest.json"
    if not path.is_file():
        raise BadInput(f"{run} is not a run: it has no manifest.json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not valid JSON ({error}); replay the session again") from None
    absent = [name for name in NEEDED if not isinstance(manifest, dict) or name not in manifest]
    if absent:
        raise BadInput(f"{path} lacks {', '.join(absent)}; replay the session again")
    return manifest
