"""What a live run is asked to do, and what it is written down as before anything is sent."""

import dataclasses
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from engine.errors import BadInput
from engine.gateway.orders import Limits
from engine.record.recorder import Options as Recording
from engine.rules import Choice, params_dict
from engine.run import Settings

MODES = ("record", "shadow", "paper", "act")
CAP = {"record": "off", "shadow": "shadow", "paper": "act", "act": "act"}      # most a rule may do
ORDER = ("off", "alert", "shadow", "act")


@dataclass
class Terminal:
    """How the broker is reached: what the worker loads, and what runs it."""

    name: str = "MetaTrader5"          # or simulated:CONFIG.json, or simulated:@ADDRESS.json
    command: tuple[str, ...] = ()      # a Python, or Wine and its Python; this one where empty
    connect: dict = field(default_factory=dict)
    timeout_s: float = 10.0


@dataclass
class LiveOptions:
    """Everything a live run is asked."""

    mode: str
    recording: Recording
    choices: list[Choice]
    terminal: Terminal
    broker_symbols: dict[str, str]     # venue symbol -> broker symbol, as far as told; the stored map has the rest
    limits: Limits = field(default_factory=Limits)
    limits_set: tuple[str, ...] = ()   # which of them were given on purpose
    account: int | None = None         # typed by the user
    settings: Settings = field(default_factory=Settings)
    webhook: str = ""
    keep: str = "drop"
    hold_back_s: float = 10.0          # all must be well this long before held rules are given back
    journal: dict = field(default_factory=dict)


def capped(choices: list[Choice], mode: str) -> list[Choice]:
    """Return the choices with no rule doing more than a run of this mode allows."""
    return [dataclasses.replace(choice, mode=least(choice.mode, CAP[mode])) for choice in choices]


def least(mode: str, cap: str) -> str:
    """Return the lesser of two rule modes."""
    return min(mode, cap, key=ORDER.index)


def check_mode(mode: str) -> None:
    """Raise BadInput for a mode there is not."""
    if mode not in MODES:
        raise BadInput(f"--mode {mode}: a live run is one of {', '.join(MODES)}")


def described(options: LiveOptions, name: str, session: str, kernel: Path, account: dict, started_ns: int) -> dict:
    """Return what live.json says of a run."""
    versions = {package: metadata.version(package) for package in ("tapeguard", "numba", "numpy", "pyarrow")}
    limits = {key: value for key, value in dataclasses.asdict(options.limits).items() if key not in ("accounts", "kill_file")}
    return {"run": name, "session": session, "mode": options.mode, "account": account, "kernel": kernel.name,
            "started_ns": started_ns, "state": "running", "keep": options.keep, "venue": options.recording.endpoint.venue,
            "stream": options.recording.trades,
            "settings": dataclasses.asdict(options.settings),
            "limits": {**limits, "symbols": sorted(options.limits.symbols)},
            # every rule begins in shadow at most; switches are in the recording
            "rules": {choice.rule.name: {"preset": choice.preset, "mode": least(choice.mode, "shadow"),
                                         "wanted": choice.mode, "params": params_dict(choice),
                                         "evidence": choice.rule.evidence} for choice in options.choices},
            "versions": {"python": platform.python_version(), **versions}}
