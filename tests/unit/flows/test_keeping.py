"""The dispatcher puts what is kept in order by itself."""

from __future__ import annotations

import asyncio
import os
import time
from types import SimpleNamespace

from osremed.core.journal import read_journal
from osremed.flows import dispatcher
from osremed.flows.settings import ControlPaths
from osremed.runbook.canary import Ended, Planned
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import _line, begin, canary_ids, driving
from osremed.runbook.retention import Keep
from tests.support.console_state import ROOT
from tests.support.kept import operator_on


def test_canaries_that_are_over_and_what_requests_left_go_while_it_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher, "_KEEP_PERIOD_S", 0.01)
    monkeypatch.setattr(dispatcher, "_HEALTH_PERIOD_S", 0.01)
    paths, entry = ControlPaths(str(tmp_path)), load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))
    for name in ("1" * 16, "2" * 16):
        begin(paths.canaries, Planned(name, "near-oom", entry.digest, ("a",), {}, 0.0, 0.0, "ann"), entry)
    with driving(paths.canaries, "1" * 16) as journal:
        journal.append(_line(Ended("")))
    os.makedirs(paths.requests)
    for name in ("1" * 16, "2" * 16):
        with open(f"{paths.requests}/canary-{name}.log", "wb"):
            pass
    for folder, _folders, names in os.walk(tmp_path):
        for name in names:
            os.utime(os.path.join(folder, name), ns=(10**18, 10**18))
    settings = dispatcher.DispatcherSettings(paths, str(ROOT / "runbooks"), "http://127.0.0.1:1", "", 0, "", Keep())
    lead = SimpleNamespace(check=lambda: None)
    serving = dispatcher.Dispatcher(settings, operator_on(paths.runs, tmp_path), print, print, lead)

    async def keep():
        task, deadline = asyncio.create_task(serving._keep()), time.monotonic() + 30.0
        while len(os.listdir(paths.requests)) > 1 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(keep())
    assert canary_ids(paths.canaries) == ["2" * 16]
    assert os.listdir(paths.requests) == [f"canary-{'2' * 16}.log"]
    assert [line.record["verb"] for line in read_journal(paths.hands).entries] == ["canary-retire"]
