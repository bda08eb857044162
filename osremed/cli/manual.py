"""The manual page, in roff (man(7)), made from the table of verbs and the table of exit codes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from osremed.core.codes import EXITS
from osremed.verbs.model import OUTPUTS, Arg, Verb


def roff(text: str) -> str:
    """Text that roff shows as it is: no escape, no request, hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in ".'" else escaped


def _usage(verb: Verb) -> str:
    words = [f"\\fBosremed {roff(' '.join(verb.words))}\\fR"]
    for arg in verb.all_args:
        if not arg.name.startswith("-"):
            name = f"\\fI{roff(arg.name)}\\fR"
            words.append(f"[{name}]" if arg.kind == "optional" else f"{name} ..." if arg.kind == "list" else name)
        elif arg.required:
            words.append(f"\\fB{roff(arg.name)}\\fR \\fI{roff(arg.dest)}\\fR")
    rest = any(arg.name.startswith("-") and not arg.required for arg in verb.all_args)
    return " ".join([*words, "[\\fIoption\\fR ...]"] if rest else words)


def _argument(arg: Arg) -> Iterator[str]:
    name = f"\\fB{roff(arg.name)}\\fR" if arg.name.startswith("-") else f"\\fI{roff(arg.name)}\\fR"
    value = f" \\fI{roff(arg.dest)}\\fR" if arg.name.startswith("-") and arg.kind != "flag" else ""
    default = f" Default: {roff(str(arg.default))}." if arg.default not in (None, "") else ""
    yield from (".RS", ".TP", f"{name}{value}", f"{roff(arg.help[:1].upper() + arg.help[1:])}.{default}", ".RE")


def _verb(verb: Verb) -> Iterator[str]:
    yield from (".TP", _usage(verb), f"{roff(verb.help[:1].upper() + verb.help[1:])}.")
    for arg in verb.all_args:
        yield from _argument(arg)


def manual(verbs: Sequence[Verb], version: str) -> str:
    lines = [
        f'.TH OSREMED 1 "" "osremed {version}" "User Commands"',
        ".SH NAME",
        "osremed \\- near\\-OOM protection, evidence, and verified, reversible remediation",
        ".SH SYNOPSIS",
        ".B osremed",
        "\\fIverb\\fR [\\fIargument\\fR ...] [\\fB\\-o\\fR \\fIas\\fR] [\\fB\\-\\-debug\\fR]",
        ".SH DESCRIPTION",
        "Data goes to standard output, everything else to standard error.",
        "An error is one line with a code in brackets, and a hint; \\fBosremed explain\\fR \\fIcode\\fR tells more.",
        ".SH OPTIONS OF EVERY VERB",
        *(".TP", "\\fB\\-o\\fR, \\fB\\-\\-output\\fR \\fIas\\fR", "What to print:"),
    ]
    for name, meaning in OUTPUTS.items():
        lines += [".RS", ".TP", f"\\fB{name}\\fR", f"{roff(meaning)}", ".RE"]
    lines += [".TP", "\\fB\\-\\-debug\\fR", "Show where an error comes from.", ".SH VERBS"]
    for verb in verbs:
        lines += _verb(verb)
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXITS.items():
        lines += [".TP", f"\\fB{int(code)}\\fR", roff(meaning)]
    lines += [
        ".SH ENVIRONMENT",
        *(".TP", "\\fBNO_COLOR\\fR", "If set and not empty: no colour, on terminals too."),
        *(".TP", "\\fBOSREMED_LOG\\fR", "What services log: debug, info, warning or error."),
        "",
    ]
    return "\n".join(lines)
