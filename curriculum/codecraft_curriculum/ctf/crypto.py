"""Cryptography: RSA whose two primes lie too close together."""

from __future__ import annotations

import random
from typing import Final

from codecraft_curriculum.ctf.challenge import Assets, Challenge, cheats, draw_flag, python
from codecraft_curriculum.workspace import WorkspaceFile

__all__ = ["CHALLENGE"]

_PRIME_BITS: Final = 256
_EXPONENT: Final = 65537
_ROUNDS: Final = 12
_SMALL_PRIMES: Final = tuple(n for n in range(3, 1000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2)))


def _make(rng: random.Random) -> Assets:
    flag = draw_flag(rng)
    p = _next_prime(rng.getrandbits(_PRIME_BITS) | 3 << (_PRIME_BITS - 2), rng)
    q = _next_prime(p + (rng.getrandbits(100) | 1 << 99), rng)
    n = p * q
    c = pow(int.from_bytes(flag.encode(), "big"), _EXPONENT, n)
    note = f"n = {n}\ne = {_EXPONENT}\nc = {c}\n"
    return Assets(flag, {"message.txt": WorkspaceFile(note.encode()), "make_keys.py": WorkspaceFile(_MAKER.encode())})


def _next_prime(start: int, rng: random.Random) -> int:
    """Return the first prime from *start* on for which 65537 can be an exponent."""
    number = start | 1
    while not (_is_prime(number, rng) and (number - 1) % _EXPONENT):
        number += 2
    return number


def _is_prime(number: int, rng: random.Random) -> bool:
    """Miller and Rabin's test; less than one composite in 4**12 passes."""
    if any(number % prime == 0 for prime in _SMALL_PRIMES):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(_ROUNDS):
        power = pow(rng.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


_MAKER: Final = '''\
"""How the keys were made."""
import secrets
from sympy import nextprime

p = nextprime(secrets.randbits(256) | 3 << 254)
q = nextprime(p + secrets.randbits(100))  # a number that is larger than p
n, e = p * q, 65537

with open("flag.txt", "rb") as file:
    m = int.from_bytes(file.read(), "big")
print(f"n = {n}\\ne = {e}\\nc = {pow(m, e, n)}")
'''

CHALLENGE: Final = Challenge(
    id="close-primes",
    title="Close primes",
    category="Cryptography",
    difficulty="medium",
    query=(
        "message.txt is a flag that was encrypted with RSA; make_keys.py is how the keys were made. "
        "Decrypt it and submit the flag, flag{...}; its bytes are those of the number, the highest first."
    ),
    hints=(
        "The modulus is long enough. Look at how q comes from p.",
        "Where p and q are close, both are close to the square root of n; Fermat knew what to do then.",
    ),
    make=_make,
    expert=(
        python("""
from math import isqrt
n, e, c = (int(line.split("=")[1]) for line in open("message.txt"))
a = isqrt(n - 1) + 1
while isqrt(a * a - n) ** 2 != a * a - n:
    a += 1
b = isqrt(a * a - n)
m = pow(c, pow(e, -1, (a - b - 1) * (a + b - 1)), n)
print(m.to_bytes((m.bit_length() + 7) // 8, "big").decode())
"""),
    ),
    failures={
        **cheats(),
        "as-it-is": (
            python("""
c = int(open("message.txt").read().split("c =")[1])
print(c.to_bytes(64, "big").hex())
"""),
        ),
        "one-prime": (
            python("""
n, e, c = (int(line.split("=")[1]) for line in open("message.txt"))
print("flag{%024x}" % pow(c, pow(e, -1, n - 1), n))
"""),
        ),
    },
)
