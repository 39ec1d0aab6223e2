"""mysql-connector's side of the comparison: ``mysql_side.py PORT``; one connection and cursor, as InterCode has it."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
wire = importlib.import_module("serve")

_CONNECT_LIMIT_S = 60.0


def main() -> None:
    """Connect, answer, disconnect."""
    mysql: Any = importlib.import_module("mysql.connector")
    answers = wire.claim_standard_output()
    connections: list[Any] = []

    def start() -> None:
        deadline = time.monotonic() + _CONNECT_LIMIT_S
        while True:
            try:
                server = {"host": "127.0.0.1", "port": int(sys.argv[1]), "user": "admin", "password": "admin"}
                connections.append(mysql.connect(**server))
                return
            except mysql.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    wire.serve(answers, start, {"play": lambda statements: _play(mysql, connections[0], statements)})
    for connection in connections:
        connection.close()


def _play(mysql: Any, connection: Any, statements: list[str]) -> dict[str, float]:
    """Run the statements one after the other; return how long that took, in seconds, and how many failed."""
    cursor = connection.cursor(buffered=True)
    failed = 0
    began = time.perf_counter()
    for statement in statements:
        try:
            cursor.execute(statement)
            if cursor.with_rows:
                cursor.fetchall()
        except mysql.Error:
            failed += 1
    took_s = time.perf_counter() - began
    cursor.close()
    return {"took_s": took_s, "failed": failed}


if __name__ == "__main__":
    main()
