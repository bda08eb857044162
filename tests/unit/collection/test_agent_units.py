"""What the units of the agent's role let their daemons do."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

ROLE = Path(__file__).resolve().parents[3] / "collections/ansible_collections/osremed/host/roles/agent"


@pytest.fixture
def directives():
    """Of the template of a unit, the last of each name."""

    def made(name, **given):
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
        environment.filters["comment"] = lambda text: f"# {text}"
        template = environment.from_string((ROLE / f"templates/{name}.service.j2").read_text())
        text = template.render(ansible_managed="for a test", __agent_command=["osremed"], **given)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))

    return made


@pytest.fixture
def unit(directives):
    """`unit("hotspot", [addresses])`."""

    def made(watcher, addresses=()):
        watchers = {watcher: {"does": "watches", "memory": "256M"}}
        return directives(
            "osremed-watcher", watcher=watcher, __agent_watchers=watchers, agent_probe_addresses=list(addresses)
        )

    return made


@pytest.mark.parametrize("intake_url", ["https://osremed.example.org", ""])
def test_the_agent_reaches_systemd_which_restarts_the_unit_that_it_took_back(directives, intake_url):
    agent = directives("osremed-agent", agent_intake_url=intake_url, agent_intake_addresses=[], agent_writable=[])
    families = set(agent["RestrictAddressFamilies"].split())
    assert families == {"AF_UNIX", *(["AF_INET", "AF_INET6"] if intake_url else [])}


def test_the_recorder_may_ask_services_on_the_loopback_and_where_it_is_told(unit):
    recorder = unit("hotspot", ["192.0.2.7"])
    assert {"AF_INET", "AF_INET6"} <= set(recorder["RestrictAddressFamilies"].split())
    assert (recorder["IPAddressDeny"], recorder["IPAddressAllow"]) == ("any", "localhost 192.0.2.7")
    assert unit("hotspot")["IPAddressAllow"] == "localhost"


def test_the_gpu_watch_has_no_network(unit):
    watch = unit("timeline")
    assert "AF_INET" not in watch["RestrictAddressFamilies"].split()
    assert (watch["IPAddressDeny"], "IPAddressAllow" in watch) == ("any", False)


def test_no_unit_loses_its_devices_to_the_clock(unit):
    """systemd 245 to 252.6 read ProtectClock= as DeviceAllow=: without PrivateDevices= no device is left."""
    templates = [*ROLE.parent.glob("*/templates/*.j2")]
    assert len(templates) > 5
    for template in templates:
        lines = template.read_text().splitlines()
        assert "ProtectClock=yes" not in lines or "PrivateDevices=yes" in lines, template.name
    watch = unit("timeline")
    assert (watch["CapabilityBoundingSet"], watch["SystemCallFilter"]) == ("~CAP_SYS_TIME CAP_WAKE_ALARM", "~@clock")
