"""State that goes stale: a cached answer that is not forgotten where it should be, and an order that is not kept."""

from __future__ import annotations

from codecraft_curriculum.swe.sample import Sample, commit

_FIRST = '''
"""An agenda: what is due at which minute."""

import heapq


class Agenda:
    """Entries by the minute that they are due at."""

    def __init__(self):
        self._heap = []

    def add(self, due, title):
        """Put an entry in; return it."""
        entry = (due, title)
        heapq.heappush(self._heap, entry)
        return entry

    def pop(self):
        """Take out the entry that is due first."""
        return heapq.heappop(self._heap)

    def __len__(self):
        return len(self._heap)
'''
_BASE = '''
"""An agenda: what is due at which minute."""

import heapq


class Agenda:
    """Entries by the minute that they are due at."""

    def __init__(self):
        self._heap = []
        self._cancelled = set()
        self._first = None

    def add(self, due, title):
        """Put an entry in; return it, as `cancel` takes it."""
        entry = (due, title)
        self._cancelled.discard(entry)
        heapq.heappush(self._heap, entry)
        if self._first is not None and entry < self._first:
            self._first = entry
        return entry

    def cancel(self, entry):
        """Take an entry out that is not due yet.

        Raises:
            KeyError: It is not there.
        """
        if entry in self._cancelled or entry not in self._heap:
            raise KeyError(entry)
        self._cancelled.add(entry)

    def peek(self):
        """Return the entry that is due first, or None."""
        if self._first is None:
            self._drop_cancelled()
            self._first = self._heap[0] if self._heap else None
        return self._first

    def pop(self):
        """Take out the entry that is due first.

        Raises:
            IndexError: There is none.
        """
        self._drop_cancelled()
        self._first = None
        return heapq.heappop(self._heap)

    def _drop_cancelled(self):
        while self._heap and self._heap[0] in self._cancelled:
            self._cancelled.remove(heapq.heappop(self._heap))

    def __len__(self):
        return len(self._heap) - len(self._cancelled)
'''
_FIXED = '''
"""An agenda: what is due at which minute."""

import heapq
from itertools import count


class Entry(tuple):
    """(due, title), of which two are never the same entry, even if they are equal."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other if isinstance(other, Entry) else tuple.__eq__(self, other)

    def __ne__(self, other):
        return not self == other


class Agenda:
    """Entries by the minute that they are due at; those of one minute in the order in which they were put in."""

    def __init__(self):
        self._heap = []
        self._live = set()
        self._numbers = count()

    def add(self, due, title):
        """Put an entry in; return it, as `cancel` takes it."""
        entry = Entry((due, title))
        self._live.add(entry)
        heapq.heappush(self._heap, (due, next(self._numbers), entry))
        return entry

    def cancel(self, entry):
        """Take an entry out that is not due yet.

        Raises:
            KeyError: It is not there.
        """
        self._live.remove(entry)

    def peek(self):
        """Return the entry that is due first, or None."""
        self._drop_cancelled()
        return self._heap[0][2] if self._heap else None

    def pop(self):
        """Take out the entry that is due first.

        Raises:
            IndexError: There is none.
        """
        self._drop_cancelled()
        entry = heapq.heappop(self._heap)[2]
        self._live.remove(entry)
        return entry

    def _drop_cancelled(self):
        while self._heap and self._heap[0][2] not in self._live:
            heapq.heappop(self._heap)

    def __len__(self):
        return len(self._live)
'''
_TESTS = """
import unittest

from agenda import Agenda


class AgendaTest(unittest.TestCase):
    def setUp(self):
        self.agenda = Agenda()

    def drain(self):
        return [self.agenda.pop()[1] for _ in range(len(self.agenda))]

    def test_entries_come_when_they_are_due(self):
        for due in (30, 10, 20):
            self.agenda.add(due, f"at {due}")
        self.assertEqual(["at 10", "at 20", "at 30"], self.drain())

    def test_peek(self):
        self.assertIsNone(self.agenda.peek())
        self.agenda.add(2, "b")
        self.assertEqual((2, "b"), self.agenda.peek())
        self.agenda.add(1, "a")
        self.assertEqual((1, "a"), self.agenda.peek())
        self.assertEqual(2, len(self.agenda))

    def test_cancel(self):
        entry = self.agenda.add(1, "a")
        self.agenda.add(2, "b")
        self.agenda.cancel(entry)
        self.assertEqual(1, len(self.agenda))
        self.assertEqual(["b"], self.drain())

    def test_cancelling_twice(self):
        entry = self.agenda.add(1, "a")
        self.agenda.cancel(entry)
        self.assertRaises(KeyError, self.agenda.cancel, entry)

    def test_nothing_to_pop(self):
        self.agenda.cancel(self.agenda.add(1, "a"))
        self.assertRaises(IndexError, self.agenda.pop)
"""
_NEW_TESTS = (
    _TESTS
    + """
    def test_peek_after_cancel(self):
        first = self.agenda.add(1, "a")
        self.agenda.add(2, "b")
        self.agenda.peek()
        self.agenda.cancel(first)
        self.assertEqual((2, "b"), self.agenda.peek())

    def test_one_minute_in_the_order_of_adding(self):
        for title in ("wake up", "coffee", "alarm"):
            self.agenda.add(7, title)
        self.assertEqual(["wake up", "coffee", "alarm"], self.drain())

    def test_equal_entries_are_two(self):
        kept = self.agenda.add(5, "call")
        gone = self.agenda.add(5, "call")
        self.agenda.cancel(gone)
        self.assertEqual((5, "call"), self.agenda.peek())
        self.agenda.cancel(kept)
        self.assertEqual(0, len(self.agenda))
        self.assertIsNone(self.agenda.peek())

    def test_adding_what_was_cancelled(self):
        self.agenda.cancel(self.agenda.add(5, "call"))
        self.agenda.add(5, "call")
        self.assertEqual(1, len(self.agenda))
        self.assertEqual(["call"], self.drain())
"""
)
_CASE = "tests.test_agenda.AgendaTest"

SAMPLE = Sample(
    name="agenda",
    problem="""
Agenda forgets cancellations, and mixes up entries of the same minute

1. `peek` shows an entry that was cancelled, if it was shown before:

       first = agenda.add(1, "a"); agenda.add(2, "b")
       agenda.peek(); agenda.cancel(first)
       agenda.peek()    # (1, 'a'), should be (2, 'b')

2. Entries of the same minute come out by the alphabet. They should come in the order in which they were added.

3. Two equal entries are two entries. Cancelling one of them must leave the other, and an entry that is added again
   after it was cancelled must come out once, with `len` telling the truth all the time.

`peek` and `pop` should go on returning what compares equal to `(due, title)`.
""",
    history=(
        commit("An agenda", {"agenda/__init__.py": "from agenda.agenda import Agenda\n", "agenda/agenda.py": _FIRST}),
        commit(
            "Entries can be cancelled, and the first one looked at",
            {"agenda/agenda.py": _BASE, "tests/__init__.py": "", "tests/test_agenda.py": _TESTS},
        ),
        commit("Say what it is", {"README.md": "# agenda\n\nWhat is due, in order.\n"}),
    ),
    fix={"agenda/agenda.py": _FIXED},
    tests={"tests/test_agenda.py": _NEW_TESTS},
    fail_to_pass=tuple(
        f"{_CASE}.{name}"
        for name in (
            "test_peek_after_cancel",
            "test_one_minute_in_the_order_of_adding",
            "test_equal_entries_are_two",
            "test_adding_what_was_cancelled",
        )
    ),
    pass_to_pass=tuple(
        f"{_CASE}.{name}"
        for name in (
            "test_entries_come_when_they_are_due",
            "test_peek",
            "test_cancel",
            "test_cancelling_twice",
            "test_nothing_to_pop",
        )
    ),
    test_cmd="python3 -m unittest",
    later=(commit("Release 2", {"agenda/version.py": 'VERSION = "2"\n'}),),
)
