"""Pages say what happens: their commands run as they are written, and their links lead somewhere.

A block of a page whose info string is `console runnable` is run: lines after `$ ` are commands (a trailing backslash
goes on), what follows is their output (`...` is anything in a line, alone any lines), `(exit 2)` their exit code.
A block with `file=PATH` is written to PATH first. A page has one folder, with the checkout's own folders linked in.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
_LINKED = ("collections", "docs", "inventories", "osremed", "playbooks", "runbooks", "tools")
_EXIT = re.compile(r"^\(exit (\d+)\)$")


def pages():
    named = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in named.splitlines() if (ROOT / name).exists()]


def blocks(text):
    """(info words, body, line) of every fenced block."""
    for found in _FENCE.finditer(text):
        yield found["info"].split(), found["body"], text.count("\n", 0, found.start()) + 1


def steps(body):
    """(command, expected lines, exit code) of a block."""
    lines = body.splitlines()
    found = []
    while lines:
        line = lines.pop(0)
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\") and lines:
                command += "\n" + lines.pop(0)
            found.append([command, [], 0])
        elif code := _EXIT.match(line):
            found[-1][2] = int(code[1])
        else:
            found[-1][1].append(line)
    return found


def fits(expected, told):
    """Whether the output is what the page says; `...` is anything in a line, alone any lines. No output: any."""
    parts: list[list[str]] = [[]]
    for line in expected:
        if line == "...":
            parts.append([])
        else:
            parts[-1].append(re.escape(line).replace(r"\.\.\.", ".*"))
    lines, at = told.rstrip("\n").split("\n"), 0
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        places = range(at, len(lines) - len(part) + 1)
        places = places[:1] if number == 0 else places
        if last:
            places = [place for place in places if place == len(lines) - len(part) or not part]
        found = next((place for place in places if all(map(re.fullmatch, part, lines[place:]))), None)
        if found is None:
            return not expected
        at = found + len(part)
    return not expected or not parts[-1] or at == len(lines)


def is_run(page):
    return any(info[:2] == ["console", "runnable"] for info, _, _ in blocks(page.read_text(encoding="utf-8")))


def environ(folder):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OSREMED_", "ANSIBLE_", "GIT_"))}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    own = {"HOME": str(folder), "OSREMED_PREFIX": str(folder / "host"), "ANSIBLE_HOME": str(folder / "ansible")}
    who = {f"GIT_{role}_{key}": "ana" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return {**kept, **own, **who, "PATH": path, "COLUMNS": "100", "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}


@pytest.mark.parametrize("page", [page for page in pages() if is_run(page)], ids=lambda page: page.stem)
def test_what_a_page_shows_is_what_happens(page, tmp_path):
    for name in _LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    for info, body, line in blocks(page.read_text(encoding="utf-8")):
        for word in info[1:]:
            if word.startswith("file="):
                target = tmp_path / word.removeprefix("file=")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(body, encoding="utf-8")
        if info[:2] != ["console", "runnable"]:
            continue
        for command, expected, code in steps(body):
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environ(tmp_path), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
            )  # fmt: skip
            where = f"{page.relative_to(ROOT)}:{line}: $ {command}"
            assert done.returncode == code, f"{where}\n{done.stdout}"
            assert fits(expected, done.stdout), f"{where}\nsaid:\n{done.stdout}\nexpected:\n" + "\n".join(expected)


def anchors(text):
    """The names that code hosts give headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for target, anchor in _LINK.findall(text):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{target} is not there"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}: no such heading"


def test_every_guide_and_every_reason_is_reached_from_the_index():
    index = ROOT / "docs/README.md"
    linked = {(index.parent / target).resolve() for target, _ in _LINK.findall(index.read_text(encoding="utf-8"))}
    linked |= {path for folder in linked if folder.is_dir() for path in folder.iterdir()}
    folders = {ROOT / "docs/howto", ROOT / "docs/explanation", ROOT / "docs/tutorial"}
    assert [page for page in pages() if page.parent in folders and page not in linked] == []


def test_what_a_page_expects_is_held_line_by_line():
    assert fits(["a ... c", "...", "z"], "a b c\nd\ne\nz\n")
    assert fits(["1 runbooks, 0 errors"], "1 runbooks, 0 errors\n")
    assert not fits(["1 runbooks, 0 errors"], "2 runbooks, 0 errors\n")
    assert not fits(["a", "z"], "a\nb\nz\n")
    assert not fits(["a", "..."], "b\na\n")
    assert not fits(["...", "a"], "a\nb\n")
    assert fits(["a", "..."], "a\nb\nc\n")
    assert fits(["a", "..."], "a\n")
    assert steps("$ one \\\n  two\nsaid\n$ three\n(exit 2)\n") == [["one \\\n  two", ["said"], 0], ["three", [], 2]]
