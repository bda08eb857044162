"""Every code osremed says no with, in one table: what it means, and what to do. `osremed explain CODE` and
docs/reference/errors.md are made from it.

A code is a promise: scripts may look for it, so it is never renamed and never comes to mean something else. Codes of
the rules a runbook can break are `runbook.RULE`; their table is `runbook/faults.py`, which a host does not have.
"""

from __future__ import annotations

from collections.abc import Mapping

from osremed.core.errors import ExitCode
from osremed.core.record import record


@record
class Code:
    """`means` and `do` are whole sentences."""

    means: str
    do: str


#: What the exit codes of every command mean.
EXITS: Mapping[ExitCode, str] = {
    ExitCode.OK: "done, or nothing to do",
    ExitCode.FAILED: "it was tried and failed",
    ExitCode.BAD_INPUT: "a file, argument or expression is wrong; nothing was started",
    ExitCode.NOT_FOUND: "the named run, runbook, host or file does not exist",
    ExitCode.UNDONE: "the change was applied, did not verify, and was taken back",
    ExitCode.REFUSED: "a guard or an approver said no; nothing was changed",
    ExitCode.AWAITING: "an approval or a step of a person is outstanding",
    ExitCode.UNAVAILABLE: "a needed service, privilege or kernel feature is missing",
    ExitCode.UNDO_INCOMPLETE: "a change could not be taken back completely; a human is needed",
    ExitCode.TIMED_OUT: "what was waited for did not come in the time given; it goes on",
    ExitCode.INTERRUPTED: "SIGINT; what serves until SIGTERM ends with 0 then",
}

_ERRORS = {
    "input": Code(
        "Something that was given is wrong: an argument, a file, a value. Nothing was started.",
        "The message names the place (file:line:column or the argument) and the hint what is expected there.",
    ),
    "input.usage": Code(
        "The command line is not one that osremed knows.",
        "osremed VERB --help shows what a verb takes.",
    ),
    "input.unit": Code(
        "A quantity has no unit, or one that is not known. Numbers in text always carry one.",
        "Durations: ms, s, m, h, d (10m). Sizes: B, kB, MB, GB, KiB, MiB, GiB (512MiB). Shares: % (5%).",
    ),
    "input.expression": Code(
        "An expression of a rule could not be evaluated on what was there.",
        "Look at the value it names: what could not be read is neither true nor false.",
    ),
    "input.opinion-off": Code(
        "Nobody has switched second opinions on: no model may be asked anything.",
        "docs/howto/second-opinion.md says what /etc/osremed/opinion.yaml needs, and what leaves the machine then.",
    ),
    "not-found": Code(
        "What was named does not exist here.",
        "List what does: osremed runs list, osremed hosts, osremed runbook list, osremed agent undo list.",
    ),
    "not-found.run": Code(
        "There is no run of this id in this state directory.",
        "osremed runs list shows them; --state names the dispatcher's directory.",
    ),
    "unavailable": Code(
        "A service, a privilege or a feature of the kernel is missing. Nothing is wrong with what was asked.",
        "osremed doctor says what is missing on this host and how to get it.",
    ),
    "unavailable.control-plane": Code(
        "The verb belongs to the control plane, which is not installed here.",
        "pip install 'osremed[control]' with Python 3.11-3.13, or run it where the control plane is.",
    ),
    "unavailable.privilege": Code(
        "The kernel does not let this user read or change what the verb needs.",
        "Run it as root, or as the user of the service.",
    ),
    "unavailable.git": Code(
        "git could not do what was asked of it: the repository, the network or the credentials.",
        "The message quotes git. Live rules stay as they are meanwhile.",
    ),
    "unavailable.model": Code(
        "The endpoint of the model gave no answer in time, within its tokens, or in the form that is asked for.",
        "The findings of the rules stand without it. osremed opinion check shows the settings; the message has more.",
    ),
    "unavailable.opinion-limit": Code(
        "Today's questions or tokens for models are used up.",
        "Wait until midnight UTC, or raise calls_a_day or tokens_a_day in /etc/osremed/opinion.yaml.",
    ),
    "failed": Code("It was tried, and failed.", "The message says at what; --debug shows where."),
    "failed.system": Code(
        "A call of the operating system failed: a full disk, a file that is not there, a peer that is away.",
        "The message names the file and the system's own words.",
    ),
    "run.damaged": Code(
        "A run's journal cannot be read back. What the run has changed is not known, so no run is let in.",
        "Keep a copy of its folder, look at the host, then move the folder away from the state directory.",
    ),
    "run.impossible": Code(
        "A run was told something that cannot happen in its state: a bug, or a journal put together by hand.",
        "Keep the run's folder and report it.",
    ),
    "bug": Code(
        "osremed itself is wrong: this should not have happened, whatever was asked.",
        "Do it again with --debug and report the trace.",
    ),
}

_GUARDS = {
    "freeze": Code("A person has stopped changes here.", "osremed freezes shows who and why; osremed unfreeze lifts."),
    "scope": Code("The host is not in the inventory.", "Add it, or ask why it tells events to this control plane."),
    "policies": Code(
        "A guard policy of the host's group holds this runbook back.",
        "The detail names the policy; those that are live lie with the rules, in policies/.",
    ),
    "mode": Code(
        "Since the run was decided its runbook is in suggest mode here, and nobody was asked.",
        "Begin it again: then a person is asked. `mode` of the runbook, or of a policy of the group, says which.",
    ),
    "fresh": Code(
        "The event is too old to act on, or dated ahead of the clock here.",
        "See why it came late, or which clock is wrong; max_event_age of the runbook is the limit.",
    ),
    "journals": Code("Some run cannot be read, so what it changed is unknown.", "See run.damaged."),
    "half-undone": Code(
        "A change on this host could not be taken back completely.",
        "See to the host, then: osremed runs acknowledge RUN.",
    ),
    "target-busy": Code(
        "Another run works on the host: one change at a time.",
        "Wait: the event is asked again once that run has ended.",
    ),
    "per-host": Code("As many runs of this runbook as declared are active on the host.", "Wait for them to end."),
    "cooldown": Code("The last run of this runbook on the host is too recent.", "Wait, or shorten guards.cooldown."),
    "backoff": Code(
        "The runbook failed here lately; the pause doubles with each failure.",
        "osremed runs show tells why it failed. Mend that before the pause is over.",
    ),
    "recurrence": Code(
        "The runbook helps, and the trouble comes back again and again.",
        "A person must find the cause; evidence of each run is in its report.",
    ),
    "fleet": Code("As many runs of this runbook as declared are active in the fleet.", "Wait for them to end."),
    "storm": Code("Too many runs of this runbook began at once.", "Look for one common cause before the hosts."),
    "blast-radius": Code("Too many hosts would be changed in too short a time.", "Wait, or let a person widen it."),
    "breaker": Code(
        "Too many of the last runs in the fleet were not kept: the runbook does harm or no good.",
        "Mend the runbook, then: osremed runs reset-breaker RUNBOOK.",
    ),
    "window": Code("Changes are not allowed at this time of the week.", "guards.windows of the runbook says when."),
    "evidence": Code(
        "No evidence could be collected; nothing is changed blindly.", "The gaps say what did not answer."
    ),
    "watch": Code("What must not get worse had no value before the change.", "See the detail of the run."),
    "bounds": Code(
        "An argument that the evidence gave the action is outside what a runbook may set.",
        "The detail names it and its bounds. Nothing was changed; mend the expression in the runbook.",
    ),
    "preview": Code("The change could not be previewed, so the way back is not known.", "See the detail of the run."),
    "plan": Code("There is nothing to change.", "The findings and notes of the run say why no remedy fits."),
    "approval": Code("The approver said no, or nobody answered in time.", "Begin a new run if it is still wanted."),
    "person": Code(
        "A person was asked to do the first step and did not, or nobody said in time that it is done.",
        "Nothing was changed. Begin a new run if it is still wanted.",
    ),
    "engine": Code("The engine could not go on before anything was changed.", "The detail of the run says at what."),
}

_MISSING = {
    "no_data": Code("The source answered and had nothing.", "Often right: there is nothing of this kind here."),
    "denied": Code("The kernel or a service did not allow the look.", "Run as root, or give the capability."),
    "unsupported": Code("This kernel, driver or version does not have it.", "osremed doctor says what would."),
    "timed_out": Code("No answer in time.", "A stuck driver or file system can be the finding itself."),
    "malformed": Code("What was read is not of the known form.", "Report it with the file named as the source."),
    "gone": Code("It was there and vanished while being read.", "Usual for processes that end."),
}

_GITOPS = {
    "Suspended": Code("A person suspended taking rules from Git.", "osremed gitops resume."),
    "FetchFailed": Code(
        "The repository could not be fetched.", "The network, the address or the key; live rules stay."
    ),
    "LookFailed": Code(
        "A look at Git broke off on this machine: its keys, its mirror, its disk or the source of the rules.",
        "The message names the file or program. The live rules stay; the next look tries again.",
    ),
    "HistoryRewritten": Code(
        "The branch does not continue the commit that is live.",
        "To go back or sideways on purpose, pin `commit:` in the source.",
    ),
    "BadTree": Code("What the commit holds cannot be taken: size, links or names.", "The message names the file."),
    "BadOverlay": Code("The environment's overlay does not fit its base.", "osremed gitops check on a working copy."),
    "TooMuchRemoved": Code("Much would vanish or change at once.", "If it is meant: osremed gitops apply --force."),
    "NotVouched": Code("A commit has no good signature of an allowed signer.", "Sign it, or allow its signer."),
    "CheckFailed": Code("Lint or the cases of the rules fail.", "osremed gitops check on a working copy shows all."),
    "DecisionsChange": Code(
        "On past events the new rules decide otherwise more often than allowed by itself.",
        "Look at the differences (osremed gitops plan); if they are meant: osremed gitops apply --force.",
    ),
    "FleetUnknown": Code(
        "The inventory on whose hosts past events are replayed cannot be read.",
        "Mend it, or `replay.inventory` in the source of the rules; live rules stay.",
    ),
    "Drifted": Code("The live rules were changed behind Git's back.", "osremed gitops apply, or repair_drift: true."),
}

_GROUPS: Mapping[str, Mapping[str, Code]] = {"guard": _GUARDS, "missing": _MISSING, "gitops": _GITOPS}

#: Headings of the reference: the codes that begin with the word, "" for the rest.
GROUPS: Mapping[str, str] = {
    "": "Errors",
    "guard": "Refusals: which guard stopped a run",
    "missing": "Missing: why a value is not there",
    "gitops": "GitOps: why rules are not live",
}

CODES: Mapping[str, Code] = {
    **_ERRORS,
    **{f"{group}.{name}": code for group, codes in _GROUPS.items() for name, code in codes.items()},
}
