"""The QEMU process of one host: command line, accelerator, start. Software emulation is named explicitly, KVM only
where a probe of this boot saw a kernel of ours run under it: a /dev/kvm that opens is not yet one that works."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.state import boot_id, cache_directory
from tests.testbed.vmimage import Image

_PROBE_S = 6  # the kernel needs 1 s where KVM works, and 4 s even under emulation
_KERNEL_LINE = (
    "console=ttyS0 quiet panic=-1 net.ifnames=0 no_timer_check mitigations=off nokaslr audit=0 "
    "random.trust_cpu=on systemd.show_status=0"
)
#: A cloud disk's allowance: reclaim then costs what it costs there.
_SLOW_DISK = ",throttling.iops-total=200,throttling.bps-total=20971520"
SWAP_DISK_MIB = 512


@dataclass(frozen=True)
class Machine:
    """What a guest is given. A state file fits exactly one `memory_mib` and `cpus`; the rest may differ."""

    memory_mib: int = 768
    cpus: int = 2
    slow_disk: bool = False
    swap: bool = False


def version() -> str:
    """Of QEMU, as it says; a state file of one is not for another."""
    done = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.split("\n")[0].removeprefix("QEMU emulator version ").strip()


def accelerator(image: Image) -> str:
    """`kvm` if it was seen to work since this boot, else `tcg`."""
    if not Path("/dev/kvm").exists():
        return "tcg"
    answer = cache_directory() / f"kvm-{boot_id()}"
    if not answer.exists():
        for old in cache_directory().glob("kvm-*"):
            old.unlink(missing_ok=True)
        answer.write_text("kvm" if _kvm_runs(image) else "tcg")
    return answer.read_text()


def _kvm_runs(image: Image) -> bool:
    """Whether our kernel reaches user space under KVM. The guest powers itself off."""
    argv = [*_base("kvm", Machine(memory_mib=256, cpus=1)), *_boot(image, " osremed.probe"), "-serial", "stdio"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_PROBE_S, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return False
    return b"osremed-probe-runs" in done.stdout


def _base(accel: str, machine: Machine) -> list[str]:
    tcg = ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "Nehalem"]
    return [
        "qemu-system-x86_64",
        *("-M", "pc"),  # microvm hangs under software emulation
        *(tcg if accel == "tcg" else ["-accel", "kvm", "-cpu", "host"]),
        *("-smp", str(machine.cpus), "-m", str(machine.memory_mib)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none"),
    ]


def _boot(image: Image, more: str = "") -> list[str]:
    return ["-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", _KERNEL_LINE + more]


def command(accel: str, machine: Machine, image: Image, directory: Path, state: Path | None) -> list[str]:
    """The guest's only way out is the one forwarded port. The devices are the same in every guest, used or not: those
    at restore must be those of the time the state was saved."""
    slow = _SLOW_DISK if machine.slow_disk else ""
    argv = [
        *_base(accel, machine),
        *("-serial", f"file:{directory}/console.log", "-serial", f"file:{directory}/heartbeat.log"),
        *("-qmp", f"unix:{directory}/qmp,server=on,wait=off"),
        *("-drive", f"file={directory}/root.qcow2,if=virtio,format=qcow2,cache=unsafe{slow}"),
        *("-drive", f"file={directory}/swap.qcow2,if=virtio,format=qcow2,cache=unsafe{slow}"),
        *("-netdev", "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"),
        *_boot(image),
    ]
    return argv if state is None else [*argv, "-incoming", f"exec:cat '{state}'"]


def make_disks(directory: Path, below: Path, below_format: str) -> None:
    """Root as a layer over `below`, which nobody writes to any more, and an empty swap disk."""
    backing = ["-b", str(below.resolve()), "-F", below_format]
    for argv in (
        [*backing, str(directory / "root.qcow2")],
        [str(directory / "swap.qcow2"), f"{SWAP_DISK_MIB}M"],
    ):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *argv], timeout=60, check=True)
