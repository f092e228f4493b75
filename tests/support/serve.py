"""Runs ``token-vault serve`` on a free port."""

from __future__ import annotations

import socket
import sys

from worker.cli import main

if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.exit(main(["serve", "--port", str(port), *sys.argv[1:]]))
