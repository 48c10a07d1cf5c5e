"""The reference of settings: complete, and true, by what the config itself takes, refuses and fills in."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from mtseg import cli
from mtseg.config import load, whole
from mtseg.ensemble import Ensemble
from mtseg.method import Method
from mtseg.reference import asked, markdown, page, sections
from mtseg.settings.checked import dump, validate
from mtseg.settings.elsewhere import NAMES
from mtseg.settings.strict_yaml import parsed, read_yaml
from mtseg.targets import Target
from mtseg.teachers import Itself

ROOT = Path(__file__).parent.parent
WHOLE = sorted([ROOT / "configs/demo.yaml", *(ROOT / "configs/recipe").rglob("*.yaml")])
REQUIRED = ("data", "views", "model", "method", "optimizer", "steps", "out")


def parts_in(value: Any) -> Iterator[Any]:
    if is_dataclass(value):
        yield value
        value = [getattr(value, field.name) for field in fields(value)]
    for inner in value if isinstance(value, list | tuple) else ():
        yield from parts_in(inner)


def test_every_part_of_every_shipped_config_has_a_section_of_its_keys():
    listed = {(one.kind, frozenset(one.keys)) for one in sections()}
    missing = set()
    for path in WHOLE:
        more = ["configs/data/own.yaml", "data.root=x"] if path.name == "photographs.yaml" else []
        for part in parts_in(load([str(path), *more])):
            found = (getattr(part, "kind", ""), frozenset(field.name for field in fields(part)))
            missing |= {type(part).__name__} if found not in listed else set()
    assert missing == set()


@pytest.fixture
def tree(monkeypatch) -> dict[str, Any]:
    """The demo's required settings and no others."""
    monkeypatch.chdir(ROOT)
    found = read_yaml(Path("configs/demo.yaml"))
    return {key: found[key] for key in REQUIRED}


def test_the_defaults_are_those_that_a_run_gets_and_the_others_must_be_given(tree):
    run = sections()[0]
    got = dump(whole(tree))
    assert set(run.keys) == set(got)
    for key, (_, default) in run.keys.items():
        if key in REQUIRED:
            assert default == ""
            with pytest.raises(ValueError, match=f"missing key '{key}'"):
                whole({name: value for name, value in tree.items() if name != key})
        elif default == "its own defaults":
            assert whole(tree | {key: {}}) == whole(tree)
        else:
            told = yaml.safe_load(default.strip("`"))
            assert whole(tree | {key: told}) == whole(tree), key


def test_values_beyond_the_limits_are_refused_and_those_within_are_not(tree):
    run = sections()[0]
    seen = 0
    for key, (takes, _) in run.keys.items():
        number = int if takes.startswith("an integer") else float
        for sign, value in re.findall(r"([<>]=?) ([\d.]+)", takes):
            limit, outwards = number(value), number(1 if "<" in sign else -1)
            beyond = limit + outwards * (1 if number is int else 1e-6) if "=" in sign else limit
            with pytest.raises(ValueError, match=f"^{key}: .* must be"):
                whole(tree | {key: beyond})
            if "=" in sign:
                assert dump(whole(tree | {key: limit}))[key] == limit
            seen += 1
    assert seen >= 12


def titles(*words: str) -> list[str]:
    return [one.title for one in asked(list(words))]


def test_a_path_is_told_of_with_what_is_in_it_and_a_kind_alone():
    targets = [get_type_hints(part)["kind"] for part in get_args(get_args(Target)[0])]
    assert titles("method.target") == [
        "method",
        *(f"method.target: {get_args(target)[0]}" for target in targets),
    ]
    assert titles("cutmix") == titles("method.branches.mix.cutmix") == ["method.branches.mix: cutmix"]
    inside = [f"eval.predictor: {kind}" for kind in ("whole", "slide", "centre")]
    assert titles("eval") == ["run", "eval", *inside]
    assert titles("eval.predictor.augment") == [*inside, "method.teacher.augment"]
    assert titles("run") == ["run"]
    assert asked(["cutmix", "cutmix"]) == asked(["cutmix"])


def test_a_key_is_told_of_alone_with_what_it_takes_there_and_where_its_part_is():
    (weight,) = asked(["method.weight"])
    assert (weight.path, list(weight.keys)) == ("method", ["weight"])
    student, shared = asked(["views.student.geometry"])
    assert student.keys["geometry"][0] == "`shared` or a mapping, as `views.labelled.geometry`"
    assert (shared.path, "flip" in shared.keys) == ("views.labelled.geometry", True)
    assert asked(["views.teacher.geometry.scale"]) == asked(["views.labelled.geometry.scale"])
    assert [list(one.keys) for one in asked(["views.teacher.geometry.scale"])] == [["scale"]]
    assert "method.distance: kl" in titles("method.branches.distance")


def test_a_key_without_a_path_is_found_wherever_it_is():
    for key in ("threshold", "seed", "steps", "share"):
        everywhere = {one.title for one in sections() if key in one.keys}
        assert set(titles(key)) == everywhere
        assert len(everywhere) >= 2
        assert all(list(one.keys) == [key] for one in asked([key]))
    first, *others = asked(["data.labels"])
    assert (first.title, first.keys) == ("data", {})
    assert "a share such as `1/8`" in first.text
    assert {one.kind for one in others} == {
        one.kind for one in sections() if one.path == "data" and "labels" in one.keys
    }


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("treshold", "; did you mean 'threshold'?"),
        ("learning_rate", "; here it is 'lr'"),
        ("class weights", "; here it is 'balance'"),
        ("METHOD.TARGET", "; did you mean 'method.target'?"),
        ("method.targets", "; did you mean 'method.target'?"),
        ("", ""),
        ("a.b.c", ""),
    ],
)
def test_what_is_no_setting_is_answered_with_the_nearest(word, nearest):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{word!r} is no setting{nearest}; without')}"):
        asked([word])


@pytest.mark.parametrize("here", NAMES)
def test_what_is_called_otherwise_elsewhere_is_a_setting_here(here):
    assert asked([here])
    assert not set(NAMES[here]) & {key for one in sections() for key in one.keys}


@pytest.mark.parametrize(("name", "here"), [(name, here) for here, names in NAMES.items() for name in names])
def test_a_word_of_another_tool_is_answered_with_paths_that_are_settings(name, here):
    with pytest.raises(ValueError, match=f"^{name}: unknown key") as refused:
        load(["configs/demo.yaml", f"{name}=1"])
    first = str(refused.value).splitlines()[0]
    paths = re.findall(r"'([\w.]+)'", first[first.index("did you mean") : first.index("known keys")])
    assert paths
    assert all(path.rpartition(".")[2] == here and asked([path]) for path in paths)


def test_sections_stand_inside_what_is_around_them_and_no_part_twice():
    found = sections()
    assert len({one.title for one in found}) == len(found)
    paths = [one.path for one in found]
    for number, path in enumerate(paths):
        outer = path.rpartition(".")[0]
        assert outer in paths[:number] or not path or not outer, path


def test_the_command_prints_what_is_asked_for(capsys):
    assert cli.main(["settings", "method.target", "cutmix"]) == 0
    out = capsys.readouterr().out
    assert "threshold  a number >= 0 and <= 1 (default 0.95)" in out
    assert "  unsure   true or false (default false)" in out
    assert cli.main(["settings"]) == 0
    assert "\nmethod.branches: weight, sees, adversary, mix, features, distance\n" in capsys.readouterr().out
    assert cli.main(["settings", "nonsense"]) == 1
    assert cli.main(["settings", "--page", "eval"]) == 1


def test_the_page_in_the_documents_is_the_codes(capsys):
    assert cli.main(["settings", "--page"]) == 0
    shown = capsys.readouterr().out
    assert shown == page()
    remedy = "it is made by: python tools/settings.py --page > docs/settings.md"
    assert (ROOT / "docs/settings.md").read_text() == shown, remedy
    assert all(markdown(one) in shown for one in sections())


@pytest.mark.parametrize(
    ("path", "key", "default"),
    [
        ("method", "distance", Method().distance),
        ("method", "teacher", Method().teacher),
        ("method.teacher", "average", Itself().average),  # not that of an average that answers
        ("method.teacher", "of", Ensemble(every=1).of),
    ],
)
def test_a_parts_default_is_shown_with_what_is_not_its_own(path, key, default):
    """What is shown, given as a word, is the default."""
    kinds = {"average": "itself", "of": "ensemble"}
    (shown,) = [one.keys[key][1] for one in asked([path]) if one.path == path and one.kind == kinds.get(key, "")]
    assert validate(type(default), parsed(shown.strip("`"), "shown")) == default
