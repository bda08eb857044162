"""The dispatcher: events in, runs out. Decides once per event, keeps what it decided, and finishes what it began,
whether Prefect answers or not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable

from osremed.core.errors import BadInput, OsremedError
from osremed.core.event import Event, event_from_json
from osremed.core.journal import Cursor, read_journal
from osremed.core.log import Log
from osremed.core.record import record
from osremed.flows.canary_flow import CanaryShow
from osremed.flows.canary_watch import CanaryWatch
from osremed.flows.client import one_client
from osremed.flows.flow import PREFECT_FAILURES, Publish, end_abandoned_flow_runs, show_run, warm_up
from osremed.flows.intake import Intake, ensure_token, intake_app
from osremed.flows.leading import Lead
from osremed.flows.leftovers import SETTLES_S, settle_flow_runs
from osremed.flows.listening import listen, serving
from osremed.flows.server import prefect_is_up
from osremed.flows.settings import ControlPaths
from osremed.flows.untiltold import serve_until_told
from osremed.runbook.audit import Audit
from osremed.runbook.canaryretention import forget_requests, retire_canaries
from osremed.runbook.catalog import load_catalog
from osremed.runbook.deciding import Deciding, Question
from osremed.runbook.fanout import events_going_on
from osremed.runbook.operate import Operator, drive
from osremed.runbook.retention import Keep, retire
from osremed.runbook.seals import sealed_in
from osremed.runbook.store import OpenRun, open_unfinished

_HEALTH_PERIOD_S = 1.0
_RECOVER_PERIOD_S = 30.0
_KEEP_PERIOD_S = 60.0
_RETRY_S = 5.0
_ENDS_S = 20.0
_BATCH = 256
#: Hosts hand in what they spooled while nobody listened before time itself is an answer.
_SETTLES_S = 15.0
_LOG = Log("dispatcher")


@record
class DispatcherSettings:
    paths: ControlPaths
    runbooks: str
    api_url: str
    listen_host: str
    listen_port: int
    console: str = ""  #: where people reach the console: flow runs link to it
    keep: Keep = Keep()


class Dispatcher:
    """One per state directory, who has the `Lead`. `serve` returns after SIGTERM or SIGINT; unfinished runs are then
    found again by the next one."""

    def __init__(
        self,
        settings: DispatcherSettings,
        operator: Operator,
        publish: Publish,
        cancel: Callable[[], object],
        lead: Lead,
    ) -> None:
        """`cancel` ends the calls that are under way on hosts."""
        self._settings, self._operator, self._publish, self._cancel = settings, operator, publish, cancel
        self._lead = lead
        self._rules = os.path.realpath(settings.runbooks)
        self._catalog = load_catalog(self._rules)
        self._deciding: Deciding | None = None
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._runs: set[asyncio.Task[None]] = set()
        self._canaries = CanaryWatch(operator, settings.paths.canaries, publish)
        self._shows = CanaryShow(settings.paths.canaries, settings.console)
        self._prefect_up = asyncio.Event()
        self._up_since_s = 0.0
        self._decided = -1  #: number of the last event that has its answers

    def serve(self) -> None:
        """Until SIGTERM or SIGINT; SIGHUP reloads the runbooks."""
        serve_until_told(self.serve_until, self.reload)

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Returns once `stop` is set; Unavailable when it may not lead any more. Nothing it began goes on then."""
        async with one_client():
            await self._serve_until(stop)

    async def _serve_until(self, stop: asyncio.Event) -> None:
        paths = self._settings.paths
        loop = asyncio.get_running_loop()
        listener = listen("intake", self._settings.listen_host, self._settings.listen_port)
        decisions = Audit(paths.decisions, max_segments=64)
        self._operator.store.keep_seal = sealed_in(decisions)
        deciding = self._deciding = Deciding(self._operator, decisions, self._catalog, self._start)
        self._cursor = Cursor(paths.intake_cursor)
        self._decided = self._cursor.load()
        intake = Intake(paths.intake, self._prefect_up.is_set, self._enqueue_from(loop), lambda: self._decided)
        self._replay_intake(deciding)
        watches = self._watch_prefect(), self._watch_rules(), self._watch_lead()
        jobs = *watches, self._recover(), self._show_canaries(), self._settle(), self._keep(), self._consume(deciding)
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            with serving("intake", intake_app(intake, ensure_token(paths.token)), listener):
                _LOG.info("ready", intake=f"http://{self._settings.listen_host}:{self._settings.listen_port}")
                await _first(stop, *tasks)
        finally:
            self._cancel()
            await _end([*tasks, *self._runs, *self._canaries.tasks, *self._shows.tasks])
            await loop.shutdown_default_executor()  # calls in threads: none outlives the lead
            intake.close()
            decisions.close()

    def reload(self) -> None:
        """Takes the runbooks anew; keeps the last good set when one is faulty. A link is followed once, so that all of
        them are of one set."""
        self._rules = os.path.realpath(self._settings.runbooks)
        try:
            self._catalog = load_catalog(self._rules)
            if self._deciding is not None:
                self._deciding.use(self._catalog)
            _LOG.info("runbooks loaded", count=len(self._catalog), directory=self._rules)
        except BadInput as error:
            _LOG.error("runbooks not reloaded, the last good ones stay", error=str(error))

    def _enqueue_from(self, loop: asyncio.AbstractEventLoop) -> Callable[[int, Event], None]:
        def on_event(seq: int, event: Event) -> None:
            loop.call_soon_threadsafe(self._queue.put_nowait, (seq, event))

        return on_event

    async def _watch_prefect(self) -> None:
        while True:
            up = await asyncio.to_thread(prefect_is_up, self._settings.api_url)
            if up != self._prefect_up.is_set():
                _LOG.info("Prefect answers" if up else "Prefect does not answer; events stay on their hosts")
            if up and not self._prefect_up.is_set():
                with contextlib.suppress(*PREFECT_FAILURES):  # the next look finds out
                    await warm_up()
                self._up_since_s = time.monotonic()
                self._prefect_up.set()
            elif not up:
                self._prefect_up.clear()
            await asyncio.sleep(_HEALTH_PERIOD_S)

    async def _watch_rules(self) -> None:
        """GitOps swaps the link to the live set: a new set is loaded without being told."""
        while True:
            await asyncio.sleep(_HEALTH_PERIOD_S)
            if os.path.realpath(self._settings.runbooks) != self._rules:
                self.reload()

    async def _watch_lead(self) -> None:
        while True:
            self._lead.check()
            await asyncio.sleep(_HEALTH_PERIOD_S)

    def _replay_intake(self, deciding: Deciding) -> None:
        """Events that were acknowledged and not yet decided when the last dispatcher ended. Those decided before bring
        back what windows remember."""
        decided, windows = self._decided, bool(deciding.matcher.remembers)
        contents = read_journal(self._settings.paths.intake, after_seq=-1 if windows else decided)
        for line in contents.damaged:
            _LOG.error("an event was lost: the intake is damaged", where=line)
        if windows:
            past = (event_from_json(entry.record) for entry in contents.entries if entry.seq <= decided)
            deciding.matcher.rebuild(past, self._timed())
        for entry in contents.entries:
            if entry.seq > decided:
                self._queue.put_nowait((entry.seq, event_from_json(entry.record)))

    def _timed(self) -> frozenset[tuple[str, str]]:
        """What was decided because its time had come: (event id, runbook)."""
        lines = (entry.record for entry in read_journal(self._settings.paths.decisions).entries)
        return frozenset((line["event"], line["runbook"]) for line in lines if line.get("timed"))

    async def _recover(self) -> None:
        """Finishes what nobody drives: at start, what the last dispatcher left; later, canaries and runs by hand that
        broke off. A canary finishes its own runs."""
        runs, damaged = self._operator.store.runs()
        for why in damaged:
            _LOG.error("a run cannot be read and was left as it is; no run is let in until it is moved away", why=why)
        if self._deciding is not None:
            self._deciding.recover(runs)
        why = "the dispatcher started again"
        while True:
            self._canaries.look()
            try:
                self._open_unfinished(why)
            except OSError as error:
                _LOG.error("runs that nobody drives wait until the disk takes their journals", error=str(error))
            why = "nobody drove it any more"
            await asyncio.sleep(_RECOVER_PERIOD_S)

    def _open_unfinished(self, why: str) -> None:
        store, clock = self._operator.store, self._operator.clock
        for opened in open_unfinished(store, clock, why, without=self._canaries.events):
            _LOG.warning("recovered", run=opened.run.run_id, now=opened.run.state.value)
            if self._deciding is not None:
                self._deciding.begun(opened)
            self._start(opened, recovered=True)

    async def _show_canaries(self) -> None:
        while True:
            await self._prefect_up.wait()
            self._shows.look()
            await asyncio.sleep(_HEALTH_PERIOD_S)

    async def _settle(self) -> None:
        """No flow run says Running for ever."""
        while True:
            await self._prefect_up.wait()
            try:
                if count := await settle_flow_runs(self._operator.store, self._operator.clock.wall_ns()):
                    _LOG.info("told Prefect the end of runs that it was not told of", count=count)
            except PREFECT_FAILURES as error:
                _LOG.error("flow runs that nobody drives stay as they are", error=str(error))
            await asyncio.sleep(SETTLES_S)

    async def _keep(self) -> None:
        """Has an index of the ended runs, and removes those that need not be kept, then their canaries and requests."""
        paths, operator, ended = self._settings.paths, self._operator, set[str]()
        while True:
            await asyncio.sleep(_KEEP_PERIOD_S)
            rules = {name: entry.runbook for name, entry in self._catalog.items()}
            try:
                held = events_going_on(paths.canaries, ended)
                while count := retire(operator, paths.hands, rules, self._settings.keep, held=held):
                    _LOG.info("removed runs that need not be kept", count=count)
                    await asyncio.sleep(_HEALTH_PERIOD_S)
                while count := retire_canaries(operator, paths.canaries, paths.hands, self._settings.keep):
                    _LOG.info("removed canaries that need not be kept", count=count)
                    await asyncio.sleep(_HEALTH_PERIOD_S)
                now_ns = operator.clock.wall_ns()
                if count := forget_requests(paths.requests, paths.runs, paths.canaries, now_ns=now_ns):
                    _LOG.info("removed what requests left", count=count)
                while operator.store.keep_index():
                    await asyncio.sleep(0)  # runs go on meanwhile
            except BlockingIOError:
                continue  # somebody gives a command: later
            except OSError as error:
                _LOG.error("the kept runs cannot be put in order now", error=str(error))

    async def _consume(self, deciding: Deciding) -> None:
        """Events in the order they came; time itself when there are none and hosts can be heard; then those whose host
        was busy and is not any more."""
        while True:
            batch = await self._batch()
            if batch:
                questions = deciding.hear(event for _, event in batch)
            else:
                questions = deciding.due(self._operator.clock.wall_ns()) if self._settled() else deque()
            if self._prefect_up.is_set():
                questions += deciding.again()
            while not await _answered(deciding, questions):
                await asyncio.sleep(_RETRY_S)
            if batch:
                self._cursor.store(batch[-1][0])
                self._decided = batch[-1][0]

    async def _batch(self) -> list[tuple[int, Event]]:
        """What waits, the oldest first; [] after a second without any."""
        try:
            batch = [await asyncio.wait_for(self._queue.get(), _HEALTH_PERIOD_S)]
        except TimeoutError:
            return []
        while len(batch) < _BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _settled(self) -> bool:
        """True once hosts could hand in for long enough what they had to tell."""
        return self._prefect_up.is_set() and time.monotonic() - self._up_since_s >= _SETTLES_S

    def _start(self, opened: OpenRun, *, recovered: bool = False) -> None:
        task = asyncio.create_task(self._to_the_end(opened, recovered))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    async def _to_the_end(self, opened: OpenRun, recovered: bool) -> None:
        """Drives the run to its end, shown in Prefect if that answers. A run that has touched its host does not wait
        for it; another does. While the disk takes no answers, the run rests and is tried again."""
        try:
            while not opened.ended:
                if not opened.run.acted:
                    await self._prefect_up.wait()
                try:
                    opened.keep_owed_seal()
                    if not opened.run.ended:
                        await self._drive(opened, recovered)
                except OSError as error:
                    _LOG.error("the run cannot go on now", run=opened.run.run_id, error=str(error))
                    await asyncio.sleep(_RETRY_S)
                recovered = True
            _LOG.info("ended", run=opened.run.run_id, state=opened.run.state.value, reason=opened.run.reason)
        except OsremedError as error:
            _LOG.error("the run stopped and needs a human", run=opened.run.run_id, error=str(error))
        finally:
            opened.close()
            if self._deciding is not None:
                self._deciding.ended(opened)

    async def _drive(self, opened: OpenRun, recovered: bool) -> None:
        runbook = self._operator.store.runbook_of(opened.run.run_id)
        if self._prefect_up.is_set():
            try:
                if recovered:
                    await end_abandoned_flow_runs(opened.run)
                await show_run(self._operator, opened, runbook, self._publish, self._settings.console)
            except PREFECT_FAILURES as error:
                _LOG.error("Prefect failed", run=opened.run.run_id, error=str(error))
        if opened.run.ended:
            return
        if opened.run.acted or opened.unanswered:
            await drive(self._operator, opened, runbook)
            self._publish(opened.run)
        else:
            await asyncio.sleep(_HEALTH_PERIOD_S)


async def _answered(deciding: Deciding, questions: deque[Question]) -> bool:
    """False when the disk would not take it: what is left is answered later."""
    try:
        await deciding.answer(questions)
    except OSError as error:
        _LOG.error("cannot decide now", waiting=len(questions), error=str(error))
        return False
    return True


async def _first(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Returns when told to stop; raises what a task raised if one ends before."""
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in done - {stopped}:
        task.result()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels until they have ended: Prefect's engine can swallow one cancel to tell a server that is away. A run is
    on disk at every line, so what will not end is left to the next dispatcher."""
    pending = set(tasks)
    deadline = asyncio.get_running_loop().time() + _ENDS_S
    while pending and asyncio.get_running_loop().time() < deadline:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1.0)
    for task in set(tasks) - pending:
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("ended with an error", error=repr(error))
    if pending:
        _LOG.error("did not end in time and is left to the next dispatcher", count=len(pending))
