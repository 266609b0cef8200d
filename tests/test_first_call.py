"""The line that `make serve` prints can be pasted, and who prints it does not outlive the service."""

import json
import subprocess
import sys

import pytest

from causeway import first_call
from load_tests.machine import free_port
from tests.conftest import HOME, ROOT, Server, environment


def test_the_printed_line_gets_a_prediction(server: Server) -> None:
    line = first_call.curl(server.url)
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["variant"] == "champion"


def test_nobody_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="refused"):
        first_call.curl(f"http://127.0.0.1:{free_port()}")


def test_it_gives_up_when_the_process_that_it_waits_for_has_ended() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    command = [sys.executable, "-m", "causeway.first_call", "--port", str(free_port()), "--while", str(ended.pid)]
    result = subprocess.run(command, cwd=ROOT, env=environment(HOME), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "did not get ready" in result.stderr
