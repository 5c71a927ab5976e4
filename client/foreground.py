"""`hgprompt up`: a local deployment in the foreground of a terminal."""

from rich.console import Console
from rich.text import Text

from client.deployment_view import DeploymentView
from client.errors import StopRequestedError
from client.stop_signals import StopSignals
from client.up import Deployment, LocalOptions, local_deployment

CHECK_INTERVAL_S = 0.5


def run_until_stopped(options: LocalOptions, console: Console, *, verbose: bool) -> None:
    """Starts everything, keeps it running until SIGINT, SIGTERM or SIGHUP, then drains.

    Raises:
        StartError: If something cannot be started, or keeps dying.
    """
    with (
        StopSignals() as signals,
        DeploymentView(console, verbose=verbose, stop_requests=signals.count) as view,
    ):
        try:
            with local_deployment(options, view.hooks) as deployment:
                view.started()
                _print_banner(console, deployment)
                while not signals.wait(CHECK_INTERVAL_S):
                    deployment.supervisor.check()
                view.stage("stopping; a second Ctrl-C does not wait for running requests")
        except StopRequestedError:
            pass  # that is what was asked for
    console.print("stopped")


def _print_banner(console: Console, deployment: Deployment) -> None:
    url = deployment.address.url
    rows = (("API", f"{url}/docs"), ("data", deployment.data_dir), ("logs", deployment.log_dir))
    console.print(Text.assemble(("HGPrompt is ready at ", "bold"), (url, "bold cyan")))
    for label, value in rows:
        console.print(f"  {label:<6}{value}", soft_wrap=True)
    console.print(Text("Press Ctrl-C to stop.", style="dim"))
