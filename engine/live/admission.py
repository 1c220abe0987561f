"""What must be true before a live run may send an order, and the sentence for each thing that is not."""

import json
from pathlib import Path

from engine.errors import BadInput
from engine.live.commands import kill_file
from engine.live.options import LiveOptions
from engine.live.terminal import Account
from engine.rules import Choice, params_dict
from engine.runlog import runs_folder

REQUIRED = ("actions_per_minute", "actions_per_day", "max_share")
PROVING = ("shadow", "act")


def admit(options: LiveOptions, account: Account, kernel: str, data: Path) -> None:
    """Raise BadInput with every reason why this run may not act."""
    missing = []
    if options.account is None:
        missing.append("the account number was not typed (--account NUMBER)")
    absent = [name.replace("_", "-") for name in REQUIRED if name not in options.limits_set]
    if absent:
        missing.append(f"these limits are not set: --{', --'.join(absent)}")
    if proof(options, account, kernel, data) is None:
        missing.append(f"no shadow run of account {account.shown['login']} with these very rules and parameters was verified; run tapeguard "
                       "live --mode shadow for a while, then tapeguard verify")
    if kill_file(data).exists():
        missing.append(f"the kill switch is on; tapeguard kill --lift takes {kill_file(data)} away")
    if not any(choice.mode == "act" for choice in options.choices):
        missing.append("no rule has the mode act (--rules whale=act)")
    if missing:
        raise BadInput("act is refused: " + "; ".join(missing))


def proof(options: LiveOptions, account: Account, kernel: str, data: Path) -> str | None:
    """Return the run that proves the parity of this kernel with these parameters on this account, None where there is none."""
    for path in sorted(runs_folder(data).glob("*/verify.json"), reverse=True):
        try:
            live, found = (json.loads((path.parent / name).read_text(encoding="utf-8")) for name in ("live.json", "verify.json"))
            proven = found["identical"] is True and live["mode"] in PROVING and live["kernel"] == kernel
            same = live["account"]["id"] == account.shown["id"] and set(account.instruments) <= set(live["limits"]["symbols"])
            if proven and same and all(_decided(live["rules"], choice) for choice in options.choices if choice.mode == "act"):
                return live["run"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _decided(rules: dict, choice: Choice) -> bool:
    """Tell whether a rule that is to act was asked in the run that proves it, with the same parameters."""
    entry = rules[choice.rule.name]
    return entry["wanted"] in ("shadow", "act") and entry["params"] == params_dict(choice)
