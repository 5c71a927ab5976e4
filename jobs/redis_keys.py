"""Every key of this deployment in Redis. All of it may be lost at any moment.

    hgprompt:fit:{<id>}:beat     string: number of the running attempt; expires after lease_s
    hgprompt:fit:{<id>}:events   stream: progress and outcome of the fit, each entry one field
                                 `progress` of JSON; expires progress_ttl_s after the last entry
    hgprompt:sweep               string: name of whoever swept last; nobody else sweeps until it
                                 expires, a little before sweep_interval_s is over
    hgprompt:fits:stream         stream of pydocket: fits that are queued or running, oldest first
    hgprompt:fits:runs:<id>      hash of pydocket: whether the fit is queued or running, so that
                                 duplicates collapse; expires 15 minutes after the run
    hgprompt:fits:*              the rest of pydocket: its workers, leases and strikes

`<id>` is `name@version`. An entry of an event stream has the id `<attempt>-<n>`, with n counting up
within the attempt, so ids survive the loss of Redis, and Redis itself refuses the events of an
attempt that was overtaken. The outcome's id is always `9999999999-0`, above all others, so it can
be derived from the stored outcome when the stream has expired.

pydocket pickles what it stores, in workers the arguments of tasks, everywhere its strikes: whoever
can write to this Redis can run code in the workers and in the service. Only the fit's id is passed
and no strikes are used, but Redis must stay private to the deployment.
"""

from jobs.records import FitId

DOCKET_NAME = "hgprompt:fits"
SWEEP_KEY = "hgprompt:sweep"


def beat_key(fit_id: FitId) -> str:
    """The attempt that is running."""
    return f"hgprompt:fit:{{{fit_id}}}:beat"


def events_key(fit_id: FitId) -> str:
    """Progress and outcome of the fit."""
    return f"hgprompt:fit:{{{fit_id}}}:events"
