"""``codecraft demo --metrics-port``: the pool's metrics over HTTP while the demo runs."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import urllib.request

import pytest

from codecraft_async.cli import main

DEMO = [sys.executable, "-u", "-m", "codecraft_async", "demo", "--backend", "local", "--num-envs", "2", "--rounds", "2"]


def test_metrics_are_served_while_the_demo_runs() -> None:
    """The address is printed, and answers with the metrics of the demo's pool."""
    with subprocess.Popen([*DEMO, "--metrics-port", "0"], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        try:
            for line in demo.stdout:
                found = re.search(r"metrics: (http://127\.0\.0\.1:\d+/metrics)", line)
                if found:
                    break
            else:
                pytest.fail("the demo printed no address")
            with urllib.request.urlopen(found.group(1), timeout=20) as response:
                text = response.read().decode()
            assert 'codecraft_pool_launcher{name="local",' in text
            assert "codecraft_pool_max_sandboxes 2.0" in text
            demo.stdout.read()
            assert 0 == demo.wait(60)
        finally:
            demo.kill()


def test_a_port_that_is_taken_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo ends before it plays, and says which port it was."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert 1 == main(["demo", "--backend", "local", "--num-envs", "1", "--metrics-port", str(port)])
    assert f"codecraft demo: the metrics cannot be served on port {port}: " in capsys.readouterr().err


def test_a_port_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Ports end at 65,535."""
    with pytest.raises(SystemExit):
        main(["demo", "--metrics-port", "65536"])
    assert "is not a whole number of at least 0 and at most 65535" in capsys.readouterr().err
