"""Waits until a service on this machine is ready, and prints a curl line that calls it.

`python -m causeway.first_call --port 3000`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S = 120.0


def curl(url: str) -> str:
    """A curl line for the example row of the service's own documentation. Raises OSError while it does not answer."""
    with urllib.request.urlopen(f"{url}/readyz", timeout=5):
        pass
    with urllib.request.urlopen(f"{url}/docs.json", timeout=5) as response:
        document = json.load(response)
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    body = {"features": content["examples"]["features"]["value"]["features"][:1]}
    return f"curl {url}/predict -H 'Content-Type: application/json' -d '{json.dumps(body)}'"


def main() -> int:
    """Runs the command line; the exit code is 1 where no service got ready."""
    parser = argparse.ArgumentParser(description="Prints a curl line once the service is ready.")
    parser.add_argument("--port", type=int, default=3000)
    url = f"http://127.0.0.1:{parser.parse_args().port}"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            line = curl(url)
        except OSError:
            time.sleep(0.1)
            continue
        print(f"\nReady. In another terminal:\n\n{line}\n", flush=True)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
