"""GPUs that the bus shows, whatever the driver says."""

from __future__ import annotations

import os

from osremed.sensors import procfs

_NVIDIA, _DISPLAY = "0x10de", ("0x0300", "0x0302")


def pci_gpus(root: str = "/sys/bus/pci/devices") -> int:
    """NVIDIA display and 3D controllers that PCI shows; 0 where there is no PCI."""
    found = 0
    try:
        addresses = os.listdir(root)
    except OSError:
        return 0
    for address in addresses:
        try:
            vendor = procfs.read_file(f"{root}/{address}/vendor").decode().strip()
            kind = procfs.read_file(f"{root}/{address}/class").decode().strip()
        except (OSError, ValueError):
            continue
        found += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return found
