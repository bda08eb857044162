"""Where the control plane keeps its state and which ports it uses; and the environment that makes Prefect quiet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.record import record
from osremed.runbook.store import RunDirectory

_FLOW_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@record
class ControlPaths:
    """Everything of the control plane lies below `state`."""

    state: str

    @property
    def runs(self) -> str:
        return os.path.join(self.state, "runs")

    @property
    def canaries(self) -> str:
        return os.path.join(self.state, "canaries")

    @property
    def intake(self) -> str:
        return os.path.join(self.state, "intake")

    @property
    def intake_cursor(self) -> str:
        return os.path.join(self.state, "intake.cursor")

    @property
    def decisions(self) -> str:
        return os.path.join(self.state, "decisions")

    @property
    def token(self) -> str:
        return os.path.join(self.state, "intake.token")

    @property
    def hands(self) -> str:
        """The audit of what people did; `decisions` is that of the dispatcher."""
        return os.path.join(self.state, "hands")

    @property
    def controls(self) -> str:
        return os.path.join(self.state, "controls.json")

    @property
    def requests(self) -> str:
        """What was asked for and is driven by a process of its own: its event, and what that process said."""
        return os.path.join(self.state, "requests")

    @property
    def lock(self) -> str:
        return os.path.join(self.state, "dispatcher.lock")

    @property
    def work(self) -> str:
        return os.path.join(self.state, "work")

    @property
    def prefect(self) -> str:
        return os.path.join(self.state, "prefect")


def prefect_environment(home: str, *, api_url: str = "") -> Mapping[str, str]:
    """Variables for a Prefect server or client that keeps to `home`, stays on loopback and tells nobody."""
    values = {
        "PREFECT_HOME": home,
        "PREFECT_PROFILES_PATH": os.path.join(home, "profiles.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The page asks the server it came from; Prefect's default is port 4200, wherever the server listens.
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
    }
    if api_url:
        values["PREFECT_API_URL"] = api_url
    return values


def page_url(text: str, where: str) -> str:
    """Where pages for people are, without a slash at the end; "" stays. BadInput for what is no plain http address:
    pages link to it."""
    parts = urlsplit(text)
    whole = parts.scheme in ("http", "https") and parts.hostname and text.isprintable() and " " not in text
    if text and not (whole and "@" not in parts.netloc and not parts.query and not parts.fragment):
        hint = "such as https://prefect.example, without user, password and query"
        raise BadInput(f"{text!r} is not where pages are", where=where, hint=hint)
    return text.rstrip("/")


def flow_run_of(directory: RunDirectory) -> str:
    """The id of the flow run that shows a run; "" if there is none, or none that can be read."""
    return flow_run_in(directory.flow_run)


def flow_run_in(path: str) -> str:
    """The same of what else is shown."""
    try:
        told = read_bytes(path, limit_bytes=256).decode("ascii", "replace").strip()
    except OSError:
        return ""
    return told if _FLOW_RUN.fullmatch(told) else ""
