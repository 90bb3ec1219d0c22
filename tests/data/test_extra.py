"""Extra images: which places and which images, wherever they lie, on any number of ranks, gone on with at any step."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from act_engine.data import build_data
from act_engine.data.arrays import ArrayLoader
from act_engine.data.draws import permuted
from act_engine.data.extra import Extra, arrays, open_extra
from act_engine.data.mixture import Mixture

BASE, MORE, SHARE = 40, 25, 0.7


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 1000])
def test_a_permutation_without_memory_reaches_each_number_once(count: int):
    first, other = (permuted(np.arange(count), count, key) for key in (1, 2))
    assert sorted(first) == sorted(other) == list(range(count))
    assert count < 64 or not np.array_equal(first, other)
    assert np.array_equal(first[:5], permuted(np.arange(min(5, count)), count, 1))


def numbered(first: int, count: int, batch_size: int, **options) -> ArrayLoader:
    """Pictures 4 x 4 of one value, their number, and that number as their label; the extra ones in two parts."""

    def pictures(begin: int, end: int) -> np.ndarray:
        return np.broadcast_to(
            np.arange(begin, end, dtype=np.uint8)[:, None, None, None], (end - begin, 4, 4, 1)
        ).copy()

    edges = [BASE, BASE + 10, BASE + MORE]
    extra = Extra([(pictures(a, b), np.arange(a, b)) for a, b in itertools.pairwise(edges)])
    mixture = {"base": BASE, "extra": MORE, "share": SHARE} | options.pop("mixture", {})
    options = {"shuffle": True, "mixture": Mixture(**mixture), "augment": "crop_flip", **options}
    return ArrayLoader(pictures(0, BASE), np.arange(BASE), batch_size, extra=extra, **options)


def shown(loader: ArrayLoader, epoch: int = 0) -> list[list[int]]:
    batches = []
    for images, labels in loader.epoch(epoch):
        assert torch.equal(images, labels[:, None, None, None].to(torch.uint8).expand_as(images))
        batches.append(labels.tolist())
    return batches


def test_every_batch_has_its_share_and_an_epoch_the_length_of_the_base_set():
    loader = numbered(0, BASE, 10)
    for epoch in (0, 1):
        batches = shown(loader, epoch)
        assert [sum(number >= BASE for number in batch) for batch in batches] == [7, 7, 7, 7]
        own = [number for batch in batches for number in batch if number < BASE]
        assert len(set(own)) == 12
    assert shown(loader, 0) != shown(loader, 1)
    assert len(numbered(0, BASE, 10, epoch_images=95)) == 9
    assert shown(numbered(0, BASE, 10, seed=1)) != shown(loader)


def test_ranks_share_a_batch():
    alone = shown(numbered(0, BASE, 10))
    ranks = [shown(numbered(0, BASE, 5, rank=rank, world_size=2)) for rank in range(2)]
    assert alone == [[*first, *second] for first, second in zip(*ranks, strict=True)]
    assert {sum(number >= BASE for number in batch) for rank in ranks for batch in rank} <= {3, 4}


def test_each_once_is_each_once_before_any_again_and_draws_repeat():
    loader = numbered(0, BASE, 10, mixture={"once": True, "only_epochs": 1})
    first = [number for batch in shown(loader, 0) for number in batch]
    assert min(first) >= BASE  # extra images alone
    assert len(first) == 40
    second = [number for batch in shown(loader, 1) for number in batch if number >= BASE]
    running = first + second
    assert sorted(running[:MORE]) == sorted(running[MORE : 2 * MORE]) == list(range(BASE, BASE + MORE))
    drawn = [number for epoch in range(40) for batch in shown(numbered(0, BASE, 10), epoch) for number in batch]
    counts = np.bincount([number - BASE for number in drawn if number >= BASE], minlength=MORE)
    expected = 40 * 28 / MORE
    # Chi-squared with 24 degrees of freedom is above 60 once in 1e5 seeds, and this seed is fixed.
    assert 5 < ((counts - expected) ** 2 / expected).sum() < 60


def test_it_goes_on_at_any_step():
    whole = shown(numbered(0, BASE, 10), 1)
    loader = numbered(0, BASE, 10)
    batches = loader.epoch(1)
    for _ in range(2):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = numbered(0, BASE, 10)
    resumed.load_state_dict(state)
    assert shown(resumed, 1) == whole[2:]
    with pytest.raises(ValueError, match="mixture"):
        numbered(0, BASE, 10, mixture={"share": 0.5}).load_state_dict(state)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACT_ENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_are_mapped(save, tmp_path: Path, cache: Path):
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), np.uint8)
    file = tmp_path / "extra.npz"
    save(file, image=images, label=np.arange(9))
    mapped, labels = arrays(str(file), (("image",), ("label",)))
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, images)
    assert np.array_equal(labels, np.arange(9))
    kept = list(cache.glob("*.npy")) if cache.exists() else []
    assert len(kept) == (2 if save is np.savez_compressed else 0)


def test_folders_and_shards_are_decoded_once_for_small_pictures(image_tree: Path, image_shards: Path, cache: Path):
    options = {"shape": (16, 16, 3), "num_classes": 4, "classes": [f"class_{k}" for k in range(4)], "workers": 1}
    extra = open_extra([str(image_tree / "train"), str(image_shards / "train")], **options)
    assert len(extra) == 88
    images, labels = np.empty((88, 16, 16, 3), np.uint8), np.empty(88, np.int64)
    extra.take(np.arange(88), images, labels)
    assert np.bincount(labels).tolist() == [22] * 4
    for label in range(4):  # each picture once from either
        both = [sorted(image.tobytes() for image in part[kept == label]) for part, kept in halves(images, labels)]
        assert both[0] == both[1]
    made = {file: file.stat().st_mtime_ns for file in cache.glob("*.npy")}
    open_extra([str(image_tree / "train")], **options)
    assert {file: file.stat().st_mtime_ns for file in cache.glob("*.npy")} == made


def halves(images: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images[:44], labels[:44]), (images[44:], labels[44:])]


def test_image_files_beside_image_files(image_tree: Path, tmp_path: Path, cache: Path):
    """Half of every batch are extra pictures, which lie elsewhere and are as black as no other is."""
    from PIL import Image

    (tmp_path / "more" / "class_3").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (40, 30)).save(tmp_path / "more" / "class_3" / f"{number}.png")
    options = {"batch_size": 8, "image_size": 16, "workers": 1, "extra_share": 0.5}
    data = build_data("image_folder", path=str(image_tree), extra=[str(tmp_path / "more")], **options)
    assert (len(data.train), data.train.num_samples) == (5, 44)
    for images, labels in data.train.epoch(0):
        black = images.flatten(1).amax(1) == 0
        assert black.tolist() == [False, True] * 4
        assert (labels[black] == 3).all()
    again = build_data("image_folder", path=str(image_tree), extra=[str(tmp_path / "more")], **options)
    assert again.train.identity() == data.train.identity()
    assert build_data("image_folder", path=str(image_tree), **{**options, "extra_share": 0.7}).train.identity() != (
        data.train.identity()
    )


MISTAKES = {
    "missing": ({}, "there is no file or folder"),
    "no image": ({"label": np.zeros(3, int)}, "image: got no such array"),
    "size": ({"image": np.zeros((3, 4, 4, 1), np.uint8), "label": np.zeros(3, int)}, r"allowed: uint8 \[N, 8, 8, 1\]"),
    "float": ({"image": np.zeros((3, 8, 8, 1)), "label": np.zeros(3, int)}, r"float64 .*allowed: uint8"),
    "no label": ({"image": np.zeros((3, 8, 8, 1), np.uint8)}, "has no array label.*pseudo_label"),
    "few labels": ({"image": np.zeros((3, 8, 8, 1), np.uint8), "label": np.zeros(2, int)}, "one an image"),
    "large": ({"image": np.zeros((3, 8, 8, 1), np.uint8), "label": np.full(3, 10)}, "got 10 to 10; allowed: 0 to 9"),
    "objects": ({"image": np.array([None, 1])}, "plain arrays"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case: str, tmp_path: Path, cache: Path):
    held, problem = MISTAKES[case]
    file = tmp_path / "extra.npz"
    if held:
        np.savez(file, **held)
    with pytest.raises((ValueError, FileNotFoundError), match=f"data.extra: .*{problem}") as caught:
        build_data("digits", batch_size=8, extra=[str(file)])
    assert "\n" not in str(caught.value)


def test_any_bytes_are_one_line_or_images(tmp_path: Path, cache: Path):
    """A file cut or with a byte changed anywhere never gives anything but one line of ValueError."""
    whole = tmp_path / "whole.npz"
    np.savez(whole, image=np.zeros((3, 8, 8, 1), np.uint8), label=np.zeros(3, np.int64))
    content, random = bytearray(whole.read_bytes()), np.random.default_rng(0)
    told = []
    for _ in range(150):
        changed = bytearray(content)
        if random.random() < 0.3:
            del changed[random.integers(len(changed)) :]
        else:
            changed[random.integers(len(changed))] = random.integers(256)
        file = tmp_path / "extra.npz"
        file.write_bytes(changed)
        try:
            extra = open_extra([str(file)], shape=(8, 8, 1), num_classes=10)
            extra.take(np.arange(3), np.empty((3, 8, 8, 1), np.uint8), np.empty(3, np.int64))
        except ValueError as error:
            told.append(str(error))
    assert len(told) > 30
    assert all(text.startswith("data.extra: ") and "\n" not in text for text in told)


def test_a_model_labels_images_for_training(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]):
    """The labels stand beside the images, are the model's, and serve a training's loader."""
    from act_engine import pseudo_label
    from act_engine.models import build_model
    from act_engine.training.checkpoint import save_model

    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).eval()
    architecture = {"name": "small_cnn", "num_classes": 10, "image_shape": (1, 8, 8)}
    save_model(model, tmp_path / "natural.safetensors", **architecture)
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    file = tmp_path / "extra.npz"
    np.savez(file, image=images)
    with pytest.raises(ValueError, match="pseudo_label"):
        build_data("digits", batch_size=10, extra=[str(file)])
    words = [str(file), "--weights", str(tmp_path / "natural.safetensors"), "--batch_size", "7", "--device", "cpu"]
    assert pseudo_label.main(words) == 0
    assert "30 labels in" in capsys.readouterr().out
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).argmax(1)
    data = build_data("digits", batch_size=10, extra=[str(file)], extra_only_epochs=1)
    known = {image.tobytes(): int(label) for image, label in zip(images, expected, strict=True)}
    batch = next(data.train.epoch(0))
    assert [known[(image * 255).round().byte().numpy().tobytes()] for image in batch.images] == batch.labels.tolist()
    with pytest.raises(SystemExit) as stopped:
        pseudo_label.main([str(file), "--weights", str(tmp_path / "none")])
    assert stopped.value.code == 2


def test_a_run_with_extra_images_goes_on_inside_an_epoch_to_the_same_bits(tmp_path: Path, cache: Path):
    from act_engine.config import from_mapping
    from act_engine.training.trainer import Trainer

    random, file = np.random.default_rng(0), tmp_path / "extra.npz"
    np.savez(file, image=random.integers(0, 256, (50, 8, 8, 1), np.uint8), label=random.integers(0, 10, 50))
    settings = {
        "objective": {"name": "act"},
        "attack": {"steps": 1},
        "data": {"train_samples": 40, "batch_size": 10, "extra": [str(file)], "extra_once": True},
        "train": {"epochs": 2, "device": "cpu", "ema": 0.9, "progress": "none"},
        "checkpoint": {"every_steps": 1},
        "evaluate": {"attack": "none", "images": 10},
    }
    whole = Trainer(from_mapping(settings), tmp_path / "whole")
    assert whole.run() == 0
    parts = Trainer(from_mapping({**settings, "train": {**settings["train"], "max_steps": 6}}), tmp_path / "parts")
    assert parts.run() == 0
    parts = Trainer(from_mapping(settings), tmp_path / "parts")
    assert (parts.step, parts.run()) == (6, 0)
    for name in whole.learners:
        for key, value in whole.learners[name].state_dict()[0].items():
            assert torch.equal(value, parts.learners[name].state_dict()[0][key]), key
