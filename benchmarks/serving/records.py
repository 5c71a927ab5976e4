"""What the commands write down, one JSON line a finished unit of work."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from benchmarks.reporting.machine import Machine


class Record(BaseModel):
    """Base of all."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(Record):
    """How a unit of work was computed.

    Attributes:
        command: As it was typed.
        started_at: ISO 8601, UTC.
        machine: Where.
        device: "cpu" or "cuda".
    """

    command: str
    started_at: str
    machine: Machine
    device: str


class Backbone(Record):
    """What was served.

    Attributes:
        label: As the reports show it.
        spec: The setting `HGPROMPT_BACKBONE`.
        precision: "fp32" or "bf16".
        image_size_px: Side of its input.
    """

    label: str
    spec: str
    precision: str
    image_size_px: int


class ServerRun(Record):
    """A server under load for a few seconds.

    Attributes:
        requests: Answers.
        throughput: Answers per second.
        p50_ms: Median latency.
        p99_ms: 99th percentile of the latency.
        cpu_s: Processor seconds of all the server's processes.
        client_cpu_s: Processor seconds of the load generator.
        duration_s: Length of the run.
    """

    requests: int
    throughput: float
    p50_ms: float
    p99_ms: float
    cpu_s: float
    client_cpu_s: float
    duration_s: float

    @property
    def cpu_ms_per_image(self) -> float:
        """Processor milliseconds of the server for one answer."""
        return 1e3 * self.cpu_s / self.requests


class BareRun(Record):
    """The bare loop for a few seconds.

    Attributes:
        images: Images computed.
        throughput: Images per second.
        cpu_s: Processor seconds of the process.
    """

    images: int
    throughput: float
    cpu_s: float

    @property
    def cpu_ms_per_image(self) -> float:
        """Processor milliseconds for one image."""
        return 1e3 * self.cpu_s / self.images


class SingleRun(Record):
    """One client, and what one image costs without a server.

    Attributes:
        p50_ms: Median latency of one client at a time.
        decode_ms: Median time to decode and resize one image.
        forward_ms: Median time of the backbone on it.
    """

    p50_ms: float
    decode_ms: float
    forward_ms: float

    @property
    def added_ms(self) -> float:
        """What serving adds."""
        return self.p50_ms - self.decode_ms - self.forward_ms


class LimitRound(Record):
    """One interleaved round.

    Attributes:
        bare: The bare loop at its best batch size.
        on_each_core: Bare loops of one thread side by side; None on a GPU.
        one: HTTP load on one tenant.
        many: HTTP load on all tenants.
        single: One client.
    """

    bare: BareRun
    on_each_core: BareRun | None
    one: ServerRun
    many: ServerRun
    single: SingleRun


class LimitRecord(Record):
    """The service against the bare loop, for one backbone and one kind of image.

    Attributes:
        decode_rate: With a GPU: images a second that all cores decode, with nothing else to do.
    """

    kind: Literal["limit"] = "limit"
    provenance: Provenance
    backbone: Backbone
    picture: str
    num_tenants: int
    num_clients: int
    batch_rates: dict[int, float]
    best_batch_size: int
    start_s: float
    memory_bytes: int
    decode_rate: float | None = None
    rounds: tuple[LimitRound, ...]


class ClientRun(Record):
    """What the clients of one tenant saw for a few seconds.

    Attributes:
        requests: Answers.
        throughput: Answers per second.
        p50_ms: Median latency.
        p99_ms: 99th percentile of the latency.
    """

    requests: int
    throughput: float
    p50_ms: float
    p99_ms: float


class Neighbours(Record):
    """Two tenants at the same time.

    Attributes:
        modest: The one whose latency is looked at.
        neighbour: The other.
    """

    modest: ClientRun
    neighbour: ClientRun


class FairnessRound(Record):
    """One interleaved round.

    Attributes:
        alone: The modest tenant without a neighbour.
        beside_equal: With one that keeps as many requests in flight.
        beside_greedy: With one that keeps `greed` times as many.
    """

    alone: ClientRun
    beside_equal: Neighbours
    beside_greedy: Neighbours


class FairnessRecord(Record):
    """A modest tenant beside a greedy one, for one backbone and one kind of image.

    Attributes:
        clients: Requests that the modest tenant keeps in flight.
        greed: Times as many of the greedy one.
    """

    kind: Literal["fairness"] = "fairness"
    provenance: Provenance
    backbone: Backbone
    picture: str
    clients: int
    greed: int
    rounds: tuple[FairnessRound, ...]


class PeerSetup(Record):
    """How a peer was configured.

    Attributes:
        max_batch_size: Of its dynamic batching.
        max_wait_ms: How long it waits for a batch to fill.
        workers: Processes that hold the model.
        threads: torch threads of each.
        decoders: Processes that decode beside them; 0 if the model's process decodes.
    """

    max_batch_size: int
    max_wait_ms: float
    workers: int
    threads: int
    decoders: int


class PeerCell(Record):
    """Ours and a peer under the same load, in interleaved rounds.

    Attributes:
        tenants: Tenants that the requests go to.
        clients: Requests in flight.
        ours: One run a round.
        peer: One run a round.
        peer_idle_cpu: Cores that the idle peer kept busy while ours was measured; next to none
            since it is suspended.
        our_idle_cpu: The same of ours.
    """

    tenants: int
    clients: int
    ours: tuple[ServerRun, ...]
    peer: tuple[ServerRun, ...]
    peer_idle_cpu: float
    our_idle_cpu: float


class PeerRecord(Record):
    """A peer in one variant, in as many cells as it could do.

    Attributes:
        peer: Its name.
        version: Of its package.
        variant: "a", "b" or "c".
        resident_tenants: Tenants that it held.
        setup: Its configuration.
        failure: Why there are no cells; None if there are.
        max_difference: Largest difference from our probabilities.
        start_s: How long it took to become ready.
        memory_bytes: Of all its processes.
        our_memory_bytes: Of all of ours.
    """

    kind: Literal["peer"] = "peer"
    provenance: Provenance
    backbone: Backbone
    picture: str
    peer: str
    version: str
    variant: str
    resident_tenants: int
    setup: PeerSetup
    failure: str | None = None
    max_difference: float | None = None
    start_s: float | None = None
    memory_bytes: int | None = None
    our_memory_bytes: int | None = None
    cells: tuple[PeerCell, ...] = ()


class TuningRecord(Record):
    """One configuration of a peer, tried out."""

    kind: Literal["tuning"] = "tuning"
    provenance: Provenance
    backbone: Backbone
    peer: str
    setup: PeerSetup
    failure: str | None = None
    run: ServerRun | None = None


class GrowthPoint(Record):
    """One measured point of a curve.

    Attributes:
        curve: What is varied.
        x: Its value.
        seconds: Time, of what the curve measures.
        memory_bytes: Memory, of what the curve measures.
        cpu_s: Processor seconds.
    """

    curve: str
    x: int
    seconds: float
    memory_bytes: int | None = None
    cpu_s: float | None = None


class GrowthRecord(Record):
    """The points of one curve."""

    kind: Literal["growth"] = "growth"
    provenance: Provenance
    backbone: Backbone
    points: tuple[GrowthPoint, ...]
