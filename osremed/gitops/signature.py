"""Who vouches for a commit: SSH or OpenPGP signatures, checked offline against keys that lie on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from osremed.core.errors import BadInput, OsremedError, Unavailable
from osremed.core.record import record
from osremed.gitops.git import GitFailed, Repository, commits_between

#: What `git verify-tag --raw` says of a good signature: ssh-keygen's own line, and GnuPG's status line (doc/DETAILS).
_GOOD_SSH = re.compile(r'^Good "git" signature for (?P<name>.+) with \S+ key (?P<key>\S+)$', re.MULTILINE)
_GOOD_OPENPGP = re.compile(r"^\[GNUPG:\] GOODSIG (?P<key>[0-9A-F]+) (?P<name>.+)$", re.MULTILINE)
#: git-log(1), %G?: what each letter means to somebody whose rules end processes.
_MEANING = {
    "G": "",
    "U": "the signature is by a key that is not among the allowed signers",
    "N": "it is not signed",
    "B": "its signature is bad",
    "X": "its signature has expired",
    "Y": "its key has expired",
    "R": "its key was revoked",
    "E": "its signature cannot be checked with the allowed signers",
}


#: How long GnuPG may take to read a file of keys.
_GPG_S = 30.0


@record
class Signer:
    """`name` is the principal of an SSH key or the user id of an OpenPGP key; `key` is the key's fingerprint."""

    commit: str
    name: str
    key: str


class NotVouched(OsremedError):
    """A commit has no good signature of an allowed signer."""

    code = "gitops.NotVouched"


def trust_settings(*, allowed_signers: str, keyring: str, mirror_directory: str) -> dict[str, str]:
    """git settings that trust those keys alone. `allowed_signers` is a file as in ssh-keygen(1); `keyring` a file of
    OpenPGP public keys. BadInput if neither is given or one cannot be read."""
    if not allowed_signers and not keyring:
        raise BadInput("no keys to check signatures with", hint="give verify.allowed_signers or verify.keyring")
    settings = {"gpg.minTrustLevel": "fully", "gpg.ssh.revocationFile": ""}
    for path in (allowed_signers, keyring):
        if path and not os.path.isfile(path):
            raise BadInput("the file of allowed keys is not there", where=path)
    settings["gpg.ssh.allowedSignersFile"] = os.path.abspath(allowed_signers) if allowed_signers else os.devnull
    if keyring:
        _make_keyring(keyring, os.path.join(mirror_directory, "gnupg"))
    return settings


def _make_keyring(keyring: str, home: str) -> None:
    """A GnuPG home with these keys and no others, all trusted: being in the file is the trust."""
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(home, mode=0o700)
    with open(os.path.join(home, "gpg.conf"), "w", encoding="ascii") as out:
        out.write("no-auto-key-retrieve\nno-auto-key-locate\ntrust-model always\nbatch\n")
    argv = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-autostart", "--import", keyring]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_GPG_S, check=False)
    except FileNotFoundError:
        raise Unavailable("gpg is not installed", hint="apt-get install gpg") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"gpg did not read the keys within {_GPG_S:g} s", where=keyring) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise BadInput(f"not a file of OpenPGP public keys: {said[-1]}", where=keyring)


def _signature(mirror: Repository, commits: Sequence[str]) -> list[tuple[str, str, str, str]]:
    output = mirror.run(
        "log", "--no-walk=unsorted", "--format=%H%x00%G?%x00%GS%x00%GF%x00%GK", *commits, max_bytes=16 << 20
    )
    found = []
    for line in output.decode("utf-8", "replace").splitlines():
        commit, letter, name, fingerprint, key = line.split("\0")
        found.append((commit, letter, name, fingerprint or key))
    return found


def prove(mirror: Repository, older: str, newer: str, *, principals: Sequence[str] = ()) -> tuple[Signer, ...]:
    """The signer of every commit that `newer` adds to `older`, oldest first. NotVouched names the first without one.

    `principals` narrows the allowed signers further (exact names); none means all of them."""
    commits = commits_between(mirror, older, newer)
    signers = []
    for commit, letter, name, key in _signature(mirror, commits) if commits else ():
        why = _MEANING.get(letter, f"git says {letter!r} of its signature")
        if not why and principals and name not in principals:
            why = f"its signer {name!r} is not among verify.principals"
        if why:
            hint = "sign with an allowed key (git commit -S), or let the key's owner be allowed"
            raise NotVouched(f"commit {commit[:12]} is refused: {why}", hint=hint)
        signers.append(Signer(commit, name, key))
    return tuple(signers)


def prove_tag(mirror: Repository, tag: str, ref: str, *, principals: Sequence[str] = ()) -> Signer:
    """The signer of an annotated tag object that `ref` named; what it points to is vouched for by it. NotVouched
    otherwise, also if it was signed as another tag: who can push can put an older one under the name of a newer."""
    hint = "sign the tag with an allowed key (git tag -s)"
    if mirror.run("cat-file", "-t", tag).strip() != b"tag":
        raise NotVouched(f"{tag[:12]} is a commit and not an annotated tag", hint=hint)
    try:
        said = mirror.talk("verify-tag", "--raw", tag)[1].decode("utf-8", "replace")
    except GitFailed as error:
        raise NotVouched(f"tag {tag[:12]} is refused: {error.what}", hint=hint) from error
    found = _GOOD_SSH.search(said) or _GOOD_OPENPGP.search(said)
    if found is None:
        raise NotVouched(f"tag {tag[:12]} is refused: git does not name its signer", hint=hint)
    if principals and found["name"] not in principals:
        raise NotVouched(f"tag {tag[:12]} is refused: its signer {found['name']!r} is not among verify.principals")
    signed_as, wanted = _name_of_tag(mirror, tag), ref.removeprefix("refs/").removeprefix("tags/")
    if signed_as != wanted:
        what = f"tag {tag[:12]} is refused: it was signed as {signed_as!r} and lies at {wanted!r}"
        raise NotVouched(what, hint="sign a tag of that name (git tag -s), or let `ref` name the one that was signed")
    return Signer(tag, found["name"], found["key"])


def _name_of_tag(mirror: Repository, tag: str) -> str:
    """As the tag object itself has it (git-mktag(1)): foreign text."""
    head = mirror.run("cat-file", "tag", tag).partition(b"\n\n")[0].decode("utf-8", "replace")
    return next((line.removeprefix("tag ") for line in head.split("\n") if line.startswith("tag ")), "")
