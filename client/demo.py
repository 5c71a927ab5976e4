"""`hgprompt demo`: the whole story over HTTP, on example prompts and real images."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from client.api import Client
from client.bodies import write_file
from client.console import short_digest, size
from client.demo_classification import classify_held_out, print_classification
from client.demo_service import DemoService, own_service, running_service, temporary_folder
from client.errors import ClientError, FitFailedError
from client.examples import (
    ExampleTask,
    example_task,
    find_examples,
    held_out_images,
    source_prompts,
)
from client.fit_progress import FitProgressView
from client.fit_summary import print_findings
from client.replies import Ensemble, FitResult, Prompt
from client.up import LocalOptions

SEED = 0
STEPS = 6
MIN_SHOWN_S = 0.1
SHARED_PARTS = frozenset({"HGPROMPT_STORE_URL", "HGPROMPT_REDIS_URL"})


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs on.

    Attributes:
        examples: Folder with `prompts/` and `tasks/`; None looks for the source tree's.
        task: Which of the tasks; None takes `DEMO_TASK`, or else the first by name.
        num_images: How many held-out images to classify at most.
        data_dir: Where the service keeps its data; None makes a temporary folder.
        keep: Whether to keep that temporary folder.
        url: A service that runs already, instead of one of our own.
        verbose: Whether to show the children's log lines.
    """

    examples: Path | None = None
    task: str | None = None
    num_images: int = 120
    data_dir: Path | None = None
    keep: bool = True
    url: str | None = None
    verbose: bool = False


@dataclass
class Story:
    """Prints numbered headings and remembers how long each step took."""

    console: Console
    clock: Callable[[], float] = time.monotonic
    timings_s: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def step(self, name: str, heading: str) -> Generator[None]:
        """One step of the demo."""
        number = len(self.timings_s) + 1
        self.console.print()
        self.console.print(Text.assemble((f"[{number}/{STEPS}] ", "cyan"), (heading, "bold")))
        begun_s = self.clock()
        yield
        self.timings_s[name] = self.clock() - begun_s

    def print_timings(self) -> None:
        """One line with the seconds of each step."""
        shown = {k: v for k, v in self.timings_s.items() if v >= MIN_SHOWN_S}
        parts = [f"{name} {seconds:.1f} s" for name, seconds in shown.items()]
        total_s = sum(self.timings_s.values())
        self.console.print(f"Timings: {', '.join(parts)}; {total_s:.1f} s in all")


def run_demo(options: DemoOptions, console: Console, environ: Mapping[str, str]) -> None:
    """Runs the demo to its end.

    Raises:
        ClientError: If any part of it fails.
    """
    candidates = (Path(__file__).resolve().parents[1] / "examples", Path.cwd() / "examples")
    examples = find_examples(options.examples, candidates)
    task = example_task(examples, options.task)
    prompts = source_prompts(examples, task)
    story = Story(console)
    console.print(Text("HGPrompt: many prompts, one frozen Vision Transformer", style="bold"))
    with _service(options, story, environ) as service:
        report = _tell(story, service, task, prompts, options)
        console.print()
        story.print_timings()
        console.print(Text.assemble("Report:  ", (str(report), "cyan")), soft_wrap=True)
        if service.data_dir is not None and _is_kept(options):
            console.print(f"Data:    {service.data_dir}", soft_wrap=True)
            console.print(f"Go on:   hgprompt up --data-dir {service.data_dir}", soft_wrap=True)


def _is_kept(options: DemoOptions) -> bool:
    return options.keep or options.data_dir is not None


@contextmanager
def _service(
    options: DemoOptions, story: Story, environ: Mapping[str, str]
) -> Generator[DemoService]:
    with ExitStack() as stack:
        with story.step("start", "Starting the service" if options.url is None else "Connecting"):
            if options.url is not None:
                service = stack.enter_context(running_service(options.url))
            else:
                folder = options.data_dir or stack.enter_context(
                    temporary_folder(keep=options.keep)
                )
                local = LocalOptions(folder, "127.0.0.1", 0, _private(environ))
                service = stack.enter_context(
                    own_service(story.console, local, verbose=options.verbose)
                )
            _print_backbone(story.console, service.client)
        yield service


def _private(environ: Mapping[str, str]) -> dict[str, str]:
    """Without the store and the queue that it may name: the demo must not write there."""
    return {k: v for k, v in environ.items() if k not in SHARED_PARTS}


def _print_backbone(console: Console, client: Client) -> None:
    backbone = client.backbone()
    console.print(f"  {client.base_url}")
    console.print(f"  backbone {backbone.name}", soft_wrap=True)
    console.print(
        f"  {backbone.embed_dim} features, {backbone.depth} blocks, "
        f"{backbone.image_size_px} px images, frozen"
    )


def _tell(
    story: Story,
    service: DemoService,
    task: ExampleTask,
    prompts: list[Path],
    options: DemoOptions,
) -> Path:
    console, client = story.console, service.client
    with story.step("upload", f"Uploading {len(prompts)} source prompts and the task {task.name}"):
        sources = _upload_prompts(console, client, prompts)
        _upload_task(console, client, task)
    with story.step("fit", "Learning which mixture of these prompts suits the task"):
        ensemble, result = _fit(console, client, task, sources)
    with story.step("inspect", "What it found"):
        print_findings(console, result, ensemble.method)
    images = held_out_images(task, options.num_images, SEED)
    with story.step("classify", f"Classifying {len(images)} held-out images over HTTP"):
        outcome = classify_held_out(console, client, f"{ensemble.name}@{ensemble.version}", images)
        print_classification(console, outcome)
    with story.step("report", "Saving the report"):
        folder = service.data_dir if _is_kept(options) else None
        report = (folder or Path.cwd()) / f"hgprompt-{ensemble.name}-report.html"
        write_file(report, client.report(ensemble.name, ensemble.version))
    return report


def _upload_prompts(console: Console, client: Client, files: list[Path]) -> list[Prompt]:
    uploaded: list[Prompt] = []
    for file in files:
        prompt = client.put_prompt(file.stem, file)
        uploaded.append(prompt)
        console.print(
            f"  prompt {prompt.name:<20.20} {prompt.num_prompt_tokens:>3} tokens x "
            f"depth {prompt.prompt_depth:<2} {size(prompt.size_bytes):>9}  "
            f"{short_digest(prompt.digest)}"
        )
    return uploaded


def _upload_task(console: Console, client: Client, task: ExampleTask) -> None:
    uploaded = client.put_task(task.name, task.train)
    line = f"task   {uploaded.name}: {uploaded.num_images} images, classes "
    console.print(Padding(Text(line + ", ".join(uploaded.classes)), (0, 0, 0, 2)))


def _fit(
    console: Console, client: Client, task: ExampleTask, sources: list[Prompt]
) -> tuple[Ensemble, FitResult]:
    requested = client.create_ensemble(
        task.name,
        task=task.name,
        sources=[f"{prompt.name}@{prompt.version}" for prompt in sources],
        method="hgprompt",
        seed=SEED,
    )
    with FitProgressView(console) as view:
        ended = client.wait(requested.name, requested.version, view.update)
    if ended.status != "succeeded":
        raise FitFailedError(ended.why())
    if ended.result is None:
        raise ClientError(f"{ended.name}@{ended.version} succeeded without a result")
    return ended, ended.result
