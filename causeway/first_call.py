"""Waits until a service on this machine is ready, and prints a curl line that calls it.

`python -m causeway.first_call --port 3000`
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
import urllib.request

PATIENCE_S = 120.0


def curl(url: str) -> str:
    """A curl line for the example row of the service's own documentation. Raises OSError while it does not answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{url}/readyz", timeout=5):
        pass
    with direct.open(f"{url}/docs.json", timeout=5) as response:
        document = json.load(response)
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    body = {"features": content["examples"]["features"]["value"]["features"][:1]}
    return f"curl {url}/predict -H 'Content-Type: application/json' -d '{json.dumps(body)}'"


def is_running(process: int | None) -> bool:
    """Whether the process with this id runs; None counts as running."""
    try:
        if process is not None:
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Runs the command line; the exit code is 1 where no service got ready."""
    parser = argparse.ArgumentParser(description="Prints a curl line once the service is ready.")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--while", dest="process", type=int, help="give up once the process with this id has ended")
    args = parser.parse_args()
    url = f"http://127.0.0.1:{args.port}"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and is_running(args.process):
        try:
            line = curl(url)
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            time.sleep(0.1)
            continue
        print(f"\nReady. In another terminal:\n\n{line}\n", flush=True)
        return 0
    print(f"{url} did not get ready; see its log above, and {url}/health", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
