"""Evidence loads only if it is whole and unaltered."""

from __future__ import annotations

import json

import pytest

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.evidence import Bundle, load_bundle, write_bundle
from osremed.core.reading import Missing, Reason

BUNDLE = Bundle(
    host="web-1",
    collected_ns=1_700_000_000_000_000_000,
    items={"panorama": {"total_bytes": 7, "name": "café"}, "fastoom": [1, None, 2.5]},
    gaps={"gpu": Missing(Reason.UNSUPPORTED, "nvml", "no driver")},
)


def test_a_bundle_comes_back_as_it_was_written(tmp_path):
    write_bundle(str(tmp_path), BUNDLE)
    assert load_bundle(str(tmp_path)) == BUNDLE


def test_its_name_is_the_hash_of_its_manifest_and_the_same_evidence_has_the_same_name(tmp_path):
    first, second = (write_bundle(str(tmp_path / name), BUNDLE) for name in "ab")
    assert first == second == sha256_hex((tmp_path / "a" / "manifest.json").read_bytes())


def test_evidence_is_private(tmp_path):
    write_bundle(str(tmp_path / "b"), BUNDLE)
    for path in [tmp_path / "b", *(tmp_path / "b").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0


def test_an_altered_item_is_refused_by_name(tmp_path):
    write_bundle(str(tmp_path), BUNDLE)
    item = tmp_path / "panorama.json"
    item.write_bytes(item.read_bytes().replace(b"7", b"8"))
    with pytest.raises(BadInput, match="altered") as caught:
        load_bundle(str(tmp_path))
    assert caught.value.where == str(item)


def test_a_removed_item_is_refused_by_name(tmp_path):
    write_bundle(str(tmp_path), BUNDLE)
    (tmp_path / "fastoom.json").unlink()
    with pytest.raises(BadInput) as caught:
        load_bundle(str(tmp_path))
    assert caught.value.where.endswith("fastoom.json")


def test_a_bundle_without_its_manifest_was_not_finished(tmp_path):
    write_bundle(str(tmp_path), BUNDLE)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(BadInput, match="no evidence bundle"):
        load_bundle(str(tmp_path))


@pytest.mark.parametrize("name", ["../escape", "a/b", "", "manifest"])
def test_an_item_cannot_be_named_like_a_path_or_the_manifest(tmp_path, name):
    with pytest.raises(BadInput, match="cannot name"):
        write_bundle(str(tmp_path / "b"), Bundle("h", 1, {name: {}}, {}))
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_a_manifest_cannot_point_outside_its_directory(tmp_path):
    data = b"{}"
    (tmp_path / "secret.json").write_bytes(data)
    inside = tmp_path / "b"
    inside.mkdir()
    items = {"../secret": {"sha256": sha256_hex(data), "bytes": 2}}
    manifest = {"host": "h", "collected_ns": 1, "items": items, "gaps": {}}
    (inside / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="cannot name"):
        load_bundle(str(inside))


@pytest.mark.parametrize(
    "manifest",
    [b"", b"null", b"[]", b"{", b'{"items":[]}', b'{"items":{"a":1}}', b"[" * 100_000, b'{"items":{},"gaps":{"a":{}}}'],
)
def test_a_manifest_of_any_other_shape_is_bad_input(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest)
    (tmp_path / "a.json").write_bytes(b"{}")
    with pytest.raises(BadInput):
        load_bundle(str(tmp_path))
