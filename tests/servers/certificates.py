"""Certificates for servers that speak TLS, of an authority made for one test run."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import trustme

from tests.servers import Scratch

__all__ = ["Certificates", "certificates"]


class Certificates(NamedTuple):
    """Files in PEM: the authority's, and of the server and a client each certificate and key."""

    ca: str
    server: str
    server_key: str
    client: str
    client_key: str
    stranger_ca: str


@cache
def certificates() -> Certificates:
    """Make them; the server is 127.0.0.1 and localhost. They go with this process."""
    folder = Scratch("certificates").path
    authority, stranger = trustme.CA(), trustme.CA()
    parts = {"ca": authority.cert_pem, "stranger_ca": stranger.cert_pem}
    for name, issued in {
        "server": authority.issue_cert("127.0.0.1", "localhost"),
        "client": authority.issue_cert("client@chatstores.test"),
    }.items():
        parts[name] = issued.cert_chain_pems[0]
        parts[f"{name}_key"] = issued.private_key_pem
    paths = {name: folder / f"{name}.pem" for name in parts}
    for name, path in paths.items():
        parts[name].write_to_path(path)
        path.chmod(0o600)  # PostgreSQL refuses a key that others may read
    return Certificates(**{name: str(path) for name, path in paths.items()})
