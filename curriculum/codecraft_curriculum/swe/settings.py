"""A parser with an edge case: comments are cut off before quotes are looked at."""

from __future__ import annotations

from codecraft_curriculum.swe.sample import Sample, commit

_README = "# settings\n\nReads small settings files: sections, names, quoted and plain values.\n"
_ERRORS = '''
"""What can be wrong with a settings file."""


class SettingsError(ValueError):
    """A line that cannot be read; `line` is its number, from 1."""

    def __init__(self, line, problem):
        super().__init__(f"line {line}: {problem}")
        self.line = line
'''
_FIRST = '''
"""Reads settings: ``[section]`` lines and ``name = value`` lines."""

from settings.errors import SettingsError


def loads(text):
    """Return the settings in *text* as a dict of dicts; names before the first section are in ""."""
    found = {"": {}}
    section = found[""]
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1].strip(), {})
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise SettingsError(number, "expected 'name = value'")
        section[name.strip()] = value.strip()
    return found
'''
_BASE = '''
"""Reads settings: ``[section]`` lines and ``name = value`` lines, with comments from ``#`` on."""

from settings.errors import SettingsError
from settings.values import read_value


def loads(text):
    """Return the settings in *text* as a dict of dicts; names before the first section are in ""."""
    found = {"": {}}
    section = found[""]
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1].strip(), {})
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise SettingsError(number, "expected 'name = value'")
        section[name.strip()] = read_value(value.strip(), number)
    return found
'''
_VALUES = '''
"""Values: text in double quotes with backslashes, whole numbers, true and false, and plain words."""

from settings.errors import SettingsError

ESCAPES = {"n": "\\n", "t": "\\t", '"': '"', "\\\\": "\\\\"}


def read_value(text, line):
    """Return the value that *text* is."""
    if text.startswith('"'):
        return read_quoted(text, line)
    if text in ("true", "false"):
        return text == "true"
    digits = text[1:] if text[:1] == "-" else text
    return int(text) if digits.isdigit() else text


def read_quoted(text, line):
    """Return the text between the quotes that *text* begins and ends with."""
    if len(text) < 2 or not text.endswith('"'):
        raise SettingsError(line, "a quote is not closed")
    chars = []
    inner = iter(text[1:-1])
    for char in inner:
        if char == "\\\\":
            escape = next(inner, "")
            if escape not in ESCAPES:
                raise SettingsError(line, f"unknown escape \\\\{escape}")
            char = ESCAPES[escape]
        chars.append(char)
    return "".join(chars)
'''
_FIXED = _BASE.replace(
    '        line = line.split("#", 1)[0].strip()\n', "        line = without_comment(line).strip()\n"
).replace(
    "\n\ndef loads(text):",
    '''

def without_comment(line):
    """Return *line* up to the first ``#`` that is in no quotes."""
    quoted = False
    skip = False
    for place, char in enumerate(line):
        if skip:
            skip = False
        elif quoted and char == "\\\\":
            skip = True
        elif char == '"':
            quoted = not quoted
        elif char == "#" and not quoted:
            return line[:place]
    return line


def loads(text):''',
)
_TESTS = '''
"""Settings files, and what is wrong with some."""

import unittest

from settings import SettingsError, loads


class LoadsTest(unittest.TestCase):
    def test_sections(self):
        self.assertEqual({"": {"a": 1}, "s": {"b": "x"}}, loads("a = 1\\n[s]\\nb = x\\n"))

    def test_comments(self):
        self.assertEqual({"": {"a": True}}, loads("# first\\na = true  # yes\\n"))

    def test_quoted_text(self):
        self.assertEqual("two words", loads('a = "two words"')[""]["a"])

    def test_escapes(self):
        self.assertEqual('"\\n', loads(r'a = "\\"\\n"')[""]["a"])

    def test_an_open_quote(self):
        with self.assertRaises(SettingsError) as caught:
            loads('\\na = "b')
        self.assertEqual(2, caught.exception.line)
'''
_NEW_TESTS = (
    _TESTS
    + """
    def test_a_hash_in_quotes(self):
        self.assertEqual("#1 of 2", loads('a = "#1 of 2"')[""]["a"])

    def test_a_hash_in_quotes_and_a_comment(self):
        self.assertEqual("a#b", loads('a = "a#b" # "c#d"')[""]["a"])

    def test_a_hash_after_an_escaped_quote(self):
        self.assertEqual('say "#"', loads(r'a = "say \\"#\\""  # loud')[""]["a"])

    def test_a_quote_in_a_comment(self):
        self.assertEqual("it", loads('a = it # isn"t')[""]["a"])
"""
)
_INIT = '"""Small settings files."""\n\nfrom settings.errors import SettingsError\nfrom settings.reader import loads\n'
_CASE = "tests.test_reader.LoadsTest"

SAMPLE = Sample(
    name="settings",
    problem="""
Values with a # in quotes are cut off

A value in quotes may hold any character, but `loads` fails for some:

    >>> from settings import loads
    >>> loads('colour = "#ff0000"')
    settings.errors.SettingsError: line 1: a quote is not closed

I expected {'': {'colour': '#ff0000'}}. A # outside of quotes should still begin a comment, also after a quoted value.
Please mind quotes that are escaped with a backslash: they do not end the value.
""",
    history=(
        commit(
            "Read sections and names",
            {
                "README.md": _README,
                ".gitignore": "__pycache__/\n*.egg-info/\n",
                "settings/__init__.py": _INIT,
                "settings/errors.py": _ERRORS,
                "settings/reader.py": _FIRST,
            },
        ),
        commit("Values have types, and may be quoted", {"settings/values.py": _VALUES}),
        commit(
            "Comments",
            {"settings/reader.py": _BASE, "tests/__init__.py": "", "tests/test_reader.py": _TESTS},
        ),
    ),
    fix={"settings/reader.py": _FIXED},
    tests={"tests/test_reader.py": _NEW_TESTS},
    fail_to_pass=(
        f"test_a_hash_in_quotes ({_CASE})",
        f"test_a_hash_in_quotes_and_a_comment ({_CASE})",
        f"test_a_hash_after_an_escaped_quote ({_CASE})",
    ),
    pass_to_pass=(
        f"test_sections ({_CASE})",
        f"test_comments ({_CASE})",
        f"test_quoted_text ({_CASE})",
        f"test_escapes ({_CASE})",
        f"test_an_open_quote ({_CASE})",
        f"test_a_quote_in_a_comment ({_CASE})",
    ),
    test_cmd="python3 -m unittest -v",
    later=(commit("Say in the README how comments are read", {"README.md": _README + "\nComments begin with #.\n"}),),
)
