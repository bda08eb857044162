"""`osremed ask`, `runs opinion`, `opinion read`, `--opinion` of others: a model reads evidence, a person judges."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from osremed.console.binding import Places
from osremed.core.answer import Answer
from osremed.core.errors import BadInput, Unavailable
from osremed.core.files import read_bytes
from osremed.core.language import filled
from osremed.core.reading import Missing, Reason
from osremed.flows.fleet import known_runs, told
from osremed.flows.settings import ControlPaths
from osremed.opinion.asking import Question, opinion_on
from osremed.opinion.calls import used_today
from osremed.opinion.documents import of_run, veiled
from osremed.opinion.inquiry import Inquiry
from osremed.opinion.policy import KINDS, Policy, load_policy
from osremed.opinion.text import as_text
from osremed.opinion.veil import Veil
from osremed.report.assemble import bundle_of
from osremed.runbook.audit import person
from osremed.runbook.catalog import load_catalog
from osremed.runbook.opinions import Opinion, opinion_as_json, write_opinion
from osremed.runbook.store import RunStore

_LONGEST_QUESTION = 2000
_LARGEST_BYTES = 64 << 20
_OF_RUN = "What may have caused this event on this host? Look for causes that the findings do not name, too."
_OF_FILES = "What may be the cause of what these documents show? Say their findings in plain words, too."


def runs_opinion(*, run_id: str, state: str, runbooks: str, opinion: str) -> Answer:
    """Kept beside the run, where its page shows it. BadInput while nobody has switched opinions on."""
    policy = load_policy(opinion)
    paths = ControlPaths(os.path.abspath(state))
    store = RunStore(paths.runs)
    run, _effect = store.load(run_id)
    veil = Veil(policy.share, (run.host,))
    documents = of_run(run, bundle_of(store, run), policy.share, veil)
    if not documents:
        raise _nothing_shared(opinion, "evidence")
    catalog = load_catalog(runbooks) if policy.share.runbooks else {}
    question = Question(f"run {run_id}", _OF_RUN, documents, run, catalog)
    made = opinion_on(question, policy, veil, paths.hands)
    write_opinion(store.of(run_id), made)
    return _answer(made)


def ask(
    *, question: str, state: str, inventory: str, collections: str, runbooks: str, source: str, opinion: str
) -> Answer:
    """What a model found out by the reading verbs. BadInput while nobody has switched opinions on."""
    policy = load_policy(opinion)
    if not policy.share.tools:
        raise _nothing_shared(opinion, "tools")
    if not 3 <= len(question) <= _LONGEST_QUESTION:
        raise BadInput(f"a question has 3 to {_LONGEST_QUESTION} characters", where="question")
    hosts = {str(each.record.get("host", "")) for each in told(state)} | {run.host for run in known_runs(state)[0]}
    veil = Veil(policy.share, sorted(hosts))
    places = Places(state, inventory, collections, runbooks, source)
    inquiry = Inquiry(policy, places, person(), veil)
    put = f"{question}\n(It is {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC. Ask the tools.)"
    return _answer(opinion_on(Question(question, put, (), inquiry=inquiry), policy, veil, _hands(state)))


def opinion_read(*, documents: list[str], state: str, opinion: str) -> Answer:
    """KIND=FILE each, as `osremed hotspot traps -o json` and other verbs print them."""
    policy = load_policy(opinion)
    read = dict(_read(each) for each in documents)
    return _answer(_on_documents(read, f"files {', '.join(read)}", policy, state, opinion))


def beside(answer: Answer, *, kind: str, state: str, opinion: str) -> Answer:
    """The answer of a verb whose document is evidence of that kind, with what a model makes of it: `opinion` in the
    document. A model that does not answer takes nothing from the verb's own answer but its exit code."""
    policy = load_policy(opinion)
    try:
        made = _on_documents({kind: answer.document}, f"answer {kind}", policy, state, opinion)
    except Unavailable as error:
        gap = Missing(Reason.NO_DATA, "opinion", error.what)
        return Answer({**answer.document, "opinion": gap.as_json()}, f"{answer.text}\n\n{gap}", error.exit_code)
    document = {**answer.document, "opinion": opinion_as_json(made)}
    return Answer(document, f"{answer.text}\n\n{as_text(made)}", answer.exit_code)


def _on_documents(read: Mapping[str, Any], about: str, policy: Policy, state: str, path: str) -> Opinion:
    """BadInput if the policy, which is in `path`, does not share one of them."""
    hidden = sorted(set(read) - set(policy.share.evidence))
    if hidden:
        hint = f"share.evidence of {path} names what may leave"
        raise BadInput(f"{hidden[0]!r} may not be shown to a model", where="documents", hint=hint)
    veil = Veil(policy.share)
    for body in read.values():
        veil.learn(body)
    shown = tuple(veiled(kind, body, veil) for kind, body in read.items())
    return opinion_on(Question(about, _OF_FILES, shown), policy, veil, _hands(state))


def check(*, state: str, opinion: str) -> Answer:
    """The settings, what may leave, and what was used today. BadInput names the place of a fault."""
    policy = load_policy(opinion)
    policy.key()
    used = used_today(_hands(state), time.time_ns())
    share, limits = policy.share, policy.limits
    evidence, tools = (", ".join(each) or filled("none") for each in (share.evidence, share.tools))
    runbooks = filled("yes") if share.runbooks else filled("no")
    spent = (used.calls, limits.calls_a_day, used.tokens, limits.tokens_a_day)
    hidden = (share.names, share.paths, share.hosts)
    lines = [
        filled("{1} at {2} may be asked", policy.model, policy.endpoint),
        filled("  leaves this machine: evidence {1}; tools {2}; runbooks {3}", evidence, tools, runbooks),
        filled("  names {1}, paths {2}, hosts {3}; secrets always hidden", *map(str, hidden)),
        filled("  today: {1} of {2} questions, {3} of {4} tokens", *map(str, spent)),
    ]
    document = {**policy.model_dump(mode="json", by_alias=True), "calls_today": used.calls, "tokens_today": used.tokens}
    return Answer(document, "\n".join(lines))


def _hands(state: str) -> str:
    return ControlPaths(os.path.abspath(state)).hands


def _answer(made: Opinion) -> Answer:
    return Answer(opinion_as_json(made), as_text(made))


def _nothing_shared(path: str, what: str) -> BadInput:
    return BadInput(f"share.{what} names nothing that may be shown", where=path, hint=f"share: {{{what}: [...]}}")


def _read(said: str) -> tuple[str, Any]:
    kind, _, path = said.partition("=")
    if kind not in KINDS or not path:
        raise BadInput(f"{said!r} is not KIND=FILE", where="documents", hint=f"kinds: {', '.join(KINDS)}")
    try:
        return kind, json.loads(read_bytes(path, limit_bytes=_LARGEST_BYTES))
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}", where=path, hint="write it with -o json") from error
