"""Whose a control group is, from paths as runtimes make them, and names from trees of their state files."""

from __future__ import annotations

import errno
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import containers
from osremed.sensors.containers import Label, Owner, label_of, owner_of, unit_of

ID = "0123456789abcdef" * 4
TASK = f"{'ab' * 16}-1234567890"
UID = "1b9a2f30-1c2d-4e5f-8a9b-0c1d2e3f4a5b"
UID_ = UID.replace("-", "_")
FORMS = [
    (f"/docker/{ID}", "docker", "container", ID, ""),
    (f"/system.slice/docker-{ID}.scope", "docker", "container", ID, ""),
    (f"/ecs/4c1b0e/{TASK}", "docker", "container", TASK, ""),
    (f"/system.slice/nerdctl-{ID}.scope", "containerd", "container", ID, ""),
    (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope",
     "containerd", "container", ID, UID),
    (f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}",
     "containerd", "container", ID, UID),
    (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope", "crio", "container", ID, UID),
    (f"/machine.slice/libpod-{ID}.scope", "podman", "container", ID, ""),
    (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
     "podman", "container", ID, ""),
    (f"/kubepods/burstable/pod{UID}/{ID}", "kubernetes", "container", ID, UID),
    (f"/kubepods/besteffort/pod{UID}", "kubernetes", "pod", UID, UID),
    ("/lxc/web", "lxc", "container", "web", ""),
    ("/lxc.payload.web/system.slice/nginx.service", "lxc", "container", "web", ""),
    ("/machine.slice/machine-web\\x2d1.scope/payload/system.slice/cron.service", "nspawn", "machine", "web-1", ""),
    ("/machine.slice/systemd-nspawn@web.service/payload", "nspawn", "machine", "web", ""),
    ("/machine.slice/machine-qemu\\x2d3\\x2dweb.scope/libvirt/emulator", "libvirt", "machine", "web", ""),
    ("/system.slice/nginx.service/worker", "systemd", "unit", "nginx.service", ""),
    ("/user.slice/user-0.slice/session-3.scope", "systemd", "unit", "session-3.scope", ""),
    ("/user.slice/user-0.slice", "systemd", "slice", "user-0.slice", ""),
    (f"/docker/{ID}/docker/{'f' * 64}", "docker", "container", "f" * 64, ""),
]  # fmt: skip


@pytest.mark.parametrize(("path", "runtime", "kind", "identity", "pod_uid"), FORMS, ids=lambda value: str(value)[-30:])
def test_the_path_tells_runtime_kind_id_and_pod(path, runtime, kind, identity, pod_uid):
    owner = owner_of(path)
    assert (owner.runtime, owner.kind, owner.id, owner.pod_uid) == (runtime, kind, identity, pod_uid)
    assert path.startswith(owner.path)
    assert owner_of(owner.path) == owner


@pytest.mark.parametrize(
    "path",
    ["/", "/apps", f"/docker/{ID[:-1]}", f"/docker/{ID}0", f"/machine/crio-conmon-{ID}", f"/x/libpod-conmon-{ID}",
     "/lxc.monitor.web", f"/{ID}", "/kubepods/podnot-a-uid"],
)  # fmt: skip
def test_what_only_looks_like_a_container_is_none(path):
    assert owner_of(path) is None


@pytest.mark.parametrize(("path", "unit"), [
    ("/system.slice/docker.service", "docker.service"),
    ("/system.slice/import.service/worker", "import.service"),
    ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service"),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service", ""),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service/inner", ""),
    ("/lxc.payload.web/system.slice/nginx.service", ""),
    ("/system.slice", ""), ("/", ""), ("", ""),
])  # fmt: skip
def test_the_unit_is_one_of_the_hosts_own_systemd(path, unit):
    assert unit_of(path) == unit


def test_the_monitor_of_a_container_is_the_unit_it_runs_in_or_nothing():
    assert owner_of(f"/machine.slice/libpod-conmon-{ID}.scope").kind == "slice"


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_path_has_an_owner_whose_path_is_its_beginning_or_none(path):
    owner = owner_of(path)
    assert owner is None or f"/{path.strip('/')}/".startswith(f"{owner.path}/")


def put(root, path, document):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(document if isinstance(document, str) else json.dumps(document))


def owner(runtime):
    return Owner(runtime, "container", ID, f"/{ID}")


CRI = {
    "io.kubernetes.cri.container-name": "app",
    "io.kubernetes.cri.image-name": "r/app:1",
    "io.kubernetes.cri.sandbox-name": "web-0",
    "io.kubernetes.cri.sandbox-namespace": "prod",
}
CRIO = {
    "io.kubernetes.container.name": "app",
    "io.kubernetes.cri-o.ImageName": "r/app:1",
    "io.kubernetes.pod.name": "web-0",
    "io.kubernetes.pod.namespace": "prod",
}
STATES = [
    ("docker", f"var/lib/docker/containers/{ID}/config.v2.json",
     {"Name": "/web", "Config": {"Image": "nginx:1", "Labels": {}}}, Label("web", "nginx:1")),
    ("docker", f"var/lib/docker/containers/{ID}/config.v2.json",
     {"Name": "/k8s_app_web-0", "Config": {"Image": "i", "Labels": {
         "io.kubernetes.container.name": "app", "io.kubernetes.pod.name": "web-0",
         "io.kubernetes.pod.namespace": "prod"}}}, Label("app", "i", "web-0", "prod")),
    ("containerd", f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
     {"annotations": CRI}, Label("app", "r/app:1", "web-0", "prod")),
    ("kubernetes", f"run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
     {"annotations": CRI}, Label("app", "r/app:1", "web-0", "prod")),
    ("containerd", f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
     {"annotations": {"io.kubernetes.cri.sandbox-name": "web-0", "io.kubernetes.cri.sandbox-namespace": "prod"}},
     Label("sandbox", "", "web-0", "prod")),
    ("containerd", f"run/containerd/io.containerd.runtime.v2.task/default/{ID}/config.json",
     {"annotations": {"nerdctl/name": "db"}}, Label("db")),
    ("crio", f"var/lib/containers/storage/overlay-containers/{ID}/userdata/config.json",
     {"annotations": CRIO}, Label("app", "r/app:1", "web-0", "prod")),
    ("podman", "var/lib/containers/storage/overlay-containers/containers.json",
     [{"id": "0" * 64, "names": ["other"]}, {"id": ID, "names": ["web"], "image": "abc"}], Label("web", "abc")),
    ("podman", "home/ann/.local/share/containers/storage/overlay-containers/containers.json",
     [{"id": ID, "names": ["rootless"]}], Label("rootless")),
]  # fmt: skip


MOUNTS = "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
ROOTLESS = "home/ann/.local/share/containers/storage/overlay-containers/containers.json"


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("31 30 0:44 / /home rw - nfs4 server:/home rw", Reason.UNSUPPORTED),
        ("31 30 0:45 / /home/ann rw - autofs auto rw", Reason.NO_DATA),
    ],
)
def test_home_folders_on_a_mount_that_can_hang_are_not_touched(tmp_path, mount, reason):
    put(tmp_path, "proc/self/mountinfo", f"{MOUNTS}{mount}\n")
    put(tmp_path, ROOTLESS, [{"id": ID, "names": ["rootless"]}])
    assert label_of(owner("podman"), str(tmp_path)).reason is reason


@pytest.mark.parametrize(("home", "name"), [("/srv/home", "rootless"), ("/net/home", None)])
def test_home_folders_behind_a_link_are_those_of_its_end(tmp_path, home, name):
    put(tmp_path, "proc/self/mountinfo", f"{MOUNTS}31 30 0:44 / /net rw - nfs4 server:/ rw\n")
    put(tmp_path, ROOTLESS.replace("home", home.lstrip("/"), 1), [{"id": ID, "names": ["rootless"]}])
    (tmp_path / "home").symlink_to(home)
    found = label_of(owner("podman"), str(tmp_path))
    assert isinstance(found, Missing) if name is None else found == Value(Label(name))


def test_home_folders_that_cannot_be_listed_are_a_reason_and_no_error(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    put(tmp_path, "proc/self/mountinfo", MOUNTS)
    monkeypatch.setattr(containers.os, "scandir", refused)
    assert label_of(owner("podman"), str(tmp_path)).reason is Reason.DENIED


@pytest.mark.parametrize(("runtime", "path", "document", "label"), STATES, ids=lambda value: str(value)[:24])
def test_the_state_file_of_the_runtime_tells_the_name(tmp_path, runtime, path, document, label):
    put(tmp_path, path, document)
    put(tmp_path, "proc/self/mountinfo", MOUNTS)
    assert label_of(owner(runtime), str(tmp_path)) == Value(label)


def test_without_a_state_file_the_name_is_missing_and_not_invented(tmp_path):
    for runtime in ("docker", "containerd", "crio", "podman", "kubernetes"):
        assert label_of(owner(runtime), str(tmp_path)).reason is Reason.NO_DATA


@pytest.mark.parametrize("content", ["", "[", "7", "null", "{}", '{"Name": 7}', '{"Config": []}', "[" * 100_000])
def test_a_malformed_state_file_is_named_as_such(tmp_path, content):
    put(tmp_path, f"var/lib/docker/containers/{ID}/config.v2.json", content)
    assert label_of(owner("docker"), str(tmp_path)).reason is Reason.MALFORMED


@settings(deadline=None)
@given(
    document=st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["annotations", "Name", "Config", "Labels", "id", "names"]), inner)
        ),
    )
)
def test_any_json_in_a_state_file_gives_a_label_or_a_reason(tmp_path_factory, document):
    root = tmp_path_factory.mktemp("state")
    put(root, f"var/lib/docker/containers/{ID}/config.v2.json", document)
    put(root, "var/lib/containers/storage/overlay-containers/containers.json", document)
    for runtime in ("docker", "podman"):
        label_of(owner(runtime), str(root))


def test_units_and_machines_need_no_state():
    assert label_of(Owner("systemd", "unit", "nginx.service", "/x"), "/nowhere") == Value(Label("nginx.service"))
