"""Who has a file open, where inode numbers or layers would name the wrong ones or too many."""

from __future__ import annotations

import os
import time

import pytest

from osremed.panorama.cache_holders import Holders
from osremed.panorama.cache_places import Places
from osremed.panorama.layers import Progress
from osremed.panorama.visits import visit_links
from osremed.sensors.mountpoints import MountPoint
from osremed.sensors.openfiles import FileLink

INODE = 261


@pytest.fixture
def holders(tmp_path):
    """On a host with two subvolumes of one btrfs, and an overlay of two layers, as processes 7 and 8 see them."""
    (tmp_path / "self").mkdir()
    subvolumes = "".join(
        f"{number} 1 0:40 /@{name} /{name} rw - btrfs /dev/sda1 rw\n" for number, name in ((20, "usr"), (21, "home"))
    )
    (tmp_path / "self" / "mountinfo").write_text(subvolumes)
    progress = Progress("files", time.monotonic() + 60)
    places = Places((), progress, str(tmp_path))
    overlay = MountPoint(30, "0:50", "/", "/", "overlay", ("/layers/upper", "/layers/lower"))
    places.by_id[overlay.mount_id] = overlay
    places.overlays.append((overlay, 8))
    return Holders(places, progress, str(tmp_path), "0:1")


def taken(holders, *links, wanted=()):
    holders.whole = True
    holders._wanted = frozenset(wanted)
    for link in links:
        holders._take(link)


@pytest.mark.parametrize("told", [{"mount_id": 20, "device": ""}, {"mount_id": 0, "device": "0:40"}])
def test_a_file_of_another_subvolume_with_the_same_inode_number_has_not_its_holders(holders, told):
    if not told["mount_id"]:
        holders.places.ours.add(7)
    taken(holders, FileLink(7, "link", "/usr/lib/libc.so.6", inode=INODE, **told))
    assert holders.of("0:40", INODE, "/usr/lib/libc.so.6") == ((7,), "")
    assert holders.of("0:40", INODE, "/home/ann/big.iso") == ((), "")
    assert holders.whole_for("0:40", INODE)


def test_a_holder_in_a_subvolume_we_cannot_place_leaves_it_unknown_who_has_it_open(holders):
    taken(holders, FileLink(7, "link", "/lib/libc.so.6", 0, "0:40", INODE))
    assert holders.of("0:40", INODE, "/home/ann/big.iso") == ((), "")
    assert not holders.whole_for("0:40", INODE)
    assert holders.whole_for("0:40", INODE + 1)


def test_of_an_overlay_s_files_only_those_that_have_a_row_are_kept(holders):
    links = [FileLink(8, "link", f"/lib/{number}", 30, "", number) for number in range(1000)]
    taken(holders, *links, wanted=("/layers/lower/lib/5",))
    assert holders.of("8:1", 99, "/layers/lower/lib/5") == ((8,), "/lib/5 (pid 8)")
    assert len(holders._by_path) == 1


@pytest.mark.parametrize(
    ("fdinfo", "whole"), [("mnt_id:\t1\nino:\t5\n", True), (None, True), ("\xff" * (1 << 21), False)]
)
def test_a_descriptor_that_cannot_be_read_leaves_the_holders_unknown_and_one_that_was_closed_does_not(
    proc, fdinfo, whole
):
    proc.process(10)
    proc.opens(10, 3, "/data/blob")
    path = f"{proc.root}/10/fdinfo/3"
    if fdinfo is None:
        os.unlink(path)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(fdinfo)
    assert visit_links([10], Progress("files", time.monotonic() + 60), proc.root, lambda link: None) is whole
