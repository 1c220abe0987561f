"""What a user or a broker calls a symbol, and which recorded symbol that is."""

import re

from engine.errors import BadInput, nearest

LONGEST = 40
_TAILS = ("c", "m", "i", "z", "pro", "ecn", "raw", "micro", "mini", "cash", "std")
_USD = {"USD": ("USDT", "USDC")}


def _plain(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text.upper())


def _bodies(text: str) -> list[str]:
    """Return what the name may be without its suffix, the likeliest first."""
    bodies = [text]
    head = re.split(r"[.#_!]", text.lstrip("#.!_"), maxsplit=1)[0]
    if head and head != text:
        bodies.append(head)
    for body in list(bodies):
        tail = re.search(r"[a-z]+$", body)
        if tail and tail[0] in _TAILS and body[: tail.start()].isupper():
            bodies.append(body[: tail.start()])
        if body.upper().endswith("-PERP"):
            bodies.append(body[:-5])
    return bodies


def resolve(asked: str, symbols: list[str]) -> str:
    """Return the recorded symbol a name means, in any case, with a broker's suffix, USD for USDT; or raise BadInput."""
    if not isinstance(asked, str) or not asked.strip() or len(asked) > LONGEST:
        raise BadInput(f"symbol {str(asked)[:LONGEST]!r} is no symbol name; known: {', '.join(sorted(symbols))}")
    text = asked.strip()
    if text in symbols:
        return text
    plain: dict[str, list[str]] = {}
    for symbol in symbols:
        plain.setdefault(_plain(symbol), []).append(symbol)
    if not re.fullmatch(r"[A-Za-z0-9.#_!/\- ]+", text) or ".." in text:
        raise BadInput(f"symbol {text!r} is no symbol name; known: {', '.join(sorted(symbols))}")
    for body in _bodies(text):
        found = plain.get(_plain(body), [])
        if len(found) == 1:
            return found[0]
    for body in _bodies(text):
        name = _plain(body)
        for short, longer in _USD.items():
            for each in longer if name.endswith(short) else ():
                found = plain.get(name[: -len(short)] + each, [])
                if len(found) == 1:
                    return found[0]
    raise BadInput(f"symbol {text!r} is not recorded; {nearest(text.upper(), symbols)}")
