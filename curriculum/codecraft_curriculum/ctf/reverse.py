"""Reverse engineering: a program for a machine of our own, which knows its key only by what becomes of it."""

from __future__ import annotations

import random
from typing import Final

from codecraft_curriculum.ctf.challenge import Assets, Challenge, cheats, draw_flag, program, python
from codecraft_curriculum.ctf.inside.machine import ADD, LOAD, MIX, OPEN, TEST, TURN, XOR, decode
from codecraft_curriculum.workspace import WorkspaceFile

__all__ = ["CHALLENGE"]


def _make(rng: random.Random) -> Assets:
    flag = draw_flag(rng)
    instructions = _compile(flag.encode(), rng)
    # The stream that hides a program does not depend on it, so what hides it is what brings it back.
    plain = bytes(byte for pair in instructions for byte in pair)
    stored = bytes(byte for pair in decode(plain) for byte in pair)
    return Assets(flag, {"machine.py": program("machine.py"), "gate.bin": WorkspaceFile(stored)})


def _compile(key: bytes, rng: random.Random) -> list[tuple[int, int]]:
    """Return a program that tests each byte of *key* after some steps that can be undone, the last byte first."""
    instructions: list[tuple[int, int]] = []
    last = 0
    for index in reversed(range(len(key))):
        instructions += [(LOAD, index), (MIX, 0)]
        register = key[index] ^ last
        for operation in rng.choices((XOR, ADD, TURN), k=rng.randint(3, 5)):
            operand = rng.randrange(1, 8 if operation == TURN else 256)
            instructions.append((operation, operand))
            if operation == XOR:
                register ^= operand
            elif operation == ADD:
                register = (register + operand) % 256
            else:
                register = (register << operand | register >> (8 - operand)) % 256
        instructions.append((TEST, register))
        last = register
    return [*instructions, (OPEN, len(key))]


CHALLENGE: Final = Challenge(
    id="gate",
    title="The gate",
    category="Reverse Engineering",
    difficulty="hard",
    query=(
        "`python3 machine.py gate.bin KEY` opens a gate if the key is right. machine.py is a small machine, gate.bin a "
        "program for it. Find the key that opens the gate: it is the flag, flag{...}."
    ),
    hints=(
        "Write a disassembler: decode() of machine.py gives the instructions.",
        "Each byte of the key is tested alone, and every step before the test can be undone.",
    ),
    make=_make,
    expert=(
        python("""
import machine
instructions = machine.decode(open("gate.bin", "rb").read())
key, steps, last = {}, [], 0
for operation, operand in instructions:
    if operation == machine.TEST:
        value = operand
        for back, number in reversed(steps[1:]):
            if back == machine.XOR:
                value ^= number
            elif back == machine.ADD:
                value = (value - number) % 256
            elif back == machine.TURN:
                value = (value >> number | value << (8 - number)) % 256
            elif back == machine.MIX:
                value ^= last
        key[steps[0][1]], last, steps = value, operand, []
    else:
        steps.append((operation, operand))
print(bytes(key[index] for index in sorted(key)).decode())
"""),
    ),
    failures={
        **cheats(),
        "open-it-by-force": (
            "sed -i 's/return False/return True/' machine.py; python3 machine.py gate.bin 'flag{force}'",
            "echo 'The gate opens.'",
        ),
        "numbers-of-the-tests": (
            python("""
import machine
tests = [operand for operation, operand in machine.decode(open("gate.bin", "rb").read()) if operation == machine.TEST]
print("flag{%s}" % bytes(reversed(tests)).hex()[:24])
"""),
        ),
    },
)
