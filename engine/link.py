"""Snapshot, generate, import: the kernel and a set of rules become one compiled module named by the hash of its source."""

import hashlib
import importlib.util
import os
import shutil
import sys
import types
import uuid
from pathlib import Path

from engine.errors import SourceFailed

KERNEL = Path(__file__).resolve().parent / "kernel"
RESERVED = {"stop_ticks": "stops", "share": "shares"}
_DEFAULT = {"stop_ticks": "MISSING", "share": "0.5"}


def kernels_folder() -> Path:
    """Return where compiled snapshots are kept: TAPEGUARD_CACHE, else the user's cache folder."""
    given = os.environ.get("TAPEGUARD_CACHE")
    if given:
        return Path(given) / "kernels"
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "tapeguard" / "kernels"


def votes_source(rules: list) -> str:
    """Write the generated module: record types of the chosen rules and straight-line calls of each."""
    lines = ['"""Written by the linker: one call for each rule, in order."""', "", "import numpy as np",
             "from .compiled import compiled", "from .market import N_EVIDENCE",
             "from .records import HOLD, MISSING, record"]
    lines += [f"from .rules import {rule.name} as rule_{rule.name}" for rule in rules]
    lines += ["", "RULES = [" + ", ".join(f"rule_{rule.name}" for rule in rules) + "]",
              "for module in RULES:", "    for item in list(vars(module).values()):",
              "        if callable(item) and getattr(item, '__module__', None) == module.__name__ and not isinstance(item, type):",
              "            compiled(item)", ""]
    for kind in ("params", "state"):
        lines.append(f"{kind.upper()} = record([")
        lines += [f"    ({rule.name!r}, record({getattr(rule, kind + '_fields')!r}))," for rule in rules]
        lines.append("])")
    lines += ["", "", "@compiled",
              "def ask_rules(modes, v, params, state, market, position, actions, occasions, stops, shares):",
              '    """Ask every rule that is not off; return one bit for each that votes for more than holding."""', "    votes = 0"]
    for r, rule in enumerate(rules):
        fields = {name for name, _ in rule.state_fields}
        occasion = f"state.{rule.name}.occasion" if "occasion" in fields else "0"
        lines += [f"    actions[{r}] = HOLD", f"    if modes[v, {r}] != 0:",
                  f"        actions[{r}] = rule_{rule.name}.on_event(params.{rule.name}, state.{rule.name}, market, position)",
                  f"        occasions[{r}] = {occasion}", f"        if actions[{r}] > HOLD:", f"            votes |= {1 << r}"]
        for field, column in RESERVED.items():
            value = f"state.{rule.name}.{field}" if field in fields else _DEFAULT[field]
            lines.append(f"            {column}[{r}] = {value}")
    lines += ["    return votes", "", "", "@compiled", "def write_evidence(r, state, out):",
              '    """Copy the state a rule voted on into its decision, unused places NaN."""']
    for place in range(8):
        lines.append(f"    out.evidence_{place} = np.nan")
    for r, rule in enumerate(rules):
        lines.append(f"    {'if' if r == 0 else 'elif'} r == {r}:")
        for place, name in enumerate(rule.evidence):
            lines.append(f"        out.evidence_{place} = state.{rule.name}.{name}")
        if not rule.evidence:
            lines.append("        pass")
    return "\n".join(lines) + "\n"


def sources(rules: list, kernel: Path = KERNEL) -> dict[str, str]:
    """Return every text that is compiled, by its place in the snapshot."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(kernel.glob("*.py"))}
    texts["rules/__init__.py"] = '"""The rules of this snapshot."""\n'
    texts.update({f"rules/{rule.name}.py": rule.source for rule in rules})
    texts["votes.py"] = votes_source(rules)
    return texts


def snapshot_hash(texts: dict[str, str]) -> str:
    """Return the name of a snapshot: the hash of all its text."""
    digest = hashlib.sha256()
    for place in sorted(texts):
        digest.update(f"{place}\0{len(texts[place])}\0".encode())
        digest.update(texts[place].encode())
    return digest.hexdigest()[:20]


def write_snapshot(texts: dict[str, str]) -> Path:
    """Write a snapshot beside its place and rename it; two processes may do so at once."""
    final = kernels_folder() / f"k{snapshot_hash(texts)}"
    if final.is_dir():
        return _unaltered(final, texts)
    aside = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    try:
        for place, text in texts.items():
            path = aside / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        try:
            os.replace(aside, final)
        except OSError:
            if not final.is_dir():
                raise
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise SourceFailed(f"cannot write the compiled kernel under {kernels_folder()} ({error.strerror}); "
                           "set TAPEGUARD_CACHE to a folder that can be written") from None
    return final


def _unaltered(folder: Path, texts: dict[str, str]) -> Path:
    """Return a snapshot folder that holds what its name says, or raise SourceFailed: what is not the source must not run."""
    for place, text in texts.items():
        try:
            same = (folder / place).read_bytes() == text.encode()
        except OSError:
            same = False
        if not same:
            raise SourceFailed(f"{folder / place} is not what was compiled under this name, it was changed or removed; "
                               f"delete {folder} and run again")
    return folder


def link(rules: list, kernel: Path = KERNEL) -> tuple[types.ModuleType, Path]:
    """Return the loop module compiled from the kernel and these rules, and the folder that holds its source."""
    folder = write_snapshot(sources(rules, kernel))
    package = f"tapeguard_{folder.name}"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(package, folder / "__init__.py", submodule_search_locations=[str(folder)])
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"{package}.loop"), folder
