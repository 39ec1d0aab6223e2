"""Runs named tests in a sandbox and says how each of them ended. For any Python from 3.6 on; sent along as text.

Standard input is a JSON object: ``key``, ``runner``, ``root``, ``paths``, ``arguments``, ``files``, ``tests``. Each
record on standard output is a line: the key, then JSON. Whatever else is there is somebody else's.

It is started with ``-I``, and has the runner loaded before the repository can be looked into: a ``pytest.py``, a
``sitecustomize.py`` or the entry point of a plugin there has no effect. Code under test runs in this very process,
though, and what it is determined to find there it will find.
"""

import importlib
import json
import os
import sys
import traceback
import unittest
from typing import Any, Callable  # noqa: UP035  # Python 3.6 has no other

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
WHY_CHARS = 300
# What pytest, or what it loads, may load late: by then the repository would come first.
LOADED_EARLY = "bdb cmd code difflib doctest inspect pdb platform pprint shlex timeit unittest.mock".split()

Tell = Callable[..., None]


def main() -> None:
    """Do what standard input asks for."""
    channel = os.dup(1)
    request = json.loads(sys.stdin.buffer.read().decode())
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    tell = make_teller(channel, request.pop("key"))
    os.chdir(request["root"])
    prepare = prepare_pytest if request["runner"] == "pytest" else prepare_unittest
    try:
        run = prepare(request, tell)
    except ImportError as error:
        tell(trouble=f"{request['runner']} cannot be loaded: {error}")
        return
    run()
    tell(end=True)


def make_teller(channel: int, key: str) -> Tell:
    """Return the function that tells; it holds what it needs, whatever is replaced later."""
    write, dumps = os.write, json.dumps

    def tell(**record: object) -> None:
        data = (key + dumps(record) + "\n").encode()
        while data:
            data = data[write(channel, data) :]

    return tell


def prepare_pytest(request: "dict[str, Any]", tell: Tell) -> Callable[[], object]:
    """Return what runs the tests; until it is called, nothing of the repository can be loaded."""
    pytest = importlib.import_module("pytest")
    parts = importlib.import_module("_pytest.config").default_plugins
    for name in [*LOADED_EARLY, *(f"_pytest.{part}" for part in parts)]:
        importlib.import_module(name)
    wanted = set(request["tests"])
    phases: dict[str, list[Any]] = {}

    class Reporter:
        def pytest_load_initial_conftests(self) -> None:
            sys.path[:0] = request["paths"]  # now that the plugins that are installed are known

        def pytest_collection_modifyitems(self, items: "list[Any]") -> None:
            items[:] = [item for item in items if item.nodeid in wanted]

        def pytest_runtest_logreport(self, report: Any) -> None:
            phases.setdefault(report.nodeid, []).append(report)
            if report.when == "teardown":
                reports = phases.pop(report.nodeid)
                why = [reason_of(each) for each in reports if each.outcome == FAILED]
                tell(id=report.nodeid, outcome=outcome_of(reports), why=why[0] if why else "")

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                tell(id=report.nodeid, outcome=FAILED, why=reason_of(report))

    pytest.hookimpl(tryfirst=True)(Reporter.pytest_load_initial_conftests)
    pytest.hookimpl(trylast=True)(Reporter.pytest_collection_modifyitems)
    options = [f"--rootdir={request['root']}", "-o", "cache_dir=/tmp/.pytest_cache"]
    arguments = [*options, *request["arguments"], "--maxfail=0", *request["files"]]  # of -x the last one counts
    return lambda: pytest.main(arguments, plugins=[Reporter()])


def reason_of(report: Any) -> str:
    """Return pytest's words for what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return (str(report.longrepr).strip().split("\n")[-1] if crash is None else str(crash.message))[:WHY_CHARS]


def outcome_of(reports: "list[Any]") -> str:
    """Return what pytest's reports of a test's phases come to; an expected failure is a pass."""
    if any(each.outcome == FAILED for each in reports):
        return FAILED
    skipped = [each for each in reports if each.outcome == SKIPPED]
    if skipped:
        return PASSED if hasattr(skipped[0], "wasxfail") else SKIPPED
    return FAILED if any(hasattr(each, "wasxfail") for each in reports) else PASSED


def prepare_unittest(request: "dict[str, Any]", tell: Tell) -> Callable[[], object]:
    """As `prepare_pytest`."""

    class Result(unittest.TestResult):
        outcome, why = FAILED, ""

        def startTest(self, test: Any) -> None:
            super().startTest(test)
            self.outcome, self.why = FAILED, ""

        def stopTest(self, test: Any) -> None:
            super().stopTest(test)
            tell(id=test.id(), outcome=self.outcome, why=self.why)

        def addSuccess(self, test: Any) -> None:
            self.outcome = FAILED if self.why else PASSED

        def addExpectedFailure(self, test: Any, err: Any) -> None:
            self.outcome = PASSED

        def addSkip(self, test: Any, reason: str) -> None:
            self.outcome = SKIPPED

        def addFailure(self, test: Any, err: Any) -> None:
            self.outcome, self.why = FAILED, "".join(traceback.format_exception_only(*err[:2])).strip()[-WHY_CHARS:]

        addError = addFailure

        def addUnexpectedSuccess(self, test: Any) -> None:
            self.outcome, self.why = FAILED, "unexpected success"

        def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
            if err is not None:
                self.addFailure(test, err)

    def run() -> None:
        sys.path[:0] = request["paths"]
        suite, loader = unittest.TestSuite(), unittest.TestLoader()
        for name in request["tests"]:
            try:
                suite.addTest(loader.loadTestsFromName(name))
            except Exception as error:  # of a module under test, which can raise anything when it is imported
                tell(id=name, outcome=FAILED, why="".join(traceback.format_exception_only(type(error), error)))
        suite.run(Result())

    for name in LOADED_EARLY:
        importlib.import_module(name)
    return run


main()
