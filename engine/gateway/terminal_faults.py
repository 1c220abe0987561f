"""What goes wrong at the simulated terminal: a script of faults, and a seeded hazard."""

import random
from dataclasses import dataclass, field

from engine.errors import BadInput, nearest

# what a fault does, and the values it takes
KINDS = {
    "retcode": "code: the server answers with it, nothing is executed",
    "partial": "share: only this part is filled, answer 10010",
    "placed": "delay_ms, dies: answer 10008, the deal comes later or never",
    "unknown": "code 10011 10012 10031, executed, delay_ms, hidden_ms, on_way: the answer says nothing, nor may the server know yet",
    "lost": "executed, delay_ms: None and -10002",
    "unsent": "executed: None and -10001, the pipe is broken",
    "failed": "code: None and this last_error, nothing is executed",
    "disconnect": "for_ms: no link to the broker, positions are empty",
    "restart": "the pipe is broken until initialize",
    "account": "login: another account is logged in",
    "algo_off": "for_ms: the Algo Trading button is off",
    "closed": "for_ms: the market is closed",
    "latency": "ms, after_ms: time passes before and after the call",
    "block": "when (before | after): the call never returns",
}
REJECTIONS = (10004, 10006, 10013, 10015, 10020, 10021, 10023, 10024, 10028, 10029, 10030)


@dataclass
class Faults:
    """A script, taken in order by the calls it names, and rates per call drawn from a seed."""

    script: list[dict] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    late_ms: int = 2000                # longest delay drawn
    dice: random.Random | None = None

    def __post_init__(self):
        for fault in self.script:
            check_fault(fault)
        for kind in self.rates:
            if kind not in KINDS:
                raise BadInput(f"fault {kind!r} is not known; {nearest(kind, KINDS)}")
        self.dice = random.Random(self.seed)

    def add(self, fault: dict) -> None:
        """Append one fault to the script."""
        check_fault(fault)
        self.script.append(fault)

    def take(self, call: str) -> dict:
        """Return the fault of this call, empty for none."""
        for i, fault in enumerate(self.script):
            if fault.get("call", "order_send") in (call, "*"):
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                return self.script.pop(i)
        if not self.rates:
            return {}
        draw, total = self.dice.random(), 0.0
        for kind, rate in self.rates.items():
            if kind in ORDER_ONLY and call != "order_send":
                continue
            total += rate
            if draw < total:
                return self._drawn(kind)
        return {}

    def _drawn(self, kind: str) -> dict:
        pick = self.dice
        fault = {"do": kind, "executed": pick.random() < 0.5, "dies": pick.random() < 0.3, "share": pick.uniform(0.05, 0.95),
                 "delay_ms": pick.choice([0, pick.randrange(1, self.late_ms)]), "for_ms": pick.randrange(100, 4000),
                 "ms": pick.randrange(1, 800), "after_ms": pick.randrange(0, 300), "hidden_ms": pick.randrange(0, 500),
                 "on_way": pick.random() < 0.5}
        fault["code"] = {"retcode": pick.choice(REJECTIONS), "unknown": pick.choice((10011, 10012, 10031)),
                         "failed": pick.choice((-1, -3, -10000)) if pick.random() < 0.5 else -2}.get(kind, 0)
        return fault


# a fault that has no meaning for a call that reads
ORDER_ONLY = {"retcode", "partial", "placed", "unknown"}


def check_fault(fault: dict) -> None:
    """Raise BadInput when a fault is not one of KINDS."""
    if fault.get("do") not in KINDS:
        raise BadInput(f"fault {fault.get('do')!r} is not known; {nearest(str(fault.get('do')), KINDS)}")
