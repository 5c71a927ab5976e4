"""`python -m backbones.fetch`: load the configured backbone, so that its weights are cached."""

import sys

from backbones.errors import BackboneError
from backbones.settings import BackboneSettings
from configuration.environment import SettingsError
from ensemble.errors import EnsembleError


def main() -> int:
    """Fetch and check the weights, print what identifies them; 1 on failure."""
    try:
        settings = BackboneSettings.read()
        info = settings.load().info
    except (BackboneError, EnsembleError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{info.name} {info.digest} in {settings.cache_dir}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
