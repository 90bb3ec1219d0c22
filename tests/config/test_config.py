"""Settings from YAML, recipes and the command line."""

import ast
import dataclasses
import inspect
import re
import textwrap
from itertools import pairwise

import pytest
import yaml

from act_engine import train
from act_engine.config import Config, from_mapping, given_settings, read_recipe, recipe_names, to_mapping
from act_engine.config.command_line import nested, read_options
from act_engine.config.reading import open_field
from act_engine.objectives import number_names, objectives
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
        train.main(["--help", "all"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    groups = list(dataclasses.fields(Config))
    for group in groups:
        for field in dataclasses.fields(group.type):
            shown = re.search(rf"--{group.name}\.{field.name}\s", text)  # a line may end there, as wide as it is
            assert (shown is not None) == (field.name != open_field(group.type))
    for kind in objectives().values():
        assert f"{kind.name}: {kind.label}" in text
        for name in number_names(kind):
            assert re.search(rf"--objective\.{name}\s", text)
    for group in groups:
        lines = ast.parse(textwrap.dedent(inspect.getsource(group.type))).body[0].body
        explained = {
            field.target.id
            for field, after in pairwise(lines)
            if isinstance(field, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        }
        fields = {field.name for field in dataclasses.fields(group.type)} - {open_field(group.type)}
        assert fields <= explained, f"{group.name}: {fields - explained} without an explanation"


def test_a_number_of_the_objective_is_a_setting_like_any_other():
    options = read_options(Arguments, ["--objective.beta", "1/2", "--objective.name=trades"], "train")
    config = from_mapping(nested(options))
    assert to_mapping(config)["objective"]["beta"] == 0.5
    assert from_mapping(yaml.safe_load(yaml.safe_dump(to_mapping(config)))) == config
    assert hash(from_mapping(nested(options))) == hash(config)
    assert from_mapping({"objective": {"label_smoothing": 0.1}}, config).objective.numbers == {
        "beta": 0.5,
        "label_smoothing": 0.1,
    }
    with pytest.raises(ValueError, match=r"objective\.beta: got 'much'; allowed: a number"):
        from_mapping({"objective": {"beta": "much"}})


def test_what_each_layer_gave_is_known():
    recipe = from_mapping(read_recipe("digits"))
    over = from_mapping({"objective": {"name": "trades", "beta": 3}, "train": {"seed": 0}}, recipe)
    (_, given), (layer, of_recipe) = given_settings(dataclasses.replace(over))
    assert given == {"objective.name": "trades", "objective.beta": 3.0}
    assert layer is recipe
    assert of_recipe["objective.robust_alpha"] == 0.5
    assert list(given_settings(from_mapping(to_mapping(over)))) == []
