"""Keeps a Ray that is started here to its owner: token, loopback, a folder that others cannot read.

Ray's own defaults are for a cluster behind a firewall: servers on every interface, a token file
that all users of the machine may read, and under /tmp/ray a session folder that they may write to,
its sockets and packages included.

Limits: no TLS, so whoever can trace the loopback sees the token. What the user sets himself
(RAY_AUTH_MODE=disabled, a token file elsewhere, RAY_TMPDIR) is left as it is. A cluster that is
joined is guarded by whoever started it. `ray status` finds a Ray that is kept so only with the same
environment: RAY_AUTH_MODE, RAY_TMPDIR and the key below.
"""

import contextlib
import logging
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

# Set for a local Ray where the user has not.
LOCAL_ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    # Named after the systems where 0 is the default. On Linux the node would take the address of
    # the machine, and all its servers listen to the network: metrics answer without a token.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

# A socket's path has 103 characters on macOS, 107 on Linux; Ray's own part of it takes 69.
_MAX_FOLDER_CHARS = 34


def auth_mode() -> str:
    """What the user says, else `token`. Ray itself takes every other word for `disabled`.

    Raises:
        ValueError: a word that would leave the cluster open without having said so.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").strip().lower() or LOCAL_ENVIRONMENT["RAY_AUTH_MODE"]
    if mode not in ("token", "disabled"):
        raise ValueError(
            f"RAY_AUTH_MODE is {mode!r}: unset it, or give 'token', for a Ray that only you can "
            "use ('disabled' would let every user of this machine run code as you)"
        )
    return mode


def guard_token() -> None:
    """A token file that its owner alone reads; Ray would make one that everybody may read."""
    if auth_mode() == "disabled":
        logger.warning(
            "RAY_AUTH_MODE=disabled: every user of this machine can run code as you while this "
            "runs; unset it to use a token"
        )
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    if not path.exists():
        _create(path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
        logger.warning(
            "%s could be read by others and is now yours alone; remove it for a new token if "
            "others use this machine",
            path,
        )


def _create(path: Path) -> None:
    """Whole from its first moment, for another Ray that starts beside this one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".auth_token-{secrets.token_hex(8)}")
    with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
        out.write(secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):
        os.link(new, path)
    new.unlink()


def private_folder() -> Path:
    """Where a local Ray keeps its sessions: it opens its own folders to everybody, so one above.

    In TMPDIR, unless that is so long that the names of Ray's sockets there would not fit.
    """
    name = f"pairloom-{os.getuid()}"
    folder = Path(os.environ.get("TMPDIR") or "/tmp", name)
    return folder if len(str(folder)) <= _MAX_FOLDER_CHARS else Path("/tmp", name)


def guard_folder() -> None:
    """Makes `private_folder`, if it is the one in use, or sees that it is ours.

    Raises:
        ValueError: another user was there first.
    """
    folder = private_folder()
    if os.environ["RAY_TMPDIR"] != str(folder):
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(
            f"folder {str(folder)!r}, for Ray's logs and sockets, is open to other users: remove "
            "it, or point RAY_TMPDIR at a folder that is yours alone"
        )
