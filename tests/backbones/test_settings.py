from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from backbones.errors import DeviceUnavailableError
from backbones.fetch import main
from backbones.settings import BackboneSettings

TINY = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKBONE", "DEVICE", "PRECISION", "CACHE_DIR"):
        monkeypatch.delenv(f"HGPROMPT_{name}", raising=False)


def test_the_defaults_need_no_model_hub() -> None:
    settings = BackboneSettings()

    assert settings.backbone == "offline-vit-s14"
    assert (settings.device, settings.precision) == ("auto", "fp32")
    assert settings.cache_dir == Path.home() / ".cache" / "hgprompt"


def test_they_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HGPROMPT_BACKBONE", TINY)
    monkeypatch.setenv("HGPROMPT_PRECISION", "bf16")
    monkeypatch.setenv("HGPROMPT_DEVICE", "cpu")
    monkeypatch.setenv("HGPROMPT_CACHE_DIR", str(tmp_path))

    settings = BackboneSettings()

    assert settings.cache_dir == tmp_path
    loaded = settings.load()
    assert (loaded.info.name, loaded.info.dtype) == (TINY, "bf16")
    assert loaded.vit.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "value"), [("BACKBONE", ""), ("PRECISION", "fp16"), ("DEVICE", "tpu")]
)
def test_a_value_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"HGPROMPT_{name}", value)

    with pytest.raises(ValidationError, match=name.lower()):
        BackboneSettings()


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert BackboneSettings(device="auto").torch_device() == torch.device("cpu")
    with pytest.raises(DeviceUnavailableError, match="HGPROMPT_DEVICE=cuda"):
        BackboneSettings(device="cuda").load()


def test_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert BackboneSettings(device="auto").torch_device() == torch.device("cuda")
    assert BackboneSettings(device="cpu").torch_device() == torch.device("cpu")


def test_fetch_says_what_it_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HGPROMPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HGPROMPT_DEVICE", "cpu")
    monkeypatch.setenv("HGPROMPT_BACKBONE", TINY)
    assert main() == 0
    assert capsys.readouterr().out.startswith(f"{TINY} sha256:")

    monkeypatch.setenv("HGPROMPT_BACKBONE", "nope")
    assert main() == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'nope' is neither" in err

    monkeypatch.setenv("HGPROMPT_BACKBONE", "random:resnet10t")
    assert main() == 1
    assert "not a timm VisionTransformer" in capsys.readouterr().err
