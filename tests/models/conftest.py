"""What the tests of models share."""

import shutil
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file


class Hub:
    """The hub client's cache, as it lies on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, name: str, state: dict) -> None:
        """Put weights of one of timm's models into it."""
        folder = self.root / f"models--{timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}"
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40)
        save_file(state, snapshot / "model.safetensors")

    def remove(self) -> None:
        """Forget them all."""
        shutil.rmtree(self.root)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")
