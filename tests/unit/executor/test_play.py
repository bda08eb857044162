from __future__ import annotations

import shlex

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.action import Call
from osremed.core.errors import BadInput
from osremed.executor.play import render_ending, render_play


class Loader(yaml.SafeLoader):
    """Reads `!unsafe` the way Ansible does: the scalar is resolved as if it had no tag."""


def _unsafe(loader, node):
    return loader.construct_object(
        yaml.ScalarNode(loader.resolve(yaml.ScalarNode, node.value, (True, False)), node.value)
    )


Loader.add_constructor("!unsafe", _unsafe)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_characters="{")), inner),
    max_leaves=8,
)
WORDS = st.sampled_from(
    ["on", "1", "null", "", "~", "2026-01-01", "{{ x }}", "#jinja2: a", "=", "<<", "0x1f", "{", "[]"]
)


@given(st.dictionaries(st.sampled_from(["a", "b"]), JSON | WORDS))
def test_every_json_value_survives_the_text_form(args):
    play = yaml.load(render_play(Call("a.b.c", args, "h", 5)), Loader)
    assert play[0]["tasks"][0]["a.b.c"] == args


@given(st.text())
def test_a_template_is_always_marked_unsafe(text):
    play = render_play(Call("a.b.c", {"x": "{{" + text}, "h", 5))
    assert '"{{' not in play.replace('!unsafe "{{', "")


@pytest.mark.parametrize("host", ["all:!x", "*", "", "a b", "~re", "@file", "-i", "a,b", "h\n", "{{ x }}"])
def test_a_pattern_is_not_a_host(host):
    with pytest.raises(BadInput):
        render_play(Call("a.b.c", {}, host, 5))


@pytest.mark.parametrize("module", ["ping", "shell: id", "a.b", "a.b.c d", "A.b.c"])
def test_a_module_needs_its_full_name(module):
    with pytest.raises(BadInput):
        render_play(Call(module, {}, "h", 5))


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_call_needs_a_bound(timeout_s):
    with pytest.raises(BadInput):
        render_play(Call("a.b.c", {}, "h", timeout_s))


def test_a_key_that_could_be_a_template_is_refused():
    with pytest.raises(BadInput, match=r"args\.x"):
        render_play(Call("a.b.c", {"x": {"{{ y }}": 1}}, "h", 5))


def test_what_ends_a_call_on_its_host_has_one_template_and_it_names_the_interpreter():
    (play,) = yaml.load(render_ending("h", "0a1b", 20), Loader)
    (task,) = play["tasks"]
    words = shlex.split(play["vars"]["osremed_ending"])
    assert task["ansible.builtin.raw"].endswith(" -c {{ osremed_ending }}")
    assert len(words) == 1
    compile(words[0], "ending", "exec")
    assert "'0a1b'" in words[0]
    assert "osremed_ending: !unsafe" in render_ending("h", "0a1b", 20), "braces of the program are no template"
