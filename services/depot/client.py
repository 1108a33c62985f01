"""The typed client of the depot: `Depot` that blocks, `AsyncDepot` for asyncio; the calls are described once."""

from __future__ import annotations

from services.common.client import AsyncClient, Call, Client, Nothing, path_of
from services.common.collecting import GcAnswer, GcRequest
from services.depot.schema import (
    Channel,
    NewProgress,
    NewPublication,
    NewUpload,
    Progress,
    Publication,
    Publications,
    Received,
    Upload,
    Version,
    Versions,
)

SOCKET = "unix:/run/backline/depot.sock"
BYTES = "application/octet-stream"


def begin_call(new: NewUpload) -> Call[Upload]:
    return Call("POST", "/v1/versions", Upload, body=new)


def put_call(role: str, version: str, name: str, offset: int, piece: bytes) -> Call[Received]:
    path = path_of("v1", "versions", role, version, name)
    return Call("PUT", path, Received, query={"offset": offset}, text=(BYTES, piece))


def complete_call(role: str, version: str) -> Call[Version]:
    return Call("POST", path_of("v1", "versions", role, version, "complete"), Version)


def version_call(role: str, version: str, *, wait: int = 0) -> Call[Version]:
    return Call("GET", path_of("v1", "versions", role, version), Version, query={"wait": wait or None})


def versions_call() -> Call[Versions]:
    return Call("GET", "/v1/versions", Versions)


def remove_version_call(role: str, version: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "versions", role, version), Nothing)


def collect_call(request: GcRequest) -> Call[GcAnswer]:
    return Call("POST", "/v1/gc", GcAnswer, body=request)


def channel_call(name: str) -> Call[Channel]:
    return Call("GET", path_of("v1", "channels", name), Channel)


def publish_call(new: NewPublication) -> Call[Publication]:
    return Call("POST", "/v1/publications", Publication, body=new)


def publications_call(channel: str | None = None, *, since: int = 0, limit: int | None = None) -> Call[Publications]:
    query = {"channel": channel, "since": since or None, "limit": limit}
    return Call("GET", "/v1/publications", Publications, query=query)


def publication_call(id: int, *, revision: int | None = None, wait: int = 0) -> Call[Publication]:
    query = {"revision": revision, "wait": wait or None}
    return Call("GET", path_of("v1", "publications", str(id)), Publication, query=query)


def progress_call(id: int, host: str, new: NewProgress) -> Call[Progress]:
    return Call("PUT", path_of("v1", "publications", str(id), "progress", host), Progress, body=new)


class Depot(Client):
    """The depot, blocking. Errors are those of `services.common.client`."""

    def begin(self, new: NewUpload) -> Upload:
        """Announce a version; the answer says what is missing. The same again resumes."""
        return self.send(begin_call(new))

    def put(self, role: str, version: str, name: str, offset: int, piece: bytes) -> Received:
        """Bring a piece of a file, at most PIECE_BYTES."""
        return self.send(put_call(role, version, name, offset, piece))

    def complete(self, role: str, version: str) -> Version:
        """Have everything verified and put in its place."""
        return self.send(complete_call(role, version))

    def version(self, role: str, version: str, *, wait: int = 0) -> Version:
        """A version that is whole; with `wait`, when its deltas are made or after so many seconds."""
        return self.send(version_call(role, version, wait=wait))

    def versions(self) -> Versions:
        """Every version."""
        return self.send(versions_call())

    def remove_version(self, role: str, version: str) -> None:
        """Delete a version that nobody needs."""
        self.send(remove_version_call(role, version))

    def collect(self, request: GcRequest) -> GcAnswer:
        """Delete what nobody needs, or say what that would be."""
        return self.send(collect_call(request))

    def channel(self, name: str) -> Channel:
        """What was published on a channel, and the number of the next publication."""
        return self.send(channel_call(name))

    def publish(self, new: NewPublication) -> Publication:
        """Publish a signed statement."""
        return self.send(publish_call(new))

    def publications(self, channel: str | None = None, *, since: int = 0, limit: int | None = None) -> Publications:
        """Publications, the newest first."""
        return self.send(publications_call(channel, since=since, limit=limit))

    def publication(self, id: int, *, revision: int | None = None, wait: int = 0) -> Publication:
        """One publication and its receivers; with `wait`, when there is news after `revision`."""
        return self.send(publication_call(id, revision=revision, wait=wait))

    def progress(self, id: int, host: str, new: NewProgress) -> Progress:
        """Say how far a receiver is."""
        return self.send(progress_call(id, host, new))


class AsyncDepot(AsyncClient):
    """The depot, for asyncio. Errors are those of `services.common.client`."""

    async def versions(self) -> Versions:
        """Every version."""
        return await self.send(versions_call())

    async def version(self, role: str, version: str) -> Version:
        """A version that is whole, and its deltas."""
        return await self.send(version_call(role, version))

    async def publications(
        self, channel: str | None = None, *, since: int = 0, limit: int | None = None
    ) -> Publications:
        """Publications, the newest first."""
        return await self.send(publications_call(channel, since=since, limit=limit))

    async def progress(self, id: int, host: str, new: NewProgress) -> Progress:
        """Say how far a receiver is."""
        return await self.send(progress_call(id, host, new))
