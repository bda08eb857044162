"""What is drawn of a look at a host: the true cells, and nothing of what a host only claims to be one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.console.looks import CELLS, DRAWN, Heat, Looks, gpus_of, heat_of
from osremed.core.reading import Missing, Reason
from osremed.hotspot.render import COLUMN_NS
from osremed.hotspot.report import profile_document
from tests.support.answers import fits
from tests.support.look_documents import SECOND, gpus_document, heat_document
from tests.unit.hotspot.made import frame, profile, sample


def test_a_cell_is_where_and_as_dark_as_its_samples_say():
    taken = [sample(0.000, frame("f"))] * 4 + [sample(0.990, frame("f"))] * 2
    heat = heat_of(profile_document(profile(*taken, length_s=2.0)))
    assert isinstance(heat, Heat)
    assert COLUMN_NS * CELLS == 10**9
    assert [(cell.at_ms, cell.count, cell.darkness) for cell in heat.seconds[0].cells] == [(0, 4, 1.0), (980, 2, 0.57)]
    assert (heat.seconds[1].cells, heat.seconds[1].samples, heat.samples, heat.top) == ((), 0, 6, 4)
    assert heat.processes[0][0].startswith("app")


def test_seconds_beyond_what_is_drawn_are_counted():
    rows = [{"second": SECOND + n, "samples": [1] * 50} for n in range(90)]
    heat = heat_of(heat_document(heat=rows))
    assert (len(heat.seconds), heat.omitted) == (60, 30)


@pytest.mark.parametrize(
    "heat",
    [
        None,
        [7],
        [{"second": SECOND, "samples": [0] * 49}],
        [{"second": SECOND, "samples": [True] * 50}],
        [{"second": SECOND, "samples": [-1] * 50}],
        [{"second": 1 << 40, "samples": [1] * 50}],
        [{"samples": [1] * 50}],
    ],
)
def test_heat_of_another_shape_is_missing_not_empty(heat):
    found = heat_of(heat_document(heat=heat))
    assert isinstance(found, Missing)
    assert found.reason is Reason.MALFORMED


def test_a_gpu_that_hangs_is_a_gap_and_an_unread_figure_is_missing_not_zero():
    found = gpus_of(gpus_document())
    (gpu,) = found.rows
    assert (gpu.vram_used_bytes, gpu.sm_util_percent) == (3 << 30, 97)
    assert gpu.temperature_celsius.reason is Reason.DENIED
    assert [(index, why.split(":")[0]) for index, why in found.gaps] == [("1", "timed_out")]
    none = gpus_of(gpus_document(inventory={"missing": "gone", "source": "nvml", "detail": "no driver"}, gpus=[]))
    assert none.gaps[0] == ("", "gone: no driver")
    bare = gpus_of(gpus_document(gpus=[], hung={}, inventory={"gpus": 0, "driver_version": "550"}))
    assert (bare.rows, bare.gaps) == ((), ())


@pytest.mark.parametrize("wrong", [{"inventory": None}, {"inventory": {}}, {"unreadable": {"0": "x"}}])
def test_a_host_that_does_not_say_what_it_has_is_not_shown_as_one_without_gpus(wrong):
    found = gpus_of(gpus_document(**{"gpus": [], "hung": {}, **wrong}))
    assert isinstance(found, Missing) or found.gaps


def test_what_is_beyond_the_rows_shown_is_counted():
    heat = heat_of(heat_document(gaps=[f"gap {n}" for n in range(20)]))
    assert (heat.gaps[0], heat.gaps[-1], len(heat.gaps)) == ("gap 0", "+ 12", 9)
    assert heat_of(heat_document(gaps=None)).gaps != ()
    assert isinstance(heat_of(heat_document(states={})).processes, Missing)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_host_sends_is_drawn_or_missing(data):
    for operation, document in (("hotspot_at", heat_document()), ("timeline_gpus", gpus_document())):
        key = data.draw(st.sampled_from(sorted(document)))
        DRAWN[operation]({**document, key: data.draw(json_values)})


def test_the_newest_look_of_each_host_is_kept_and_the_oldest_go():
    looks = Looks()
    for number in range(600):
        looks.keep("hotspot_at", f"h{number}", heat_document(), number)
    looks.keep("hotspot_at", "h599", heat_document(), 1000)
    assert looks.of("hotspot_at", "h0") is None
    assert looks.of("hotspot_at", "h599").taken_ns == 1000
    assert looks.of("timeline_gpus", "h599") is None
    looks.keep("hotspot_at", "h599", ["no"], 1001)
    assert isinstance(looks.of("hotspot_at", "h599").found, Missing)


def test_the_documents_are_of_the_types_that_openapi_tells():
    fits("hotspot_at", profile_document(profile(sample(0.5, frame("f")))))
    fits("hotspot_at", heat_document())
    fits("timeline_gpus", gpus_document())
