"""The pages: drawn on the server from the same verbs, without a script being needed, in the reader's language."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, quote

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from osremed.console.api import REPORT_CSP, Door, Refused, client_of
from osremed.console.axis import WIDTH, axis_of, look_at
from osremed.console.binding import Places, call, exposed, name_of, open_args, request_model
from osremed.console.feed import Feed
from osremed.console.language import choose, words_of
from osremed.console.looks import DRAWN, Looks
from osremed.console.sessions import COOKIE, Session, Sessions, is_same
from osremed.console.tokens import Caller
from osremed.core.clock import rfc3339
from osremed.core.errors import BadInput, NotFound, OsremedError
from osremed.core.language import speak
from osremed.core.reading import Missing
from osremed.core.shown import printable
from osremed.flows.settings import ControlPaths, flow_run_in, flow_run_of
from osremed.report.assemble import bundle_of, story_of
from osremed.report.facts import killed
from osremed.report.page import TONES, render_html
from osremed.report.text import as_bytes, as_seconds, as_time
from osremed.runbook.cited import cited, documents_of
from osremed.runbook.fanout import canary_of, event_id_of, place_of
from osremed.runbook.model import Run, RunState
from osremed.runbook.opinions import read_opinion
from osremed.verbs.catalogue import answers
from osremed.verbs.load import find

_PER_PAGE = 100
_MOST_LINES = 2000
_RECENT = 20
_OUTCOME = ("run_id", "state", "reason", "fate")
Draw = Callable[[Request, Caller], dict[str, Any]]


@functools.lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("osremed.console", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=as_bytes, time=as_time, seconds=as_seconds, stamp=rfc3339)
    environment.filters["path"] = lambda text: quote(str(text), safe="")
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    return environment


class Pages:
    def __init__(self, places: Places, door: Door, feed: Feed) -> None:
        self._places, self._door, self._feed = places, door, feed
        self._sessions, self._looks = Sessions(), Looks()
        self._forms = {name_of(verb): verb for verb in exposed() if verb.route.startswith("POST ")}

    def routes(self) -> list[Route | Mount]:
        shown = {
            "/": ("overview", self._overview),
            "/hosts/{host}": ("host", self._host),
            "/runs": ("runs", self._runs),
            "/runs/{run_id}": ("run", self._run),
            "/runs/{run_id}/evidence": ("evidence", self._evidence),
            "/canaries": ("canaries", self._canaries),
            "/canaries/{canary_id}": ("canary", self._canary),
            "/rules": ("rules", self._rules),
            "/audit": ("audit", self._audit),
        }
        routes: list[Route | Mount] = [
            Route(path, self._page(template, draw), methods=["GET"]) for path, (template, draw) in shown.items()
        ]
        routes += [
            Route("/runs/{run_id}/report", self._report, methods=["GET"]),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/act/{verb}", self._act, methods=["POST"]),
            Mount("/static", StaticFiles(packages=[("osremed.console", "static")])),
        ]
        return routes

    def _who(self, request: Request, scope: str) -> tuple[Session, Caller]:
        """Refused (to the sign-in page) for who is not signed in."""
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        if session is None:
            back = quote(request.url.path, safe="")
            raise Refused(RedirectResponse(f"/sign-in?back={back}", status_code=303))
        return session, self._door.enter(session.token, scope, client_of(request))

    def _page(self, template: str, draw: Draw) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            try:
                who = self._who(request, "read")
                data = await run_in_threadpool(draw, request, who[1])
            except Refused as refused:
                return refused.response
            except OsremedError as error:
                status = 404 if isinstance(error, NotFound) else 500
                return self._render(request, "error", {"error": error}, who=who, status=status)
            return self._render(request, template, data, who=who)

        return page

    def _render(
        self,
        request: Request,
        template: str,
        data: dict[str, Any],
        *,
        who: tuple[Session, Caller] | None = None,
        status: int = 200,
    ) -> Response:
        session, caller = who or (None, None)
        language = _language(request)
        words = words_of(language)
        text = (
            _templates()
            .get_template(f"{template}.html.j2")
            .render(
                **data,
                _=words,
                lang=language,
                path=request.url.path,
                me=caller,
                csrf=session.csrf if session else "",
                tones=TONES,
                now_ns=time.time_ns(),
            )
        )
        answer = HTMLResponse(text, status_code=status)
        if "lang" in request.query_params:
            answer.set_cookie("lang", language, samesite="strict", max_age=365 * 86400)
        return answer

    def _overview(self, _request: Request, _caller: Caller) -> dict[str, Any]:
        rows, why = self._feed.fleet()
        rank = {"critical": 0, "medium": 1, "low": 2}
        rows.sort(key=lambda row: (not row["needs_human"], rank.get(row["level"] or "", 3), row["host"]))
        runs, damaged = self._feed.runs()
        return {
            "rows": rows,
            "inventory_why": why,
            "waiting": [run for run in runs if run.state.value.startswith("AWAITING_")],
            "runs": runs[:_RECENT],
            "damaged": damaged,
            "interventions": [(event, killed(event)) for event in self._feed.events(name="memory.near_oom")[:_RECENT]],
        }

    def _host(self, request: Request, _caller: Caller) -> dict[str, Any]:
        host = str(request.path_params["host"])
        rows = [row for row in self._feed.fleet()[0] if row["host"] == host]
        if not rows:
            raise NotFound(f"no host {host!r}", hint="it is not in the inventory and has told nothing")
        told = self._feed.events(host=host)
        ran = [run for run in self._feed.runs()[0] if run.host == host]
        events, runs = told[:_PER_PAGE], ran[:_PER_PAGE]
        looks = {name: self._looks.of(name, host) for name in DRAWN}
        taken = [look_at(name.replace("_", " "), look.taken_ns, f"#{name}") for name, look in looks.items() if look]
        return {
            "row": rows[0],
            "events": events,
            "gpu_events": [event for event in events if event.name.startswith("gpu.")],
            "runs": runs,
            "looks": looks,
            "axis": axis_of(events, runs, taken),
            "cut": len(told) > len(events) or len(ran) > len(runs),
            "width": WIDTH,
        }

    def _runs(self, _request: Request, _caller: Caller) -> dict[str, Any]:
        runs, damaged = self._feed.runs()
        return {"runs": runs[:_PER_PAGE], "total": len(runs), "damaged": damaged}

    def _run(self, request: Request, _caller: Caller) -> dict[str, Any]:
        store, run_id = self._feed.store(), str(request.path_params["run_id"])
        run, _effect = store.load(run_id)
        flow_run = self._in_prefect(flow_run_of(store.of(run_id)))
        try:
            opinion, why = read_opinion(store.of(run_id)), ""
        except BadInput as error:
            opinion, why = None, str(error)
        told = {"opinion": opinion, "opinion_why": why, "may_ask": os.path.lexists(self._places.opinion)}
        told["canary"] = canary_of(run.event.id)
        return {"run": run, "story": story_of(store, run), "flow_run": flow_run, **told}

    def _canaries(self, request: Request, caller: Caller) -> dict[str, Any]:
        return {"told": self._told("canary list", caller, before=request.query_params.get("before", ""))}

    def _canary(self, request: Request, caller: Caller) -> dict[str, Any]:
        found = self._answer("canary show", caller, canary_id=str(request.path_params["canary_id"]))
        runs = _runs_of(found, self._feed.runs()[0])
        moved = f"{found['state']} {' '.join(str(each['state']) for each in runs.values())}"
        beside = place_of(ControlPaths(os.path.abspath(self._places.state)).canaries, found["canary_id"], "flow_run")
        return {"canary": found, "runs": runs, "moved": moved, "flow_run": self._in_prefect(flow_run_in(beside))}

    def _in_prefect(self, flow_run: str) -> str:
        """Where people see it; "" unless both are known."""
        return f"{self._places.prefect_ui}/runs/flow-run/{flow_run}" if flow_run and self._places.prefect_ui else ""

    def _evidence(self, request: Request, _caller: Caller) -> dict[str, Any]:
        """One place in what the run rests on, as `at` cites it."""
        store = self._feed.store()
        run, _effect = store.load(str(request.path_params["run_id"]))
        documents = documents_of(run, bundle_of(store, run))
        at = request.query_params.get("at", "")
        found = cited(documents, at) if at else None
        if isinstance(found, Missing):
            raise NotFound(f"{at!r} is not in the evidence of this run", hint="go back, and see what there is")
        lines = json.dumps(found, indent=2, ensure_ascii=False).split("\n")
        return {"run": run, "names": list(documents), "at": at, "lines": lines[:_MOST_LINES], "total": len(lines)}

    def _rules(self, _request: Request, caller: Caller) -> dict[str, Any]:
        said = {
            name: self._told(words, caller) for name, words in (("rules", "runbook list"), ("git", "gitops status"))
        }
        return {**said, "frozen": self._told("freezes", caller), "stats": self._told("stats", caller)}

    def _audit(self, _request: Request, caller: Caller) -> dict[str, Any]:
        return {"chains": self._told("audit verify", caller)}

    def _told(self, words: str, caller: Caller, **said: str) -> Any:
        """The verb's document; its error, said in its place on the page."""
        try:
            return self._answer(words, caller, **said)
        except OsremedError as error:
            return error

    def _answer(self, words: str, caller: Caller, **said: str) -> Any:
        found = find(words.split())
        assert found is not None
        plain = {arg.dest: arg.default for arg in open_args(found[0])}
        return call(found[0], self._places, caller.name, {**plain, **said}).document

    async def _report(self, request: Request) -> Response:
        try:
            self._who(request, "read")
        except Refused as refused:
            return refused.response

        def draw() -> str:
            store = self._feed.store()
            run, _effect = store.load(str(request.path_params["run_id"]))
            speak({}, answers(_language(request)))  # in this thread's context alone
            return render_html(story_of(store, run))

        text = await run_in_threadpool(draw)
        return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_CSP})

    async def _sign_in(self, request: Request) -> Response:
        back = _local(request.query_params.get("back", "/"))
        if request.method == "GET":
            return self._render(request, "sign_in", {"back": back, "wrong": ""})
        form = await _form(request)
        try:
            self._door.enter(form.get("token", ""), "read", client_of(request))
        except Refused as refused:
            status = refused.response.status_code
            return self._render(request, "sign_in", {"back": back, "wrong": str(status)}, status=status)
        answer = RedirectResponse(_local(form.get("back", "/")), status_code=303)
        secure = request.url.scheme == "https"
        name = self._sessions.begin(form["token"])
        answer.set_cookie(COOKIE, name, httponly=True, samesite="strict", secure=secure, path="/")
        return answer

    async def _sign_out(self, request: Request) -> Response:
        self._sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/sign-in", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    async def _act(self, request: Request) -> Response:
        """A form's verb, as who is signed in; then the page it came from."""
        verb = self._forms.get(str(request.path_params["verb"]))
        form = await _form(request)
        try:
            session, caller = self._who(request, verb.scope if verb else "admin")
        except Refused as refused:
            return refused.response
        if verb is None or not is_same(session, form.pop("csrf", "")):
            error = NotFound("this form is not valid any more", hint="go back, load the page anew, and send it again")
            return self._render(request, "error", {"error": error}, who=(session, caller), status=403)
        back = _local(form.pop("back", "/"))
        try:
            if verb.asks_model:
                self._door.ask_model(caller)
            given = request_model(verb).model_validate(form).model_dump()
            answer = await run_in_threadpool(call, verb, self._places, caller.name, given)
        except Refused as refused:
            return refused.response
        except (OsremedError, ValueError) as error:
            told = error if isinstance(error, OsremedError) else NotFound(f"the form is wrong: {error}")
            return self._render(request, "error", {"error": told}, who=(session, caller), status=422)
        if name_of(verb) in DRAWN:
            self._looks.keep(name_of(verb), given["host"], answer.document, time.time_ns())
        if answer.html is not None:
            return HTMLResponse(answer.html(), headers={"Content-Security-Policy": REPORT_CSP})
        return RedirectResponse(back, status_code=303)


def _runs_of(canary: dict[str, Any], runs: list[Run]) -> dict[str, dict[str, str]]:
    """Host of a wave -> its run: as it ended, else as it is; empty words for one that has none yet."""
    event = event_id_of(canary["canary_id"])
    found = {run.host: (run.run_id, run.state, run.reason, "") for run in runs if run.event.id == event}
    ended = {each["host"]: tuple(each[name] for name in _OUTCOME) for each in canary["hosts"].values()}
    rows = {**found, **ended}
    told = {host: rows.get(host, ("", "", "", "")) for wave in canary["waves"] for host in wave}
    return {
        host: dict(zip(_OUTCOME, (run_id, state and RunState(state).value, *rest), strict=True))
        for host, (run_id, state, *rest) in told.items()
    }


def _language(request: Request) -> str:
    return choose(request.query_params.get("lang") or request.cookies.get("lang"), request.headers)


def _local(path: str) -> str:
    """The path if it is one of this server, else the first page: nobody is sent elsewhere."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that is not empty-handed; the last value of each."""
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[-1] for name, values in parse_qs(body, max_num_fields=50).items()}
