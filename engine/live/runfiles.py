"""The files every run has, for a live run: what it decided and how that ended, as a replay leaves them."""

import hashlib
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from engine.kernel import records as R
from engine.record.store import file_sha256, write_text_atomic
from engine.runlog import as_table

if TYPE_CHECKING:
    from engine.live.verify import LiveRun


def write_run_files(run: "LiveRun", decisions: np.ndarray, fills: np.ndarray) -> None:
    """Write manifest, decisions, orders and fills beside live.json, each under its name only when whole."""
    rules = [choice.rule.name for choice in run.choices]
    symbols = [pair.symbol for pair in run.desk.pairs]
    orders = decisions[decisions["result"] == R.ACTED]
    for name, rows in (("decisions", decisions), ("orders", orders), ("fills", fills)):
        aside = run.folder / f".{name}.parquet"
        pq.write_table(as_table(rows, rules, symbols), aside, compression="zstd")
        os.replace(aside, run.folder / f"{name}.parquet")
    session = run.session.path
    manifest = {
        "run": run.folder.name, "live": run.live["mode"], "session": run.session.id, "session_path": str(session.resolve()),
        "session_manifest_sha256": file_sha256(session / "manifest.json"), "inputs": {"account": run.live["account"]},
        "digest": hashlib.sha256(decisions.tobytes()).hexdigest(), "kernel": run.live["kernel"], "quotes": "recorded", "quote_model": None,
        "force_model": False, "volume_step": None, "recorded_exits": False, "settings": run.live["settings"], "rules": run.live["rules"]}
    write_text_atomic(run.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
