"""The typed, synchronous HTTP client: one method per call of the service."""

import base64
import hashlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel

from client.aliases import Aliases
from client.bodies import file_chunks, file_size_bytes, parse_reply, read_file
from client.errors import ProblemError
from client.events import follow_events
from client.folder_archive import zip_adapter, zip_folder
from client.replies import (
    Backbone,
    Classification,
    Ensemble,
    Event,
    Page,
    Prompt,
    Readiness,
    Task,
)
from client.transport import Request, RetryPolicy, Transport, raise_for_problem, segment

DEFAULT_URL = "http://127.0.0.1:8000"
TASK_CHECK_S = 3600.0
"""How long the service may take to decode every image of a task before it answers."""
ASSIGNMENT_HEADER = "HGPrompt-Assignment-Key"
_MEDIA_TYPES = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".parquet": "application/vnd.apache.parquet",
}
_OCTETS = "application/octet-stream"

_Model = TypeVar("_Model", bound=BaseModel)


class Client:
    """A connection to one service; safe to use from several threads.

    Attributes:
        ensemble_aliases: Movable names for versions of ensembles.
        prompt_aliases: Movable names for versions of prompts.

    Calls that may be repeated are repeated when the connection fails; those that create carry
    an Idempotency-Key, so that a repetition creates nothing twice.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     client.put_prompt("fashion", Path("fashion.safetensors")).version
        1
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        timeout_s: float = 60.0,
        *,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Opens no connection yet.

        Args:
            base_url: Where the service listens.
            timeout_s: Longest silence to wait through within one request.
            retry: How repeatable requests are repeated.
            sleep: Waits between repetitions.

        Raises:
            ClientError: If `base_url` is not an http(s) URL.
        """
        self._transport = Transport(base_url, timeout_s, retry or RetryPolicy(), sleep)
        self.ensemble_aliases = Aliases(self._transport, "ensembles")
        self.prompt_aliases = Aliases(self._transport, "prompts")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        self._transport.http.close()

    # Every method below raises ProblemError if the service refuses the call,
    # ServiceUnreachableError if no answer comes and UnexpectedReplyError if the answer does
    # not follow the contract.

    def backbone(self) -> Backbone:
        """The backbone that prompts must be made for."""
        return self._get(Backbone, "/v1/backbone")

    @property
    def base_url(self) -> str:
        """Where the service is."""
        return self._transport.base_url

    def readiness(self) -> Readiness:
        """Whether the service can work now; asked once, raises nothing."""
        try:
            response = self._transport.http.get("/readyz")
            raise_for_problem(response)
        except httpx.TransportError:
            return Readiness(ready=False)
        except ProblemError as exc:
            return Readiness(ready=False, reason=exc.detail or exc.title)
        return Readiness(ready=True)

    # -- prompts

    def put_prompt(self, name: str, prompt: Path | bytes) -> Prompt:
        """Uploads a source prompt; equal bytes give the existing version.

        Args:
            name: What it is to be called.
            prompt: A safetensors file, the folder of an adapter that PEFT saved, or the bytes of
                either (of a folder: zipped).
        """
        data = prompt if isinstance(prompt, bytes) else _prompt_bytes(prompt)
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        headers = {"Content-Type": _OCTETS, "Content-Digest": f"sha-256=:{digest}:"}
        request = Request("PUT", f"/v1/prompts/{segment(name)}", headers=headers, body=lambda: data)
        return parse_reply(Prompt, self._transport.send(request))

    def prompt(self, name: str) -> Prompt:
        """The newest version of a prompt."""
        return self._get(Prompt, f"/v1/prompts/{segment(name)}")

    def list_prompts(self, *, label: str | None = None) -> Iterator[Prompt]:
        """All prompts in order of their names, newest versions; pages are fetched as needed."""
        return self._list(Page[Prompt], "/v1/prompts", {} if label is None else {"label": label})

    def delete_prompt(self, name: str) -> None:
        """Deletes every version of a prompt that no ensemble depends on."""
        self._delete(f"/v1/prompts/{segment(name)}")

    # -- tasks

    def put_task(
        self, name: str, path: Path, on_bytes: Callable[[int, int], None] | None = None
    ) -> Task:
        """Uploads labelled images: a zip, tar or parquet file, or a folder, which is zipped.

        Args:
            name: The task's name.
            path: The file or folder; a folder holds one folder per class.
            on_bytes: Called with (bytes sent, bytes in all) as the upload goes on.
        """
        if not path.is_dir():
            return self._put_task_file(name, path, on_bytes)
        with tempfile.TemporaryDirectory(prefix="hgprompt-") as folder:
            archive = Path(folder, "task.zip")
            zip_folder(path, archive)
            return self._put_task_file(name, archive, on_bytes)

    def _put_task_file(
        self, name: str, path: Path, on_bytes: Callable[[int, int], None] | None
    ) -> Task:
        size_bytes = file_size_bytes(path)
        headers = {
            "Content-Type": _MEDIA_TYPES.get(path.suffix.lower(), _OCTETS),
            "Content-Length": str(size_bytes),
        }
        request = Request(
            "PUT",
            f"/v1/tasks/{segment(name)}",
            headers=headers,
            body=lambda: file_chunks(path, size_bytes, on_bytes),
            read_timeout_s=TASK_CHECK_S,
        )
        return parse_reply(Task, self._transport.send(request))

    def task(self, name: str) -> Task:
        """The newest version of a task."""
        return self._get(Task, f"/v1/tasks/{segment(name)}")

    def list_tasks(self) -> Iterator[Task]:
        """All tasks in order of their names, newest versions."""
        return self._list(Page[Task], "/v1/tasks", {})

    def delete_task(self, name: str) -> None:
        """Deletes every version of a task."""
        self._delete(f"/v1/tasks/{segment(name)}")

    # -- ensembles

    def create_ensemble(
        self,
        name: str,
        *,
        task: str,
        sources: Sequence[str] | str,
        method: str = "hgprompt",
        options: Mapping[str, object] | None = None,
        seed: int = 0,
    ) -> Ensemble:
        """Requests a fit; an existing name is fitted again as its next version.

        Args:
            name: The ensemble's name.
            task: A task's name, `name@version` or digest.
            sources: Prompts by name, `name@version`, `name@alias` or digest; or "all".
            method: How the composite prompt is made.
            options: Options of the fit; unknown ones are refused.
            seed: Seed of all random choices.
        """
        body = {
            "name": name,
            "task": task,
            "sources": sources if isinstance(sources, str) else list(sources),
            "method": method,
            "options": dict(options or {}),
            "seed": seed,
        }
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        request = Request("POST", "/v1/ensembles", headers=headers, json=body)
        return parse_reply(Ensemble, self._transport.send(request))

    def ensemble(self, name: str, version: int | None = None) -> Ensemble:
        """One version; by default the newest that succeeded, if there is one."""
        return self._get(Ensemble, f"/v1/ensembles/{segment(name)}", _version(version))

    def list_ensembles(self) -> Iterator[Ensemble]:
        """All ensembles in order of their names."""
        return self._list(Page[Ensemble], "/v1/ensembles", {})

    def events(
        self, name: str, version: int, *, last_event_id: str | None = None
    ) -> Iterator[Event]:
        """Follows a fit until its outcome, through lost connections.

        Args:
            name: The ensemble's name.
            version: Which fit of that name, as `create_ensemble` says.
            last_event_id: Start after this event instead of at the first that is kept.
        """
        path = f"/v1/ensembles/{segment(name)}/events"
        return follow_events(self._transport, path, {"version": version}, last_event_id)

    def wait(
        self,
        name: str,
        version: int,
        on_event: Callable[[Event], None] | None = None,
    ) -> Ensemble:
        """Waits for a fit to end, however it ends, and returns its record."""
        for event in self.events(name, version):
            if on_event is not None:
                on_event(event)
        return self.ensemble(name, version)

    def cancel(self, name: str, version: int | None = None) -> Ensemble:
        """Asks a queued or running fit to end, by default the newest of that name."""
        path = f"/v1/ensembles/{segment(name)}/cancel"
        request = Request("POST", path, params=_version(version), repeatable=False)
        return parse_reply(Ensemble, self._transport.send(request))

    def report(self, name: str, version: int | None = None) -> bytes:
        """The report of a fit: one self-contained HTML page."""
        return self._bytes(f"/v1/ensembles/{segment(name)}/report", _version(version))

    def content(self, name: str, version: int | None = None) -> bytes:
        """The artifact: composite prompt, class head and weights, as safetensors."""
        return self._bytes(f"/v1/ensembles/{segment(name)}/content", _version(version))

    def delete_ensemble(self, name: str) -> None:
        """Deletes every version of an ensemble of which no fit is queued or running."""
        self._delete(f"/v1/ensembles/{segment(name)}")

    # -- classification

    def classify(
        self,
        name: str,
        images: Sequence[bytes],
        top_k: int = 5,
        *,
        assignment_key: str | None = None,
    ) -> Classification:
        """Classifies encoded images (JPEG, PNG, …) with an ensemble.

        Args:
            name: `name`, `name@version` or `name@alias`.
            images: The images' files. One image that cannot be read is refused; among several
                it only fails its own row.
            top_k: How many classes to return for each.
            assignment_key: Requests with the same key are answered by the same version of an
                alias that is split between several.
        """
        path = f"/v1/ensembles/{segment(name)}/classify"
        headers = {} if assignment_key is None else {ASSIGNMENT_HEADER: assignment_key}
        if len(images) == 1:
            request = Request(
                "POST",
                path,
                params={"top_k": top_k},
                headers={"Content-Type": _OCTETS, **headers},
                body=lambda: images[0],
            )
        else:
            files = [("images", (str(i), image, _OCTETS)) for i, image in enumerate(images)]
            params = {"top_k": top_k}
            request = Request("POST", path, params=params, headers=headers, files=files)
        return parse_reply(Classification, self._transport.send(request))

    # -- shared

    def _get(
        self, model: type[_Model], path: str, params: dict[str, str | int] | None = None
    ) -> _Model:
        return parse_reply(model, self._transport.send(Request("GET", path, params=params)))

    def _delete(self, path: str) -> None:
        # Sent once: repeated after a lost answer, it could delete what somebody has made since.
        self._transport.send(Request("DELETE", path, repeatable=False))

    def _bytes(self, path: str, params: dict[str, str | int] | None = None) -> bytes:
        return self._transport.send(Request("GET", path, params=params)).content

    def _list(
        self, model: type[Page[_Model]], path: str, params: dict[str, str | int]
    ) -> Iterator[_Model]:
        cursor: dict[str, str | int] = {}
        while True:
            page = self._get(model, path, params | cursor)
            yield from page.items
            if page.next_cursor is None:
                return
            cursor = {"cursor": page.next_cursor}


def _version(version: int | None) -> dict[str, str | int]:
    return {} if version is None else {"version": version}


def _prompt_bytes(path: Path) -> bytes:
    return zip_adapter(path) if path.is_dir() else read_file(path)
