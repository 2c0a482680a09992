"""Certificates for servers under test, made with openssl: an authority of one's own and what it issues."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

from tests.support import require


class Authority:
    """Issues certificates. Whoever trusts `file` trusts them."""

    def __init__(self, folder: Path) -> None:
        require(shutil.which("openssl"), "openssl is not installed")
        folder.mkdir()
        self._folder = folder
        self.file = folder / "authority.pem"
        self._key = folder / "authority.key"
        usage = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        self._request("authority", "-x509", "-days", "2", *usage)

    def issue(self, names: str, *, days: int = 2) -> ssl.SSLContext:
        """Make a server's certificate for `names`, such as `IP:127.0.0.1,DNS:localhost`."""
        self._request("server")
        extensions = self._folder / "server.ext"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
        self._openssl(
            *("x509", "-req", "-in", "server.pem", "-out", "issued.pem", "-days", str(days)),
            *(
                "-CA",
                self.file.name,
                "-CAkey",
                self._key.name,
                "-CAcreateserial",
                "-extfile",
                extensions.name,
            ),
        )
        return self._server("issued.pem", "server.key")

    def own(self) -> ssl.SSLContext:
        """Make a server present the authority itself: a certificate that has issued itself."""
        return self._server(self.file.name, self._key.name)

    def _request(self, name: str, *options: str) -> None:
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name} of a test", *options),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)

    def _server(self, certificate: str, key: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / certificate, self._folder / key)
        return context
