"""Verbs about the command line itself."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping

from osremed import __version__
from osremed.cli.complete import SHELLS
from osremed.cli.manual import manual
from osremed.core.answer import Answer
from osremed.core.codes import CODES, EXITS, Code
from osremed.core.errors import BadInput, NotFound
from osremed.core.language import said
from osremed.verbs.table import VERBS


def all_codes() -> Mapping[str, Code]:
    """Every code; those of runbook rules where the control plane is installed."""
    try:
        rules = importlib.import_module("osremed.runbook.faults").RULES
    except ModuleNotFoundError:  # a host has no rules to lint
        rules = {}
    do = "osremed runbook lint names the place; the schema is in docs/reference/runbook.md."
    return {
        **CODES,
        **{
            f"runbook.{rule}": Code(f"A rule of runbooks is broken: {lowered(text)}.", do)
            for rule, text in rules.items()
        },
        **{
            f"exit.{int(each)}": Code(f"Exit code {int(each)}, {each.name}: {text}.", "")
            for each, text in EXITS.items()
        },
    }


def lowered(text: str) -> str:
    """A sentence as part of another."""
    return text[:1].lower() + text[1:]


def explain(*, code: str | None = None) -> Answer:
    """What a code means. The last word is enough where only one code has it: `cooldown` for `guard.cooldown`, `5` for
    the exit code."""
    codes = all_codes()
    if code is None:
        rows = [{"code": name, "means": each.means, "do": each.do} for name, each in codes.items()]
        return Answer({"codes": rows}, "\n".join(f"{name:<28} {said(each.means)}" for name, each in codes.items()))
    asked = code.strip("[]")
    found = [name for name in codes if asked in (name, name.rpartition(".")[2])]
    if asked in found:
        found = [asked]
    if not found:
        near = difflib.get_close_matches(asked, [*codes, *(name.rpartition(".")[2] for name in codes)], n=1)
        hint = f"did you mean {near[0]}?" if near else "osremed explain lists all"
        raise NotFound(f"no code {asked!r}", hint=hint)
    rows = [{"code": name, "means": codes[name].means, "do": codes[name].do} for name in found]
    text = "\n\n".join("\n".join((name, *_sentences(codes[name]))) for name in found)
    return Answer(rows[0] if len(rows) == 1 else {"codes": rows}, text.rstrip())


def _sentences(code: Code) -> tuple[str, str]:
    return f"  {said(code.means)}", f"  {said(code.do)}".rstrip()


def completion(*, shell: str) -> Answer:
    """The script; each shell's page of docs/cli.md says where it goes."""
    if shell not in SHELLS:
        raise BadInput(f"no completion for {shell!r}", where="shell", hint=f"one of {', '.join(SHELLS)}")
    script = SHELLS[shell](VERBS)
    return Answer({"shell": shell, "script": script}, script.rstrip("\n"))


def manpage() -> Answer:
    """The page in roff, all verbs in one."""
    page = manual(VERBS, __version__)
    return Answer({"page": page}, page.rstrip("\n"))
