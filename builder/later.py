"""Work that a build does not wait for yet: on one thread beside it, in the order in which it was given.

mkosi and dpkg keep one processor busy. What takes time and is needed only at the end, such as copying a layer into the
cache, is done on the other one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Later:
    """A thread for one build. Leaving the block waits for it; what failed and nobody asked for is raised by `wait`.

    The thread begins with the first piece of work, in the mount namespace of who gives it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="later")
        self._given: list[Future[object]] = []

    def do(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do `work` after all that was given before; its result is the future's."""
        future = self._pool.submit(work, *args, **kwargs)
        self._given.append(future)  # type: ignore[arg-type]  # Future is invariant, and only asked for exceptions
        return future

    def wait(self) -> None:
        """Wait until all of it is done. Raises the first thing that went wrong."""
        for future in self._given:
            future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self.wait()
