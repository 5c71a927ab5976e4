"""Every method by the name under which it is asked for."""

from collections.abc import Callable

from ensemble.fit_session import FitSession
from ensemble.methods.findings import Findings
from ensemble.methods.h_ensemble import fit_h_ensemble
from ensemble.methods.hgprompt import fit_hgprompt
from ensemble.methods.logme import fit_logme
from ensemble.methods.mean import fit_mean
from ensemble.methods.none import fit_none
from ensemble.methods.panda import fit_panda
from ensemble.methods.single import fit_single
from ensemble.methods.spot import fit_spot
from ensemble.methods.vpt import fit_vpt
from ensemble.options import Method

METHODS: dict[Method, Callable[[FitSession], Findings]] = {
    "hgprompt": fit_hgprompt,
    "none": fit_none,
    "vpt": fit_vpt,
    "single": fit_single,
    "mean": fit_mean,
    "spot": fit_spot,
    "panda": fit_panda,
    "h_ensemble": fit_h_ensemble,
    "logme": fit_logme,
}
