#!/usr/bin/env python3
"""Writes osremed/timeline/tables.json from tools/gpu_tables/*.tsv; `--check` only compares.

Each table keeps its source line. What other tools say otherwise stays beside the entry, under their name: a reader
sees the disagreement instead of one side of it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tools" / "gpu_tables"
OUTPUT = ROOT / "osremed" / "timeline" / "tables.json"
_WHO = re.compile(r"(gpud|DCGM|NVSentinel)\b[: ]?\s*(.*)")


def rows(name: str) -> tuple[str, list[dict[str, str]]]:
    """(source line, rows by column). ValueError with file:line for a row that does not fit the header."""
    path = FOLDER / f"{name}.tsv"
    source, header, *lines = path.read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    found = []
    for number, line in enumerate(lines, start=3):
        cells = line.split("\t")
        if len(cells) > len(columns):
            raise ValueError(f"{path}:{number}: {len(cells)} cells for {len(columns)} columns")
        cells += [""] * (len(columns) - len(cells))
        found.append({column: "" if cell == "-" else cell for column, cell in zip(columns, cells, strict=True)})
    return source.lstrip("# ").removeprefix("source: "), found


def disagreements(note: str) -> dict[str, str]:
    """Who says otherwise -> what. Remarks without a name are filed under `note`."""
    found: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in note.split(";"))):
        named = _WHO.match(part)
        who, says = (named.group(1), named.group(2)) if named else ("note", part)
        found[who] = f"{found[who]}; {says}" if who in found else says
    return found


def xid_entry(row: dict[str, str]) -> dict[str, object]:
    return {
        "mnemonic": row["mnemonic"],
        "label": row["label"],
        "severity": row["severity"] or "unknown",
        "action": row["immediate_action"],
        "investigate": row["investigatory_action"],
        "dcgm": row["dcgm_class"],
        "others": disagreements(row["note"]),
    }


def document() -> dict[str, object]:
    xid_source, xids = rows("xid")
    sxid_source, sxids = rows("sxid")
    nvlink_source, rules = rows("nvlink5")
    return {
        "xid": {"source": xid_source, "codes": {row["code"]: xid_entry(row) for row in xids}},
        "sxid": {
            "source": sxid_source,
            "codes": {row["code"]: {"label": row["label"], "fatal": row["fatal"]} for row in sxids},
        },
        "nvlink5": {"source": nvlink_source, "rules": rules},
    }


def main() -> int:
    text = json.dumps(document(), indent=1, sort_keys=True) + "\n"
    if "--check" in sys.argv[1:]:
        same = OUTPUT.exists() and OUTPUT.read_text(encoding="utf-8") == text
        print("up to date" if same else f"{OUTPUT} differs: run tools/make_gpu_tables.py")
        return 0 if same else 1
    OUTPUT.write_text(text, encoding="utf-8")
    print(f"{OUTPUT}: {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
