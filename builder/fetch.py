"""Fetches locked files into the pool: in parallel, resumed where a download broke, checked against the lock."""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from builder.lock import LockedPackage
from builder.locking import exclusive
from builder.mirrors import Mirrors
from builder.pool import Pool
from services.common.errors import BacklineError, HostError, IntegrityError, MissingError

_PARALLEL = 8
_CHUNK = 1 << 18
_TIMEOUT = 60.0
_TRIES = 4

Advance = Callable[[int], None]


class Gone(MissingError):
    """Locked packages are on no mirror any more. `packages` says which, sorted by name."""

    def __init__(self, packages: Sequence[LockedPackage], mirrors: Mirrors) -> None:
        self.packages = sorted(packages, key=lambda package: package.name)
        names = [package.name for package in self.packages]
        versions = [f"{package.name} {package.version}" for package in self.packages]
        where = "the mirror and the snapshot" if mirrors.snapshot else "the mirror"
        super().__init__(
            "fetch.gone",
            f"{', '.join(versions)} {'is' if len(names) == 1 else 'are'} not on {where} any more",
            hint=f"resolve again with `build lock --update {' '.join(names)}`, or set BACKLINE_BUILD_SNAPSHOT",
        )


def fetch_packages(pool: Pool, packages: Sequence[LockedPackage], mirrors: Mirrors, *, advance: Advance) -> int:
    """Fetch what is missing of `packages`; returns how many files came. `advance` is called with byte counts.

    Raises Gone for the packages that no mirror has, when all others came; MissingError("fetch.network") when a mirror
    cannot be reached, IntegrityError for wrong bytes, HostError("fetch.full") on a full disk. What came stays in the
    pool.
    """
    if not pool.missing(packages):
        return 0
    with _writing(pool.root), exclusive(pool.root / "lock", what="another download"):
        missing = pool.missing(packages)  # the download that we waited for may have brought some
        with ThreadPoolExecutor(max_workers=_PARALLEL) as executor:
            opener = _opener(mirrors)
            futures = [executor.submit(_fetch_one, pool, package, mirrors, opener, advance) for package in missing]
            gone: list[LockedPackage] = []
            try:
                for future in as_completed(futures):
                    try:
                        future.result()
                    except Gone as error:
                        gone += error.packages
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise
            if gone:
                raise Gone(gone, mirrors)
    return len(missing)


def _opener(mirrors: Mirrors) -> urllib.request.OpenerDirector:
    """Opens addresses through the proxies of the environment, or else those that apt is told to use."""
    return urllib.request.build_opener(urllib.request.ProxyHandler(mirrors.proxies | urllib.request.getproxies()))


def _fetch_one(
    pool: Pool,
    package: LockedPackage,
    mirrors: Mirrors,
    opener: urllib.request.OpenerDirector,
    advance: Advance,
) -> None:
    partial = pool.path(package.sha256, ".part")
    with _writing(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
    candidates = mirrors.candidates(package.archive)
    name = f"{package.name} {package.version}"
    for base in candidates:
        try:
            _download(base + package.path, partial, size=package.size, name=name, opener=opener, advance=advance)
        except FileNotFoundError:
            continue
        with _writing(partial):
            pool.adopt(partial, sha256=package.sha256, size=package.size, name=name)
        return
    raise Gone([package], mirrors)


def _download(
    address: str,
    partial: Path,
    *,
    size: int,
    name: str,
    opener: urllib.request.OpenerDirector,
    advance: Advance,
) -> None:
    """Download to `partial`, resuming what is there. Raises FileNotFoundError when the server has no such file."""
    failure = ""
    counted = 0
    for _ in range(_TRIES):
        start = partial.stat().st_size if partial.exists() else 0
        if start > size:
            partial.unlink()
            start = 0
        advance(start - counted)
        counted = start
        if start == size:
            return
        request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                begin = start if answer.status == 206 else 0
                _check_length(answer, begin, partial, size=size, name=name)
                with _writing(partial), partial.open("ab" if begin else "wb") as file:
                    advance(begin - counted)
                    counted = begin
                    while counted <= size and (chunk := _read(answer)):
                        file.write(chunk)
                        advance(len(chunk))
                        counted += len(chunk)
            if counted >= size:
                return
            failure = "the connection closed early"
        except _NetworkError as error:
            failure = str(error)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise FileNotFoundError(address) from error
            if error.code == 416:
                partial.unlink(missing_ok=True)
            failure = f"HTTP {error.code}"
        except urllib.error.URLError as error:
            if isinstance(error.reason, FileNotFoundError):  # a file: mirror
                raise FileNotFoundError(address) from error
            failure = getattr(error.reason, "strerror", None) or str(error.reason)
        except (http.client.HTTPException, OSError, ValueError) as error:
            failure = str(error) or type(error).__name__
    raise MissingError(
        "fetch.network",
        f"cannot fetch {address}: {failure}",
        hint="check the network and the mirror; what came so far is kept and resumed",
    )


class _NetworkError(Exception):
    """Reading from the server failed."""


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes of an answer: what goes wrong here is the network's fault, in writing it is the disk's."""
    try:
        return answer.read(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _NetworkError(str(error) or type(error).__name__) from error


def _check_length(answer: http.client.HTTPResponse, begin: int, partial: Path, *, size: int, name: str) -> None:
    """Raises IntegrityError("pool.size") when the server announces a file of another size."""
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and begin + int(length) != size:
        partial.unlink(missing_ok=True)
        raise IntegrityError(
            "pool.size",
            f"{name}: {begin + int(length)} bytes, the lock says {size}",
            hint="the mirror serves another file; try another mirror, or `build lock --update`",
        )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk_error(error, path) from error


def _disk_error(error: OSError, path: Path) -> BacklineError:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            path.unlink()
        return HostError(
            "fetch.full",
            f"no space left on the disk of {path}",
            hint="free some: `build gc --dry-run` says what",
        )
    hint = "run it as the owner of the cache (root)" if error.errno in (errno.EACCES, errno.EPERM) else None
    return HostError("fetch.disk", f"cannot write {path}: {os.strerror(error.errno or 0)}", hint=hint)
