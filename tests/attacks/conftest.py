import pytest

from backbones.info import LoadedBackbone
from tests.tiny_backbone import load_tiny_backbone


@pytest.fixture(scope="session")
def loaded() -> LoadedBackbone:
    return load_tiny_backbone()
