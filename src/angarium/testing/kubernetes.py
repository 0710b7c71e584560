"""A Kubernetes API for tests, on a real port: list, watch, bookmarks, 410, and bad days.

async with FakeKubernetes() as cluster:
    cluster.put(cluster.KNATIVE, knative_service("billing", "http://127.0.0.1:9000"))
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Json = dict[str, Any]
Mood = Literal["well", "busy", "hang", "garbage", "forbidden", "cut"]
LABEL = "angarium.dev/agent"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    path: str
    query: dict[str, str]
    token: str


@dataclass(slots=True)
class Watcher:
    """One open watch and the events it has still to tell."""

    kind: str
    selector: str
    namespace: str
    events: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)


class FakeKubernetes:
    """Holds objects by kind (the end of their path) and tells watchers what happens to them.

    `mood` is how it answers new requests: well, busy (503), hang (never), garbage (no JSON),
    forbidden (403), cut (closes the connection). `tokens`, when set, are those let in; kinds in
    `silent` are never answered.
    """

    KNATIVE = "/apis/serving.knative.dev/v1/services"
    REVISIONS = "/apis/serving.knative.dev/v1/revisions"
    SERVICES = "/api/v1/services"
    SLICES = "/apis/discovery.k8s.io/v1/endpointslices"

    def __init__(self) -> None:
        self.kinds = [self.KNATIVE, self.REVISIONS, self.SERVICES, self.SLICES]
        self.mood: Mood = "well"
        self.tokens: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[Asked] = []
        self.port = 0
        self.moved = asyncio.Event()  # Set at each request, and when a watch begins or ends.
        self._version = 10
        self.watch_from = 0  # Older versions than this are too old to watch from.
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._history: list[tuple[int, str, Json]] = []
        self._watchers: list[Watcher] = []
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "FakeKubernetes":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop` on the same port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Go away, as an API server that dies."""
        server, self._server = self._server, None
        self._stopping = True
        if server is not None:
            server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if server is not None:
            await server.wait_closed()
        self._stopping = False

    # --- what happens in the cluster ----------------------------------------------------------

    def put(self, kind: str, found: Json) -> None:
        """Create or replace an object; watchers hear of it."""
        metadata = found.setdefault("metadata", {})
        key = (kind, metadata.get("namespace", ""), metadata.get("name", ""))
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        event = "MODIFIED" if key in self._objects else "ADDED"
        self._objects[key] = found
        self._happened(kind, event, found)

    def delete(self, kind: str, name: str, namespace: str = "agents") -> None:
        found = self._objects.pop((kind, namespace, name))
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        self._happened(kind, "DELETED", found)

    def bookmark(self) -> None:
        """Tell every watcher how far it is."""
        self._version += 1
        for watcher in self._watchers:
            self._tell(
                watcher, "BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}}
            )

    def forget(self) -> None:
        """Compact the history: a watch from an older version gets 410."""
        self.watch_from = self._version
        self._history.clear()

    def expire(self) -> None:
        """Tell every watcher, in its stream, that its version is too old."""
        self.forget()
        for watcher in self._watchers:
            self._tell(watcher, "ERROR", {"code": 410, "reason": "Expired"})

    def say(self, line: bytes) -> None:
        """Send every watcher this, whatever it is."""
        for watcher in self._watchers:
            watcher.events.put_nowait(line)

    def disconnect(self) -> None:
        """Cut every watch, in the middle of a line."""
        for watcher in self._watchers:
            watcher.events.put_nowait(None)

    def count(self, watch: bool) -> int:
        """How many lists (or watches) were asked for."""
        return sum(("watch" in asked.query) is watch for asked in self.asked)

    @property
    def watching(self) -> int:
        return len(self._watchers)

    def _happened(self, kind: str, event: str, found: Json) -> None:
        kept = json.loads(json.dumps(found))
        self._history.append((self._version, f"{event} {kind}", kept))
        for watcher in self._watchers:
            if _is_for(watcher, kind, kept):
                self._tell(watcher, event, kept)

    def _tell(self, watcher: Watcher, event: str, found: Json) -> None:
        line = json.dumps({"type": event, "object": found}).encode() + b"\n"
        watcher.events.put_nowait(line)

    # --- requests -----------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        try:
            while await self._answer_next(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            writer.close()

    async def _answer_next(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        asked = _read(head)
        self.asked.append(asked)
        self.moved.set()
        if self.tokens and asked.token not in self.tokens:
            return await _send(writer, 401, b'{"code":401}')
        match "hang" if asked.path in self.silent else self.mood:
            case "busy":
                return await _send(writer, 503, b'{"code":503}')
            case "forbidden":
                return await _send(writer, 403, b'{"code":403}')
            case "garbage":
                return await _send(writer, 200, b"<html>no</html>")
            case "hang":
                await reader.read()
                return False
            case "cut":
                return False
            case "well":
                return await self._serve(asked, writer)

    async def _serve(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        kind, namespace = _kind_of(asked.path)
        if kind not in self.kinds:
            return await _send(writer, 404, b'{"code":404}')
        if "watch" not in asked.query:
            return await _send(
                writer, 200, json.dumps(self._list(asked, kind, namespace)).encode()
            )
        since = int(asked.query.get("resourceVersion") or 0)
        if since < self.watch_from:
            return await _send(writer, 410, b'{"code":410}')
        watcher = Watcher(kind, asked.query.get("labelSelector", ""), namespace)
        for version, said, found in self._history:
            event, _, of = said.partition(" ")
            if version > since and _is_for(watcher, of, found):
                self._tell(watcher, event, found)
        await self._stream(watcher, writer, float(asked.query.get("timeoutSeconds", "60")))
        return False

    async def _stream(
        self, watcher: Watcher, writer: asyncio.StreamWriter, lasts_s: float
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        self._watchers.append(watcher)
        self.moved.set()
        try:
            async with asyncio.timeout(lasts_s):
                while (line := await watcher.events.get()) is not None:
                    # In two pieces, so that a reader cannot take a chunk for a line.
                    for piece in (line[:7], line[7:]):
                        if piece:
                            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                            await writer.drain()
                writer.write(b'8\r\n{"type":\r\n')
                await writer.drain()
        except TimeoutError:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self._watchers.remove(watcher)
            self.moved.set()

    def _list(self, asked: Asked, kind: str, namespace: str) -> Json:
        watcher = Watcher(kind, asked.query.get("labelSelector", ""), namespace)
        fits = [each for key, each in self._objects.items() if _is_for(watcher, key[0], each)]
        start = int(asked.query.get("continue") or 0)
        end = start + int(asked.query.get("limit") or len(fits) + 1)
        metadata = {"resourceVersion": str(self._version)}
        if end < len(fits):
            metadata["continue"] = str(end)
        return {"kind": "List", "metadata": metadata, "items": fits[start:end]}


def knative_service(name: str, url: str, /, *, ready: bool = True, **annotations: str) -> Json:
    """A Knative service that is an agent; annotations without their prefix."""
    status: Json = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    status |= {"address": {"url": url}, "latestReadyRevisionName": f"{name}-1"}
    return {"metadata": _metadata(name, annotations), "status": status}


def revision(service: str, replicas: int) -> Json:
    """The revision of a Knative service, that many times running."""
    metadata = _metadata(f"{service}-1", {})
    metadata["labels"] = {"serving.knative.dev/service": service}
    return {"metadata": metadata, "status": {"actualReplicas": replicas}}


def plain_service(name: str, port: int = 80, /, **annotations: str) -> Json:
    """A service of Kubernetes itself that is an agent."""
    ports = [{"name": "metrics", "port": 9}, {"name": "http", "port": port}]
    return {"metadata": _metadata(name, annotations), "spec": {"ports": ports}}


def endpoint_slice(service: str, port: int, *addresses: str, ready: bool = True) -> Json:
    """Where a service runs."""
    metadata = _metadata(f"{service}-abc", {})
    metadata["labels"]["kubernetes.io/service-name"] = service
    conditions = {"ready": ready}
    endpoints = [{"addresses": [each], "conditions": conditions} for each in addresses]
    return {
        "metadata": metadata,
        "ports": [{"name": "http", "port": port}],
        "endpoints": endpoints,
    }


def _metadata(name: str, annotations: dict[str, str]) -> Json:
    return {
        "name": name,
        "namespace": "agents",
        "labels": {LABEL: "true"},
        "annotations": {f"angarium.dev/{key}": value for key, value in annotations.items()},
    }


def _is_for(watcher: Watcher, kind: str, found: Json) -> bool:
    metadata = found.get("metadata", {})
    if kind != watcher.kind or watcher.namespace not in ("", metadata.get("namespace")):
        return False
    return all(_fits(term, metadata.get("labels", {})) for term in _terms(watcher.selector))


def _terms(selector: str) -> Iterator[str]:
    return filter(None, selector.split(","))


def _fits(term: str, labels: dict[str, str]) -> bool:
    name, _, value = term.partition("=")
    return labels.get(name) == value if "=" in term else name in labels


def _kind_of(path: str) -> tuple[str, str]:
    """`.../namespaces/agents/services` is the kind `.../services` in `agents`."""
    before, found, after = path.partition("/namespaces/")
    if not found:
        return path, ""
    namespace, _, kind = after.partition("/")
    return f"{before}/{kind}", namespace


def _read(head: str) -> Asked:
    first, *lines = head.split("\r\n")
    url = urlsplit(first.split(" ")[1])
    headers = {
        name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
    }
    token = headers.get("authorization", "").removeprefix("Bearer ")
    return Asked(url.path, dict(parse_qsl(url.query)), token)


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes) -> bool:
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    )
    writer.write(f"{head}\r\n\r\n".encode() + body)
    await writer.drain()
    return True
