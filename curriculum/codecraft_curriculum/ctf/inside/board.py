"""A notice board: GET /?q=WORDS lists the notices with these words in their titles. http://127.0.0.1:8080"""

from __future__ import annotations

import re
import sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NOTICES = [("Lost cat", "Grey, answers to Tea."), ("Piano lessons", "Tuesdays."), ("Wanted: ladder", "For an evening.")]


class Board(BaseHTTPRequestHandler):
    """Answers with plain text."""

    timeout = 10.0
    database: sqlite3.Connection

    def do_GET(self) -> None:
        """List notices."""
        words = parse_qs(urlsplit(self.path).query).get("q", [""])[0]
        for bad in ("union", "select", "drafts"):  # nobody is to play with the database
            words = re.sub(bad, "", words, flags=re.IGNORECASE)
        try:
            rows = self.database.execute(f"SELECT title, body FROM notices WHERE title LIKE '%{words}%'").fetchall()
            self.answer(200, "".join(f"{title}: {body}\n" for title, body in rows) or "nothing\n")
        except (sqlite3.Error, sqlite3.Warning):
            self.answer(500, "the board is confused\n")

    def answer(self, status: int, text: str) -> None:
        """Send an answer."""
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def make_server() -> ThreadingHTTPServer:
    """Listen."""
    return ThreadingHTTPServer(("127.0.0.1", 8080), Board)


def keep(flag: str) -> None:
    """Fill the board's database."""
    database = Board.database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE notices (title TEXT, body TEXT)")
    database.execute("CREATE TABLE drafts (title TEXT, body TEXT)")
    database.executemany("INSERT INTO notices VALUES (?, ?)", NOTICES)
    database.execute("INSERT INTO drafts VALUES ('Not yet', ?)", (flag,))
