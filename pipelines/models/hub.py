"""A repository of the hub as a source of files: what is in it at a commit, and a file's bytes.

The hub's own client is used for its addresses, tokens, proxies and retries, but files are written
here: the client (2.4) throws away what it has of a file when it is stopped, which at 5 GB a file is
an hour of somebody's line. Bytes are checked by the caller against the hashes that are listed.
Limits: plain HTTP, which the hub serves every file by (through a redirect), up to 50 GB a file. A
token comes from the environment (HF_TOKEN) or the client's own file, never from a config.
"""

import contextlib
import re
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import StoreError
from pipelines.models.choose import SourceFile

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source has."""

    repo: str
    commit: str
    files: tuple[SourceFile, ...]
    licence: str | None = None  # None: the card says it
    variant: str = ""
    is_moving: bool = False  # the revision was a branch or tag, or none


class HubSource:
    """One repository at one revision."""

    def __init__(self, repo: str, revision: str | None, endpoint: str | None = None) -> None:
        """`endpoint` is the client's own (HF_ENDPOINT) unless it is given."""
        self._repo = repo
        self._revision = revision
        self._endpoint = endpoint
        self._commit = ""

    def list_files(self) -> Listing:
        """Finds the commit and its files.

        Raises:
            ValueError: there is no such repository or revision, or it is closed to this user.
            StoreError: the hub does not answer.
        """
        from huggingface_hub import HfApi

        with self._told():
            info = HfApi(endpoint=self._endpoint).model_info(
                self._repo, revision=self._revision, files_metadata=True
            )
        self._commit = info.sha or ""
        if not _COMMIT.fullmatch(self._commit):
            raise ValueError(f"the hub names no commit of {self._repo} ({info.sha!r})")
        files = tuple(
            SourceFile(
                path=each.rfilename,
                size_bytes=each.size or 0,
                sha256=each.lfs.sha256 if each.lfs else None,
                # The id of what is in LFS is that of its pointer.
                git_sha1=None if each.lfs else each.blob_id,
            )
            for each in info.siblings or ()
        )
        is_moving = self._revision != self._commit
        return Listing(repo=self._repo, commit=self._commit, files=files, is_moving=is_moving)

    def download(self, file: SourceFile, target: Path) -> None:
        """Writes the bytes to `target`, after those that are already there.

        Raises:
            ValueError: the file is closed to this user.
            StoreError: the hub does not answer, or has fewer or more bytes than it listed.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        url = hf_hub_url(self._repo, file.path, revision=self._commit, endpoint=self._endpoint)
        with self._told(), target.open("ab") as out:
            if out.tell() > file.size_bytes:
                out.truncate(0)
            http_get(
                url,
                out,
                resume_size=out.tell(),
                headers=build_hf_headers(),
                expected_size=file.size_bytes,
                displayed_filename=file.path,
            )

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        """Says of the client's errors what to do."""
        from huggingface_hub import errors
        from huggingface_hub.constants import ENDPOINT

        place = f"{self._endpoint or ENDPOINT}/{self._repo}"
        try:
            yield
        except errors.GatedRepoError as error:
            raise ValueError(
                f"{self._repo} is gated: accept its terms at {place} and give a token of that "
                "account in HF_TOKEN (or run `hf auth login`)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise ValueError(
                f"{self._repo} has no revision {self._revision!r}: take a commit, branch or tag "
                f"that {place}/commits/main shows"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise ValueError(
                f"{self._repo} is not on the hub, or is closed to you ({_status(error)}): check "
                f"the name at {place}; if it is private or gated, give a token in HF_TOKEN (or run "
                "`hf auth login`)"
            ) from error
        except errors.HFValidationError as error:
            raise ValueError(f"{self._repo!r} is no id of a model: {error}") from error
        except errors.OfflineModeIsEnabled as error:
            raise ValueError(
                "HF_HUB_OFFLINE is set: nothing can be fetched from the hub; unset it for this "
                "command, or fetch from a mirror"
            ) from error
        except (errors.HfHubHTTPError, OSError) as error:
            raise StoreError(f"{place}: {_first_line(error)}; the same command goes on") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore"):
                raise
            raise StoreError(
                f"{place} cannot be reached ({type(error).__name__}: {_first_line(error)}): check "
                "the network and HF_ENDPOINT; the same command goes on"
            ) from error


def _status(error: Exception) -> str:
    return str(getattr(getattr(error, "response", None), "status_code", "no answer"))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
