"""Invoices and payments, and what is still open."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_Payment = tuple[str, int, str]  # the reference, cents, the invoice ("" for none)


def exact(rng: random.Random, /) -> Sequence[Case]:
    """Return payments that name an invoice as it is written, and pay all of it or nothing."""
    invoices = _invoices(rng)
    return [_case(rng, invoices, [(name, cents, name) for name, cents in list(invoices.items())[:4]])]


def sums(rng: random.Random, /) -> Sequence[Case]:
    """Return invoices that are paid in several parts, too much, and after money was paid back."""
    invoices = _invoices(rng)
    names = list(invoices)
    part = rng.randint(1, invoices[names[0]] - 1)
    payments = [(names[0], part, names[0]), (names[0], invoices[names[0]] - part, names[0])]
    payments += [(names[1], invoices[names[1]] + rng.randint(1, 500), names[1]), (names[2], part, names[2])]
    payments += [(names[3], invoices[names[3]], names[3]), (names[3], -rng.randint(1, 99), names[3])]
    return [_case(rng, invoices, payments)]


def references(rng: random.Random, /) -> Sequence[Case]:
    """Return payments whose references name an invoice in many ways, or do not."""
    invoices = _invoices(rng)
    names = list(invoices)
    digits = [name.removeprefix("INV-") for name in names]
    payments = [
        (f"Invoice inv {digits[0]}, thanks", 100, names[0]),
        (f"payment for INV{digits[1]}.", 200, names[1]),
        (f"Inv-{digits[2]}/our sign 77", 300, names[2]),
        (f"{digits[3]}", 400, ""),
        (f"INV-{digits[4]}0", 500, ""),
        (f"INV-{digits[4]} and INV-{digits[3]}", 600, ""),
        ("gift", 700, ""),
        (f"BINV-{digits[4]}", 800, ""),
        (f"inv-{digits[4]} INV {digits[4]}", 900, names[4]),
    ]
    return [_case(rng, invoices, payments)]


def _invoices(rng: random.Random) -> dict[str, int]:
    return {f"INV-{number}": rng.randint(1_000, 99_999) for number in rng.sample(range(1000, 9999), 5)}


def _case(rng: random.Random, invoices: dict[str, int], payments: list[_Payment]) -> Case:
    names = list(invoices)
    rng.shuffle(names)
    rng.shuffle(payments)
    paid = {name: sum(cents for _, cents, invoice in payments if invoice == name) for name in names}
    lines = [f"{name} {_state(paid[name], invoices[name])}" for name in sorted(names)]
    unknown = sum(cents for _, cents, invoice in payments if not invoice)
    lines.append(f"unassigned {sum(not invoice for _, _, invoice in payments)} {_money(unknown)}")
    files = {
        "invoices.csv": _table(["number", "amount"], [[name, _money(invoices[name])] for name in names]),
        "payments.csv": _table(["reference", "amount"], [[text, _money(cents)] for text, cents, _ in payments]),
    }
    return Case(Match("\n".join(lines)), arguments=("invoices.csv", "payments.csv"), files=files)


def _state(paid: int, due: int) -> str:
    if paid == due:
        return "paid"
    if paid > due:
        return f"overpaid {_money(paid - due)}"
    return f"open {_money(due - paid)}"


def _money(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02}"


def _table(names: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([names, *rows])
    return text.getvalue()
