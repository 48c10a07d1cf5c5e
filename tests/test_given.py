"""Images that a program gives to `fit`: what is looked at before, what the run remembers, who may read it after."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY, tiny
from test_trainer import files

import mtseg
from mtseg import cli
from mtseg.config import load, of_run, written
from mtseg.data.channels import PLAIN, Channels, Layer
from mtseg.data.damaged import Damaged
from mtseg.data.given import given
from mtseg.data.sound import refuse_unsound
from mtseg.data.source import IGNORE, Nothing, Splits, Subset
from mtseg.fits import refuse_useless
from mtseg.run.dry_run import facts
from mtseg.settings.strict_yaml import to_yaml
from mtseg.trainer import fit


def pixels(index: int, channels: int = 3) -> Any:
    return np.random.default_rng(index).integers(0, 256, (64, 64, channels), dtype=np.uint8)


def halves(index: int) -> Any:
    label = np.full((64, 64), IGNORE, np.uint8)
    label[:30], label[34:] = index % 2, 1
    return label


@dataclass(frozen=True)
class Drawn:
    """Images `first` to `last`, drawn by functions of their numbers."""

    first: int
    last: int
    of: Callable[[int], Any] = pixels
    about: Callable[[int], Any] = halves

    def __len__(self) -> int:
        return self.last - self.first

    def name(self, index: int) -> str:
        return f"drawn {self.first + index}"

    def image(self, index: int) -> Any:
        return self.of(self.first + index)

    def label(self, index: int) -> Any:
        return self.about(self.first + index)


def drawn(of: Callable[[int], Any] = pixels, about: Callable[[int], Any] = halves, **others: Any) -> Splits:
    pools = [Drawn(*place, of, about) for place in ((0, 3), (3, 9), (9, 11), (11, 12))]
    return Splits(("lower", "upper"), np.array([[0, 0, 0], [255, 0, 0]], np.uint8), *pools, **others)


FOUR = ("views.mean=[0.4, 0.4, 0.4, 0.4]", "views.std=[0.2, 0.2, 0.2, 0.2]", "eval.gallery=1")


def test_a_run_on_given_images_is_continued_by_its_program_and_read_by_none_but_that(tmp_path, capsys):
    splits = drawn()
    fit(tiny(tmp_path, "steps=2"), splits=splits, quiet=True)
    assert of_run(tmp_path).data.kind == "given"
    scores = fit(tiny(tmp_path, "data={kind: given}", "accept_changes=[steps]"), splits=splits, quiet=True)
    assert scores["teacher"]["classes_counted"] == 2
    for words in (
        ["eval", str(tmp_path)],
        ["predict", str(tmp_path), "--pool", "unlabelled", "--out", str(tmp_path / "out")],
        ["train", "--dry-run", str(tmp_path / "config.yaml")],
    ):
        assert cli.main(words) == 1
        assert "given by" in (said := capsys.readouterr().err) or "gives to fit(config, splits=...)" in said
    assert not (tmp_path / "out").exists()
    model = mtseg.load(tmp_path)
    assert model.classes == splits.classes
    assert model.predict(pixels(1)).classes.shape == (64, 64)


def test_the_same_images_given_or_named_make_the_same_weights(tmp_path):
    config = tiny(tmp_path / "named")
    fit(config, quiet=True)
    fit(tiny(tmp_path / "given"), splits=config.data.build(), quiet=True)
    named, other = (files(tmp_path / name, 4) for name in ("named", "given"))
    assert named == other


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_network_of_given_images_of_four_channels_is_asked_about_such_and_handed_on(kind, tmp_path):
    splits = drawn(lambda i: pixels(i, 4).astype(kind), channels=4)
    fit(tiny(tmp_path, *FOUR), splits=splits, quiet=True)
    model = mtseg.load(tmp_path)
    image = splits.val.image(0)
    np.save(tmp_path / "image.npy", image.astype(np.uint8))
    assert (model.predict(image).classes == model.predict(tmp_path / "image.npy").classes).all()
    assert cli.main(["export", str(tmp_path), "--to", "hf"]) == 0
    folder = mtseg.load(tmp_path / "export/hf")
    assert torch.allclose(folder.answer(torch.tensor(image)[None]), model.answer(torch.tensor(image)[None]), atol=1e-5)
    with pytest.raises(ValueError, match=r"\(H, W, 4\)"):
        model.predict(pixels(1))


def test_a_program_trains_by_words_on_images_of_its_own(tmp_path):
    (tmp_path / "tiny.yaml").write_text(to_yaml({**TINY, "data": {"kind": "given"}}))
    splits, words = drawn(), [str(tmp_path / "tiny.yaml"), "steps=2", f"out={tmp_path / 'run'}"]
    assert mtseg.fit(words, splits=splits, quiet=True) == fit(load(words), splits=splits, quiet=True)
    with pytest.raises(ValueError, match="given"):
        mtseg.fit([*words[:-1], f"out={tmp_path / 'none'}"], quiet=True)


def test_a_run_begun_when_its_config_named_other_images_is_continued_with_the_same(tmp_path):
    splits = drawn()
    config = tiny(tmp_path, "steps=2")
    scores = fit(config, splits=splits, quiet=True)
    (tmp_path / "config.yaml").write_text(written(config))
    assert fit(config, splits=splits, quiet=True) == scores
    assert of_run(tmp_path).data.kind == "given"
    (tmp_path / "config.yaml").write_text(written(config))
    with pytest.raises(ValueError, match="begun with other images"):
        fit(tiny(tmp_path, "accept_changes=[steps]"), splits=replace(splits, val=splits.test), quiet=True)


def test_a_run_on_given_images_of_another_range_is_not_that_run(tmp_path):
    splits = drawn(lambda i: pixels(i).astype(np.float32))
    scale = "data={kind: given, channels: {layers: [{range: [0, %d]}]}}"
    fit(tiny(tmp_path, scale % 65535, "steps=2"), splits=splits, quiet=True)
    with pytest.raises(ValueError, match=r"other settings.*\n  data\.channels\.layers.*65535"):
        fit(tiny(tmp_path, scale % 255, "steps=2"), splits=splits, quiet=True)


def test_what_settings_say_of_channels_is_kept_where_given_images_are_such():
    wide = Channels(layers=(Layer(range=(0, 65535)),))
    floats = drawn(lambda i: pixels(i).astype(np.float32))
    assert given(floats, wide).channels == wide
    assert given(drawn(), wide).channels == PLAIN
    other = given(floats, PLAIN).channels
    assert other != PLAIN
    with pytest.raises(ValueError, match="which values are 0 and 1 is not guessed"):
        other.layers[0].of(np.zeros((2, 2, 3), np.uint16), Path("deep.png"))
    five = drawn(lambda i: pixels(i, 5), channels=5)
    assert (given(five, wide).channels.count, given(five, wide).channels.rgb) == (5, True)
    assert not given(replace(five, rgb=False), wide).channels.rgb


def test_images_of_other_channels_than_a_kinds_settings_say_are_refused(tmp_path):
    config = tiny(tmp_path, *FOUR)
    odd = replace(given(drawn(lambda i: pixels(i, 4), channels=4), PLAIN), channels=PLAIN)
    object.__setattr__(odd, "build", lambda: drawn(lambda i: pixels(i, 4), channels=4))
    with pytest.raises(ValueError, match=r"data.kind: given gives images of 4 channels, and its settings say 3"):
        fit(replace(config, data=odd), quiet=True)


UNSOUND = {
    "values of at most 1": (lambda i: (pixels(i) / 255).astype(np.float32), None, r"float32 of at most (1|0\.9\d+),"),
    "doubles": (lambda i: pixels(i).astype(np.float64), None, r"labelled image 0 \(drawn 0\): float64 of shape"),
    "signed": (lambda i: pixels(i).astype(np.int16), None, r"int16 of shape \(64, 64, 3\); an image is"),
    "grey": (lambda i: pixels(i)[..., 0], None, r"uint8 of shape \(64, 64\); an image is"),
    "channels first": (lambda i: pixels(i).transpose(2, 0, 1), None, r"uint8 of shape \(3, 64, 64\); an image is"),
    "tensors": (lambda i: torch.tensor(pixels(i)), None, r"a Tensor; an image is a NumPy array"),
    "one channel of labels": (pixels, lambda i: halves(i)[..., None], r"a label of shape \(64, 64, 1\) for an image"),
    "smaller labels": (pixels, lambda i: halves(i)[:32], r"a label of shape \(32, 64\) for an image of \(64, 64, 3\)"),
    "labels of floats": (pixels, lambda i: halves(i).astype(np.float32), r"its label is float32; a label is"),
    "labels PyTorch has not": (pixels, lambda i: halves(i).astype(np.uint16), r"its label is <u2 .*ascontiguousarray"),
    "labels that cannot be 255": (
        pixels,
        lambda i: halves(i).astype(np.int8),
        r"its label is \|i1 .*ascontiguousarray",
    ),
    "labels of another order": (pixels, lambda i: halves(i).astype(">i4"), r"its label is >i4 .*ascontiguousarray"),
    "labels upside down": (pixels, lambda i: halves(i)[::-1], r"with strides \(-64, 1\); .*ascontiguousarray"),
    "pictures": (lambda i: Image.fromarray(pixels(i)), None, r"a Image; an image is a NumPy array"),
    "labels of tensors": (pixels, lambda i: torch.tensor(halves(i)), r"its label is torch.uint8; a label is"),
}


@pytest.mark.parametrize(("image", "label", "says"), UNSOUND.values(), ids=UNSOUND)
def test_images_and_labels_of_other_shapes_and_types_are_refused_before_the_first_step(image, label, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        fit(tiny(tmp_path), splits=drawn(image, label or halves), quiet=True)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("mix", ["cutmix", "bands", "mixup"])
def test_a_mix_without_another_image_to_take_from_is_refused(mix, tmp_path):
    """Of one unlabelled image nothing can be mixed with another; of labelled partners there are enough."""
    words = [f"method.branches=[{{mix: {{kind: {mix}}}}}]", "views.student.geometry=shared"]
    one = replace(drawn(), unlabelled=replace(drawn().unlabelled, last=drawn().unlabelled.first + 1))
    with pytest.raises(ValueError, match=rf"batch.unlabelled: 1, and mix.kind: '{mix}' .*partner: labelled"):
        refuse_useless(tiny(tmp_path, *words, "batch.unlabelled=1"), drawn())
    with pytest.raises(ValueError, match=rf"data: 1 unlabelled image, and mix.kind: '{mix}'"):
        refuse_useless(tiny(tmp_path, *words), one)
    labelled = words[0].replace(mix, f"{mix}, partner: labelled")
    refuse_useless(tiny(tmp_path, labelled, words[1], "batch.unlabelled=1"), one)
    refuse_useless(tiny(tmp_path, "batch.unlabelled=1"), one)


def test_a_programs_own_generator_is_left_as_it_was(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(tiny(tmp_path, "steps=1"), splits=drawn(), quiet=True)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no grad", "inference", "autocast"],
)
def test_a_run_is_the_same_whatever_the_program_is_in_the_middle_of(around, tmp_path):
    fit(tiny(tmp_path / "plain", "steps=2"), quiet=True)
    with around():
        fit(tiny(tmp_path / "within", "steps=2"), quiet=True)
    assert files(tmp_path / "plain", 2) == files(tmp_path / "within", 2)


@pytest.mark.parametrize("pool", ["unlabelled", "val", "test"])
def test_the_last_image_of_every_pool_is_looked_at(pool):
    whole = drawn()
    source = getattr(whole, pool)
    odd = replace(source, of=lambda i: pixels(i)[..., :1] if i == source.last - 1 else pixels(i))
    refuse_unsound(whole, ("val",), ranged=False)
    with pytest.raises(ValueError, match=rf"{pool} image {len(source) - 1} .*shape \(64, 64, 1\)"):
        refuse_unsound(replace(whole, **{pool: odd}), (), ranged=False)


@pytest.mark.parametrize("pool", ["val", "test"])
def test_labels_are_looked_at_where_they_are_scored_alone(pool):
    def none(_: int) -> Any:
        raise ValueError("no labels")

    whole = drawn()
    odd = replace(whole, **{pool: replace(getattr(whole, pool), about=none)})
    refuse_unsound(odd, (), ranged=False)
    with pytest.raises(ValueError, match="no labels"):
        refuse_unsound(odd, (pool,), ranged=False)


def test_sound_images_dark_ones_among_them_and_torn_files_pass():
    def image(i: int) -> Any:
        if i == 0:
            raise Damaged("torn")
        return np.full((64, 64, 3), 0.5 if i < 9 else 30, np.float32)

    plain = {"scored": ("val", "test"), "ranged": False}
    refuse_unsound(drawn(image), **plain)
    refuse_unsound(drawn(lambda _: np.zeros((64, 64, 3), np.float32)), **plain)  # nothing to tell a scale by
    refuse_unsound(drawn(lambda i: (pixels(i) / 255).astype(np.float32)), ("val",), ranged=True)
    refuse_unsound(drawn(about=lambda i: np.int64(i % 2)), **plain)
    refuse_unsound(replace(drawn(), labelled=Nothing(), test=Nothing()), **plain)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"palette": np.zeros((1, 3), np.uint8)}, r"palette: uint8 \(1, 3\) for 2 classes; .*\(2, 3\)"),
        ({"palette": np.zeros((2, 3))}, r"palette: float64 \(2, 3\) for 2 classes; .*whole numbers"),
        ({"palette": np.full((2, 3), 256)}, "from 0 to 255 each"),
        ({"palette": [[0, 0, 0], [1, 1, 1]]}, r"palette: a list; .* NumPy array \(2, 3\)"),
        ({"classes": ("upper", "upper")}, "'upper' is there twice"),
    ],
)
def test_classes_without_colours_or_of_one_name_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        refuse_unsound(replace(drawn(), **wrong), (), ranged=False)


@pytest.mark.parametrize("pool", ["labelled", "unlabelled", "val"])
def test_two_images_of_one_name_are_refused(pool, tmp_path):
    splits = tiny(tmp_path / "run").data.build()
    source = getattr(splits, pool)
    twice = replace(splits, **{pool: Subset(source, [*range(len(source)), 0])})
    with pytest.raises(ValueError, match=rf"splits.{pool}: two images are called '{source.name(0)}'"):
        fit(tiny(tmp_path / "run"), splits=twice, quiet=True)


def test_a_dry_run_refuses_what_the_run_would(tmp_path, monkeypatch):
    config = tiny(tmp_path)
    blank = replace(config.data.build(), val=Drawn(0, 2, about=lambda i: np.full((64, 64), IGNORE, np.uint8)))
    monkeypatch.setattr(type(config.data), "build", lambda _: blank)
    for asked in (facts, fit):
        with pytest.raises(ValueError, match=r"data\.val: every pixel of all 2 labels is ignored"):
            asked(config)


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_to_score_that_are_not_there_are_missed_before_the_first_step(split, tmp_path):
    """A run would else train up to its first evaluation for nothing."""
    splits, config = replace(drawn(), **{split: Nothing()}), tiny(tmp_path / "run", f"eval.split={split}")
    other = "test" if split == "val" else "val"
    with pytest.raises(ValueError, match=rf"eval\.split: .* no {split} images with labels; use eval\.split={other}"):
        fit(config, splits=splits, quiet=True)
    assert not list(config.out.glob("*.yaml"))
    assert fit(tiny(tmp_path / "run", f"eval.split={other}"), splits=splits, quiet=True)["teacher"]
