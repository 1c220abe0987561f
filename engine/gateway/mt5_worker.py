"""The process that owns the MetaTrader5 module: one file, standard library only, Python 3.9 and later, also under Wine.

It speaks JSON lines on loopback. The first line of a client is {"token": ...}; every other one is a call of the allow-list,
{"id", "call", "args", "kwargs"}, answered by {"id", "ok", "result", "error"}. A "batch" has "calls" that read; its result are
their answers, up to the first without a result. An "order_send" carries "intent", "login" and "keep" (the volume that must
stay); the same message as "order_ready" brings its intent to the disk before. The same intent is never sent twice, and what
would open, add, reverse or loosen is not sent.
"""

from __future__ import annotations

import argparse
import hmac
import json
import math
import os
import re
import socket
import sys
from time import sleep

PROTOCOL = 1
READS = ("version", "last_error", "account_info", "terminal_info", "symbols_total", "symbols_get", "symbol_info", "symbol_info_tick",
         "symbol_select", "positions_get", "positions_total", "orders_get", "orders_total", "history_orders_get", "history_deals_get",
         "history_deals_total", "order_check", "order_calc_profit", "order_calc_margin", "copy_ticks_from", "copy_ticks_range",
         "copy_rates_from_pos", "copy_rates_range")
CONNECTS = ("initialize", "login", "shutdown")
DEAL, SLTP = 1, 6
INTS = ("action", "position", "type", "type_filling", "type_time", "deviation", "magic")
FLOATS = ("volume", "price", "sl", "tp")
MAX_COMMENT, MAX_SYMBOL, MAX_LINE_BYTES, MIN_TOKEN, MAX_BATCH = 25, 29, 1 << 20, 16, 16
VOLUME_GUARD = 1e-9
PLAIN = {bool, int, float, str}
ANSWER_LOST = -10002
INTENT = re.compile(r"[A-Za-z0-9._:/+-]{1,120}")


class Refused(Exception):
    """A request that is not passed on, and why."""


def plain(value):
    """Return a value of the module as JSON can carry it: records as objects, arrays as columns."""
    if value is None or type(value) in PLAIN:
        return value
    if hasattr(value, "_asdict"):
        return {key: plain(each) for key, each in value._asdict().items()}
    names = getattr(getattr(value, "dtype", None), "names", None)
    if names:
        return {name: value[name].tolist() for name in names}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value


def cast(request: dict) -> dict:
    """Return a request in the exact types the module takes; raise Refused for a field it does not know or cannot cast."""
    done = {}
    for key, value in request.items():
        if key in INTS or key in FLOATS:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise Refused(f"{key} is {value!r}, not a number")
            if key in INTS and value != int(value) or value < 0:
                raise Refused(f"{key} is {value!r}, which will not do")
            done[key] = int(value) if key in INTS else float(value)
        elif key == "comment" and isinstance(value, str):
            done[key] = value.encode("ascii", "replace").decode()[:MAX_COMMENT]
        elif key == "symbol" and isinstance(value, str) and 0 < len(value) <= MAX_SYMBOL:
            done[key] = value
        else:
            raise Refused(f"{key} is not a field this worker sends, or has the wrong type")
    return done


def guard(request: dict, position: dict, keep: float) -> str:
    """Return why a request would do more than reduce the risk of a position, "" when it only reduces it."""
    if request.get("position") != position["ticket"] or request.get("symbol") != position["symbol"]:
        return "it is not aimed at the position that was read"
    if request.get("action") == DEAL:
        if request.get("type") != 1 - position["type"] or "sl" in request or "tp" in request:
            return "it is not a deal against the position"
        if not 0 < request.get("volume", 0.0) <= position["volume"] - keep + VOLUME_GUARD:
            return f"volume {request.get('volume')} would leave less than {keep} of {position['volume']}"
        return ""
    if request.get("action") != SLTP or "volume" in request or "type" in request:
        return f"action {request.get('action')} neither closes nor tightens"
    stop, sign = request.get("sl", 0.0), 1 if position["type"] == 0 else -1
    if stop <= 0 or position["sl"] > 0 and sign * (stop - position["sl"]) <= 0:
        return f"stop {stop} is not tighter than {position['sl']}"
    if request.get("tp", 0.0) != position["tp"]:
        return f"it would change the take profit from {position['tp']} to {request.get('tp', 0.0)}"
    return ""


def hold(file) -> None:
    """Keep an open file for this process alone; raise OSError while another one has it."""
    if os.name == "nt":
        import msvcrt
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def hold_soon(path: str, tries: int = 100):
    """Return a lock file held by this process; another worker gets a few seconds to end."""
    file = open(path, "ab")
    for _ in range(tries):
        try:
            hold(file)
            return file
        except OSError:
            sleep(0.1)
    file.close()
    raise SystemExit(f"another worker holds {path}; end it first, it may hang in the terminal")


class Intents:
    """Every order that was about to be sent and its answer, in an append-only file that outlives the process.

    One worker at a time has it: two would not know of each other's orders.
    """

    def __init__(self, path: str | None):
        self.known: dict = {}
        self.file = self.lock = None
        if path is None:
            return
        self.lock = hold_soon(path + ".lock")
        torn = False
        if os.path.exists(path):
            with open(path, "rb") as old:
                for line in old:
                    torn = not line.endswith(b"\n")
                    self._take(line)
        self.file = open(path, "ab")
        if torn:
            self.file.write(b"\n")

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.known.setdefault(entry["intent"], {}).update(entry)
        except (ValueError, KeyError, TypeError):
            return            # a line cut off by a kill was not acted on: an order goes out after its line is on disk

    def write(self, entry: dict, sync: bool) -> None:
        """Append one entry; with `sync` it is on the disk afterwards."""
        self.known.setdefault(entry["intent"], {}).update(entry)
        if self.file is None:
            return
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.file.flush()
        if sync:
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()
            self.lock.close()


class Desk:
    """Answers messages with a MetaTrader5 module, real or simulated."""

    def __init__(self, module, intents: Intents, control=None):
        self.module, self.intents, self.control = module, intents, control
        self.ready: set = set()            # intents on disk that this process has not sent

    def handle(self, message: dict) -> dict:
        """Return the reply to one message; nothing a client sends makes this raise."""
        reply = {"id": message.get("id"), "ok": True}
        try:
            call = message.get("call")
            if call in ("order_ready", "order_send"):
                return {**reply, **self._order(message, call == "order_send")}
            if call == "ping":
                return {**reply, "result": {"protocol": PROTOCOL, "pid": os.getpid()}, "error": [1, "Success"]}
            if call == "control" and self.control is not None:
                return {**reply, "result": plain(self.control(*message.get("args", ()))), "error": [1, "Success"]}
            if call == "batch":
                return {**reply, "result": self._batch(message["calls"]), "error": [1, "Success"]}
            if call not in READS and call not in CONNECTS:
                raise Refused(f"call {call!r} is not on the list")
            return {**reply, **self._run(call, message.get("args", []), message.get("kwargs", {}))}
        except Refused as refused:
            return {**reply, "ok": False, "refused": str(refused)}
        except (TypeError, ValueError, KeyError, SystemError, AttributeError) as error:
            return {**reply, "ok": False, "refused": f"{type(error).__name__}: {error}"}

    def _batch(self, calls: list) -> list:
        if len(calls) > MAX_BATCH or not all(each["call"] in READS for each in calls):
            raise Refused(f"a batch is of {MAX_BATCH} calls at most, and of calls that read")
        answers = []
        for each in calls:
            answers.append(self._run(each["call"], each.get("args", []), each.get("kwargs", {})))
            if answers[-1]["result"] is None:
                break
        return answers

    def _run(self, call: str, args, kwargs) -> dict:
        result = getattr(self.module, call)(*args, **kwargs)
        return {"result": plain(result), "error": list(self.module.last_error())}

    def _order(self, message: dict, send: bool) -> dict:
        """Send an order whose intent is on disk; without `send` only bring it there, so that sending waits for no disk."""
        intent, request = message.get("intent"), cast(message["request"])
        if not isinstance(intent, str) or not INTENT.fullmatch(intent):
            raise Refused(f"intent {intent!r} is not an intent id")
        known = self.intents.known.get(intent)
        if known is not None and known.get("request") != request:
            raise Refused(f"intent {intent} was used for another request")
        if not send:
            if known is None:
                self.intents.write({"intent": intent, "request": request}, sync=True)
                self.ready.add(intent)
            return {"result": True, "error": [1, "Success"]}
        if known is not None and intent not in self.ready:
            answer = known.get("answer") or {"result": None, "error": [ANSWER_LOST, "sent before a restart, the answer is lost"]}
            return {**answer, "cached": True}
        self._check(message, request)
        if known is None:
            self.intents.write({"intent": intent, "request": request}, sync=True)
        self.ready.discard(intent)
        try:
            answer = self._run("order_send", [request], {})
            json.dumps(answer)
        except Exception as error:         # it may have been executed, whatever the module says
            answer = {"result": None, "error": [ANSWER_LOST, f"{type(error).__name__}: {error}"]}
        self.intents.write({"intent": intent, "answer": answer}, sync=False)
        return answer

    def _check(self, message: dict, request: dict) -> None:
        """Read what the order rests on once more, at the last moment; raise Refused when it does not hold."""
        account = self.module.account_info()
        if account is None or account.login != message.get("login"):
            raise Refused("no account, or another one, is logged in")
        terminal = self.module.terminal_info()
        if terminal is None or not terminal.connected:
            raise Refused("the terminal has no link to the broker")
        found = self.module.positions_get(ticket=request.get("position", 0))
        if not found or len(found) != 1:
            raise Refused(f"position {request.get('position')} cannot be read or is gone")
        position = found[0]._asdict()
        reason = guard(request, position, float(message.get("keep", 0.0)))
        if reason:
            raise Refused(reason)
        orders = self.module.orders_get(symbol=position["symbol"])
        if orders is None or any(order.position_id == position["identifier"] for order in orders):
            raise Refused("another order for this position is alive, or orders cannot be read")


def _lines(client: socket.socket):
    """Yield the lines a client sends; end when it is gone or sends one that is too long."""
    buffer = b""
    while len(buffer) <= MAX_LINE_BYTES:
        end = buffer.find(b"\n")
        if end >= 0:
            yield buffer[:end]
            buffer = buffer[end + 1:]
            continue
        try:
            data = client.recv(65536)
        except OSError:
            return
        if not data:
            return
        buffer += data


def _message(line: bytes) -> dict:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def converse(desk: Desk, client: socket.socket, token: str) -> bool:
    """Serve one client to its end; return whether it knew the token."""
    lines = _lines(client)
    first = str(_message(next(lines, b"")).get("token", ""))
    if not hmac.compare_digest(first.encode("utf-8", "replace"), token.encode()):
        return False
    try:
        client.sendall(json.dumps({"ok": True, "protocol": PROTOCOL, "pid": os.getpid()}).encode() + b"\n")
        for line in lines:
            client.sendall(json.dumps(desk.handle(_message(line))).encode() + b"\n")
    except OSError:
        pass
    return True


def serve(desk: Desk, token: str, port: int = 0, stay: bool = False) -> None:
    """Listen on loopback, say the port on standard output, and serve clients one after the other."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen(4)
        sys.stdout.write(json.dumps({"port": server.getsockname()[1], "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        while True:
            client, _ = server.accept()
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if converse(desk, client, token) and not stay:
                    return


def load(terminal: str):
    """Return the module to serve and the controls of a simulated one."""
    if terminal.startswith("simulated:@"):
        from engine.gateway.terminal_client import load_client
        return load_client(terminal[len("simulated:@"):])
    if terminal.startswith("simulated:"):
        from engine.errors import TapeguardError
        from engine.gateway.terminal_config import load_terminal
        try:
            return load_terminal(terminal[len("simulated:"):])
        except TapeguardError as error:
            raise SystemExit(str(error)) from None
    import MetaTrader5
    return MetaTrader5, None


def main(arguments: list | None = None) -> None:
    """Read the token, load the terminal and serve."""
    parser = argparse.ArgumentParser(description="Owns the MetaTrader5 module and serves it on loopback.")
    parser.add_argument("--terminal", default="MetaTrader5",
                        help="MetaTrader5, simulated:CONFIG.json, or simulated:@ADDRESS.json of a terminal process")
    parser.add_argument("--intents", required=True, help="append-only file of what was sent")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token-file", help="file with the token; else TAPEGUARD_WORKER_TOKEN, else a line of standard input")
    parser.add_argument("--stay", action="store_true", help="wait for another client when one leaves")
    options = parser.parse_args(arguments)
    if options.token_file:
        with open(options.token_file, encoding="utf-8") as file:
            token = file.readline().strip()
    else:
        token = os.environ.get("TAPEGUARD_WORKER_TOKEN") or sys.stdin.readline().strip()
    if len(token) < MIN_TOKEN:
        raise SystemExit(f"the token must have at least {MIN_TOKEN} characters")
    intents = Intents(options.intents)         # first: it waits for the worker before this one to end
    module, control = load(options.terminal)
    serve(Desk(module, intents, control), token, options.port, options.stay)


if __name__ == "__main__":
    main()
