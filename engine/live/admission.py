"""What must be true before a live run may send an order, and the sentence for each thing that is not."""

import json
from importlib import metadata
from pathlib import Path

from engine.errors import BadInput
from engine.live.commands import kill_file
from engine.live.options import LiveOptions
from engine.live.terminal import Account
from engine.rules import Choice, params_dict
from engine.runlog import runs_folder

REQUIRED = ("actions_per_minute", "actions_per_day", "max_share")
PROVING = ("shadow", "act")
LEAST_S = 600.0                # a run with a position in which no rule decided proves something after so long


def admit(options: LiveOptions, account: Account, kernel: str, data: Path) -> set[str]:
    """Return the rules that may act in this run; raise BadInput with every reason why it may not."""
    missing = []
    if options.account is None:
        missing.append("the account number was not typed (--account NUMBER)")
    absent = [name.replace("_", "-") for name in REQUIRED if name not in options.limits_set]
    if absent:
        missing.append(f"these limits are not set: --{', --'.join(absent)}")
    found = proof(options, account, kernel, data)
    if found is None:
        missing.append(f"no shadow run of account {account.shown['login']} with these very rules and parameters was verified; run "
                       "tapeguard live --mode shadow with a position open, until a rule decides or for "
                       f"{LEAST_S / 60:.0f} minutes, then tapeguard verify")
    if kill_file(data).exists():
        missing.append(f"the kill switch is on; tapeguard kill --lift takes {kill_file(data)} away")
    if not any(choice.mode == "act" for choice in options.choices):
        missing.append("no rule has the mode act (--rules whale=act)")
    if missing:
        raise BadInput("act is refused: " + "; ".join(missing))
    return found


def proof(options: LiveOptions, account: Account, kernel: str, data: Path) -> set[str] | None:
    """Return the rules whose parity a verified run proves for this kernel, account and market, None where none proves all that act."""
    acting = {choice.rule.name for choice in options.choices if choice.mode == "act"}
    for path in sorted(runs_folder(data).glob("*/verify.json"), reverse=True):
        try:
            live, found = (json.loads((path.parent / name).read_text(encoding="utf-8")) for name in ("live.json", "verify.json"))
            if _proves(live, found, options, account, kernel):
                proven = {choice.rule.name for choice in options.choices if _decided(live["rules"], choice)}
                if acting <= proven:
                    return proven
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _proves(live: dict, found: dict, options: LiveOptions, account: Account, kernel: str) -> bool:
    """Tell whether a run was of this code, account and market, and showed something."""
    same = live["kernel"] == kernel and live["versions"]["tapeguard"] == metadata.version("tapeguard") \
        and live["account"]["id"] == account.shown["id"] and live["venue"] == options.recording.endpoint.venue
    pairs = {row["symbol"]: row["pair"] for row in live["instruments"] if row["venue"] == "mt5"}
    market = all(pairs.get(name) == instrument.pair for name, instrument in account.instruments.items())
    shown = found["identical"] is True and found["positions"] > 0 and (found["compared"] > 0 or found["seconds"] >= LEAST_S)
    return same and market and shown and live["mode"] in PROVING


def _decided(rules: dict, choice: Choice) -> bool:
    """Tell whether a rule was asked in the run that proves it, with the same parameters."""
    entry = rules[choice.rule.name]
    return entry["wanted"] in ("shadow", "act") and entry["params"] == params_dict(choice)
