"""sysctl, cgroup_limits and proc_oom_score on trees that look like a kernel's."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _cgroup, _kernelvalue, _sysctl, _undo, _values
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._reload import start_ticks
from ansible_collections.osremed.host.plugins.modules import cgroup_limits, proc_oom_score, sysctl

from tests.support import an_agent


def options_of(module, **given):
    spec = module.argument_spec()
    assert set(given) <= set(spec), set(given) - set(spec)
    return {name: given.get(name, facts.get("default")) for name, facts in spec.items()}


@pytest.fixture
def host(tmp_path):
    """`values` writes files of a kernel; twins of vm.dirty_* zero each other as the kernel does it."""
    (tmp_path / "etc/sysctl.d").mkdir(parents=True)

    def put(**values):
        for name, text in values.items():
            path = tmp_path / "proc/sys" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    def get(name):
        return (tmp_path / "proc/sys" / name).read_text().strip()

    def ask(check=False, **given):
        agent = an_agent.pretend(tmp_path / "agent.json", tmp_path / "undo")
        places = {"undo_dir": str(tmp_path / "undo"), "agent_status": agent}
        given = {**places, "file": str(tmp_path / "etc/sysctl.d/90-x.conf"), **given}
        return sysctl.change(options_of(sysctl, **given), check, str(tmp_path))

    drop_in = tmp_path / "etc/sysctl.d/90-x.conf"
    return SimpleNamespace(put=put, get=get, ask=ask, drop_in=drop_in, undo_dir=tmp_path / "undo", root=tmp_path)


def test_a_sysctl_is_previewed_set_kept_and_undone(host):
    host.put(vm__swappiness="60", net__tcp="4096\t131072\t6291456")
    wanted = {"vm.swappiness": 10, "net.tcp": "4096 131072  9999999"}
    preview = host.ask(check=True, settings=wanted, undo_id="u")
    assert (host.get("vm/swappiness"), host.drop_in.exists(), host.undo_dir.exists()) == ("60", False, False)
    real = host.ask(settings=wanted, undo_id="u", confirm_within=60.0)
    assert real["diff"] == preview["diff"]
    assert real["previous"] == preview["previous"]
    assert (host.get("vm/swappiness"), host.get("net/tcp")) == ("10", "4096 131072 9999999")
    assert "vm.swappiness = 10\n" in host.drop_in.read_text()
    again = host.ask(settings=wanted, undo_id="u")
    assert (again["changed"], again["previous"]) == (False, real["previous"])
    undone = host.ask(**real["previous"])
    assert (undone["changed"], host.get("vm/swappiness"), host.drop_in.exists()) == (True, "60", False)
    assert not host.ask(**real["previous"])["changed"]


def test_white_space_alone_is_no_change(host):
    host.put(net__tcp="4096\t131072\t6291456")
    host.drop_in.write_text("net.tcp=4096   131072 6291456\n")
    assert not host.ask(settings={"net.tcp": " 4096 131072 6291456\n"})["changed"]


def test_the_record_takes_back_values_and_drop_in(host):
    host.put(vm__swappiness="60")
    host.drop_in.write_text("# mine\nvm.swappiness = 60\nkernel.x = 1\n")
    before = host.drop_in.read_bytes()
    host.ask(settings={"vm.swappiness": 10}, undo_id="u")
    assert host.drop_in.read_text() == "# mine\nvm.swappiness = 10\nkernel.x = 1\n"
    assert _undo.revert(str(host.undo_dir), "u", False)[0] == "restored"
    assert (host.get("vm/swappiness"), host.drop_in.read_bytes()) == ("60", before)


def test_the_record_is_on_disk_before_the_first_value_is_written(host, monkeypatch):
    host.put(vm__swappiness="60")
    write, seen = _values.write_value, []

    def look(path, text, guard=None):
        seen.append(json.loads((host.undo_dir / "u.json").read_text())["values"][0]["previous"])
        return write(path, text, guard)

    monkeypatch.setattr(_values, "write_value", look)
    host.ask(settings={"vm.swappiness": 10}, undo_id="u")
    assert seen == ["60"]


def test_a_kill_between_two_values_is_finished_by_the_same_call_and_undone_to_the_oldest(host):
    host.put(vm__a="1", vm__b="2")
    wanted = {"vm.a": 5, "vm.b": 6}
    child = os.fork()
    if child == 0:
        write = _values.write_value
        _values.write_value = lambda path, *rest: os._exit(9) if path.endswith("/b") else write(path, *rest)
        host.ask(settings=wanted, undo_id="u")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (host.get("vm/a"), host.get("vm/b")) == ("5", "2")
    done = host.ask(settings=wanted, undo_id="u")
    assert done["previous"]["settings"] == {"vm.a": "1", "vm.b": "2"}
    assert _undo.revert(str(host.undo_dir), "u", False)[0] == "restored"
    assert (host.get("vm/a"), host.get("vm/b")) == ("1", "2")


def test_a_value_that_the_kernel_does_not_take_puts_all_back(host, monkeypatch):
    host.put(vm__a="1", vm__b="2")
    write = _values.write_value

    def refuse(path, text, guard=None):
        if path.endswith("/b"):
            raise OSError(22, "Invalid argument", path)
        return write(path, text, guard)

    monkeypatch.setattr(_values, "write_value", refuse)
    with pytest.raises(ActionFailed, match=r"vm/b: Invalid argument\. Hint: .*Nothing changed") as refused:
        host.ask(settings={"vm.a": 5, "vm.b": 6}, undo_id="u")
    assert refused.value.facts["changed"] is False
    assert (host.get("vm/a"), host.drop_in.exists(), list(host.undo_dir.glob("*.json"))) == ("1", False, [])


def test_a_value_that_the_kernel_rounds_is_a_failure_and_not_a_surprise(host, monkeypatch):
    host.put(vm__a="1")
    write = _values.write_value
    monkeypatch.setattr(
        _values, "write_value", lambda path, text, guard=None: write(path, "4" if text == "5" else text)
    )
    with pytest.raises(ActionFailed, match="keeps '4' instead of '5'"):
        host.ask(settings={"vm.a": 5})
    assert host.get("vm/a") == "1"


def test_a_drop_in_that_cannot_be_written_puts_the_values_back(host, monkeypatch):
    host.put(vm__a="1")

    def full(path, wanted):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(_values, "put_state", full)
    with pytest.raises(ActionFailed, match="No space left"):
        host.ask(settings={"vm.a": 5})
    assert (host.get("vm/a"), host.drop_in.exists()) == ("1", False)


@pytest.fixture
def zeroing(host, monkeypatch):
    """The kernel's handling of vm.dirty_bytes and vm.dirty_ratio: one zeroes the other, and bytes cannot be 0."""
    write = _kernelvalue.write_value

    def kernel(path, text, guard=None):
        if path.endswith("dirty_bytes") and text == "0":
            raise OSError(22, "Invalid argument", path)
        twin = {"dirty_bytes": "dirty_ratio", "dirty_ratio": "dirty_bytes"}[os.path.basename(path)]
        write(os.path.join(os.path.dirname(path), twin), "0")
        return write(path, text, guard)

    monkeypatch.setattr(_values, "write_value", kernel)
    monkeypatch.setattr(_kernelvalue, "write_value", kernel)
    return host


@pytest.mark.parametrize(
    ("size", "ratio", "name", "value"),
    [
        ("0", "20", "vm.dirty_bytes", "8192"),
        ("8192", "0", "vm.dirty_ratio", "30"),
        ("8192", "0", "vm.dirty_bytes", "4096"),
    ],
)
@pytest.mark.parametrize("how", ["record", "arguments"])
def test_parameters_that_zero_each_other_are_undone_together(zeroing, size, ratio, name, value, how):
    zeroing.put(vm__dirty_bytes=size, vm__dirty_ratio=ratio)
    done = zeroing.ask(settings={name: value}, undo_id="u", persist=False)
    assert zeroing.get(name.replace(".", "/")) == value
    if how == "record":
        assert _undo.revert(str(zeroing.undo_dir), "u", False)[0] == "restored"
    else:
        assert zeroing.ask(**done["previous"])["changed"]
    assert (zeroing.get("vm/dirty_bytes"), zeroing.get("vm/dirty_ratio")) == (size, ratio)


def test_a_parameter_that_this_kernel_lacks_fails_or_is_left_out(host):
    host.put(vm__a="1")
    with pytest.raises(ActionFailed, match=r"no sysctl vm\.zzz .*Hint"):
        host.ask(settings={"vm.a": 2, "vm.zzz": 1})
    done = host.ask(settings={"vm.a": 2, "vm.zzz": 1}, ignore_missing=True)
    assert (done["missing"], host.get("vm/a"), "zzz" in host.drop_in.read_text()) == (["vm.zzz"], "2", False)


def test_what_someone_else_changed_since_is_a_conflict(host):
    host.put(vm__a="1")
    done = host.ask(settings={"vm.a": 2})
    host.put(vm__a="7")
    with pytest.raises(ActionFailed, match="someone else"):
        host.ask(**done["previous"])
    host.put(vm__a="2")
    host.drop_in.write_text("# theirs\n")
    with pytest.raises(ActionFailed, match="someone else"):
        host.ask(**done["previous"])
    assert (host.get("vm/a"), host.drop_in.read_text()) == ("2", "# theirs\n")


def test_only_the_drop_in_can_be_changed_and_undone_by_its_record(host):
    host.put(vm__a="1")
    host.ask(settings={"vm.a": 2}, runtime=False, undo_id="u")
    assert (host.get("vm/a"), "vm.a = 2" in host.drop_in.read_text()) == ("1", True)
    assert _undo.revert(str(host.undo_dir), "u", False)[0] == "restored"
    assert not host.drop_in.exists()


@pytest.mark.parametrize(
    "name",
    ["", "swappiness", "vm..a", "../etc/passwd", "vm/../a", "/vm/a", "vm.*", "vm.a=1", "vm.drop_caches",
     "vm/drop_caches", "kernel.core_pattern", "kernel.modules_disabled", "fs.binfmt_misc.x", "vm.a\n"],
)  # fmt: skip
def test_a_name_that_is_none_or_no_value_is_refused(name):
    with pytest.raises(ActionFailed):
        _sysctl.canonical_name(name)


def test_both_ways_to_write_a_name_are_one(host):
    assert _sysctl.canonical_name("net/ipv4/conf/eth0.1/forwarding") == "net.ipv4.conf.eth0/1.forwarding"
    assert _sysctl.path_of("net.ipv4.conf.eth0/1.forwarding", "/") == "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
    for twice in ({"vm.a": 1, "vm/a": 2}, {"vm.dirty_bytes": 1, "vm.dirty_ratio": 2}, {"vm.a": [1]}, {"vm.a": None}):
        with pytest.raises(ActionFailed):
            _sysctl.check_settings(twice)


def test_a_line_of_a_twin_leaves_the_drop_in():
    assert _sysctl.merge_drop_in("vm.dirty_ratio = 20\n-vm/x=1\n", {"vm.dirty_bytes": "1", "vm.x": "2"}) == (
        "vm.x = 2\nvm.dirty_bytes = 1\n"
    )


@pytest.mark.parametrize("file", ["/etc/sysctl.conf", "/etc/sysctl.d/x", "sysctl.d/x.conf"])
def test_only_a_drop_in_is_written(host, file):
    host.put(vm__a="1")
    with pytest.raises(ActionFailed, match="not a drop-in"):
        host.ask(settings={"vm.a": 2}, file=file)


MOUNTINFO = """24 20 0:22 / {root}/memory rw - cgroup cgroup rw,memory
25 20 0:23 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct
26 20 0:24 / {root}/pids rw - cgroup cgroup rw,pids
"""


@pytest.fixture(params=[1, 2])
def groups(request, tmp_path):
    """A group /a/b with 1 MiB in use, in version 1 or 2."""

    def put(controller, **files):
        directory = tmp_path / (controller if request.param == 1 else "") / "a/b"
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name.replace("__", ".")).write_text(text + "\n")

    limits = {"pids__max": "max"}
    if request.param == 1:
        put("memory", memory__limit_in_bytes=_cgroup.V1_MAX, memory__memsw__limit_in_bytes=_cgroup.V1_MAX,
            memory__usage_in_bytes="1048576")  # fmt: skip
        put("cpu", cpu__shares="1024", cpu__cfs_period_us="100000", cpu__cfs_quota_us="-1")
        text = MOUNTINFO.format(root=tmp_path)
    else:
        put("", memory__max="max", memory__high="max", memory__low="0", memory__min="0", memory__swap__max="max",
            memory__current="1048576", cpu__weight="100", cpu__max="max 100000",
            cgroup__controllers="cpu memory pids")  # fmt: skip
        text = f"30 20 0:30 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    put("pids", **limits)

    def ask(check=False, **given):
        given = {"undo_dir": str(tmp_path / "undo"), "cgroup": "/a/b", **given}
        return cgroup_limits.change(options_of(cgroup_limits, **given), check, _cgroup.parse_mounts(text))

    def held():
        return {path.name: path.read_text().strip() for path in sorted(tmp_path.glob("**/a/b/*"))}

    return SimpleNamespace(ask=ask, held=held, version=request.param, undo_dir=str(tmp_path / "undo"))


WANTED = {"memory_max": "64MiB", "swap_max": "16MiB", "cpu_weight": 50, "cpu_max": "50000", "pids_max": "100"}


def test_limits_are_previewed_set_and_undone_in_both_versions(groups):
    before = groups.held()
    preview = groups.ask(check=True, undo_id="u", **WANTED)
    assert groups.held() == before
    real = groups.ask(undo_id="u", **WANTED)
    assert real["diff"] == preview["diff"]
    held = groups.held()
    if groups.version == 1:
        assert (held["memory.limit_in_bytes"], held["memory.memsw.limit_in_bytes"]) == ("67108864", str(80 << 20))
        assert (held["cpu.shares"], held["cpu.cfs_quota_us"], held["cpu.cfs_period_us"]) == ("512", "50000", "100000")
    else:
        assert (held["memory.max"], held["memory.swap.max"]) == ("67108864", "16777216")
        assert (held["cpu.weight"], held["cpu.max"]) == ("50", "50000 100000")
    assert held["pids.max"] == "100"
    again = groups.ask(undo_id="u", **WANTED)
    assert (again["changed"], again["previous"]) == (False, real["previous"])
    assert groups.ask(**real["previous"])["changed"]
    assert groups.held() == before
    groups.ask(**{**WANTED, "undo_id": "v"})
    assert _undo.revert(groups.undo_dir, "v", False)[0] == "restored"
    assert groups.held() == before


def test_a_limit_below_what_is_in_use_is_refused_unless_it_is_meant(groups):
    before = groups.held()
    with pytest.raises(ActionFailed, match=r"below the 1048576 bytes that are in use .*Hint"):
        groups.ask(memory_max="512K", undo_id="u")
    assert groups.held() == before
    assert groups.ask(memory_max="512K", fail_below_usage=False)["changed"]


def test_what_version_1_lacks_is_said(groups):
    if groups.version == 1:
        with pytest.raises(ActionFailed, match="UNSUPPORTED: memory_high"):
            groups.ask(memory_high="64MiB")
    else:
        assert (
            groups.ask(memory_high="64MiB", memory_low="4096", memory_min="5000")["values"]["memory.min"]["after"]
            == "4096"
        )


@pytest.mark.parametrize("cgroup", ["/", "a/b", "/a/../b", "/a//b", "/a/b/", "/nope"])
def test_a_group_is_a_path_below_the_hierarchy(groups, cgroup):
    with pytest.raises(ActionFailed):
        groups.ask(cgroup=cgroup, pids_max="5")


@pytest.mark.parametrize(
    "bad",
    [{}, {"memory_max": "-1"}, {"memory_max": "1.5G"}, {"memory_max": "many"}, {"cpu_weight": 0}, {"cpu_max": "1 2 3"},
     {"cpu_max": "50000 5"}, {"pids_max": "0"}, {"exact": {"cgroup.procs": "1"}}, {"exact": {"../x": "1"}}],
)  # fmt: skip
def test_bad_limits_are_named_and_change_nothing(groups, bad):
    before = groups.held()
    with pytest.raises(ActionFailed):
        groups.ask(**bad)
    assert groups.held() == before


def test_a_controller_that_is_not_enabled_is_said(groups, tmp_path):
    if groups.version == 2:
        (tmp_path / "a/b/cgroup.controllers").write_text("cpu\n")
        with pytest.raises(ActionFailed, match=r"UNSUPPORTED: the controller memory .*subtree_control"):
            groups.ask(memory_max="64MiB")
    else:
        with pytest.raises(ActionFailed, match="UNSUPPORTED: no cgroup hierarchy"):
            _cgroup.group({}, "/a/b", "memory")


def test_version_1_raises_the_sum_first_and_lowers_it_last(groups):
    if groups.version == 1:
        assert list(groups.ask(memory_max="64MiB", swap_max="0")["values"])[-1] == "memory.memsw.limit_in_bytes"
        assert next(iter(groups.ask(memory_max="128MiB", swap_max="0")["values"])) == "memory.memsw.limit_in_bytes"


def score(**given):
    pid = os.getpid()
    given = {"pid": pid, "start_time_ticks": start_ticks(pid), "value": 500, **given}
    return proc_oom_score.change(options_of(proc_oom_score, **given), True)


def test_a_score_is_for_exactly_one_process():
    assert score()["changed"]
    assert not score()["gone"]
    assert score(start_time_ticks=1)["gone"]
    assert not score(start_time_ticks=1)["changed"]
    assert score(cmdline=os.path.basename(sys.executable))["changed"]
    with pytest.raises(ActionFailed, match="not the one that was meant"):
        score(cmdline="^nobody is called this$")
    with pytest.raises(ActionFailed, match="someone else"):
        score(expect=-7)
    for bad in ({"value": 1001}, {"value": -1001}, {"pid": 0}, {"cmdline": "("}):
        with pytest.raises(ActionFailed):
            score(**bad)
