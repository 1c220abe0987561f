"""The other end of the worker: starts it, asks it, and kills and restarts one that hangs, from outside."""

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from engine import clock
from engine.errors import SourceFailed
from engine.gateway import mt5_worker

START_S = 30.0
ORPHAN_S = 3.0                     # a worker whose engine is gone ends within its call
# a terminal window sends Ctrl-C to the whole group: the worker is not to hear it, the run ends it
APART = {"process_group": 0} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
CONNECT_S = 90.0                   # the module itself waits 60 s for a terminal it starts


class LinkLost(SourceFailed):
    """A call may or may not have reached the terminal; the link must be restarted."""


class DirectLink:
    """A desk in this process; for tests and for replays of a simulated terminal in virtual time."""

    def __init__(self, desk: mt5_worker.Desk, connect: dict | None = None):
        self.desk, self.connect = desk, connect or {}
        self.restarts = 0

    def ask(self, message: dict, timeout_s: float | None = None) -> dict:
        """Return the reply to one message."""
        return self.desk.handle(message)

    def restart(self) -> bool:
        """Connect anew; return whether the terminal answered."""
        self.restarts += 1
        return bool(self.ask({"call": "initialize", "kwargs": self.connect}).get("result"))


class WorkerLink:
    """A worker process on this machine, or one that somebody else started, reached over loopback.

    `command` is what runs the worker file: a Python, or Wine and its Python. A call that takes longer than `timeout_s` ends the process.
    """

    def __init__(self, intents: Path, *, terminal: str = "MetaTrader5", command: tuple[str, ...] = (sys.executable,),
                 connect: dict | None = None, timeout_s: float = 10.0, start_s: float = START_S,
                 address: tuple[int, str] | None = None):
        self.intents, self.terminal, self.command = intents, terminal, command
        self.connect, self.timeout_s, self.start_s = connect or {}, timeout_s, start_s
        self.address = address                 # (port, token) of a worker that is not ours to start
        self.process: subprocess.Popen | None = None
        self.socket: socket.socket | None = None
        self.buffer, self.number, self.restarts = b"", 0, 0

    def start(self) -> dict:
        """Start the worker, or reach the one there is; return its greeting."""
        port, token = self.address or self._spawn()
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=self.start_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._exchange({"token": token}, self.start_s)
        except OSError as error:
            self.stop()
            raise LinkLost(f"the worker on port {port} cannot be reached ({error}); start it again") from None

    def _spawn(self) -> tuple[int, str]:
        token = secrets.token_hex(32)
        command = [*self.command, str(Path(mt5_worker.__file__)), "--terminal", self.terminal, "--intents", str(self.intents)]
        own = {name: value for name, value in os.environ.items() if name != "TAPEGUARD_WORKER_TOKEN"}      # it has one of its own
        self._end_orphan()
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own, **APART)
            self._pid_file.write_text(str(self.process.pid), encoding="ascii")
            self.process.stdin.write(token.encode() + b"\n")
            self.process.stdin.close()
            return json.loads(self._first_line())["port"], token
        except (OSError, ValueError, KeyError):
            self.stop()
            raise SourceFailed(f"the worker did not start with {' '.join(self.command)}; see what it printed above") from None

    @property
    def _pid_file(self) -> Path:
        return self.intents.with_name(f"{self.intents.name}.pid")

    def _end_orphan(self) -> None:
        """End a worker that a killed engine left and that hangs in the terminal; one that is about to end gets the time for it."""
        for _ in range(round(ORPHAN_S / 0.1)):
            with open(f"{self.intents}.lock", "ab") as lock, contextlib.suppress(OSError):
                mt5_worker.hold(lock)
                return
            clock.sleep_s(0.1)
        with contextlib.suppress(OSError, ValueError):
            # whoever holds the lock is the worker started last: no other process can have its number
            os.kill(int(self._pid_file.read_text(encoding="ascii")), signal.SIGKILL if os.name == "posix" else signal.SIGTERM)

    def _first_line(self) -> bytes:
        """Read the line in which the worker says its port, for no longer than it may take to start."""
        if sys.platform != "win32" and not select.select([self.process.stdout], [], [], self.start_s)[0]:
            return b""
        return self.process.stdout.readline()

    def ask(self, message: dict, timeout_s: float | None = None) -> dict:
        """Return the reply to one message; raise LinkLost when none came in time, the worker is dead then."""
        if self.socket is None:
            raise LinkLost("the worker is not running; restart it")
        try:
            self.number += 1
            return self._exchange({**message, "id": self.number}, timeout_s or self.timeout_s)
        except (OSError, ValueError) as error:
            self.stop()
            raise LinkLost(f"the worker did not answer {message.get('call')} ({type(error).__name__}); it was ended") from None

    def _exchange(self, message: dict, timeout_s: float) -> dict:
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        end_s = clock.monotonic_s() + timeout_s
        while b"\n" not in self.buffer:
            left_s = end_s - clock.monotonic_s()
            if left_s <= 0:
                raise TimeoutError
            self.socket.settimeout(left_s)
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply = json.loads(line)
        if reply.get("id") != message.get("id"):
            raise ValueError("an answer to another question")
        return reply

    def stop(self) -> None:
        """End the worker, however it is; the terminal goes on."""
        if self.socket is not None:
            self.socket.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
        self.socket, self.process, self.buffer = None, None, b""

    def restart(self) -> bool:
        """Start a fresh worker where this one is gone, and connect it; return whether the terminal answered."""
        self.restarts += 1
        try:
            if self.socket is None:
                self.start()
            patience_s = CONNECT_S if self.terminal == "MetaTrader5" else None
            return bool(self.ask({"call": "initialize", "kwargs": self.connect}, patience_s).get("result"))
        except SourceFailed:
            return False
