"""The web process of `up`: serves on a listening socket that it inherits.

`up` holds the socket, so the port is taken before anything else starts, and a restart of
this process refuses nobody: who comes meanwhile waits. uvicorn's own --fd would take the
socket for a Unix one and leave Nagle's algorithm on.
"""

from __future__ import annotations

import socket
import sys

import uvicorn


def main(descriptor: int) -> None:
    config = uvicorn.Config(
        "config.asgi:application",
        log_config=None,
        access_log=False,
        lifespan="off",
        # Streams are open as long as a page is.
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
