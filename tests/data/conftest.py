"""Image sets shared by the tests of the data sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from act_engine.data.sample_tree import tree_to_shards, write_tree


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG tree of real pictures: 4 classes, 44 training and 10 held-out images of differing sizes. Do not change."""
    tree = write_tree(tmp_path_factory.mktemp("tree"), classes=4, train=11, test=3, size=120)
    for spare in ("class_2", "class_3"):
        (tree / "val" / spare / "0002.jpg").unlink()
    return tree


@pytest.fixture(scope="session")
def image_shards(image_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures as `image_tree`, as tar shards of 9. Do not change."""
    return tree_to_shards(image_tree, tmp_path_factory.mktemp("shards"), samples_per_shard=9)
