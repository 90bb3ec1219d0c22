"""The DALI sources: the pictures, who sees which, and going on in the middle of an epoch."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from act_engine.data import Batch, build_data
from act_engine.data.dali import decoder_memory, made_ahead
from act_engine.data.image_folder import list_class_folders
from act_engine.models import build_model

SOURCES = ("image_folder", "webdataset")


@pytest.fixture
def paths(image_tree: Path, image_shards: Path) -> dict[str, str]:
    return {"image_folder": str(image_tree), "webdataset": str(image_shards)}


def build(paths: dict[str, str], name: str = "image_folder", batch_size: int = 8, **options):
    return build_data(name, path=paths[name], batch_size=batch_size, **{"image_size": 48, **options})


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        for one, other in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("name", SOURCES)
def test_batches_keep_the_contract(paths, name: str):
    data = build(paths, name, eval_batch_size=4)
    assert (data.num_classes, data.image_shape, data.bad_images) == (4, (3, 48, 48), 0)
    assert (data.train.num_samples, data.test.num_samples) == (44, 10)
    assert (len(data.train), len(data.test)) == (5, 3)
    batch = next(data.train.epoch(0))
    assert batch.images.shape == (8, 3, 48, 48)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == torch.int64
    tested = list(data.test.epoch(0))
    assert [len(batch.images) for batch in tested] == [4, 4, 2]
    assert torch.cat([batch.labels for batch in tested]).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("augment", ["resized_crop_flip", "randaugment", "none"])
def test_tree_and_shards_give_the_same_batches(paths, augment: str):
    tree, shards = (list(build(paths, name, augment=augment).train.epoch(1)) for name in SOURCES)
    assert same(tree, shards)


def test_order_and_augmentation_change_with_the_epoch_and_the_seed_only(paths):
    data = build(paths)
    first, again, second = list(data.train.epoch(0)), list(data.train.epoch(0)), list(data.train.epoch(1))
    assert same(first, again)
    assert not any(torch.equal(one.images, other.images) for one, other in zip(first, second, strict=True))
    assert not same(first, list(build(paths, order_seed=1).train.epoch(0)))


def fingerprints(batches: list[Batch]) -> list[bytes]:
    return [image.numpy().tobytes() for batch in batches for image in batch.images]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_an_epoch(paths, name: str, world_size: int):
    """44 and 10 images: uneven for 3 ranks. Pictures are told apart by their pixels, so the whole path is tested."""
    alone = build(paths, name, batch_size=1, augment="none", order_seed=2)
    everything = fingerprints(list(alone.train.epoch(0)))
    assert len(set(everything)) == 44
    batch_size = 6 // world_size
    ranks = [
        build(paths, name, batch_size=batch_size, augment="none", rank=rank, world_size=world_size, order_seed=2)
        for rank in range(world_size)
    ]
    trained = [list(data.train.epoch(0)) for data in ranks]
    assert [len(batches) for batches in trained] == [7] * world_size
    seen = [image for batches in trained for image in fingerprints(batches)]
    assert len(seen) == len(set(seen)) == 42
    assert set(seen) == set(everything[:42])
    tested = [image for data in ranks for image in fingerprints(list(data.test.epoch(0)))]
    assert tested == fingerprints(list(alone.test.epoch(0)))
    assert len(set(tested)) == 10


def test_a_global_batch_is_the_same_on_any_number_of_ranks(paths):
    alone = list(build(paths, batch_size=6, augment="randaugment").train.epoch(0))
    ranks = [build(paths, batch_size=3, augment="randaugment", rank=rank, world_size=2) for rank in range(2)]
    shared = zip(*(data.train.epoch(0) for data in ranks), strict=True)
    assert same(alone, [Batch(*(torch.cat(part) for part in zip(*parts, strict=True))) for parts in shared])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("augment", ["resized_crop_flip", "randaugment"])
def test_resume_in_the_middle_of_an_epoch(paths, name: str, augment: str):
    options = {"augment": augment, "train_sizes": (32, 48), "train_size_epochs": (3,)}
    interrupted = build(paths, name, **options).train
    stream = interrupted.epoch(2)
    for _ in range(2):
        next(stream)
    state = json.loads(json.dumps(interrupted.state_dict()))
    expected = [*stream, *interrupted.epoch(3)]
    resumed = build(paths, name, **options).train
    resumed.load_state_dict(state)
    assert same([*resumed.epoch(2), *resumed.epoch(3)], expected)
    assert [batch.images.shape[-1] for batch in expected] == [32] * 3 + [48] * 5


def test_an_abandoned_epoch_leaves_nothing_behind(paths):
    data = build(paths)
    whole = list(data.train.epoch(1))
    stream = data.train.epoch(0)
    next(stream)
    stream.close()
    assert same(list(data.train.epoch(1)), whole)
    left = data.train.epoch(0)
    next(left)
    assert same(list(data.train.epoch(1)), whole)  # with the other one still held


def torchvision_view(resize: int, crop: int) -> transforms.Compose:
    return transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])


def test_the_evaluation_view_is_torchvisions(paths, image_tree: Path):
    view = torchvision_view(55, 48)
    shown = torch.cat([batch.images for batch in build(paths).test.epoch(0)]).permute(0, 2, 3, 1).numpy()
    names = list_class_folders(image_tree / "val").files.names
    expected = np.stack([np.asarray(view(Image.open(name).convert("RGB"))) for name in names])
    difference = np.abs(shown.astype(int) - expected.astype(int))
    assert difference.mean() < 0.3  # of 255: the two resizes round differently
    assert difference.max() <= 2


def test_evaluation_agrees_with_a_pil_loop(paths, image_tree: Path):
    """A model that separates the classes somewhat, scored both ways."""
    torch.manual_seed(0)
    data = build(paths)
    model = build_model("small_cnn", num_classes=4, image_shape=data.image_shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        for images, labels in data.train.epoch(epoch):
            loss = torch.nn.functional.cross_entropy(model(images.float() / 255), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    view = transforms.Compose([torchvision_view(55, 48), transforms.ToTensor()])
    names = list_class_folders(image_tree / "val").files.names
    with torch.no_grad():
        ours = torch.cat([model(images.float() / 255) for images, _ in data.test.epoch(0)])
        theirs = torch.cat([model(view(Image.open(name).convert("RGB"))[None]) for name in names])
    # The pixels differ by up to 2 of 255 (the test above), the logits by less than 0.05 and 5 % of their size; where
    # the two likeliest classes lie further apart than twice that, both loops must name the same one.
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    best, second = theirs.topk(2).values.unbind(1)
    told = best - second > 2 * (0.05 + 0.05 * theirs.abs().amax(1))
    assert told.any()
    assert torch.equal(ours.argmax(1)[told], theirs.argmax(1)[told])


def test_the_training_view_is_a_resized_crop(paths, image_tree: Path):
    """DALI's decoding of a region, resizing and flip against PIL's, crop by crop, from the loader's own draws."""
    loader = build(paths).train
    batch = next(loader.epoch(0))
    order = loader.positions(0)
    crops, _, flips, _ = loader._draw(0, 0, loader.files.sizes[order[:8]])
    for row, index in enumerate(order[:8]):
        top, left, height, width = (int(side) for side in crops[row])
        picture = Image.open(loader.files.names[index]).crop((left, top, left + width, top + height))
        picture = np.asarray(picture.resize((48, 48), Image.Resampling.BILINEAR)).astype(int)
        picture = picture[:, ::-1] if flips[row] else picture
        assert np.abs(batch.images[row].permute(1, 2, 0).numpy() - picture).mean() < 1.5  # of 255: chroma at the edges


def test_a_tree_in_memory_holds_the_pictures_that_dali_streams(tmp_path: Path, image_tree: Path):
    """CIFAR-10 as a JPEG tree: ten class folders, decoded once, against the same tree streamed."""
    source = list_class_folders(image_tree / "train").files.names
    for number in range(30):
        target = tmp_path / ("train" if number < 20 else "test") / f"class_{number % 10}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source[number]).resize((32, 32)).save(target, quality=75)
    memory = build_data("cifar10", path=str(tmp_path), batch_size=4, augment="none")
    streamed = build_data(
        "image_folder", path=str(tmp_path), batch_size=4, augment="none", image_size=32, eval_resize=32
    )
    assert memory.num_classes == 10
    assert same(list(memory.train.epoch(0)), list(streamed.train.epoch(0)))
    assert same(list(memory.test.epoch(0)), list(streamed.test.epoch(0)))
    pixels = torch.cat([images for images, _ in memory.test.epoch(0)]).permute(0, 2, 3, 1).numpy()
    files = sorted((tmp_path / "test").glob("*/*.jpg"))
    assert np.array_equal(pixels, np.stack([np.asarray(Image.open(file)) for file in files]))


def test_batches_are_made_before_they_are_asked_for():
    """Two ahead of the one in use; what an abandoned epoch asked for is given up."""
    made, maker = [], ThreadPoolExecutor(1)
    steps = made_ahead(maker, lambda step: made.append(step) or step, range(6))
    assert next(steps) == 0
    maker.submit(int).result()  # whatever was asked for before this has been made
    assert made == [0, 1]
    assert next(steps) == 1
    maker.submit(int).result()
    assert made == [0, 1, 2]
    assert list(steps) == [2, 3, 4, 5]

    def fail(step: int) -> int:
        raise ValueError(f"step {step}")

    with pytest.raises(ValueError, match="step 3"):
        list(made_ahead(maker, fail, range(3, 6)))


@pytest.mark.parametrize("threads", [1, 2, 16, 64])
def test_decoders_buffers_stay_within_a_budget(threads: int):
    memory = decoder_memory(threads)
    assert memory["host_memory_padding"] * 2 * threads <= 2**29
    assert memory["device_memory_padding"] * threads <= 2**30
    if threads == 1:
        assert memory["host_memory_padding"] == 140_544_512  # ImageNet's largest


def test_memory_does_not_grow_with_the_epochs(paths):
    """Keeping a batch of each of 20 epochs would cost 12 MiB, every time; an allocator's own growth comes to an end."""
    loader = build(paths, image_size=160).train

    def resident(epochs: range) -> int:
        for epoch in epochs:
            for _ in loader.epoch(epoch):
                pass
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    before, grown = resident(range(8)), []
    for first in (8, 28, 48):
        after = resident(range(first, first + 20))
        grown.append(after - before)
        before = after
        if grown[-1] < 6 * 2**20:
            break
    assert grown[-1] < 6 * 2**20, grown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, r"data\.image_size: got 0"),
        ({"eval_resize": 40}, r"data\.eval_resize: got 40; allowed: data\.image_size, 48, or more"),
        ({"train_sizes": (32, 48)}, r"data\.train_size_epochs: got \[\]; .* needs 1 epoch"),
        ({"train_sizes": (8, 9, 10), "train_size_epochs": (5, 5)}, r"data\.train_size_epochs: .* rise"),
        ({"augment": "crop_flip"}, r"data\.augment: got 'crop_flip'; allowed with image_folder: resized_crop_flip"),
        ({"workers": 0}, r"data\.workers: got 0"),
        ({"batch_size": 45}, r"data\.batch_size: 45 on each of 1 process.* more than the 44 training images"),
        ({"num_classes": 3}, r"model\.num_classes: got 3; image_folder has 4 classes"),
        ({"bad_images": "ignore"}, r"data\.bad_images: got 'ignore'; allowed: error, skip"),
    ],
)
def test_settings_that_cannot_be(paths, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(paths, **options)


def test_without_dali_the_error_names_the_extra(paths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ValueError, match=r'pip install "act-engine\[imagenet\]"'):
        build(paths)
