"""A small machine that opens a gate: ``python3 machine.py gate.bin KEY``.

A program is a number of instructions of two bytes, an operation and an operand. Both are stored xor a stream that
starts at 0x5a and goes on by ``next = (5 * last + 0x3b) mod 256``. The machine has one register of eight bits.
"""

from __future__ import annotations

import sys

LOAD, MIX, XOR, ADD, TURN, TEST, OPEN = range(7)


def decode(code: bytes) -> list[tuple[int, int]]:
    """Return the instructions of a stored program."""
    stream, plain = 0x5A, bytearray()
    for byte in code:
        plain.append(byte ^ stream)
        stream = (5 * stream + 0x3B) % 256
    return list(zip(plain[::2], plain[1::2], strict=True))


def run(instructions: list[tuple[int, int]], key: bytes) -> bool:
    """Return whether the gate opens."""
    register = last = 0
    for operation, operand in instructions:
        if operation == LOAD:
            if operand >= len(key):
                return False
            register = key[operand]
        elif operation == MIX:
            register ^= last
        elif operation == XOR:
            register ^= operand
        elif operation == ADD:
            register = (register + operand) % 256
        elif operation == TURN:
            register = (register << operand | register >> (8 - operand)) % 256
        elif operation == TEST:
            if register != operand:
                return False
            last = register
        elif operation == OPEN:
            return len(key) == operand
    return False


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        opens = run(decode(file.read()), sys.argv[2].encode())
    sys.stdout.write("The gate opens.\n" if opens else "The gate stays shut.\n")
