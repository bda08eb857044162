"""Each module of the collection on this machine: check -> real -> again -> diff -> undo, by the tasks in targets/.

One Ansible process runs them all. Only what belongs to the test is changed: its own control group, processes and files;
one harmless sysctl is put back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.demo import fakenvml
from osremed.sensors import cgroup, procfs
from tests.support import an_agent

pytestmark = [
    pytest.mark.ansible,
    pytest.mark.skipif(os.geteuid() != 0, reason="sysctls and control groups need root"),
]
ROOT = Path(__file__).resolve().parents[2]
TARGETS = Path(__file__).parent / "targets"
MODULES = sorted(
    path.stem for path in (ROOT / "collections/ansible_collections/osremed/host/plugins/modules").glob("*.py")
)
SLEEPER = "import signal, sys, time; print(flush=True); time.sleep(600)"
RATELIMIT = Path("/proc/sys/kernel/printk_ratelimit")
#: The on-host command for `evidence`: echoes what it was asked, with a secret beside it.
ONHOST = """import json, sys
words = sys.argv[1:]
if words[1] == "broken":
    sys.exit(1)
print(json.dumps({"words": words, "password": "hunter2", "ratio": 0.25, "name": "ä"}))
"""
#: Keeps one unit in a file beside it, as systemd would tell of it.
SYSTEMCTL = """#!{python} -IS
import json, sys, time
path = {path!r}
facts = json.load(open(path))
if sys.argv[1] == "restart":
    facts["MainPID"] += 1
    facts["InactiveExitTimestampMonotonic"] = int(time.monotonic() * 1e6)
    json.dump(facts, open(path, "w"))
elif sys.argv[1] == "show":
    print("\\n".join("%s=%s" % item for item in facts.items()))
"""
#: One of them stands for nvidia-smi, nvidia-bug-report.sh, kubectl and scontrol: it keeps what it was asked in a file,
#: and a reset makes the driver content.
TOOLS = """#!{python} -IS
import json, os, sys
name, words, lab = os.path.basename(sys.argv[0]), sys.argv[1:], {lab!r}
with open(lab + "/tools.log", "a") as log:
    log.write(" ".join([name, *words]) + "\\n")
if name == "nvidia-smi":
    state = lab + "/scenario"
    text = open(state).read().replace("1.field230 1", "1.field230 0")
    open(state + ".new", "w").write(text)
    os.rename(state + ".new", state)
elif name == "scontrol":
    path = lab + "/slurm." + (words[2] if words[0] == "show" else words[1][9:])
    if words[0] == "update":
        open(path, "w").write("IDLE+DRAIN" if words[2] == "State=DRAIN" else "IDLE")
        open(path + ".reason", "w").write("".join(words[3:])[7:])
    reason = open(path + ".reason").read() if os.path.exists(path + ".reason") else ""
    why = " Reason=%s [root@2026-01-02T03:04:05]" % reason if reason else ""
    print("NodeName=x State=%s%s" % (open(path).read() if os.path.exists(path) else "IDLE", why))
elif name == "kubectl":
    path = lab + "/cordoned." + (words[2] if words[0] == "get" else words[1])
    if words[0] == "cordon":
        open(path, "w").close()
    elif words[0] == "uncordon":
        os.unlink(path)
    print(json.dumps({{"spec": {{"unschedulable": os.path.exists(path)}}, "items": []}}))
"""
RESETTABLE = "GPU-00000000-0000-0000-0000-000000000001"
UNIT = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "MainPID": 100, "NRestarts": 0}


def put_files(lab):
    for name in MODULES:
        (lab / name).mkdir()
        an_agent.pretend(lab / name / "agent.json", lab / name / "undo")
    (lab / "sysctl/etc/sysctl.d").mkdir(parents=True)
    (lab / "page_cache/cached").write_bytes(b"x" * (8 << 20))
    (lab / "page_cache/cached").read_bytes()
    (lab / "proc_signal/protects.json").write_text('{"protect": [{"cmdline": "sleeper-of-the-test"}]}')
    for name in ("fastoom_policy", "undo"):
        old = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "low", "scopes": [{"node": True}]}
        (lab / name / "policy.json").write_text(json.dumps(old))
        (lab / name / "policy.json").chmod(0o640)
    watched = {"apiVersion": "osremed/v1", "kind": "TimelinePolicy", "stuck_s": 60}
    (lab / "daemon_policy/policy.json").write_text(json.dumps(watched))
    (lab / "daemon_policy/policy.json").chmod(0o640)
    for name, text in (("one", "print('one')"), ("two", "print('two')"), ("bad", "raise SystemExit(3)")):
        (lab / f"wheel_release/{name}.pyz").write_text(text)
    (lab / "evidence/onhost.py").write_text(ONHOST)
    unit = {**UNIT, "InactiveExitTimestampMonotonic": 1, "ControlGroup": "/x"}
    unit["InactiveExitTimestampMonotonic"] = int(float(Path("/proc/uptime").read_text().split()[0]) * 1e6)
    (lab / "unit.json").write_text(json.dumps(unit))
    (lab / "bin").mkdir()
    (lab / "bin/systemctl").write_text(SYSTEMCTL.format(python=sys.executable, path=str(lab / "unit.json")))
    (lab / "bin/systemctl").chmod(0o755)
    for tool in ("nvidia-smi", "nvidia-bug-report.sh", "kubectl", "scontrol"):
        (lab / "bin" / tool).write_text(TOOLS.format(python=sys.executable, lab=str(lab)))
        (lab / "bin" / tool).chmod(0o755)
    (lab / "nvml").mkdir()
    fakenvml.build(lab / "nvml")
    # GPU 0 is somebody's, GPU 1 wants a reset, GPU 2 wants none and is nobody's.
    state = {"g0__processes": f"{os.getpid()}:1000", "g0__field230": 1, "g1__field230": 1}
    fakenvml.Scenario(lab / "scenario").set(gpus=3, **state)
    (lab / "gpu_app_limits/units").mkdir()
    (lab / "service_switch/demo.json").write_text('{"cache_s": 0}')
    (lab / "service_switch/switches.json").write_text(switches_of(lab / "service_switch/demo.json"))
    # Where the agent of this host looks for what the target has registered.
    (lab / "agent/var/lib/osremed/events").mkdir(parents=True)
    (lab / "agent/var/lib/osremed/undo").symlink_to(lab / "proc_oom_score/undo")


def switches_of(config):
    row = {"name": "demo-cache", "file": str(config), "key": "cache_s", "on": 1, "off": 0}
    return json.dumps({"apiVersion": "osremed/v1", "kind": "ServiceSwitches", "switches": [row]})


@contextlib.contextmanager
def sleeper():
    with subprocess.Popen([sys.executable, "-c", SLEEPER, "sleeper-of-the-test"], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        score = Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip()
        ticks = procfs.stat(child.pid).value.start_time_ticks
        yield {"pid": child.pid, "start_time_ticks": ticks, "oom_score_adj": score}
        child.kill()


@contextlib.contextmanager
def control_group():
    hierarchy = cgroup.memory_hierarchy().value
    name = f"/osremed-test-limits-{os.getpid()}"
    group = cgroup.create(hierarchy, name, 256 << 20)
    try:
        file = "memory.limit_in_bytes" if hierarchy.version == 1 else "memory.max"
        yield {"cgroup": name, "cgroup_version": hierarchy.version, "cgroup_limit_file": f"{group.directory}/{file}"}
    finally:
        with contextlib.suppress(FileNotFoundError):
            cgroup.remove(group)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Module -> "ok" or what did not hold."""
    lab = tmp_path_factory.mktemp("targets")
    put_files(lab)
    before = RATELIMIT.read_text().strip()
    with sleeper() as spared, sleeper() as ended, control_group() as group:
        facts = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "lab": str(lab),
            "osremed": str(Path(sys.executable).parent / "osremed"),
            "ratelimit_before": before,
            "ratelimit_wanted": str(int(before) + 3),
            "resettable": RESETTABLE,
            "spared": spared,
            "ended": ended,
            **group,
        }
        inventory = {"all": {"children": {"targets": {"hosts": dict.fromkeys(MODULES), "vars": facts}}}}
        try:
            text = play(lab, inventory)
        finally:
            RATELIMIT.write_text(before)
    told = {name: lab / f"{name}.result" for name in MODULES}
    return {name: path.read_text() if path.exists() else text for name, path in told.items()}


def gpu_environment(lab):
    """For programs that are to find the GPUs of `put_files`."""
    return {"LD_LIBRARY_PATH": str(lab / "nvml"), "OSREMED_FAKE_NVML": str(lab / "scenario")}


def play(lab, inventory):
    """What ansible-playbook printed."""
    (lab / "hosts.json").write_text(json.dumps(inventory))
    environ = {
        "PATH": f"{lab / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_HOME": str(lab / "home"),
        "ANSIBLE_LOCAL_TEMP": str(lab / "local"),
        "ANSIBLE_REMOTE_TEMP": str(lab / "remote"),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
        **gpu_environment(lab),
    }
    argv = ["ansible-playbook", "--forks", "3", "-i", str(lab / "hosts.json"), str(TARGETS / "play.yml")]
    ended = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=280, cwd=lab, check=False)
    return ended.stdout[-8000:] + ended.stderr[-4000:]


@pytest.mark.parametrize("module", MODULES)
def test_the_target_of_the_module_holds(results, module):
    assert results[module] == "ok", results[module]
