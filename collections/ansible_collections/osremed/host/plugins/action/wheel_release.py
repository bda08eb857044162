# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the file that `src` names to the host for the module of the same name: one call, and nothing of it stays behind."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            if arguments.get("src") and not self._task.check_mode:
                arguments["artifact"] = self.bring(arguments.pop("src"), arguments)
            return self._execute_module(
                "osremed.host.wheel_release", module_args=arguments, task_vars=task_vars or {}
            )
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def bring(self, src, arguments):
        """Its path on the host."""
        if arguments.get("artifact"):
            raise AnsibleActionFail("src and artifact are mutually exclusive. Nothing was touched")
        try:
            source = self._find_needle("files", src)
        except AnsibleError as error:
            raise AnsibleActionFail("src on the controller: %s. Nothing was touched" % error)
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()
        shell = self._connection._shell
        there = shell.join_path(shell.tmpdir, source.rpartition("/")[2])
        self._transfer_file(source, there)
        self._fixup_perms2((shell.tmpdir, there))
        return there
