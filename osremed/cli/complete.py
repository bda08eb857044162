"""Completion scripts for bash, zsh and fish, made from the table of verbs. Pure.

They are whole: no program is started while somebody types. A value of an option completes as a file, except where the
table says which words it may be, or where its names lie, in folders or a line each in files: those are read by the
shell itself, and only names of plain letters are offered. Whoever may not read them is offered none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from osremed.core.record import record
from osremed.verbs.model import Arg, Verb
from osremed.verbs.table import GROUPS

_EVERYWHERE = ("--help", "--debug", "-o")


@record
class Place:
    """What may follow `words`: verbs below it (word -> help), and its own arguments if it is a verb."""

    words: tuple[str, ...]
    below: Mapping[str, str]
    verb: Verb | None

    @property
    def options(self) -> tuple[Arg, ...]:
        return tuple(arg for arg in self.verb.all_args if arg.name.startswith("-")) if self.verb else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Where the names lie that its first plain argument may be."""
        plain = [arg for arg in self.verb.all_args if not arg.name.startswith("-")] if self.verb else []
        return plain[0].names if plain else ()


def places(verbs: Sequence[Verb]) -> list[Place]:
    """Every beginning of a verb, and every verb, in the order of the table."""
    by_words = {verb.words: verb for verb in verbs}
    below: dict[tuple[str, ...], dict[str, str]] = {(): {}}
    for verb in verbs:
        for depth, word in enumerate(verb.words):
            here, there = verb.words[:depth], verb.words[: depth + 1]
            told = by_words[there].help if there in by_words else GROUPS[there]
            below.setdefault(here, {}).setdefault(word, told)
            below.setdefault(there, {})
    return [Place(words, rows, by_words.get(words)) for words, rows in below.items()]


def _pattern(words: Sequence[str]) -> str:
    return f'"{" ".join(words)}"'


def _bash_case(place: Place) -> str:
    names = [*place.below, *(arg.name for arg in place.options), *(_EVERYWHERE if place.verb else ("--help",))]
    folders = f' folders="{" ".join(place.names)}"' if place.names else ""
    return f'    {_pattern(place.words)}) words="{" ".join(names)}"{folders} ;;'


def _bash_named(place: Place) -> list[str]:
    """Options of a verb whose values are names."""
    return [
        f'    {_pattern((*place.words, arg.name))}) folders="{" ".join(arg.names)}"; _osremed_names; return ;;'
        for arg in place.options
        if arg.names
    ]


_BASH_NAMES = r"""_osremed_names() {
  local folder each
  for folder in $folders; do
    if [[ -f "$folder" && -r "$folder" ]]; then
      while read -r each; do
        [[ "$each" == "$cur"* && "$each" =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] && COMPREPLY+=("$each")
      done < "$folder"
      continue
    fi
    for each in "$folder/$cur"*/; do
      each="${each%/}"; each="${each##*/}"
      [[ "$each" =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] && COMPREPLY+=("$each")
    done
  done
}"""


def bash(verbs: Sequence[Verb]) -> str:
    found = places(verbs)
    paths = "|".join(_pattern(place.words) for place in found if place.words)
    valued = sorted({arg.name for place in found for arg in place.options if arg.kind != "flag"})
    outputs = " ".join(dict.fromkeys(each for verb in verbs for each in verb.outputs))
    return "\n".join(
        (
            "# bash completion of osremed; made by: osremed completion bash",
            _BASH_NAMES,
            "_osremed() {",
            '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"',
            '  local at="" words="" folders="" i next',
            "  COMPREPLY=()",
            "  for ((i = 1; i < COMP_CWORD; i++)); do",
            '    next="${at:+$at }${COMP_WORDS[i]}"',
            f'    case "$next" in {paths}) at="$next" ;; esac',
            "  done",
            '  case "$at $prev" in',
            *(line for place in found for line in _bash_named(place)),
            "  esac",
            '  case "$prev" in',
            f'    -o|--output) mapfile -t COMPREPLY < <(compgen -W "{outputs}" -- "$cur"); return ;;',
            f"    {'|'.join(valued)}) COMPREPLY=(); return ;;",
            "  esac",
            '  case "$at" in',
            *map(_bash_case, found),
            "  esac",
            '  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")',
            "  _osremed_names",
            "}",
            "complete -o default -o bashdefault -F _osremed osremed",
            "",
        )
    )


def _quoted(text: str) -> str:
    """A word in single quotes, for zsh and fish alike."""
    return "'" + text.replace("\\", "\\\\").replace("'", "'\\''") + "'"


def _zsh_name(words: Sequence[str]) -> str:
    return "_".join(("_osremed", *words)).replace("-", "_")


def _zsh_text(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", "\\:")


def _zsh_value(arg: Arg) -> str:
    """What the value of an option completes as."""
    if arg.kind == "flag":
        return ""
    return f":value: _osremed_names {' '.join(arg.names)}" if arg.names else ":value:_files"


_ZSH_NAMES = """_osremed_names() {
  local folder each
  local -a found
  for folder in "$@"; do
    if [[ -f $folder && -r $folder ]]; then
      while read -r each; do [[ $each =~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' ]] && found+=($each); done < $folder
      continue
    fi
    for each in $folder/*(N/:t); do [[ $each =~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' ]] && found+=($each); done
  done
  compadd -a found
}"""


def _zsh_options(place: Place) -> list[str]:
    outputs = " ".join(place.verb.outputs) if place.verb else ""
    rows = [f"{arg.name}[{_zsh_text(arg.help)}]{_zsh_value(arg)}" for arg in place.options]
    rows += ["--help[show help]"]
    rows += [f"1:name: _osremed_names {' '.join(place.names)}"] if place.names else []
    if place.verb:
        rows += ["--debug[show where an error comes from]", f"-o[what to print]:output:({outputs})", "*:file:_files"]
    return [_quoted(row) for row in rows]


def _zsh_function(place: Place) -> list[str]:
    head = [f"{_zsh_name(place.words)}() {{"]
    if not place.below:
        return [*head, f"  _arguments -s {' '.join(_zsh_options(place))}", "}"]
    rows = " ".join(_quoted(f"{word}:{_zsh_text(text)}") for word, text in place.below.items())
    cases = [f"    {word}) shift words; (( CURRENT-- )); {_zsh_name((*place.words, word))} ;;" for word in place.below]
    own = [f"      _arguments -s {' '.join(_zsh_options(place))}"] if place.verb else []
    return [
        *head,
        f"  local -a verbs=({rows})",
        '  if (( CURRENT == 2 )) && [[ "$words[2]" != -* ]]; then',
        "    _describe verb verbs",
        *(own or ["    return"]),
        "    return",
        "  fi",
        '  case "$words[2]" in',
        *cases,
        f"    *) _arguments -s {' '.join(_zsh_options(place))} ;;",
        "  esac",
        "}",
    ]


def zsh(verbs: Sequence[Verb]) -> str:
    lines = ["#compdef osremed", "# zsh completion of osremed; made by: osremed completion zsh", _ZSH_NAMES]
    for place in places(verbs):
        lines += _zsh_function(place)
    return "\n".join(
        (*lines, 'if [ "$funcstack[1]" = "_osremed" ]; then _osremed "$@"; else compdef _osremed osremed; fi', "")
    )


def _fish_names(folders: Sequence[str]) -> str:
    return _quoted(f"(__osremed_names {' '.join(folders)})")


_FISH_NAMES = """function __osremed_names
    for folder in $argv
        if test -f $folder -a -r $folder
            string match -r '^[A-Za-z0-9][A-Za-z0-9._-]*$' < $folder
            continue
        end
        for each in $folder/*/
            string match -r '^[A-Za-z0-9][A-Za-z0-9._-]*$' -- (string replace -r '.*/([^/]+)/$' '$1' -- $each)
        end
    end
end"""


def _fish_rows(place: Place) -> list[str]:
    at = f"-n {_quoted('__osremed_at ' + ' '.join(place.words))}"
    rows = [f"complete -c osremed {at} -f -a {word} -d {_quoted(text)}" for word, text in place.below.items()]
    for arg in place.options:
        value = "" if arg.kind == "flag" else f" -x -a {_fish_names(arg.names)}" if arg.names else " -r"
        rows.append(f"complete -c osremed {at} -l {arg.name.lstrip('-')}{value} -d {_quoted(arg.help)}")
    if place.names:
        rows.append(f"complete -c osremed {at} -f -a {_fish_names(place.names)} -d name")
    if place.verb:
        outputs = " ".join(place.verb.outputs)
        rows.append(f"complete -c osremed {at} -s o -l output -x -a {_quoted(outputs)} -d 'what to print'")
        rows.append(f"complete -c osremed {at} -l debug -d 'show where an error comes from'")
    return rows


def fish(verbs: Sequence[Verb]) -> str:
    found = places(verbs)
    known = " ".join(_quoted(" ".join(place.words)) for place in found if place.words)
    lines = [
        "# fish completion of osremed; made by: osremed completion fish",
        _FISH_NAMES,
        "function __osremed_at",
        "    set -l at",
        "    for word in (commandline -opc)[2..-1]",
        "        set -l next (string join -- ' ' $at $word)",
        f"        contains -- $next {known}; and set at $next",
        "    end",
        '    test "$at" = "$argv"',
        "end",
        "complete -c osremed -l help -d 'show help'",
    ]
    for place in found:
        lines += _fish_rows(place)
    return "\n".join((*lines, ""))


SHELLS: Mapping[str, Callable[[Sequence[Verb]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
