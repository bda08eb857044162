"""What a verb is: words, the function behind them, its arguments, and which faces show it."""

from __future__ import annotations

from typing import Any, NamedTuple

#: -o: what it prints. Each is made from the answer's document, the same way for every verb.
OUTPUTS = {
    "text": "for reading",
    "table": "one row a line, a column a value",
    "json": "the whole document",
    "jsonl": "one row a line, each a JSON object",
    "yaml": "the whole document",
    "name": "one name a line, for xargs",
}


class Arg(NamedTuple):
    """One argument. `name` without dashes is positional; `kind` is `text`, `int`, `flag`, `list` or, for
    one that may be left out, `optional`. `place` is a path on the machine of the control plane: a face that is reached
    over the network sets it from its own configuration and never takes it from a caller. `names` are folders, and
    files of lines: what lies in them may be said here, and shells offer it. `alone` is for who sits at the command
    line: no other face has it; `needed_afar` may be left out there and nowhere else."""

    name: str
    help: str
    kind: str = "text"
    default: Any = None
    required: bool = False
    place: bool = False
    names: tuple[str, ...] = ()
    alone: bool = False
    needed_afar: bool = False

    @property
    def dest(self) -> str:
        """The keyword of the function: `--for` is a word of Python, so it arrives as `hold`."""
        return {"--for": "hold"}.get(self.name, self.name.lstrip("-").replace("-", "_"))


class Verb(NamedTuple):
    words: tuple[str, ...]
    function: str  #: `module:function`, keyword arguments as named below, returns an Answer
    help: str
    args: tuple[Arg, ...] = ()
    html: bool = False  #: has a page: -o html
    elsewhere: str = ""  #: `module:function` of the control plane, called instead with --host: it takes ELSEWHERE too
    evidence: str = ""  #: the kind of evidence its document is: with --opinion a model reads it, too
    light: bool = False  #: a daemon: nothing but its own code is loaded, its arguments are parsed without argparse
    route: str = ""  #: method and path over HTTP; "" for verbs of the command line alone
    asks_model: bool = False  #: text leaves for a model, at a price: few calls, and none for programs that choose verbs
    scope: str = ""  #: what a token needs for it: read, run, approve or admin

    @property
    def outputs(self) -> tuple[str, ...]:
        """What -o may be."""
        return (*OUTPUTS, "html") if self.html else tuple(OUTPUTS)

    @property
    def all_args(self) -> tuple[Arg, ...]:
        return (*self.args, *(ELSEWHERE if self.elsewhere else ()), *(JUDGED if self.evidence else ()))


STATE = Arg("--state", "state directory of the control plane", default="/var/lib/osremed/control", place=True)
INVENTORY = Arg("--inventory", "Ansible inventory", default="/etc/osremed/inventory", place=True)
COLLECTIONS = Arg(
    "--collections", "where the collection osremed.host is installed", default="./collections", place=True
)
SOURCE = Arg("--source", "where the rules come from", default="/etc/osremed/gitops.yaml", place=True)
RUNBOOKS = Arg("--runbooks", "folder of runbooks", default="/etc/osremed/runbooks", place=True)
API_URL = Arg("--api-url", "Prefect API", default="http://127.0.0.1:4200/api")
SARIF = Arg("--sarif", "write the problems there (SARIF 2.1.0)")
FIX = Arg("--fix", "mend what was beyond doubt meant otherwise: another spelling of a word, of a unit", kind="flag")
OPINION = Arg("--opinion", "whether and which model may be asked", default="/etc/osremed/opinion.yaml", place=True)

#: Where the control plane leaves the names of the inventory's hosts.
HOSTS = (f"{STATE.default}/work/hosts",)
#: The runbooks in force: those of a folder, or of GitOps.
LIVE = (RUNBOOKS.default, f"{STATE.default}/gitops/live/runbooks")

#: Arguments of a verb that can ask another host.
ELSEWHERE = (
    Arg("--host", "the same of this host of the inventory", names=HOSTS),
    *(each._replace(help=f"{each.help}, with --host") for each in (INVENTORY, COLLECTIONS, STATE)),
)

#: Arguments of a verb whose document a model may read, and what is then called with its answer.
JUDGED = (
    Arg("--opinion", "and what a model makes of it, where that is switched on", kind="flag"),
    Arg("--settings", "with --opinion: whether and which model may be asked", default=OPINION.default),
    STATE._replace(help=f"{STATE.help}, with --opinion"),
)
BESIDE = "osremed.opinion.verbs:beside"
