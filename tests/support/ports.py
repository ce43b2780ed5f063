"""Ports for servers that a test starts."""

import socket


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nothing listens on now, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
