# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ansible-playbook without its start: a process that has imported it, and forks for each who asks.

    warm_playbook.py serve DIRECTORY PROGRAM    until its standard input ends and who was forked has ended
    warm_playbook.py ask DIRECTORY PROGRAM ...  as PROGRAM ... does, from its output to its exit code

PROGRAM is the ansible-playbook of the interpreter that runs this. `ask` runs PROGRAM itself when nobody serves in
DIRECTORY, and when its environment is not the one that `serve` began with: what Ansible is told by variables it reads
while it is imported. Only variables that name the files of one call may differ.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import sys

SOCKET = "socket"
#: Read when they are used, or set anew in `_play`.
OF_A_CALL = frozenset((
    "ANSIBLE_CACHE_PLUGIN_CONNECTION", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP", "AWX_ISOLATED_DATA_DIR", "LINES", "COLUMNS",
    "OSREMED_CALL_DIRECTORY", "OLDPWD", "PWD", "SHLVL", "_",
))  # fmt: skip
#: What a play of one task imports, on top of the command itself. One that this Ansible has not is left out.
IMPORTS = (
    "ansible.executor.module_common", "ansible.executor.process.worker", "ansible.executor.task_queue_manager",
    "ansible.inventory.manager", "ansible.plugins.action.normal", "ansible.plugins.cache.jsonfile", "ansible.plugins.cache.memory",
    "ansible.plugins.callback.default", "ansible.plugins.callback.junit", "ansible.plugins.callback.minimal",
    "ansible.plugins.callback.oneline", "ansible.plugins.callback.tree", "ansible.plugins.connection.local", "ansible.plugins.connection.ssh",
    "ansible.plugins.inventory.auto", "ansible.plugins.inventory.host_list", "ansible.plugins.inventory.ini",
    "ansible.plugins.inventory.script", "ansible.plugins.inventory.toml", "ansible.plugins.inventory.yaml",
    "ansible.plugins.shell.sh", "ansible.plugins.strategy.linear", "ansible.plugins.vars.host_group_vars", "ansible.template",
)  # fmt: skip
_TAKES_S = 5.0
_MOST_BYTES = 8 << 20


def _address(directory):
    """A socket's path may have 107 bytes: a short name for the directory."""
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return folder, "/proc/self/fd/%d/%s" % (folder, SOCKET)


# --- who asks ---


def ask(directory, program, words):
    environ = dict(os.environ)
    paths = environ.get("PATH", "").split(os.pathsep)
    environ["PATH"] = os.pathsep.join(path for path in paths if path != directory)
    line = _served(directory, {"argv": [program] + words, "environ": environ, "cwd": os.getcwd()})
    if line is None:
        os.execve(program, [program] + words, environ)
    answer = _exactly(line, 4)
    code = struct.unpack("!i", answer)[0] if answer else 255
    return code if code >= 0 else 128 - code  # as a shell tells a signal


def _served(directory, request):
    """The connection, once the play has begun; None when nobody takes it."""
    line = socket.socket(socket.AF_UNIX)
    try:
        folder, address = _address(directory)
        try:
            line.connect(address)
        finally:
            os.close(folder)
        data = json.dumps(request).encode()
        ours = array.array("i", (0, 1, 2))
        line.sendmsg([struct.pack("!I", len(data))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, ours)])
        line.sendall(data)
        return line if line.recv(1) == b"y" else None
    except OSError:
        return None


def _exactly(line, count):
    """So many bytes; none at all when the other side has gone."""
    data = b""
    while len(data) < count:
        more = line.recv(min(count - len(data), 1 << 16))
        if not more:
            return b""
        data += more
    return data


# --- who serves ---


def serve(directory, program):
    import gc
    import select
    import signal

    began_with = _comparable(os.environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import()
    gc.collect()
    gc.freeze()  # what was imported stays shared with those who are forked
    listener = socket.socket(socket.AF_UNIX)
    folder, address = _address(directory)
    listener.bind(address)  # in a directory of ours alone
    os.close(folder)
    listener.listen(64)
    poll = select.poll()
    owner = sys.stdin.fileno()
    for each in (owner, listener.fileno()):
        poll.register(each, select.POLLIN)
    plays = {}  # fd of a process -> (its pid, the connection of who asked)
    asking = {}  # fd of that connection -> fd of the process
    open_for_more = True
    while open_for_more or plays:
        for ready, _event in poll.poll():
            if ready == owner:
                open_for_more = bool(os.read(owner, 1))
                if not open_for_more:
                    poll.unregister(owner)
                    poll.unregister(listener.fileno())
            elif ready == listener.fileno():
                begun = _begin(listener, began_with, [line for _pid, line in plays.values()])
                if begun:
                    pid, handle, line = begun
                    plays[handle], asking[line.fileno()] = (pid, line), handle
                    poll.register(handle, select.POLLIN)
                    poll.register(line.fileno(), select.POLLIN)
            elif ready in asking:  # who asked has gone, so what it asked for is not wanted any more
                poll.unregister(ready)
                _end(plays[asking.pop(ready)][0])
            elif ready in plays:
                pid, line = plays.pop(ready)
                if asking.pop(line.fileno(), None) is not None:
                    poll.unregister(line.fileno())
                _tell(line, struct.pack("!i", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
                line.close()
                poll.unregister(ready)
                os.close(ready)
    return 0


def _tell(line, data):
    try:
        line.sendall(data)
    except OSError:
        return  # nobody asks any more: the end of the connection says so


def _comparable(environ):
    return dict((name, value) for name, value in environ.items() if name not in OF_A_CALL)


def _import():
    import importlib

    import ansible.cli.playbook  # noqa: F401

    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    _load_plugins()
    _remember_syntax()


def _load_plugins():
    """Ansible's own, for the options of each stand in its documentation: YAML, which takes a play 0.1 s. What others are
    may depend on the call, as it does of ansible-runner's."""
    import warnings

    from ansible.plugins import loader

    loader.init_plugin_loader()
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")  # by each play again
    for kind in ("connection", "shell", "become"):  # as each play begins
        list(getattr(loader, kind + "_loader").all(class_only=True))
    for words in (name.split(".") for name in IMPORTS):
        if words[:2] == ["ansible", "plugins"] and words[2] != "vars":  # whose objects are kept
            getattr(loader, words[2] + "_loader").get("ansible.builtin." + words[3], class_only=True)


def _remember_syntax():
    """What modules are put together from is parsed once for all plays: the files of ours, and those of Ansible's that are a
    part of every module. They are known by what is in them, so one that is changed later is parsed anew."""
    import ast
    import builtins

    import ansible.module_utils.basic  # noqa: F401
    from ansible.executor import module_common

    known = {}

    def remembering(source, name, mode, flags=0, *others, **more):
        if (mode, flags) == ("exec", ast.PyCF_ONLY_AST) and not others and not more and source in known:
            return known[source]
        return builtins.compile(source, name, mode, flags, *others, **more)

    paths = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("ansible.module_utils.")]
    plugins = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "plugins")
    for folder in ("module_utils", "modules"):
        paths += [entry.path for entry in os.scandir(os.path.join(plugins, folder))]
    for path in paths:
        if path and path.endswith(".py"):
            with open(path, "rb") as stream:
                source = stream.read()
            known[source] = builtins.compile(source, path, "exec", ast.PyCF_ONLY_AST)
    module_common.compile = remembering


def _begin(listener, began_with, others):
    """(pid, its fd, connection) of a play that has begun; None for what is not taken. `others`: open connections."""
    line = listener.accept()[0]
    fds = array.array("i")
    try:
        line.settimeout(_TAKES_S)
        _pid, uid, _gid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        head, extra, _flags, _sender = line.recvmsg(4, socket.CMSG_SPACE(3 * fds.itemsize))
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        size = struct.unpack("!I", head)[0] if len(head) == 4 else _MOST_BYTES + 1
        if size > _MOST_BYTES or uid != os.getuid() or len(fds) != 3:
            raise ValueError("not asked by `ask`")
        request = json.loads(_exactly(line, size))
        if _comparable(request["environ"]) != began_with:
            raise ValueError("another environment")
        pid = os.fork()
    except (OSError, ValueError, KeyError):
        line.close()
        return None
    finally:
        if fds and os.getpid() == _SERVER:
            for each in fds:
                os.close(each)
    if pid == 0:
        _play(request, fds, [listener, line] + others)
    _tell(line, b"y")
    return pid, os.pidfd_open(pid), line


_SERVER = os.getpid()


def _play(request, fds, sockets):
    """The command itself, in a process that was forked for it. Does not return."""
    import atexit
    import signal

    from ansible import constants
    from ansible.cli.playbook import PlaybookCLI

    code = 250
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for each in sockets:
            each.close()
        for number, each in enumerate(fds):
            os.dup2(each, number)
            os.close(each)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environ"])
        sys.argv = request["argv"]
        atexit._clear()  # the directory for temporary files that was made at import is the server's
        local = "DEFAULT_LOCAL_TMP"
        setattr(constants, local, constants.config.get_config_value(local))
        try:
            PlaybookCLI.cli_executor(sys.argv)
            code = 0
        except SystemExit as told:
            code = told.code if isinstance(told.code, int) else 0 if told.code is None else 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _end(pid):
    import signal

    for end in (os.killpg, os.kill):  # before its setsid it is of no group of its own
        try:
            end(pid, signal.SIGKILL)
        except OSError:
            continue


def main(words):
    if words[:1] == ["serve"]:
        return serve(words[1], words[2])
    return ask(words[1], words[2], words[3:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
