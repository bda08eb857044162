"""Verbs of GitOps that need Prefect: the reconciler as a deployment, and what differs in Prefect."""

from __future__ import annotations

import asyncio
import os

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode, Unavailable
from osremed.core.language import filled
from osremed.flows.intake import ensure_token
from osremed.flows.settings import ControlPaths, prefect_environment
from osremed.flows.untiltold import serve_until_told


def _prepare(state: str, api_url: str) -> None:
    """Prefect reads its settings at import: not before the environment is in place."""
    paths = ControlPaths(os.path.abspath(state))
    os.makedirs(paths.prefect, mode=0o700, exist_ok=True)
    os.environ.update(prefect_environment(paths.prefect, api_url=api_url))


def serve(
    *,
    source: str,
    state: str,
    inventory: str,
    collections: str,
    api_url: str,
    host: str,
    port: int,
    webhook: str | None = None,
) -> Answer:
    """Serves until SIGTERM. BadInput at once for a source that cannot be read."""
    _prepare(state, api_url)
    from osremed.flows.gitops_flow import Plane  # noqa: PLC0415
    from osremed.flows.gitops_serve import Reconciler, ServeSettings  # noqa: PLC0415

    if not os.path.isfile(source):
        raise BadInput("there is no such file", where=source, hint="docs/gitops.md shows one")
    plane = Plane(*map(os.path.abspath, (source, state, inventory, collections)))
    settings = ServeSettings(plane, (host, port, ensure_token(webhook)) if webhook else None)
    serve_until_told(Reconciler(settings).serve_until)
    return Answer({"stopped": True}, filled("stopped"))


def prefect(*, source: str, state: str, api_url: str) -> Answer:
    """What the reconciler would do to Prefect's objects now: the drift. Exit code 1 if there is something."""
    _prepare(state, api_url)
    import httpx  # noqa: PLC0415

    from osremed.flows.gitops_flow import Plane, ask, bring_objects  # noqa: PLC0415

    async def find() -> list[dict[str, str]]:
        plane = Plane(os.path.abspath(source), os.path.abspath(state), "", "")
        wanted = await ask(plane, "status", "--source", plane.source, timeout_s=60.0)
        return [each.as_json() for each in await bring_objects(wanted["wanted"], check=True)]

    try:
        found = asyncio.run(find())
    except httpx.HTTPError as error:
        raise Unavailable(f"Prefect does not answer: {error}", where=api_url, hint="is `prefect server` up?") from error
    lines = [f"{each['outcome']:<13} {each['kind']:<12} {each['name']}  {each['detail']}".rstrip() for each in found]
    moved = [each for each in found if each["outcome"] != "unchanged"]
    lines.append(filled("{1} objects, {2} not as wanted", str(len(found)), str(len(moved))))
    return Answer({"objects": found}, "\n".join(lines), ExitCode.FAILED if moved else ExitCode.OK)
