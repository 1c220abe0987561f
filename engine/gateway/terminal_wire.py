"""What the terminal process and its clients say to each other: JSON lines, with records and packed arrays marked as such."""

import base64
import json
import socket

import numpy as np

from engine.gateway.surface import RATES, RECORDS, TICKS

HELLO_S = 10.0
MAX_LINE_BYTES = 1 << 20           # of what a client says; answers may be longer
_DTYPES = {"rates": RATES, "ticks": TICKS}


def packed(value: object) -> object:
    """Return an answer of the terminal as JSON can carry it."""
    if isinstance(value, np.ndarray):
        kind = "rates" if value.dtype == RATES else "ticks"
        return {"array": kind, "bytes": base64.b64encode(value.tobytes()).decode()}
    if not isinstance(value, tuple):
        return value
    values = [packed(each) for each in value]
    name = type(value).__name__
    return {"record": name, "values": values} if name in RECORDS else values


def unpacked(value: object) -> object:
    """Return what was packed."""
    if isinstance(value, list):
        return tuple(map(unpacked, value))
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.frombuffer(base64.b64decode(value["bytes"]), _DTYPES[value["array"]]).copy()
    return RECORDS[value["record"]](map(unpacked, value["values"]))


def send(to: socket.socket, message: dict) -> None:
    """Send one message."""
    to.sendall(json.dumps(message).encode() + b"\n")


def receive(lines, most: int = -1) -> dict:
    """Return the next message; raise ConnectionError at the end, ValueError when it is none."""
    line = lines.readline(most)
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the other side is gone")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a message is an object")
    return message
