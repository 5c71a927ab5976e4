"""The client and the command line against the real service and the real worker."""

import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.api import Client
from client.cli import main
from client.errors import ProblemError
from client.hooks import Hooks
from client.replies import Event, RowError
from client.up import LocalOptions, local_deployment
from prompt_store.codec import PromptFile, write_prompt

TINY_BACKBONE = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"
ROOT = Path(__file__).parents[2]
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 70), "red": (200, 50, 40)}


@dataclass(frozen=True)
class Here:
    """A running deployment and the examples made for its backbone."""

    client: Client
    data_dir: Path
    examples: Path
    environ: dict[str, str]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HGPROMPT_")}
    settings = {
        "HGPROMPT_BACKBONE": TINY_BACKBONE,
        "HGPROMPT_DEVICE": "cpu",
        "HGPROMPT_HEARTBEAT_S": "0.2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environ = {**kept, **settings}
    options = LocalOptions(tmp_path_factory.mktemp("up") / "data", "127.0.0.1", 0, environ)
    said: list[str] = []

    def ignore(name: str, line: str) -> None:
        del name, line

    hooks = Hooks(said.append, said.append, ignore, lambda: 0)
    with local_deployment(options, hooks) as deployment, Client(deployment.address.url) as client:
        examples = tmp_path_factory.mktemp("examples")
        write_examples(examples, client)
        yield Here(client, deployment.data_dir, examples, environ)
        deployment.supervisor.check()
    assert not [text for text in said if "restarting" in text]


def write_examples(folder: Path, client: Client) -> None:
    backbone = client.backbone()
    rng = np.random.default_rng(0)
    (folder / "prompts").mkdir()
    for name in ("animals", "colours", "digits", "fashion"):
        shape = (backbone.depth, 3, backbone.embed_dim)
        prompt = PromptFile(
            prompt_embeddings=0.1 * rng.standard_normal(shape, dtype=np.float32),
            metadata={"backbone": backbone.name, "backbone_digest": backbone.backbone_digest},
        )
        (folder / "prompts" / f"{name}.safetensors").write_bytes(write_prompt(prompt))
    task = folder / "tasks" / "colours"
    task.mkdir(parents=True)
    for part, images_of_class in (("train", 12), ("test", 30)):
        with zipfile.ZipFile(task / f"{part}.zip", "w") as archive:
            for label in COLOURS:
                for i in range(images_of_class):
                    archive.writestr(f"{label}/{i}.png", noisy_image(rng, label))


def noisy_image(rng: np.random.Generator, label: str) -> bytes:
    pixels = np.array(COLOURS[label]) + rng.normal(0, 25, (32, 32, 3))
    data = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "PNG")
    return data.getvalue()


Run = Callable[..., str]


@pytest.fixture
def run(here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("HGPROMPT_URL", here.client.base_url)

    def command(*args: str | Path, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["hgprompt", *map(str, args)])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        code = exited.value.code
        assert (1 if isinstance(code, str) else code or 0) == status, f"{code}\n{out}\n{err}"
        return f"{out}{err}{code if isinstance(code, str) else ''}"

    return command


def test_from_files_to_predictions(run: Run, here: Here, tmp_path: Path) -> None:
    prompts = sorted((here.examples / "prompts").glob("*.safetensors"))
    assert run("prompts", "push", *prompts).count("@1  ") == len(prompts)
    assert run("prompts", "push", *prompts).count("@1  ") == len(prompts), "the same bytes"
    assert run("prompts", "ls").count("sha256") == 0
    folder = tmp_path / "paint"
    with zipfile.ZipFile(here.examples / "tasks/colours/train.zip") as archive:
        archive.extractall(folder)
    assert "paint@1" in run("tasks", "push", folder)
    assert "36 images, 3 classes" in run("tasks", "push", folder)
    assert "paint" in run("tasks", "ls")

    shown = run("fit", "mix", "--task", "paint", "--sources", "digits,fashion@1", "--seed", "3")
    assert "mix@1 queued" in shown
    assert "Validation accuracy" in shown
    assert "succeeded" in run("ensembles", "ls")
    ensemble = here.client.ensemble("mix")
    assert ensemble.digest is not None
    assert ensemble.result is not None
    assert set(ensemble.result.weights) == {"digits", "fashion"}
    assert sum(ensemble.result.weights.values()) == pytest.approx(1.0)

    images = [folder / label / "0.png" for label in COLOURS]
    (tmp_path / "no.png").write_bytes(b"no image")
    output = run("classify", "mix", *images, tmp_path / "no.png", status=1)
    for image, label in zip(images, COLOURS, strict=True):
        assert re.search(rf"{image}\s+{label} ", output)
    assert f"hgprompt: {tmp_path}/no.png: " in output

    verified = subprocess.run(
        [sys.executable, "-m", "client", "verify", "mix@1", "--data-dir", str(here.data_dir)],
        capture_output=True,
        text=True,
        env=here.environ,
        check=False,
    )
    assert verified.stdout.startswith("same: sha256:"), verified

    run("report", "mix", "-o", tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert len(here.client.content("mix")) > 1000


def test_all_events_are_there_afterwards_and_resume_anywhere(here: Here, run: Run) -> None:
    run("prompts", "push", *sorted((here.examples / "prompts").glob("*.safetensors")))
    here.client.put_task("events", here.examples / "tasks/colours/train.zip")
    fit = here.client.create_ensemble("events", task="events", sources="all")
    seen: list[Event] = []
    ended = here.client.wait(fit.name, fit.version, seen.append)
    assert ended.status == "succeeded", ended.why()
    assert [event.event for event in seen].count("outcome") == 1
    stages = [event.progress.stage for event in seen if event.progress.stage]
    assert stages, "stages were reported"
    again = list(here.client.events(fit.name, fit.version))
    assert [event.id for event in again] == [event.id for event in seen]
    middle = len(again) // 2
    rest = here.client.events(fit.name, fit.version, last_event_id=again[middle].id)
    assert [event.id for event in rest] == [event.id for event in again[middle + 1 :]]


def test_refusals_are_one_line(run: Run) -> None:
    assert run("fit", "x", "--task", "absent", status=1).count("\n") == 0
    assert "absent" in run("fit", "x", "--task", "absent", status=1)
    assert "nonsense" in run("ensembles", "show", "nonsense", status=1)
    assert run("prompts", "push", __file__, "--name", "x", status=1).startswith("hgprompt: ")


def test_a_fit_that_has_ended_cannot_be_cancelled(run: Run, here: Here) -> None:
    here.client.put_task("ended", here.examples / "tasks/colours/train.zip")
    fit = here.client.create_ensemble("ended", task="ended", sources=[], method="none")
    here.client.wait(fit.name, fit.version)
    with pytest.raises(ProblemError) as refused:
        here.client.cancel("ended")
    assert refused.value.status == 409
    assert run("cancel", "ended", status=1).startswith("hgprompt: ")


def test_rows_of_a_batch_fail_alone(here: Here) -> None:
    here.client.put_task("rows", here.examples / "tasks/colours/train.zip")
    fit = here.client.create_ensemble("rows", task="rows", sources=[], method="none")
    here.client.wait(fit.name, fit.version)
    image = noisy_image(np.random.default_rng(1), "red")
    good, bad = here.client.classify("rows@1", [image, b"no image"], top_k=1).predictions
    assert not isinstance(good, RowError)
    assert good[0].label == "red"
    assert isinstance(bad, RowError)


def demo(here: Here, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "client", "demo", "--examples", here.examples, *args]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=here.environ,
        check=False,
        timeout=250,
    )


def check_story(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "Uploading 3 source prompts and the task colours" in done.stdout
    assert "prompt colours" not in done.stdout, "the task's own prompt is left out"
    assert re.search(r"Held-out accuracy: 100\.0% \(90 of 90\), 95 % interval 95\.9%", done.stdout)
    assert done.stdout.count("✓") == 12
    paths = re.compile(r"^(Report|Data|Go on): | *backbone ")
    too_long = [line for line in done.stdout.splitlines() if len(line) > 80]
    assert all(paths.match(line) for line in too_long), too_long
    report = re.search(r"^Report: +(.+)$", done.stdout, re.MULTILINE)
    assert report is not None
    assert "<html" in Path(report[1]).read_text()


def test_the_demo_on_a_service_that_runs(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = demo(here, "--url", here.client.base_url)
    check_story(done)
    assert list(tmp_path.glob("*.html"))


def test_the_demo_on_a_service_of_its_own(here: Here, tmp_path: Path) -> None:
    done = demo(here, "--data-dir", tmp_path / "data")
    check_story(done)
    assert (tmp_path / "data" / "hgprompt-colours-report.html").is_file()
    assert (tmp_path / "data" / "store").is_dir()
