"""What is taken from models' answers in each language, and what is cut from observations."""

from __future__ import annotations

import pytest

from codecraft_async.evaluation.parsers import PARSERS, cut, defined_function, plan_steps, read_react


@pytest.mark.parametrize(
    ("language", "answer", "action"),
    [
        ("bash", "Let me look.\n```bash\nls -l |\n  wc -l\n```\n```sh\nno\n```", "ls -l |\n  wc -l"),
        ("bash", "  Command: find / -name X", "find / -name X"),
        ("bash", "$ ls", "ls"),
        ("bash", "ls # command: no", "ls # command: no"),
        ("bash", "```bash\n\n```", None),
        ("bash", " ", None),
        ("sql", "```sql\nSELECT a;b';' FROM t; SELECT 2\n```", "SELECT a"),
        ("sql", "SQL: select ';' , \"a;\" -- no; end\n FROM t\\_1 ; x", "select ';' , \"a;\" -- no; end\n FROM t_1"),
        ("sql", "I would run SHOW TABLES", "SHOW TABLES"),
        ("sql", "SELECT 'it''s; fine'; x", "SELECT 'it''s; fine'"),
        ("sql", "SELECT 'open; x", "SELECT 'open; x"),
        ("sql", "`submit`", "submit"),
        ("sql", "I do not know the tables.", None),
        ("python", "```python\ndef f(x):\n    return x\n```", "def f(x):\n    return x"),
        (
            "python",
            "def f(x):     if x:         return 1     return 2",
            "def f(x):\n    if x:\n        return 1\n    return 2",
        ),
        ("python", "", None),
        ("ctf", "Thought: hm\nAction: submit flag{x}", "submit flag{x}"),
        ("ctf", "```\nstrings a | head\n```", "strings a | head"),
    ],
)
def test_actions_in_answers(language: str, answer: str, action: str | None) -> None:
    """The first code of an answer is its action, as it was written."""
    assert action == PARSERS[language](answer)


@pytest.mark.parametrize(
    ("answer", "action", "thought"),
    [
        ("Thought 1: look\n around\nAction 1: execute[ls [a-z]* | head]", "ls [a-z]* | head", "look around"),
        ("**Thought:** x\n**Action:** execute[```bash\nls\n```]", "ls", "x"),
        ("Action: execute[ls]\nObservation: a\nThought: b\nAction: submit", "ls", ""),
        ("Action: execute[ls\nThought 2: and then\nAction 2: execute[no]", "ls", ""),
        ("Thought: done\nAction: submit", "submit", "done"),
        ("Action: submit[flag{a}]", "submit flag{a}", ""),
        ("Action: submit flag{a}", "submit flag{a}", ""),
        ("Action: dance", None, ""),
        ("I think it is done.", None, ""),
    ],
)
def test_thoughts_and_actions(answer: str, action: str | None, thought: str) -> None:
    """Only the first action counts, and nothing that a model makes up after it."""
    move = read_react(answer, PARSERS["bash"])
    assert (action, thought) == (None, "") if move is None else (action, thought) == (str(move), move.thought)


def test_plans_and_functions() -> None:
    """The numbered items of a plan are its steps; the last function of a source is what it is about."""
    assert ["Look", "Do it (well)"] == plan_steps("Plan:\n1. Look\n  2) Do it (well)\nThat is all.\n")
    assert [] == plan_steps("I just do it.")
    assert "g" == defined_function("def f(x):\n    def inner(): pass\nasync def g ( y ): ...")
    assert "" == defined_function("class A:\n    def f(self): ...")


def test_cut_observations() -> None:
    """A list keeps its first rows, quotes and brackets in it notwithstanding; any text keeps both of its ends."""
    rows = "[('a), (', 1), (\"it's\", 2), ('x', 3)]"
    assert "[('a), (', 1), (\"it's\", 2)] [only the first 2 rows]" == cut(rows, max_chars=500, max_rows=2)
    assert rows == cut(rows, max_chars=500, max_rows=3)
    short = cut("a" * 500 + "b" * 500, max_chars=100, max_rows=2)
    assert (100, "a", "b") == (len(short), short[0], short[-1]) and "left out" in short


def test_answers_that_are_made_to_be_slow() -> None:
    """Long answers of nothing but quotes, fences and brackets take linear time."""
    for char in ("'", "`", "[", "(", " ", "/*", "\\'", "-", "\n", "Action:", "```", "1.", "def ", "SELECT "):
        text = char * (200_000 // len(char))
        for parse in PARSERS.values():
            parse(text)
            parse("SELECT " + text)
            read_react("Action: execute[" + text, parse)
        plan_steps(text)
        defined_function(text)
        cut("[(" + text, max_chars=100, max_rows=2)
