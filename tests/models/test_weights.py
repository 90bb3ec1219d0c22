"""Weights of others: wrappers, prefixes, another number of classes or image size, files that mean harm."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from act_engine import evaluate
from act_engine.models import build_model, load_pretrained, load_weights
from act_engine.training import checkpoint

SHAPE = (3, 16, 16)


def net(classes: int = 4, seed: int = 0, **settings) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("small_cnn", num_classes=classes, image_shape=SHAPE, **settings)


def same(model: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


def test_a_plain_state_dict_is_loaded_without_a_word(tmp_path):
    source = net(seed=1)
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    save_file(source.state_dict(), tmp_path / "plain.safetensors")
    torch.save(source.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("plain.pt", "plain.safetensors", "old.pth"):
        model = net()
        assert load_weights(model, tmp_path / name) == []
        assert same(model, source)


WRAPPED = {
    "entry of a checkpoint": (lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {0: {}}}}, "'state_dict'"),
    "model": (lambda s: {"model": s}, "'model'"),
    "model_state_dict": (lambda s: {"model_state_dict": s, "config": {"lr": 0.1}}, "'model_state_dict'"),
    "two deep": (lambda s: {"checkpoint": {"net": s}}, "'checkpoint.net'"),
    "DataParallel": (lambda s: prefixed("module.", s), "prefix 'module.'"),
    "DataParallel in an entry": (lambda s: {"state_dict": prefixed("module.", s)}, "prefix 'module.'"),
    "compiled": (lambda s: prefixed("_orig_mod.", s), None),
    "compiled part": (lambda s: {k.replace("features.", "features._orig_mod."): v for k, v in s.items()}, None),
    "compiled DataParallel": (lambda s: prefixed("module._orig_mod.", s), "prefix 'module.'"),
    "second of a Sequential": (lambda s: prefixed("1.", s), "prefix '1.'"),
    "lightning": (lambda s: {"state_dict": prefixed("model.", s), "hparams": None}, "prefix 'model.'"),
    "counters averaged": (lambda s: {k: v.float() for k, v in s.items()}, None),
    "counters missing": (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, None),
    "half precision": (lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()}, None),
}


@pytest.mark.parametrize("form", WRAPPED)
def test_wrappers_and_prefixes_are_seen_through_and_said(form, tmp_path):
    source, (wrap, said) = net(seed=1), WRAPPED[form]
    for parameter in source.parameters():
        parameter.data.copy_(parameter.half())  # so that float16 holds them exactly
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pt")
    model = net()
    notes = load_weights(model, tmp_path / "weights.pt")
    assert same(model, source)
    assert all("weights.pt" in note and "\n" not in note for note in notes)
    assert (said in "\n".join(notes)) if said else notes == []


def test_a_model_that_normalises_takes_bare_weights_and_gives_them_back(tmp_path):
    source = net(seed=1, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    torch.save(source[1].state_dict(), tmp_path / "bare.pt")
    model = net(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    assert "'1.' is put before its names" in load_weights(model, tmp_path / "bare.pt")[0]
    assert same(model, source)
    torch.save(source.state_dict(), tmp_path / "sequential.pt")
    bare = net()
    load_weights(bare, tmp_path / "sequential.pt")
    assert same(bare, source[1])


def test_stored_normalisation_must_be_the_models(tmp_path):
    source = net(seed=1)
    state = prefixed("model.", source.state_dict())
    state["normalize.mean"] = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    state["normalize.std"] = torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1)
    torch.save({"state_dict": state}, tmp_path / "weights.pt")
    model = net(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
    notes = load_weights(model, tmp_path / "weights.pt")
    assert any("normalize.mean is the model's model.mean" in note for note in notes)
    assert same(model[1], source)
    for other in (net(), net(mean=(0.5, 0.5, 0.5), std=(0.2471, 0.2435, 0.2616))):
        with pytest.raises(
            ValueError, match=r"normalize\.mean is \[0\.4914, 0\.4822, 0\.4465\]: give these as model\.mean"
        ):
            load_weights(other, tmp_path / "weights.pt")


def test_averaged_weights_go_first_and_an_entry_can_be_named(tmp_path):
    raw, averaged = net(seed=1), net(seed=2)
    torch.save({"model": raw.state_dict(), "model_ema": averaged.state_dict()}, tmp_path / "both.pt")
    model = net()
    notes = load_weights(model, tmp_path / "both.pt")
    assert "entry 'model_ema'" in notes[0]
    assert "'model' would fit too" in notes[1]
    assert same(model, averaged)
    load_weights(model, tmp_path / "both.pt", entry="model")
    assert same(model, raw)
    with pytest.raises(ValueError, match=r"model\.weights_entry: got 'ema'; allowed with .*: model, model_ema"):
        load_weights(model, tmp_path / "both.pt", entry="ema")
    # Wang et al. (2023): the averaged weights are called model_state_dict, the others unaveraged_model_state_dict.
    content = {"model_state_dict": averaged.state_dict(), "unaveraged_model_state_dict": raw.state_dict()}
    torch.save(content, tmp_path / "wang.pt")
    load_weights(model, tmp_path / "wang.pt")
    assert same(model, averaged)


def test_a_checkpoint_of_this_engine(tmp_path):
    raw, averaged = net(seed=1), net(seed=2)
    floats = {name: value for name, value in averaged.state_dict().items() if value.is_floating_point()}
    momentum = {name: torch.zeros_like(value) for name, value in raw.named_parameters()}
    tensors = prefixed("model.", raw.state_dict()) | prefixed("momentum_buffer.", momentum)
    folder = checkpoint.save(tmp_path / "plain", 3, {"robust": tensors}, {}, 1)
    model = net()
    load_weights(model, folder / "robust.safetensors")
    assert same(model, raw)
    folder = checkpoint.save(tmp_path / "ema", 3, {"robust": tensors | prefixed("ema.", floats)}, {}, 1)
    load_weights(model, folder / "robust.safetensors")
    assert same(model, averaged)


def test_two_models_in_one_file_are_not_guessed_between(tmp_path):
    both = prefixed("robust.", net(seed=1).state_dict()) | prefixed("natural.", net(seed=2).state_dict())
    torch.save(both, tmp_path / "both.pt")
    with pytest.raises(ValueError, match=r"does not fit the model: .* is unknown"):
        load_weights(net(), tmp_path / "both.pt")


def test_a_timm_model_of_1000_classes_becomes_one_of_4(tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("resnet18")
    torch.save({"state_dict": prefixed("module.", source.state_dict()), "epoch": 90}, tmp_path / "imagenet.pth")
    torch.manual_seed(2)
    model = build_model("resnet18", num_classes=4, image_shape=(3, 32, 32))
    fresh = {name: value.clone() for name, value in model.fc.state_dict().items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"fc\.bias is \(1000,\), the model's \(4,\).*model\.head new replaces the classifier"
    ):
        load_weights(model, tmp_path / "imagenet.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    notes = load_weights(model, tmp_path / "imagenet.pth", new_head=True)
    assert any("left: fc.weight [1000, 512], fc.bias [1000]" in note for note in notes)
    state = source.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh[name.removeprefix("fc.")] if name.startswith("fc.") else state[name])


def test_a_new_head_of_as_many_classes_and_of_our_own_model(tmp_path):
    source = net(seed=1)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    model = net(seed=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    fresh = model[1].fc.weight.clone()
    load_weights(model, tmp_path / "weights.pt", new_head=True)
    assert torch.equal(model[1].fc.weight, fresh)
    assert torch.equal(model[1].features[0].weight, source.features[0].weight)


@pytest.mark.parametrize(("name", "classes"), [("vit_tiny_patch16_224", 5), ("deit_tiny_distilled_patch16_224", 5)])
def test_position_embeddings_are_interpolated(name, classes, tmp_path):
    """To the grid of another image size, as timm itself does it."""
    small = {"num_classes": classes, "depth": 1}
    source = timm.create_model(name, img_size=64, **small)
    nn.init.normal_(source.pos_embed)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    model = build_model(name, num_classes=classes, image_shape=(3, 96, 32), options={"depth": 1})
    notes = load_weights(model, tmp_path / "weights.pt")
    assert re.search(r"pos_embed is interpolated from \[1, 1[78], 192\] to \[1, 1[34], 192\]", notes[0])
    wanted = timm.layers.resample_abs_pos_embed(
        source.pos_embed, new_size=[6, 2], num_prefix_tokens=source.num_prefix_tokens
    )
    assert torch.equal(model.pos_embed, wanted)
    assert torch.equal(model.patch_embed.proj.weight, source.patch_embed.proj.weight)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


BOMBS = {
    "plain": lambda bomb: {"fc.weight": bomb},
    "state_dict": lambda bomb: {"state_dict": {"fc.weight": bomb}, "epoch": 3},
    "model": lambda bomb: {"model": bomb},
    "DataParallel": lambda bomb: prefixed("module.", {"fc.weight": bomb}),
    "beside": lambda bomb: {"state_dict": net().state_dict(), "args": bomb},
    "ordered": lambda bomb: OrderedDict({"ema": OrderedDict({"_orig_mod.fc.weight": bomb})}),
}


@pytest.mark.parametrize("container", ["zip", "before 1.6", "pickle", "pickle as safetensors"])
@pytest.mark.parametrize("form", BOMBS)
def test_a_pickle_bomb_in_any_form_executes_nothing(form, container, tmp_path):
    mark = tmp_path / "executed"
    content, file = BOMBS[form](Bomb(str(mark))), tmp_path / "weights.pt"
    if container.startswith("pickle"):
        file = tmp_path / ("weights.safetensors" if "safetensors" in container else "weights.pth")
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=container == "zip")
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="not plain weights") as caught:
        load_weights(model, file)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_a_refused_file_would_call_is_named(tmp_path):
    torch.save({"state_dict": {"a": Bomb(str(tmp_path / "executed"))}}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"it would call io\.open; only tensors and plain values are read"):
        load_weights(net(), tmp_path / "bomb.pt")
    torch.save(net(), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"it would call .*SmallCNN.*: save model\.state_dict\(\) alone"):
        load_weights(net(), tmp_path / "module.pt")


def rewritten(source: Path, target: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return target


def test_sizes_that_a_file_claims_are_not_believed(tmp_path):
    """A deflate bomb, a tensor larger than its bytes, entries over one another: refused before they are allocated."""
    source = tmp_path / "weights.pt"
    torch.save({"w": torch.arange(4.0)}, source)
    zeros = rewritten(source, tmp_path / "bomb.pt", lambda name, data: data + bytes(10**6), zipfile.ZIP_DEFLATED)
    assert zeros.stat().st_size < 20_000
    claim = (10**9).to_bytes(4, "little")

    def enlarge(name: str, data: bytes) -> bytes:
        larger = data.replace(b"K\x04tq", b"J" + claim + b"tq").replace(b"K\x04\x85", b"J" + claim + b"\x85")
        assert (larger != data) == name.endswith("data.pkl")
        return larger

    claiming = rewritten(source, tmp_path / "claim.pt", enlarge)
    header = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    tensors = tmp_path / "claim.safetensors"
    tensors.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    huge_header = tmp_path / "header.safetensors"
    huge_header.write_bytes((2**40).to_bytes(8, "little") + header)
    for file, message in (
        (zeros, "compressed entries"),
        (claiming, "not plain weights"),
        (tensors, "not plain weights"),
        (huge_header, "not plain weights"),
    ):
        with pytest.raises(ValueError, match=message):
            load_weights(net(), file)


class Zeros:
    """4 GiB of them."""

    def __reduce__(self):
        return (bytearray, (2**32,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_call_that_claims_memory_is_refused_before_it_is_made(zipped, tmp_path):
    torch.save({"state_dict": {"a": Zeros()}}, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="it makes a bytearray"):
        load_weights(net(), tmp_path / "weights.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # in KiB: far from what it claims


def test_a_huge_view_of_a_few_bytes_is_a_misfit(tmp_path):
    state = net().state_dict()
    state["fc.weight"] = torch.zeros(1).expand(10**9, 10**6)
    torch.save(state, tmp_path / "view.pt")
    assert (tmp_path / "view.pt").stat().st_size < 10**6
    with pytest.raises(ValueError, match=r"fc\.weight is \(1000000000, 1000000\), the model's \(4, 64\)"):
        load_weights(net(), tmp_path / "view.pt")


def test_a_mapping_under_many_names_is_looked_into_once(tmp_path):
    inner = net(seed=1).state_dict()
    content = inner
    for _ in range(60):
        content = {"a": content, "b": content}
    torch.save(content, tmp_path / "deep.pt")
    with pytest.raises(ValueError, match="holds no plain state dict"):
        load_weights(net(), tmp_path / "deep.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value, tmp_path):
    state = net().state_dict()
    state["features.1.running_var"][3] = value
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"features\.1\.running_var holds NaN or infinities"):
        load_weights(net(), tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(4, 64, dtype=torch.complex64), "complex64"),
        (torch.zeros(4, 64).to_sparse(), "sparse"),
        (torch.zeros(4, 64, dtype=torch.int64), "int64"),
        (torch.zeros(4, 64, device="meta"), "float32"),
    ],
)
def test_tensors_of_another_kind(tensor, message, tmp_path):
    torch.save(net().state_dict() | {"fc.weight": tensor}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=rf"does not fit the model: fc\.weight is .*{message}"):
        load_weights(net(), tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_file(suffix, tmp_path):
    os.mkfifo(tmp_path / f"pipe{suffix}")  # which would keep its reader waiting
    (tmp_path / f"folder{suffix}").mkdir()
    for name, message in (("pipe", "no regular file"), ("folder", "no regular file"), ("nowhere", "No such file")):
        with pytest.raises(ValueError, match=message):
            load_weights(net(), tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x80\x02", b"\x80\x04N."])
def test_files_that_hold_no_weights(content, tmp_path):
    for suffix in (".pt", ".safetensors"):
        (tmp_path / f"weights{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=f"weights{suffix}.*(not plain weights|no plain state dict)") as caught:
            load_weights(net(), tmp_path / f"weights{suffix}")
        assert "\n" not in str(caught.value)


def test_pretrained_weights_come_out_of_timms_cache(hub):
    torch.manual_seed(1)
    source = timm.create_model("test_resnet")
    hub.publish("test_resnet", source.state_dict())
    model = build_model("test_resnet", num_classes=4, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    fresh = model[1].fc.weight.clone()
    with pytest.raises(ValueError, match=r"model\.head new replaces the classifier"):
        load_pretrained(model, "test_resnet", image_shape=(3, 32, 32))
    notes = load_pretrained(model, "test_resnet", image_shape=(3, 32, 32), new_head=True)
    assert any("left: 1.fc.weight [1000, " in note for note in notes)
    assert torch.equal(model[1].conv1[0].weight, source.conv1[0].weight)
    assert torch.equal(model[1].fc.weight, fresh)


def test_pretrained_weights_with_a_new_stem(hub):
    source = timm.create_model("test_vit")
    hub.publish("test_vit", source.state_dict())
    options = {"conv_stem": True}
    model = build_model("test_vit", num_classes=1000, image_shape=(3, 96, 64), options=options)
    notes = load_pretrained(model, "test_vit", image_shape=(3, 96, 64), options=options)
    assert notes == ["timm's test_vit: they are a patch stem's; the ConvStem starts anew"]
    assert torch.equal(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert model.pos_embed.shape[1] == 1 + 6 * 4


def test_no_pretrained_weights_is_one_line(hub):
    model = build_model("test_resnet", num_classes=4, image_shape=(3, 32, 32))
    with pytest.raises(
        ValueError, match=r"model\.pretrained: got True; timm's weights of test_resnet are neither in"
    ) as caught:
        load_pretrained(model, "test_resnet", image_shape=(3, 32, 32))
    assert "\n" not in str(caught.value)
    for name in ("small_cnn", "resnet18d_nowhere"):
        with pytest.raises(ValueError, match=rf"model\.pretrained: got True; allowed: false with {name}"):
            load_pretrained(model, name, image_shape=(3, 32, 32))


def test_without_a_network_the_hubs_client_neither_waits_nor_chatters(hub, monkeypatch, capfd):
    """A host of .invalid has no address (RFC 2606); the client itself would try for it ten times, for a minute."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("act_engine.models.timm_models.getproxies", dict)
    model = build_model("test_resnet", num_classes=4, image_shape=(3, 32, 32))
    with pytest.raises(ValueError, match=r"nor to be fetched \(there is no network\); fetch them where"):
        load_pretrained(model, "test_resnet", image_shape=(3, 32, 32), new_head=True)
    assert capfd.readouterr().err == ""
    assert constants.HF_HUB_OFFLINE is False
    hub.publish("test_resnet", timm.create_model("test_resnet").state_dict())  # what is in the cache serves
    assert load_pretrained(model, "test_resnet", image_shape=(3, 32, 32), new_head=True)


def test_timms_published_weights_are_measured_without_a_file(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hub.publish("test_resnet", timm.create_model("test_resnet").state_dict())
    arrays = {"test_images": np.zeros((4, 32, 32, 3), np.uint8), "test_labels": np.array([0, 1, 2, 999])}
    np.savez("few.npz", **arrays)
    words = ["--model.name", "test_resnet", "--model.pretrained", "true", "--model.num_classes", "1000"]
    assert evaluate.main([*words, "--data.name", "npz", "--data.path", "few.npz", "--attack", "none"]) == 0
    assert "4 test images" in capsys.readouterr().out
