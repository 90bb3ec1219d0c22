"""Checkpoints: whole or absent, verified, never executed."""

import json
import os
import pickle

import pytest
import torch

from act_engine.models import build_model, load_weights
from act_engine.training import checkpoint


def tensors(value):
    return {"robust": {"weight": torch.full((3, 5), float(value)), "count": torch.tensor(value)}}


def save(root, step, keep=2):
    return checkpoint.save(root, step, tensors(step), {"step": step}, keep)


def load(root):
    warnings = []
    folder = checkpoint.find_newest(root, warnings.append)
    return folder and checkpoint.load(folder), warnings


def test_newest_comes_back_and_older_ones_are_dropped(tmp_path):
    for step in (5, 10, 100):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-100"]
    (loaded, values), warnings = load(tmp_path)
    assert values == {"step": 100}
    assert torch.equal(loaded["robust"]["weight"], torch.full((3, 5), 100.0))
    assert loaded["robust"]["count"].item() == 100
    assert warnings == []


def test_no_checkpoint_is_none(tmp_path):
    assert load(tmp_path / "nothing") == (None, [])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, os.remove])
@pytest.mark.parametrize("name", ["robust.safetensors", "state.json", "manifest.json"])
def test_any_damage_is_noticed_and_the_one_before_is_used(tmp_path, damage, name):
    save(tmp_path, 1)
    damage(save(tmp_path, 2) / name)
    (_, values), warnings = load(tmp_path)
    assert values == {"step": 1}
    (warning,) = warnings
    assert "step-2" in warning


def test_no_whole_checkpoint_is_one_clear_line(tmp_path):
    truncate(save(tmp_path, 1) / "state.json")
    with pytest.raises(ValueError, match="none of its 1 checkpoints is whole; remove the folder"):
        load(tmp_path)


def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert load(tmp_path)[0][1] == {"step": 1}


def test_a_partial_folder_left_by_a_kill_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-2.partial").mkdir()
    assert load(tmp_path)[0][1] == {"step": 1}
    save(tmp_path, 2)
    assert load(tmp_path)[0][1] == {"step": 2}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pickle_bomb_executes_nothing(tmp_path, suffix):
    weights, mark = tmp_path / f"weights{suffix}", tmp_path / "executed"
    weights.write_bytes(pickle.dumps({"fc.weight": Bomb(str(mark))}, protocol=2))
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="not plain weights"):
        load_weights(model, weights)
    folder = save(tmp_path / "checkpoints", 1)
    (folder / "robust.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match="whole"):
        load(tmp_path / "checkpoints")
    assert not mark.exists()


def test_weights_that_do_not_fit_are_named(tmp_path):
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    other = build_model("small_cnn", num_classes=3, image_shape=(1, 8, 8))
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"fc\.bias is \(3,\), the model's \(10,\)"):
        load_weights(model, tmp_path / "weights.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")


def test_tensors_that_share_storage_are_saved(tmp_path):
    weight = torch.arange(6.0)
    checkpoint.export_weights(tmp_path / "tied.safetensors", {"a": weight, "b": weight.view(2, 3)})
    assert (tmp_path / "tied.safetensors").exists()
    assert json.loads((save(tmp_path, 1) / "state.json").read_text()) == {"step": 1}
