"""Files of a Hub repository, fetched so that an interruption costs nothing and damage is noticed.

huggingface_hub lists, asks for tokens, follows mirrors and keeps its cache; but it starts a file of five
gigabytes anew after an interruption, and compares no sums. So large files are fetched here, over plain HTTP
rather than Xet, into `NAME.incomplete`, where the next call continues; a file gets its final name only once
its sha256 is what the Hub says. The small files, the links of the cache and the reference that makes it
usable without a network are then left to `snapshot_download`.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepgen.checkpoints.published import PUBLISHED, PUBLISHED_NAME, PUBLISHED_REVISION
from deepgen.checkpoints.sums import SUMS, hash_file, write_list

GB = 10**9
SPARE = GB // 10  # bytes that must stay free: small files, file system and logs

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository; large ones (`sha256`) are known by their sum, others by git's."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None

    @property
    def etag(self) -> str | None:
        """The name of its content in the cache."""
        return self.sha256 or self.blob_id


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is to be fetched from a repository, at one commit."""

    name: str
    revision: str | None
    commit: str
    files: tuple[HubFile, ...]

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


class DamagedFileError(OSError):
    """A file's content is not what its sum says."""


def list_files(
    name: str, revision: str | None = None, *, allow: Sequence[str] = ("*",), ignore: Sequence[str] = ()
) -> Listing:
    """The files of a repository that match a pattern of `allow` and none of `ignore`.

    Raises:
        OSError: the Hub, the repository or the revision cannot be had, or nothing matches; the message says
            what to do.
        ConnectionError: HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(name, revision=revision, files_metadata=True)
    except Exception as error:  # the client raises a dozen unrelated classes
        if not _is_expected(error):
            raise
        raise explained(error, name, revision) from error
    siblings = found.siblings or []
    wanted = [
        HubFile(
            path=sibling.rfilename,
            size=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            blob_id=sibling.blob_id,
        )
        for sibling in siblings
        if any(fnmatch.fnmatch(sibling.rfilename, pattern) for pattern in allow)
        and not any(fnmatch.fnmatch(sibling.rfilename, pattern) for pattern in ignore)
    ]
    if not wanted or found.sha is None:
        raise FileNotFoundError(f"{name} holds none of {', '.join(allow)}; it has {len(siblings)} files")
    return Listing(name=name, revision=revision, commit=found.sha, files=tuple(wanted))


def check_published(listing: Listing) -> int:
    """How many files have the sums that are known of the published revision.

    Raises:
        DamagedFileError: the listing calls itself that revision and has other sums.
    """
    if listing.name != PUBLISHED_NAME:
        return 0
    known = {
        file.path: file.sha256 == PUBLISHED[file.path].sha256
        for file in listing.files
        if file.path in PUBLISHED
    }
    wrong = [path for path, is_same in known.items() if not is_same]
    if wrong and listing.commit == PUBLISHED_REVISION:
        from huggingface_hub import constants

        raise DamagedFileError(
            f"{constants.ENDPOINT} offers another {', '.join(wrong)} than the published revision "
            f"{PUBLISHED_REVISION[:7]} has; nothing was fetched; use another mirror or none (HF_ENDPOINT)"
        )
    return sum(known.values())


def place_of(listing: Listing, file: HubFile, folder: Path | None) -> Path:
    """Where a file's content belongs: in the folder, or in the Hub's cache under its sum."""
    if folder is not None:
        return folder / file.path
    return _repository(listing.name) / "blobs" / str(file.etag)


def missing_bytes(listing: Listing, folder: Path | None) -> int:
    """What has still to come over the network or from the cache; what is there is taken as whole."""
    left = 0
    for file in listing.files:
        place = place_of(listing, file, folder)
        if not (place.is_file() and place.stat().st_size == file.size):
            partial = _partial(place, file)
            left += file.size - (min(partial.stat().st_size, file.size) if partial.is_file() else 0)
    return left


def check_space(listing: Listing, folder: Path | None) -> None:
    """OSError where the disk has not room enough for what is missing."""
    place = _root(listing.name, folder)
    while not place.exists():
        place = place.parent
    needed, free = missing_bytes(listing, folder), shutil.disk_usage(place).free
    if needed and needed + SPARE > free:
        raise OSError(
            errno.ENOSPC,
            f"{_size(needed)} are to be fetched and {place} has {_size(free)} free; make room, or take "
            "another disk with --to FOLDER or HF_HOME",
        )


def fetch(listing: Listing, folder: Path | None, say: Say) -> Path:
    """Bring every file of the listing, whole, into a folder or the Hub's cache; returns where they lie.

    Files that are there already are compared with their sums, and fetched again where they differ.

    Raises:
        DamagedFileError: what the server sent has another sum than it says; the file is removed.
        OSError: no network, no room, no permission. What was fetched is kept for the next call.
    """
    check_space(listing, folder)
    large = [file for file in listing.files if file.sha256]
    try:
        for number, file in enumerate(large, start=1):
            _fetch_large(listing, file, folder, f"{number}/{len(large)} {file.path}", say)
        found = _fetch_rest(listing, folder)
        for file in listing.files:
            if not file.sha256 and file.blob_id and git_blob_id(found / file.path) != file.blob_id:
                _remove(found / file.path)
                raise DamagedFileError(_damaged(file, listing))
    except Exception as error:  # as above; what the client does not raise goes on as it is
        if isinstance(error, DamagedFileError) or not _is_expected(error):
            raise
        raise explained(error, listing.name, listing.revision) from error
    return found


def list_sums(listing: Listing, folder: Path) -> Path:
    """SHA256SUMS of what was fetched into a plain folder, unless the repository brings its own."""
    if any(file.path == SUMS for file in listing.files):
        return folder / SUMS
    return write_list(
        folder, {file.path: file.sha256 or hash_file(folder / file.path) for file in listing.files}
    )


def find_offline(
    name: str, revision: str | None, allow: Sequence[str], ignore: Sequence[str], say: Say
) -> Path:
    """The cached folder of a repository, its large files compared with their sums, without a network.

    Raises:
        FileNotFoundError: the cache lacks the repository or some of its files.
        DamagedFileError: a file is not what its sum says; it is removed.
    """
    from huggingface_hub import snapshot_download

    try:
        found = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(allow),
                ignore_patterns=list(ignore),
                local_files_only=True,
            )
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"HF_HUB_OFFLINE is set and the cache {_repository(name).parent} does not hold all of {name}; "
            "unset it, or fetch a folder where there is a network (deepgen download --to FOLDER) and copy it"
        ) from error
    for file in sorted(found.rglob("*")):
        expected = file.resolve().name
        if file.is_symlink() and len(expected) == 64:
            say(f"comparing {file.relative_to(found)} with its sum")
            if hash_file(file) != expected:
                _remove(file)
                raise DamagedFileError(f"{file} was damaged and is removed; fetch it again with a network")
    return found


def git_blob_id(path: Path) -> str:
    """Git's name of a file's content: SHA-1 over a header with its length, and the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def explained(error: Exception, name: str, revision: str | None) -> OSError:
    """What went wrong with the Hub, as one sentence with what to do."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConnectionError(f"HF_HUB_OFFLINE is set, so {name} is not looked up; unset it to download")
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(f"{name} is gated: accept its terms at {where}/{name}, then {_LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{name} has no revision {revision!r}; leave out --revision for the newest")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
        return FileNotFoundError(
            f"{where} shows no model {name} (status {status}): check the name; if it is private, {_LOG_IN}"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OSError(
            errno.ENOSPC, f"the disk is full; make room, then {_AGAIN} ({error.filename or error})"
        )
    if isinstance(error, PermissionError):
        return PermissionError(f"{error}; choose another place with --to FOLDER or HF_HOME")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return error
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    asked = f"{where} answered with status {status}" if status else f"{where} cannot be reached"
    return ConnectionError(
        f"{asked}, while fetching {name} ({type(error).__name__}: {said}); check the network, HTTPS_PROXY "
        f"and HF_ENDPOINT, then {_AGAIN}"
    )


_AGAIN = "give the same command again: it continues where it stopped"
_LOG_IN = "log in with an account that may read it (`hf auth login`, or set HF_TOKEN)"
_OF_THE_HUB = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")


def _is_expected(error: Exception) -> bool:
    """Whether it is about the network, the Hub or the disk; anything else is a fault of this program."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _OF_THE_HUB


# --- one file


def _fetch_large(listing: Listing, file: HubFile, folder: Path | None, label: str, say: Say) -> None:
    from huggingface_hub.utils import WeakFileLock

    place = place_of(listing, file, folder)
    partial = _partial(place, file)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = partial.with_suffix(".lock")  # two processes would write into the same file
    try:
        with WeakFileLock(str(lock)):
            if place.is_file():
                if hash_file(place) == file.sha256:
                    say(f"{label}: is there, {_size(file.size)}, sum right")
                    return
                say(f"{label}: is there but damaged; it is removed and fetched again")
                place.unlink()
            _complete(listing, file, partial, folder, label)
            if hash_file(partial) != file.sha256:
                partial.unlink()
                raise DamagedFileError(_damaged(file, listing))
            partial.replace(place)
    finally:
        lock.unlink(missing_ok=True)
    say(f"{label}: {_size(file.size)}, sum right")


def _complete(listing: Listing, file: HubFile, partial: Path, folder: Path | None, label: str) -> None:
    """Fill the partial file, from the cache where it has the content, or from where it stopped."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    cached = _repository(listing.name) / "blobs" / str(file.sha256)
    if folder is not None and cached.is_file() and cached.stat().st_size == file.size:
        shutil.copyfile(cached, partial)
        if hash_file(partial) == file.sha256:
            return
        partial.unlink()
    if partial.is_file() and partial.stat().st_size > file.size:
        partial.unlink()
    with partial.open("ab") as stream:
        http_get(
            hf_hub_url(listing.name, file.path, revision=listing.commit),
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=label,
        )


def _fetch_rest(listing: Listing, folder: Path | None) -> Path:
    """Small files, links and references, by the Hub's own client; large files are found as they lie."""
    from huggingface_hub import snapshot_download

    found = Path(
        snapshot_download(
            listing.name,
            revision=listing.revision,
            local_dir=None if folder is None else str(folder),
            allow_patterns=[file.path for file in listing.files],
            max_workers=2,
        )
    )
    if folder is None and found.name != listing.commit:
        raise ConnectionError(f"{listing.name} was changed meanwhile, from {listing.commit} to {found.name}")
    return found


def _partial(place: Path, file: HubFile) -> Path:
    """The name of an unfinished file; its sum keeps two revisions apart."""
    return place.with_name(f"{place.name}.{str(file.etag)[:8]}.incomplete")


def _repository(name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def _root(name: str, folder: Path | None) -> Path:
    return (_repository(name) if folder is None else folder).absolute()


def _remove(path: Path) -> None:
    """A file, and what it links to in the cache."""
    target = path.resolve()
    path.unlink()
    target.unlink(missing_ok=True)


def _damaged(file: HubFile, listing: Listing) -> str:
    from huggingface_hub import constants

    return (
        f"{file.path} of {listing.name} came with another sum than {constants.ENDPOINT} announces, so it was "
        "removed; fetch it again, and if that repeats, without HF_ENDPOINT or a proxy"
    )


def _size(nbytes: int) -> str:
    return f"{nbytes / GB:.2f} GB" if nbytes >= GB // 10 else f"{nbytes / 1e6:.1f} MB"
