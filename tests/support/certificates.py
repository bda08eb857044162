"""An authority of the tests' own, and certificates that it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]


def missing_here() -> str:
    """What to install; empty when certificates can be made."""
    return "" if shutil.which("openssl") else "not installed: apt-get install openssl"


class Authority:
    """`certificate` is what others know it by."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificate, self._key = directory / "authority.pem", directory / "authority.key"
        _openssl("req", "-x509", *_KEY, "-subj", "/CN=authority", "-keyout", self._key, "-out", self.certificate)

    def issue(self, name: str, address: str) -> tuple[Path, Path]:
        """Files with a certificate for an IP address, and with its key."""
        asked, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        extensions.write_text(f"subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
        by = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "1", "-extfile", extensions]
        _openssl("x509", "-req", "-in", asked, *by, "-out", certificate)
        return certificate, key


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
