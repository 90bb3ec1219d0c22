"""Settings from YAML, recipes and the command line."""

import dataclasses
import typing
from pathlib import Path

import pytest
import yaml

from act_engine.config import Config, from_mapping, read_recipe, recipe_names, settings, to_mapping
from act_engine.config.command_line import nested, read_options
from act_engine.train import Arguments


def test_fractions_are_numbers_everywhere():
    assert from_mapping({"attack": {"eps": "8/255"}}).attack.eps == 8 / 255
    options = read_options(Arguments, ["--attack.eps", "4/255", "--optim.lr=1/8"], "train")
    assert nested(options) == {"attack": {"eps": 4 / 255}, "optim": {"lr": 0.125}}


def test_yaml_scientific_notation_is_a_number():
    """YAML 1.1 reads 5e-4 as a text."""
    assert from_mapping(yaml.safe_load("optim: {weight_decay: 5e-4}")).optim.weight_decay == 5e-4


def test_command_line_values_take_their_types():
    words = [
        "--optim.milestones",
        "30,45",
        "--train.max_steps",
        "null",
        "--model.natural-name",
        "wide",
        "--recipe=digits",
    ]
    options = read_options(Arguments, words, "train")
    assert options == {
        "optim.milestones": (30, 45),
        "train.max_steps": None,
        "model.natural_name": "wide",
        "recipe": "digits",
    }


def test_what_is_given_goes_over_the_recipe_and_leaves_the_rest():
    base = from_mapping(read_recipe("digits"))
    changed = from_mapping({"attack": {"steps": 3}}, base)
    assert changed == dataclasses.replace(base, attack=dataclasses.replace(base.attack, steps=3))


def test_keyword_arguments_of_a_model():
    text = "{drop_path_rate: 1/10, eps: 1e-6, depths: [2, 2], act_layer: silu, stem: null, flag: true}"
    given = nested(read_options(Arguments, ["--model.options", text], "train"))
    options = {"drop_path_rate": 0.1, "eps": 1e-6, "depths": [2, 2], "act_layer": "silu", "stem": None, "flag": True}
    config = from_mapping(given)
    assert config.model.options == options
    mapping = to_mapping(config)
    assert from_mapping(yaml.safe_load(yaml.safe_dump(mapping))) == config
    assert hash(config) == hash(from_mapping(given))
    mapping["model"]["options"]["depths"].append(3)
    assert config.model.options == options
    for wrong in ({"options": [1]}, {"options": {1: 2}}, {"options": {"day": yaml.safe_load("2020-01-01")}}):
        with pytest.raises(ValueError, match=r"model\.options: got .*; allowed: "):
            from_mapping({"model": wrong})


def test_a_second_architecture_has_options_of_its_own():
    settings = {"name": "resnet18", "options": {"drop_path_rate": 0.1}, "output": "probabilities"}
    model = from_mapping({"model": settings}).model
    assert model.architecture("natural") == model.architecture("robust")
    model = from_mapping({"model": settings | {"natural_name": "resnet34"}}).model
    assert (model.architecture("natural")["options"], model.architecture("natural")["output"]) == ({}, "logits")
    model = from_mapping({"model": settings | {"natural_name": "resnet34", "natural_options": {"a": 1}}}).model
    assert model.architecture("natural")["options"] == {"a": 1}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_read_back_as_written(name):
    recipe = from_mapping(read_recipe(name))
    assert from_mapping(yaml.safe_load(yaml.safe_dump(to_mapping(recipe)))) == recipe


def test_every_setting_is_explained_with_its_default(capsys):
    with pytest.raises(SystemExit) as exit_:
        read_options(Arguments, ["--help"], "train")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for group, kind in typing.get_type_hints(Config).items():
        for name in typing.get_type_hints(kind):
            assert f"--{group}.{name.replace('_', '-')}" in text
    source = Path(settings.__file__).read_text("utf-8")
    fields = [f for g in dataclasses.fields(Config) for f in dataclasses.fields(g.type)]
    for field in fields:
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1].lstrip()
        assert after.startswith('"""'), f"{field.name} has no explanation"
