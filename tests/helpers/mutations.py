"""Changes valid input at random: bytes, text and JSON."""

from __future__ import annotations

import json
import random

NUMBERS = [0, 1, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1]


def changed_bytes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A file with one to four of its parts changed."""
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at, kind = rng.randrange(len(content) + 1), rng.randrange(8)
        if kind == 0 and content:
            content[min(at, len(content) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            number = rng.choice(NUMBERS)
            width = rng.choice([1, 2, 4, 8])
            content[at : at + width] = (number % 256**width).to_bytes(width, rng.choice(["little", "big"]))
        elif kind == 3:
            del content[at : at + rng.choice([1, 4, 64, 1024])]
        elif kind == 4:
            content[at:at] = rng.randbytes(rng.choice([1, 4, 64]))
        elif kind == 5:
            del content[at:]
        elif kind == 6:
            content[at : at + rng.choice([4, 64, 512])] = b""
            content[at:at] = rng.choice(others)[: rng.choice([16, 256, 4096])]
        else:
            start = rng.randrange(len(content) + 1)
            content[at:at] = content[start : start + rng.choice([4, 64, 512])]
    return bytes(content)


WORDS = [
    "", "0", "-1", "-0", "1", "2", "7", "1e3", "1e309", "nan", "inf", "-inf", "0x10", "1_000", "1.5", "9" * 40, "true",
    "null", "none", "~", "[]", "[1,2]", "[1,2", "{}", "{a: 1}", "'", '"', "a=b", "=", "=1+1", "-", "--", "*", "?", ",",
    ";", ".", "..", "a.b", "x" * 5000, "é", "\udcff", "幅", "\t", "a\nb", "\r", "\x1b[31m", "\ufeff", "\u202e", "%s",
    "!!python/name:os.system", "&a [*a]", "${HOME}", "$(touch x)", "{0..3}", "{3..0}", "{0..99999999999}",
    "part-{0..1}.tar", "/dev/null", "/dev/zero", "/proc/self/mem", "/proc/nothing/x", "~nobody-of-this-name/x",
    "digits", "digits:", "digits:x", "mnist:x", "cifar10:", "file.tar", "file.zip", "file.npz", "x.png", "x.csv",
    "x.PNG", "label", "file", "train", "test",
]  # fmt: skip


def changed_text(text: str, rng: random.Random, words: list[str] = WORDS) -> str:
    """A text with one to four of its parts changed."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        kind, word = rng.randrange(6), rng.choice(words)
        if kind == 0:
            text = text[:at] + word + text[at:]
        elif kind == 1:
            text = text[:at] + word + text[min(end, at + rng.randrange(1, 12)) :]
        elif kind == 2:
            text = text[:at]
        elif kind == 3:
            text = text[:at] + text[end:]
        elif kind == 4:
            lines = text.splitlines(keepends=True)
            text = "".join(rng.sample(lines, rng.randint(0, len(lines))))
        else:
            text = text[:end] + text[at:]
    return text


def changed_json(content: object, rng: random.Random) -> object:
    """JSON with one of its parts, at any depth, replaced, doubled or missing."""
    places: list[tuple] = [()]
    for place in places:
        part = content
        for key in place:
            part = part[key]
        keys = part if isinstance(part, dict) else range(min(3, len(part))) if isinstance(part, list) else ()
        places.extend((*place, key) for key in keys)
    place = rng.choice(places)
    content = json.loads(json.dumps(content))
    odd = [None, True, -1, 0, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x", [], {}, [[]], {"a": []}]
    odd.append(rng.choice(WORDS))
    if not place:
        return rng.choice(odd)
    part = content
    for key in place[:-1]:
        part = part[key]
    if rng.random() < 0.2:
        del part[place[-1]]
    elif rng.random() < 0.1 and isinstance(part, dict):
        part[rng.choice(WORDS)] = part[place[-1]]
    else:
        part[place[-1]] = rng.choice(odd)
    return content
