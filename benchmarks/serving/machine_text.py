"""Where and how results were computed, as the reports say it."""

from collections.abc import Sequence

from benchmarks.serving.records import Provenance


def how_it_was_made(provenances: Sequence[Provenance]) -> str:
    """Return the section that names commands, machines, versions and commits."""
    machines = dict.fromkeys(str(each.machine) for each in provenances)
    commands = dict.fromkeys(each.command for each in provenances)
    commits = sorted({each.machine.commit or "unknown" for each in provenances})
    times = sorted(each.started_at for each in provenances)
    lines = [f"- {machine}" for machine in machines]
    if times:
        lines.append(f"- commit {', '.join(commits)} (+: with changes)")
        lines.append(f"- from {times[0]} to {times[-1]}")
    listing = "\n".join(commands)
    return "\n".join(["## How it was made", "", *lines, "", "```", listing, "```"])
