"""mountinfo -> where a path inside a file system is seen, with overlays and names of any bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.sensors.mountpoints import below, parse_mount_points

LINE = rb"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
SPACED = rb"37 35 98:1 / /with\040space\134slash rw - tmpfs none rw"
OPTIONS = rb"rw,lowerdir=/l1:/l\134:2:l/REL,upperdir=/var/o/7/diff,workdir=/var/o/7/work"  # the kernel writes \ as \134
OVERLAY = rb"40 35 0:50 / /merged rw - overlay overlay " + OPTIONS


def one(line):
    (mount,) = parse_mount_points(line)
    return mount


def test_a_path_is_seen_where_the_mount_shows_its_part_of_the_file_system():
    mount = one(LINE)
    assert (mount.mount_id, mount.device, mount.kind) == (36, "98:0", "ext3")
    assert mount.shows("/mnt1/a/b") == "/mnt2/a/b"
    assert mount.shows("/mnt1") == "/mnt2"
    assert mount.shows("/mnt10/a") is None
    assert mount.shows("/other") is None


def test_escapes_are_undone():
    assert one(SPACED).shows("/x") == "/with space\\slash/x"


def test_the_root_mount_adds_no_second_slash():
    assert one(rb"1 0 8:1 / / rw - ext4 /dev/sda1 rw").shows("/etc") == "/etc"


def test_layers_of_an_overlay_come_upper_first_with_their_escapes_undone():
    assert one(OVERLAY).layers == ("/var/o/7/diff", "/l1", "/l:2", "l/REL")


@pytest.mark.parametrize(("path", "directory", "rest"), [("/a/b", "/a", "/b"), ("/a", "/a", ""), ("/ab", "/a", None)])
def test_what_lies_below_a_directory(path, directory, rest):
    assert below(path, directory) == rest


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data):
    with contextlib.suppress(ValueError):
        parse_mount_points(data)
