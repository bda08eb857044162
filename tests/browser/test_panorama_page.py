"""Panorama's page in a browser: it draws, sorts, filters, answers the keyboard, and shows hostile names as text."""

from __future__ import annotations

import contextlib
import copy

import pytest

from osremed.panorama.collect import collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.page import page as page_of
from osremed.panorama.sources import kernel_sources

GIB, MIB = 1 << 30, 1 << 20
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "{{script}} ${alert(4)} `alert(5)`",
    "javascript:alert(6)",
    "evil\u202egpj.exe\x1b[31m\x00\u2028line",
    "<!--<script>",
    "__proto__",
]


def line(name, kind, count, parts=()):
    return {
        "name": name, "kind": kind, "bytes": count, "share": 0, "source": "MemInfo", "method": "kernel counter",
        "overlap": "", "error_bytes": 0, "note": "", "parts": [{"name": each, "bytes": size} for each, size in parts],
    }  # fmt: skip


@pytest.fixture
def document():
    lines = [
        line("anonymous memory", "anon", 4 * GIB),
        line("page cache of files", "file", 2 * GIB),
        line("slab, reclaimable", "kernel", GIB, [("dentry", 600 * MIB), ("ext4_inode_cache", 424 * MIB)]),
        line("per-CPU data", "kernel", {"missing": "unsupported", "source": "/proc/meminfo", "detail": "no Percpu"}),
        line("unaccounted", "unaccounted", -3 * MIB),
        line("free", "free", GIB + 3 * MIB),
    ]
    processes = [
        {"pid": pid, "name": f"app{pid}", "heap_bytes": heap * MIB, "pss_bytes": {"missing": "denied", "source": "s",
         "detail": "ptrace"}, "private_bytes": 1, "file_bytes": 0, "shmem_bytes": 0, "swap_bytes": 0,
         "page_table_bytes": 0, "oom_score_adj": 0, "container": "", "cmdline": f"/bin/app {pid}"}
        for pid, heap in ((11, 5), (2, 900), (300, 40))
    ]  # fmt: skip
    return {
        "scope": "node", "host": "web-1", "taken_ns": 1_700_000_000 * 10**9, "total_bytes": 8 * GIB,
        "available_bytes": GIB, "balance": {"total_bytes": 8 * GIB, "residual_bytes": -3 * MIB, "lines": lines},
        "processes": processes, "containers": [], "dying_groups": [], "files": [], "heaps": [], "growth": None,
        "findings": [{"name": "page-cache-hog", "summary": "a file", "confidence": 0.9, "evidence": ["files[0]"],
                      "expected_gain": "", "kind": "reclaimable", "held_bytes": GIB, "gain_bytes": GIB,
                      "action": "page_cache", "with": {"paths": ["/x"]}, "how": "drop it"}],
        "gaps": [{"layer": "files", "missing": "denied", "source": "/proc/1/maps", "detail": "no", "count": 3}],
        "layers": [{"name": "balance", "rows": 6, "finished": True}], "durations_s": {"balance": 0.0123},
        "coverage": {"ratio": 0.5, "statement": "half of it"},
        "cost": {"cpu_s": 0.1, "wall_s": 0.2, "peak_rss_bytes": 20 * MIB},
        "history": {"times_ns": [1, 2, 3], "lines": {"anonymous memory": [1, 3, 2]}},
    }  # fmt: skip


def column(page, section, index):
    return page.locator(f"section:has(h2:text-is('{section}')) tbody tr td:nth-child({index})").all_inner_texts()


def test_the_page_tells_balance_findings_gaps_and_its_own_cost(open_page, document):
    page = open_page(page_of(document))
    words = page.locator("body").inner_text()
    for expected in ("8.0 GiB", "page-cache-hog", "drop it", "/proc/1/maps", "0.10 s of CPU", "half of it", "web-1"):
        assert expected in words
    assert page.locator("#map g[role=button]").count() > 8
    assert page.locator("svg.spark path").count() == 1
    assert "unsupported" in column(page, "Balance, line by line", 2)[3]


def test_tables_sort_by_number_in_both_directions_and_by_name(open_page, document):
    page = open_page(page_of(document))
    heap = page.get_by_role("button", name="heap", exact=True)
    heap.click()
    assert column(page, "Processes", 1) == ["2", "300", "11"]
    heap.click()
    assert column(page, "Processes", 1) == ["11", "300", "2"]
    assert page.locator("th[aria-sort=ascending]").inner_text() == "heap"
    page.get_by_role("button", name="pid", exact=True).press("Enter")
    assert column(page, "Processes", 1) == ["300", "11", "2"]


def test_the_filter_keeps_rows_that_hold_the_words(open_page, document):
    page = open_page(page_of(document))
    page.get_by_label("Filter Processes").fill("APP30")
    assert column(page, "Processes", 1) == ["300"]
    page.get_by_label("Filter Processes").fill("nothing like it")
    assert column(page, "Processes", 1) == []
    assert "0 of 3" in page.locator("section:has(h2:text-is('Processes')) .bar").inner_text()


def test_the_balance_is_walked_and_entered_by_keyboard(open_page, document):
    page = open_page(page_of(document))
    page.locator("#map g[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    assert "anonymous memory" in page.locator("#told").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#told").inner_text().startswith("kernel: 1.0 GiB")
    page.keyboard.press("Enter")
    assert "all memory \u203a kernel" in page.locator("#crumbs").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("#told").inner_text().startswith("dentry: 600.0 MiB")
    page.keyboard.press("Escape")
    assert page.locator("#crumbs").inner_text().startswith("all memory ·")


def test_a_file_is_told_with_who_pays_and_what_frees_it(open_page, document):
    file = {"path": "/x", "cached_bytes": GIB, "dirty_bytes": 0, "size_bytes": GIB, "filesystem": "ext4",
            "type": "file", "open_by": [7], "deleted": False, "active_bytes": MIB, "frees": "action page_cache",
            "charged_to": [{"group": "/docker/abc", "bytes": GIB - MIB}, {"group": "", "bytes": MIB}]}  # fmt: skip
    unpaid = {**file, "path": "/y", "charged_to": {"missing": "no_data", "source": "pages", "detail": "not scanned"}}
    group = {"name": "shop/web", "cgroup": "/docker/abc", "kind": "container", "runtime": "docker"}
    page = open_page(page_of({**document, "files": [file, unpaid], "containers": [group]}))
    paid, frees = column(page, "Files in page cache", 9), column(page, "Files in page cache", 10)
    assert paid == ["shop/web 1023.0 MiB, no group 1.0 MiB", "no_data"]
    assert frees[0] == "action page_cache"


def test_gpu_memory_kernel_holdings_and_kept_allocations_have_tables_of_their_own(open_page, document):
    more = {
        "gpus": [{"gpu": "GPU-1", "name": "H", "total_bytes": 80 * GIB, "used_bytes": 9 * GIB, "unnamed_bytes": GIB}],
        "vram": [{"pid": 7, "name": "train", "bytes": 8 * GIB, "gpu": "GPU-1", "container": "/docker/abc",
                  "source": "NVML", "regions": {}}],
        "invisible": {"owners": [{"kind": "packet ring", "detail": "eth0", "bytes": MIB, "uncounted_bytes": MIB,
                                  "held_by": ["tcpdump (9)"], "overlap": "a ring made by vmalloc counts there"}]},
        "allocations": {"seconds": 2.0, "seen": 9, "dropped": 0, "keepers": [
            {"bytes": MIB, "allocations": 3, "counted_as": "", "functions": ["packet_set_ring", "do_syscall_64"],
             "comm": "tcpdump", "pid": 9}]},
    }  # fmt: skip
    path = {"held_in": "shop.Cart.ITEMS", "container": "java.util.ArrayList", "detail": "Size: 7", "object": "byte[]",
            "path": "shop.Cart.ITEMS -> byte[]", "samples": 9, "stack": ["shop.Cart.add", "Main.main"]}  # fmt: skip
    heap = {"name": "java", "pid": 7, "sentence": "it grows", "recording": {"samples": 9, "paths": [path]}}
    page = open_page(page_of({**document, **more, "heaps": [heap]}))
    assert column(page, "Java: where what was made meanwhile hangs", 3) == ["java.util.ArrayList, Size: 7"]
    assert column(page, "GPU memory by process", 3) == ["8.0 GiB"]
    assert column(page, "GPUs: a pool of its own, not RAM", 3) == ["80.0 GiB"]
    assert column(page, "Held by the kernel for somebody", 5) == ["tcpdump (9)"]
    assert column(page, "Page allocations that were kept", 5) == ["packet_set_ring < do_syscall_64"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_reader_s_scheme_and_can_be_switched(open_page, document, scheme):
    page = open_page(page_of(document), color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    assert (sum(int(part) for part in before[4:-1].split(",")) < 200) is (scheme == "dark")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate(background) != before


def test_nothing_is_wider_than_a_phone(open_page, document):
    page = open_page(page_of(document), viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_hostile_names_are_text_and_nothing_else(open_page, document):
    """The judge is the fixture too: a script that ran would raise a dialog, an image would be a request."""
    hostile = copy.deepcopy(document)
    names = iter(HOSTILE * 40)
    for table in ("processes", "gaps", "findings", "layers"):
        hostile[table] = [{**entry, **{key: next(names) for key, value in entry.items() if isinstance(value, str)}}
                          for entry in hostile[table] for _ in HOSTILE]  # fmt: skip
    for each in hostile["balance"]["lines"]:
        each.update(source=next(names), note=next(names))
        each["parts"] = [{"name": name, "bytes": 50 * MIB} for name in HOSTILE]
    hostile["files"] = [
        {"path": name, "cached_bytes": MIB, "dirty_bytes": 0, "size_bytes": 1, "filesystem": name, "open_by": [name],
         "deleted": False, "method": name}
        for name in HOSTILE
    ]  # fmt: skip
    hostile.update(host=HOSTILE[0], scope=HOSTILE[1])
    hostile["coverage"]["statement"] = HOSTILE[2]
    page = open_page(page_of(hostile))
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    assert page.evaluate("document.querySelectorAll('img, iframe, object, link, svg svg').length") == 0
    paths = column(page, "Files in page cache", 1)
    assert paths[:3] == HOSTILE[:3]
    assert paths[5] == "evil\\u202egpj.exe\\u001b[31m\\u0000\\u2028line"


def test_the_page_admits_no_script_but_its_own(chromium, document, tmp_path):
    """As if a name had broken out of the data after all."""
    html = page_of(document).replace("<main>", "<main><script>window.ran = 1</script><b onclick='window.ran = 2'>x</b>")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    with contextlib.closing(chromium.new_page()) as page:
        page.goto(f"file://{tmp_path}/page.html")
        page.locator("main > b").click()
        assert page.evaluate("window.ran") is None
        assert "page-cache-hog" in page.locator("#findings").inner_text()  # its own script did run


@pytest.mark.parametrize(
    "change",
    [{"balance": {"missing": "denied", "source": "/proc/meminfo", "detail": ""}},
     {"total_bytes": {"missing": "denied"}},
     {"processes": None, "files": "x", "findings": 7, "gaps": {}, "layers": None}, {"cost": None, "coverage": None},
     {"history": {"lines": {"anonymous memory": [None, None]}}}],
)  # fmt: skip
def test_a_document_with_holes_still_gives_a_page(open_page, document, change):
    page = open_page(page_of({**document, **change}))
    assert "Who holds the memory" in page.locator("h1").inner_text()


def test_this_host_s_own_page_has_no_error_and_cuts_no_table(open_page):
    panorama = collect_panorama(growth_s=0.2, sources=kernel_sources())
    page = open_page(page_of(as_document(panorama)), viewport={"width": 1200, "height": 900})
    cut = "[...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth).length"
    assert page.evaluate(cut) == 0
    assert page.locator("section:has(h2:text-is('Processes')) tbody tr").count() == len(panorama.processes)


def test_an_unreadable_host_is_a_page_that_says_so(open_page, tmp_path):
    document = as_document(collect_panorama(proc_root=str(tmp_path)))
    page = open_page(page_of(document))
    assert "not collected" in page.locator("#crumbs").inner_text()
