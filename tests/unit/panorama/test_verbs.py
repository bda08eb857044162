"""`osremed panorama`: bad input before anything is read, deeper looks as sources, a view of 80 columns."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason, Value
from osremed.panorama import ask, verbs
from osremed.panorama.collect import FoundFiles, FoundLines, Sources, collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.model import BalanceLine, FileRow
from osremed.panorama.page import page
from osremed.panorama.render import COLUMNS, render
from osremed.verbs.catalogue import LANGUAGES, answers
from tests.unit.spoken import spoken

MIB = 1 << 20


def test_out_of_range_is_bad_input_before_the_scan(monkeypatch):
    monkeypatch.setattr(ask, "collect_panorama", lambda **_: pytest.fail("it was scanned"))
    for wrong in (
        {"heaps": 17},
        {"pid": "x"},
        {"pid": "0"},
        {"growth": "8"},
        {"growth": "1h"},
        {"files": -1},
        {"trace": "2m"},
    ):
        with pytest.raises(BadInput):
            verbs.panorama(**wrong)


def test_heaps_get_time_of_their_own(monkeypatch):
    asked = {}
    monkeypatch.setattr(ask, "collect_panorama", lambda **given: asked.update(given) or collect_panorama(files=0))
    verbs.panorama(heaps=3, growth="8s")
    assert asked["sources"].heaps is not None
    assert asked["timeout_s"] > 2 * (2 * 6 + 8)
    verbs.panorama()
    assert asked["sources"].heaps is None


def test_deeper_looks_take_their_place_in_the_document(proc):
    proc.process(10, anon_kb=900)
    line = BalanceLine("packet rings", "kernel", Value(5 * MIB), "sockets")
    row = FileRow("/x", 0, "ext4", 7 * MIB, Value(0), Value(0), 7 * MIB, False, (), "walk")
    sources = Sources(
        files=lambda progress, pids: FoundFiles((row,), 3, 7 * MIB, "all cached files"),
        lines=lambda progress: FoundLines((line,), {"rings": 1}),
        heaps=lambda progress, rows: [{"pid": each.pid, "sentence": "it holds"} for each in rows],
    )
    plain = collect_panorama(proc_root=proc.root)
    found = collect_panorama(proc_root=proc.root, sources=sources)
    document = as_document(found)
    assert plain.balance.value.residual_bytes - found.balance.value.residual_bytes == 5 * MIB
    assert [each["path"] for each in document["files"]] == ["/x"]
    assert document["heaps"] == [{"pid": 10, "sentence": "it holds"}]
    assert document["invisible"] == {"rings": 1}
    assert "it holds" in render(found)


def test_a_source_that_cannot_falls_back_to_the_open_files_and_its_gap_is_told(proc, tmp_path):
    (tmp_path / "data").write_bytes(b"x" * MIB)
    proc.process(10)
    proc.opens(10, 3, str(tmp_path / "data"))

    def cannot(progress, pids):
        progress.gap(Missing(Reason.UNSUPPORTED, "bpf", "no BTF"))

    found = collect_panorama(proc_root=proc.root, sources=Sources(files=cannot))
    assert [row.path for row in found.files] == [str(tmp_path / "data")]
    assert any(gap.missing.detail == "no BTF" for gap in found.gaps)


def test_no_line_of_the_terminal_view_is_wider_than_eighty_columns(proc, tmp_path):
    for pid in range(10, 30):
        proc.process(pid, name="\x1b]0;evil\x07", anon_kb=pid * 1_000_000)
    found = collect_panorama(proc_root=proc.root)
    text = render(found)
    assert max(len(line) for line in text.split("\n")) <= COLUMNS
    assert "\x1b" not in text


def test_the_page_cannot_be_ended_by_what_a_process_calls_itself(proc):
    proc.process(10, name="</script><b>")
    document = as_document(collect_panorama(proc_root=proc.root))
    html = page(document)
    assert html.count("</script>") == 2
    data = html.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data) == json.loads(json.dumps(document))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_speaks_and_the_documents_words_stay(proc, language):
    proc.process(10, name="Processes")
    document = as_document(collect_panorama(proc_root=proc.root))
    english = page(document)
    with spoken(language):
        told = page(document)
    assert f'<html lang="{language.replace("_", "-")}">' in told
    data, script = (
        [re.search(rf"<script{kind}>(.*?)</script>", html, re.DOTALL).group(1) for html in (told, english)]
        for kind in (' type="application/json" id="data"', "")
    )
    assert data[0] == data[1]
    assert '"Processes"' in data[0]
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()}'" in told
    around = [html.replace(inside, "") for html, inside in zip((told, english), script)]
    for phrase in ("Who holds the memory", "Switch between light and dark", "Key figures", "Findings"):
        assert phrase in around[1]
        assert phrase not in around[0]
        assert answers(language)[phrase] in around[0]
    for phrase in ("Balance, line by line", "kernel stack, innermost first", "gain up to {1}", "gaps", "what", "of"):
        assert f'"{phrase}"' in script[1]
        assert f'"{phrase}"' not in script[0]
    assert f'["{answers(language)["of (element)"]}", (r) => r.element' in script[0]
    assert not [html for html in (told, english) if re.search(r"\b_\(", html)]
    assert script[0].count("\n") == script[1].count("\n")
    headings = [re.findall(r'\["([^"]+)", (?:\(r\)|data|list|balance|pageCache|traced)', each) for each in script]
    same = {phrase for phrase, told in zip(*reversed(headings)) if phrase == told}
    assert len(headings[1]) > 100
    assert same == {"pid", "adj", "GPU", "id"}
