"""Sums the JUnit reports of all stages: one closing line, and each skip with its reason."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def main() -> int:
    folder, skipped_stages = Path(sys.argv[1]), int(sys.argv[2])
    passed = failed = skipped = 0
    for report in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            skip = case.find("skipped")
            if skip is not None:
                skipped += 1
                print(f"skipped: {case.get('classname')}.{case.get('name')}: {skip.get('message')}")
            elif case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            else:
                passed += 1
    if skipped_stages:
        print(f"{skipped_stages} stages skipped, see above")
    if passed + failed + skipped:
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
