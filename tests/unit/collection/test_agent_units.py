"""What the units of the agent's role let their daemons do."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

ROLE = Path(__file__).resolve().parents[3] / "collections/ansible_collections/osremed/host/roles/agent"


@pytest.fixture
def unit():
    """`unit("hotspot", [addresses])`: its directives, the last of each name."""

    def made(watcher, addresses=()):
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
        environment.filters["comment"] = lambda text: f"# {text}"
        template = environment.from_string((ROLE / "templates/osremed-watcher.service.j2").read_text())
        watchers = {watcher: {"does": "watches", "memory": "256M"}}
        text = template.render(
            ansible_managed="for a test", watcher=watcher, __agent_command=["osremed"], __agent_watchers=watchers,
            agent_probe_addresses=list(addresses),
        )  # fmt: skip
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))

    return made


def test_the_recorder_may_ask_services_on_the_loopback_and_where_it_is_told(unit):
    recorder = unit("hotspot", ["192.0.2.7"])
    assert {"AF_INET", "AF_INET6"} <= set(recorder["RestrictAddressFamilies"].split())
    assert (recorder["IPAddressDeny"], recorder["IPAddressAllow"]) == ("any", "localhost 192.0.2.7")
    assert unit("hotspot")["IPAddressAllow"] == "localhost"


def test_the_gpu_watch_has_no_network(unit):
    watch = unit("timeline")
    assert "AF_INET" not in watch["RestrictAddressFamilies"].split()
    assert (watch["IPAddressDeny"], "IPAddressAllow" in watch) == ("any", False)
