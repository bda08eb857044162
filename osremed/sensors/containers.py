"""Whose a control group is, by its path; and the name its runtime wrote down, read without the runtime or its CLI.

Paths and files are made by others: an id is taken only in the runtimes' own forms, a state file is JSON of bounded
size, and a name is text of any characters.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.files import read_bytes
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.openfiles import Mount, mount_points
from osremed.sensors.procfs import PROC

_STATE_LIMIT_BYTES = 16 << 20
_ID = r"(?P<id>[0-9a-f]{64}|[0-9a-f]{32}-[0-9]{4,20})"
#: (runtime, kind, the last segments of a path). Monitors (conmon, lxc.monitor) are groups of the runtime itself.
_FORMS: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (runtime, kind, re.compile(rf"(?:^|.*/){form}"))
    for runtime, kind, form in (
        ("docker", "container", rf"docker-{_ID}\.scope"),
        ("docker", "container", rf"docker/{_ID}"),
        ("docker", "container", rf"ecs/[^/]+/{_ID}"),
        ("containerd", "container", rf"(?:cri-containerd|nerdctl)-{_ID}\.scope"),
        ("containerd", "container", rf"[^/]*:cri-containerd:{_ID}"),
        ("crio", "container", rf"crio-{_ID}(?:\.scope)?"),
        ("crio", "container", rf"[^/]*:crio:{_ID}"),
        ("podman", "container", rf"libpod-{_ID}(?:\.scope)?"),
        ("kubernetes", "container", rf"kubepods[^/]*/(?:[^/]+/)*pod[^/]+/{_ID}"),
        ("kubernetes", "pod", r"kubepods[^/]*/(?:[^/]+/)*[^/]*pod(?P<uid>[0-9a-f]{8}[-_0-9a-f]{24,28})(?:\.slice)?"),
        ("lxc", "container", r"lxc\.payload[./](?P<name>[^/]+)"),
        ("lxc", "container", r"lxc/(?P<name>[^/]+)"),
        ("libvirt", "machine", r"machine-qemu(?:-|\\x2d)(?P<name>[^/]+)\.scope"),
        ("nspawn", "machine", r"machine-(?P<name>[^/]+)\.scope"),
        ("nspawn", "machine", r"systemd-nspawn@(?P<name>[^/]+)\.service"),
        ("systemd", "slice", r"(?P<name>[^/]+\.slice)"),
        ("systemd", "unit", r"(?P<name>[^/]+\.(?:service|scope|socket|mount|swap))"),
    )
)
_POD = re.compile(r"pod([0-9a-f]{8}[-_][-_0-9a-f]{23,27})")
_MONITOR = re.compile(r"(?:crio-conmon-|libpod-conmon-|lxc\.monitor)")
_USERS_MANAGER = re.compile(r"user@.*\.service")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


@record
class Owner:
    """`kind`: container, pod, machine, unit or slice. `path` is the part of the group's path that ends at it."""

    runtime: str
    kind: str
    id: str
    path: str
    pod_uid: str = ""


@record
class Label:
    """What the runtime calls it; `pod` and `namespace` for Kubernetes; empty where not told."""

    name: str
    image: str = ""
    pod: str = ""
    namespace: str = ""


_RANK = {"container": 2, "machine": 2, "unit": 1, "pod": 1, "slice": 0}


def owner_of(path: str) -> Owner | None:
    """The innermost container or machine of a group's path; without one the innermost unit or pod, then slice."""
    best: Owner | None = None
    segments = path.strip("/").split("/")
    for depth in range(1, len(segments) + 1):
        found = None if _MONITOR.match(segments[depth - 1]) else _owner_at("/".join(segments[:depth]))
        if found is not None and (best is None or _RANK[found.kind] >= _RANK[best.kind]):
            best = found
    return best


def unit_of(path: str) -> str:
    """The unit of the host's systemd that a group belongs to, by name. Empty for a container, whose runtime restarts
    it, and below a `user@.service`: a user's own manager has services of the same names as the host's."""
    owner = owner_of(path)
    if owner is None or owner.kind != "unit":
        return ""
    *above, name = owner.path.split("/")
    return "" if any(_USERS_MANAGER.fullmatch(each) for each in above) else name


def _owner_at(prefix: str) -> Owner | None:
    """The owner whose group is exactly `prefix`."""
    for runtime, kind, form in _FORMS:
        match = form.fullmatch(prefix)
        if match is None:
            continue
        groups = match.groupdict()
        pod = _POD.findall(prefix)
        uid = pod[-1].replace("_", "-") if pod else ""
        name = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), groups.get("name") or "")
        if runtime == "libvirt":
            name = name.partition("-")[2] or name  # machine-qemu-1-web: a number comes first
        return Owner(runtime, kind, groups.get("id") or name or uid, f"/{prefix}", uid)
    return None


# --- names -------------------------------------------------------------------------------------------------------


def label_of(owner: Owner, files_root: str = "") -> Reading[Label]:
    """What the runtime's own state says. NO_DATA when no state file knows the id; MALFORMED, DENIED as read."""
    if owner.runtime not in _READERS:
        return Value(Label(owner.id))
    worst = Missing(Reason.NO_DATA, f"state of {owner.runtime}", f"does not know {owner.id[:12]}")
    for reader in _READERS[owner.runtime]:
        found = reader(owner.id, files_root)
        if isinstance(found, Value):
            return found
        if found.reason is not Reason.GONE:
            worst = found
    return worst


def _document(path: str) -> Reading[Any]:
    try:
        return Value(json.loads(read_bytes(path, limit_bytes=_STATE_LIMIT_BYTES)))
    except OSError as error:
        return missing_from_oserror(error, path)
    except (ValueError, RecursionError) as error:
        return Missing(Reason.MALFORMED, path, str(error)[:200])


def _text_at(document: Any, *keys: str) -> str:
    """The text below `keys`; empty for anything else."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if isinstance(document, str) else ""


def _docker(container: str, files_root: str) -> Reading[Label]:
    path = f"{files_root}/var/lib/docker/containers/{container}/config.v2.json"
    document = _document(path)
    if isinstance(document, Missing):
        return document
    labels = ("Config", "Labels")
    name = _text_at(document.value, *labels, "io.kubernetes.container.name") or _text_at(document.value, "Name")
    return _label(
        path,
        name.lstrip("/"),
        _text_at(document.value, "Config", "Image"),
        _text_at(document.value, *labels, "io.kubernetes.pod.name"),
        _text_at(document.value, *labels, "io.kubernetes.pod.namespace"),
    )


def _label(path: str, name: str, image: str = "", pod: str = "", namespace: str = "") -> Reading[Label]:
    if not name:
        return Missing(Reason.MALFORMED, path, "tells no name")
    return Value(Label(name, image, pod, namespace))


#: annotation keys of (name, image, pod, namespace), by who writes them
_CRI = (
    "io.kubernetes.cri.container-name", "io.kubernetes.cri.image-name",
    "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-namespace",
)  # fmt: skip
_CRIO = (
    "io.kubernetes.container.name", "io.kubernetes.cri-o.ImageName",
    "io.kubernetes.pod.name", "io.kubernetes.pod.namespace",
)  # fmt: skip


def _annotated(path: str, keys: tuple[str, str, str, str], fallback: str) -> Reading[Label]:
    """An OCI config.json. A pod's sandbox has no container name: it is `fallback`'s, or "sandbox"."""
    document = _document(path)
    if isinstance(document, Missing):
        return document
    name, image, pod, namespace = (_text_at(document.value, "annotations", key) for key in keys)
    name = name or _text_at(document.value, "annotations", fallback) or ("sandbox" if pod else "")
    return _label(path, name, image, pod, namespace)


def _containerd(container: str, files_root: str) -> Reading[Label]:
    """Each namespace of containerd has a folder; k3s keeps its own containerd."""
    gone: Reading[Label] = Missing(Reason.GONE, f"{files_root}/run/containerd", "no such task")
    for base in ("run/containerd", "run/k3s/containerd"):
        tasks = f"{files_root}/{base}/io.containerd.runtime.v2.task"
        try:
            namespaces = sorted(os.listdir(tasks))
        except FileNotFoundError:
            continue
        except OSError as error:
            return missing_from_oserror(error, tasks)
        for namespace in namespaces:
            found = _annotated(f"{tasks}/{namespace}/{container}/config.json", _CRI, "nerdctl/name")
            if isinstance(found, Value) or found.reason is not Reason.GONE:
                return found
    return gone


def _crio(container: str, files_root: str) -> Reading[Label]:
    found: Reading[Label] = Missing(Reason.GONE, files_root, "no storage")
    for base in ("var/lib/containers/storage", "run/containers/storage"):
        path = f"{files_root}/{base}/overlay-containers/{container}/userdata/config.json"
        found = _annotated(path, _CRIO, "io.kubernetes.cri-o.Name")
        if isinstance(found, Value):
            return found
    return found


def _podman(container: str, files_root: str) -> Reading[Label]:
    """The store of root, then those in home folders (rootless)."""
    root = f"{files_root}/var/lib/containers/storage"
    found = _podman_store(container, [root])
    if isinstance(found, Value):
        return found
    homes = _home_stores(files_root)
    if isinstance(homes, Value):
        return _podman_store(container, [root, *homes.value])
    return homes if found.reason is Reason.GONE else found


def _home_stores(files_root: str) -> Reading[list[str]]:
    """Stores in home folders, but for those on mounts that can hang: they are not touched."""
    table = mount_points("self", f"{files_root}{PROC}")
    if isinstance(table, Missing):
        return table
    mounts, homes = dict(table.value), "/home"
    try:
        if not _can_hang(homes, mounts) and os.path.islink(files_root + homes):  # such as to /var/home
            homes = os.path.normpath(os.path.join("/", os.readlink(files_root + homes)))
        if _can_hang(homes, mounts):
            return Missing(Reason.UNSUPPORTED, homes, "not touched: its mount can hang")
        with os.scandir(files_root + homes) as entries:
            users = sorted(entry.name for entry in entries if not entry.is_symlink())
    except OSError as error:
        return missing_from_oserror(error, files_root + homes)
    stores = [f"{homes}/{user}/.local/share/containers/storage" for user in users]
    return Value([f"{files_root}{store}" for store in stores if not _can_hang(store, mounts)])


def _can_hang(path: str, mounts: Mapping[str, Mount]) -> bool:
    """Whether a mount on the way to `path` is of a kind that waits for others. Touches nothing."""
    parts = path.split("/")
    way = [mounts[at] for at in ("/".join(parts[:end]) for end in range(2, len(parts) + 1)) if at in mounts]
    return any(mount.remote or mount.kind == "autofs" for mount in way)


def _podman_store(container: str, stores: Sequence[str]) -> Reading[Label]:
    worst = Missing(Reason.GONE, stores[0], "no storage")
    for store in stores:
        path = f"{store}/overlay-containers/containers.json"
        document = _document(path)
        if isinstance(document, Missing):
            worst = worst if document.reason is Reason.GONE else document
            continue
        for entry in document.value if isinstance(document.value, list) else ():
            if _text_at(entry, "id") == container:
                names = entry.get("names")
                name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
                return _label(path, name, _text_at(entry, "image"))
    return worst


_READERS = {
    "docker": (_docker,),
    "containerd": (_containerd,),
    "crio": (_crio,),
    "podman": (_podman,),
    "kubernetes": (_containerd, _crio, _docker),
}
