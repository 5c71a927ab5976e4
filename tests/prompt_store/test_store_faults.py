"""The store under real faults: killed, raced and starved processes, and damaged files."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptFile, PromptLimits, read_prompt, write_prompt
from prompt_store.errors import CorruptDocumentError, DigestMismatchError
from prompt_store.objects import open_object_store
from prompt_store.registry import PromptRegistry

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
MakePrompt = Callable[..., tuple[bytes, PromptFile]]
Clock = Callable[[], object]


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(HERE / script), *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def large_upload(tmp_path: Path, make_prompt: MakePrompt) -> Path:
    """A prompt of about 120 kB."""
    _, prompt = make_prompt()
    values = np.random.default_rng(0).standard_normal((1, 40, 768)).astype(np.float32)
    path = tmp_path / "large.safetensors"
    path.write_bytes(write_prompt(PromptFile(values, metadata=prompt.metadata)))
    return path


def test_a_put_killed_anywhere_leaves_nothing_half_and_can_be_repeated(
    tmp_path: Path, make_prompt: MakePrompt, clock: Clock
) -> None:
    data, prompt = make_prompt()
    (tmp_path / "upload").write_bytes(data)
    (tmp_path / "stores").mkdir()
    run = subprocess.run(
        command("killed_puts.py", tmp_path / "stores", tmp_path / "upload"),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    killed = [int(line) for line in run.stdout.split()]
    assert killed == list(range(len(killed)))
    assert len(killed) > 15  # blob, index and manifest: each a temporary file, a link and syncs

    visible = []
    for number in killed:
        objects = open_object_store((tmp_path / "stores" / str(number)).as_uri())
        blobs = BlobStore(objects)
        registry = PromptRegistry(objects, blobs, clock)
        survivors = registry.list().items
        visible.append(len(survivors))
        for manifest in survivors:  # if its name can be seen, everything behind it is there
            assert blobs.get_bytes(manifest.digest) == data
            assert registry.resolve(manifest.digest) == manifest
        for key in objects.list("sha256"):
            assert blobs.get_bytes(f"sha256:{key.rpartition('/')[2]}") == data
        manifest, created = registry.put("killed", data, prompt)
        assert (manifest.version, created) == (1, not survivors)
        assert blobs.get_bytes(manifest.digest) == data
        assert registry.versions("killed").items == (manifest,)
    assert visible == sorted(visible)  # the manifest comes last
    assert set(visible) == {0, 1}


def test_processes_that_put_one_name_get_distinct_versions(
    tmp_path: Path, root: Path, prompts: PromptRegistry, blobs: BlobStore, make_prompt: MakePrompt
) -> None:
    num_processes, num_uploads = 3, 6
    contents: dict[str, bytes] = {"shared": make_prompt(999)[0]}
    for process in range(num_processes):
        folder = tmp_path / f"uploads-{process}"
        folder.mkdir()
        for upload in range(num_uploads):
            name = f"{process}-{upload}"
            contents[name] = make_prompt(100 * process + upload)[0]
            (folder / name).write_bytes(contents[name])
        (folder / "shared").write_bytes(contents["shared"])
    racers = [
        subprocess.Popen(
            command("racing_puts.py", root.as_uri(), "raced", tmp_path / f"uploads-{process}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for process in range(num_processes)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    outputs = [racer.communicate("go\n")[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * num_processes

    answers = [line.split() for output in outputs for line in output.splitlines()]
    total = num_processes * num_uploads + 1
    assert len(prompts.versions("raced", limit=total + 1).items) == total
    assert sorted(int(v) for _, v, created in answers if created == "1") == list(
        range(1, total + 1)
    )
    assert len({version for name, version, _ in answers if name == "shared"}) == 1
    for name, version, _ in answers:
        assert blobs.get_bytes(prompts.get("raced", int(version)).digest) == contents[name]


def test_a_full_disk_shows_nothing_and_is_recovered_from(
    tmp_path: Path, large_upload: Path
) -> None:
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    script = " ".join(map(shlex.quote, command("full_disk.py", mount_point, large_upload)))
    mounted = f"mount -t tmpfs -o size=240k tmpfs {shlex.quote(str(mount_point))}"
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = subprocess.run([*own_mounts, mounted], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        reason = f"no small file system can be mounted here: {probe.stderr.strip()}"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    run = subprocess.run(
        [*own_mounts, f"{mounted} && {script}"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [kind for kind, _ in found["errors"]] == ["StoreFullError"] * 2
    assert all("No space left on device" in message for _, message in found["errors"])
    assert found["unchanged"]  # no blob, no manifest, no temporary file
    assert found["recovered"]


def test_a_short_write_shows_nothing_and_is_recovered_from(
    tmp_path: Path, large_upload: Path
) -> None:
    run = subprocess.run(
        command("short_write.py", tmp_path / "store", large_upload),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    ((kind, message),) = found["errors"]
    assert kind == "StoreUnavailableError"
    assert "File too large" in message
    assert found["left"] == []
    assert found["version"] == 1


@pytest.mark.parametrize("position", [0, 8, 40, -1])
def test_a_prompt_damaged_at_rest_is_never_served(
    root: Path,
    prompts: PromptRegistry,
    blobs: BlobStore,
    make_prompt: MakePrompt,
    position: int,
) -> None:
    data, prompt = make_prompt()
    manifest, _ = prompts.put("a", data, prompt)
    (path,) = (path for path in (root / "sha256").rglob("*") if path.is_file())
    damaged = bytearray(data)
    damaged[position] ^= 0x10
    path.chmod(0o644)
    path.write_bytes(damaged)
    with pytest.raises(DigestMismatchError, match="damaged at rest"):
        blobs.get_bytes(manifest.digest)


def test_a_manifest_cut_short_at_rest_is_an_error_not_an_absence(
    root: Path, prompts: PromptRegistry, make_prompt: MakePrompt
) -> None:
    prompts.put("a", *make_prompt())
    path = root / "prompts/a/versions/00000001.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:100])
    for call in (prompts.get, prompts.versions, prompts.resolve, prompts.delete):
        with pytest.raises(CorruptDocumentError, match=r"prompts/a/versions/00000001\.json"):
            call("a")


def test_a_stored_prompt_reads_back_as_uploaded(
    prompts: PromptRegistry, blobs: BlobStore, make_prompt: MakePrompt
) -> None:
    data, prompt = make_prompt()
    manifest, _ = prompts.put("a", data, prompt)
    back = read_prompt(blobs.get_bytes(manifest.digest), PromptLimits())
    np.testing.assert_array_equal(back.prompt_embeddings, prompt.prompt_embeddings)
