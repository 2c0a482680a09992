"""TCP ports: bound before anything is announced."""

from __future__ import annotations

import socket

from qtasks.errors import ConfigurationError


def bind_port(host: str, port: int) -> socket.socket:
    """Bind a port; raises `ConfigurationError` if it is taken, or not ours to take."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port"
        ) from error
    return listening
