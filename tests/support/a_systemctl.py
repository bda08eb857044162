"""A stand-in for systemctl, first on the PATH: it keeps what it was asked and answers as the test says."""

from __future__ import annotations

import os

SCRIPT = """#!/bin/sh
case "$*" in *is-failed*) [ -e {lab}/failed ]; exit;; esac
echo "$@" >> {lab}/asked
[ -e {lab}/refuses ] || exit 0
echo no such unit >&2
exit 5
"""


class Systemctl:
    def __init__(self, lab):
        self._lab = lab
        lab.mkdir()
        (lab / "systemctl").write_text(SCRIPT.format(lab=lab))
        (lab / "systemctl").chmod(0o755)

    @property
    def asked(self):
        """The words of each call, but for looks."""
        kept = self._lab / "asked"
        return kept.read_text().splitlines() if kept.exists() else []

    def forget(self):
        (self._lab / "asked").unlink(missing_ok=True)

    def unit_has_failed(self):
        (self._lab / "failed").touch()

    def refuses(self, refuses=True):
        (self._lab / "refuses").touch() if refuses else (self._lab / "refuses").unlink()


def put(tmp_path, monkeypatch):
    made = Systemctl(tmp_path / "systemctl-lab")
    monkeypatch.setenv("PATH", str(tmp_path / "systemctl-lab"), prepend=os.pathsep)
    return made
