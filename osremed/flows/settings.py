"""Where the control plane keeps its state and which ports it uses; and the environment that makes Prefect quiet."""

from __future__ import annotations

import os
from collections.abc import Mapping

from osremed.core.record import record


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
