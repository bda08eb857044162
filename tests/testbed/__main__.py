"""`tools/testbed`: namespace hosts or virtual machines that stay until `down`. One fleet at a time."""

from __future__ import annotations

import json
import os
import sys

from tests.testbed import nspawn
from tests.testbed.state import Session, open_session, sessions
from tests.testbed.vm import open_vm
from tests.testbed.vmimage import TestbedUnavailable
from tests.testbed.vmqemu import Machine

_USAGE = "usage: tools/testbed up [N] | up-vm [N] | list | ssh NAME [COMMAND...] | run COMMAND... | inventory | down"


def _kept() -> Session | None:
    return next((session for session in sessions() if "fleet" in session.notes), None)


def _up(count: int) -> str:
    """Starts the hosts; what was started is gone again when one of them does not come up."""
    if why := nspawn.missing_here():
        return why
    if _kept() is not None:
        return "hosts are up already\n  hint: tools/testbed down"
    session = open_session(keep=True)
    try:
        bed = nspawn.NspawnBed(session)
        hosts = bed.start(count)
        inventory = bed.write_inventory(session.directory / "hosts.json", hosts, **bed.reach_from_outside())
        ssh = bed.ssh_options
        session.note(fleet={host.name: host.address for host in hosts}, inventory=str(inventory), ssh=ssh)
    except BaseException:
        session.close()
        raise
    _list(session)
    return ""


def _up_vm(count: int) -> str:
    """The same with virtual machines, which are reached from anywhere on this machine."""
    if _kept() is not None:
        return "hosts are up already\n  hint: tools/testbed down"
    session = open_session(keep=True)
    try:
        machines = [open_vm(session, Machine(), name=f"vm{number}") for number in range(count)]
        found = [machine.variables() for machine in machines]
        hosts = {f"vm{number}": variables for number, variables in enumerate(found)}
        inventory = session.directory / "hosts.json"
        inventory.write_text(json.dumps({"osremed": {"hosts": hosts}}, indent=1))
        fleet = {name: f"127.0.0.1:{machine.port}" for name, machine in zip(hosts, machines)}
        logins = {name: machine.login_command() for name, machine in zip(hosts, machines)}
        session.note(fleet=fleet, inventory=str(inventory), logins=logins)
    except TestbedUnavailable as error:
        session.close()
        return str(error)
    except BaseException:
        session.close()
        raise
    _list(session)
    return ""


def _list(session: Session) -> None:
    for name, address in session.notes["fleet"].items():
        print(f"{name}  {address}")


def _inside(session: Session, argv: list[str]) -> None:
    """Becomes the command, where the hosts can be reached."""
    os.execvp("nsenter", ["nsenter", f"--net=/run/netns/osr-{session.id}-c", *argv])


def main(words: list[str]) -> str:
    """What went wrong; empty when nothing did."""
    verb, rest = (words[0], words[1:]) if words else ("", [])
    if verb in ("up", "up-vm") and len(rest) <= 1 and all(word.isdigit() and 0 < int(word) < 100 for word in rest):
        return (_up if verb == "up" else _up_vm)(int(rest[0]) if rest else 1)
    if verb not in ("list", "ssh", "run", "inventory", "down") or (verb in ("ssh", "run") and not rest):
        return _USAGE
    session = _kept()
    if session is None:
        return "no hosts are up\n  hint: tools/testbed up 3"
    if verb == "ssh" and rest[0] not in session.notes["fleet"]:
        return f"no host {rest[0]}\n  hint: tools/testbed list"
    if "logins" in session.notes and verb in ("ssh", "run"):
        argv = [*session.notes["logins"][rest[0]], *rest[1:]] if verb == "ssh" else rest
        os.execvp(argv[0], argv)
    elif verb == "ssh":
        _inside(session, ["ssh", *session.notes["ssh"], f"root@{session.notes['fleet'][rest[0]]}", *rest[1:]])
    elif verb == "run":
        _inside(session, rest)
    elif verb == "inventory":
        print(session.notes["inventory"])
    elif verb == "list":
        _list(session)
    else:
        session.close()
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
