"""The picture of the VRAM story shows what was measured, and a restart does not flatten it."""

import re

from osremed.demo.vram_picture import Sight, draw_vram

MIB = 1 << 20
S = 1_000_000_000
SERVED = 38000 * MIB
GROWING = [Sight(at * S, (SERVED + at * 26 * MIB, SERVED + at * 14 * MIB)) for at in range(20)]
RESTART = [Sight(20 * S, (0, 0)), *(Sight(at * S, (SERVED, SERVED)) for at in range(21, 30))]
CHAIN = {"line": "/srv/runner.py:41", "places": [{"marks": [[3 * S, 14 * MIB], [4 * S, 14 * MIB]]}]}


def curves(body):
    """Heights of each curve, as drawn."""
    paths = re.findall(r'class="o-curve" d="([^"]*)"', body)
    return [[float(point.split(",")[1]) for point in path.split()] for path in paths]


def test_growth_rises_over_the_whole_strip_though_a_restart_falls_to_nothing():
    drawn = draw_vram([*GROWING, *RESTART], CHAIN, {"alert": 5 * S, "restarted": 21 * S}, 1)
    for heights in curves(drawn.body):
        assert heights[0] - heights[19] > 100
        assert max(heights) == heights[20]
        assert heights[21] == heights[29]


def test_marks_lie_on_the_curve_of_the_gpu_of_the_alert():
    drawn = draw_vram(GROWING, CHAIN, {"alert": 5 * S}, 1)
    heights = curves(drawn.body)[1]
    marks = [float(y) for y in re.findall(r'<circle[^>]* cy="([0-9.]+)"', drawn.body)]
    assert marks == [heights[3], heights[4]]


def test_the_label_of_the_last_moment_stays_in_the_picture():
    drawn = draw_vram(GROWING, CHAIN, {"alert": 5 * S, "undone": 19 * S}, 0)
    assert 'text-anchor="end">undone<' in drawn.body
    assert "runner.py:41" in drawn.body
    assert "/srv" not in drawn.body
