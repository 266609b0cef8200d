"""Whether a service can listen on a port of this machine, and if not, why.

`python -m causeway.port 3000`: exit code 1 and a sentence where none can.
"""

from __future__ import annotations

import errno
import socket
import sys


def problem(port: str) -> str | None:
    """Why no service can listen on `port`, as somebody typed it; None where one can."""
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        return f"PORT={port}: must be a whole number from 1 to 65535"
    with socket.socket() as probe:
        # As the service does it: a port that was closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return f"Port {port} is taken by another program; end that one, or choose another port with PORT=..."
            return f"Port {port} cannot be used ({exc.strerror}); choose another with PORT=..."
    return None


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1]))
