"""Colours: refused unless they are colours, reproducible from the generator alone, and never geometry."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import albumentations
import numpy as np
import pytest
from numpy.typing import NDArray

from mtseg.colour import Colour, Painter
from mtseg.geometry import Geometry
from mtseg.settings.checked import validate
from mtseg.views import Policy, StudentPolicy, Views

RECIPE = (
    Colour(name="ColorJitter", p=0.8),
    Colour(name="ToGray", p=0.3),
    Colour(name="GaussianBlur", p=0.5, params={"sigma_limit": [0.1, 2.0]}),
    Colour(name="GaussNoise", params={"std_range": [0.05, 0.1]}),
)
# The transforms whose draws differ with near certainty whenever their generators do.
RANDOM = ("ColorJitter", "GaussNoise", "HueSaturationValue", "ISONoise", "RGBShift", "RandomToneCurve", "ShotNoise")


def image(seed: int = 0) -> NDArray[np.uint8]:  # (48, 40, 3)
    """A random picture of 8 x 8 patches."""
    patches = np.random.default_rng(seed).integers(30, 226, (6, 5, 3), dtype=np.uint8)
    return patches.repeat(8, axis=0).repeat(8, axis=1)


def painted(colours: Sequence[Colour], seeds: Sequence[int]) -> list[bytes]:
    painter = Painter(colours)
    return [painter.paint(image(), np.random.default_rng(seed)).tobytes() for seed in seeds]


@pytest.mark.parametrize(
    "geometric", ["HorizontalFlip", "Affine", "RandomCrop", "Rotate", "ElasticTransform", "Resize"]
)
def test_geometry_is_refused(geometric: str) -> None:
    assert hasattr(albumentations, geometric), "refused for being unknown to albumentations, not for being geometry"
    with pytest.raises(ValueError, match=f"'{geometric}' is not an image-only transform of albumentations"):
        Colour(name=geometric)


@pytest.mark.parametrize("name", ["Compose", "OneOf", "ImageOnlyTransform", "BasicTransform", "np", "", "ToTensorV2"])
def test_what_is_not_a_transform_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not an image-only transform"):
        Colour(name=name)


@pytest.mark.parametrize(
    ("wrong", "near"), [("ColourJitter", "ColorJitter"), ("GausianBlur", "GaussianBlur"), ("togray", "ToGray")]
)
def test_an_unknown_name_is_refused_with_the_nearest_one(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"'{wrong}'.*; did you mean '{near}'\\?"):
        Colour(name=wrong)


def test_the_choices_are_a_clause_of_their_own() -> None:
    with pytest.raises(ValueError, match="of albumentations; choose from: AdditiveNoise, "):
        Colour(name="Qqqqqqqq")


@pytest.mark.parametrize("key", ["brightnes", "always_apply", "seed"])
def test_an_unknown_parameter_is_refused_with_those_there_are(key: str) -> None:
    with pytest.raises(ValueError, match=f"ColorJitter has no parameter '{key}'; it has: brightness, contrast"):
        Colour(name="ColorJitter", params={key: 0.5})


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ColorJitter", {"hue": [-5, 5]}),
        ("ColorJitter", {"brightness": "strong"}),
        ("GaussianBlur", {"sigma_limit": "wide"}),
        ("GaussNoise", {"std_range": [2, 3]}),
        ("Blur", {"blur_limit": [4, 6]}),  # albumentations itself would warn and take [5, 7]
        ("ColorJitter", {"p": 0.3}),  # the part's own p, not the transform's
    ],
)
def test_a_bad_value_is_refused_with_the_name_and_the_value(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{name} refuses .*{next(iter(params))}"):
        Colour(name=name, params=params)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_outside_of_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=rf"^p: {p} must be "):
        Colour(name="ColorJitter", p=p)


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("name", ["Normalize", "ToFloat", "FromFloat"])
def test_what_does_not_give_pixels_back_is_refused_whatever_its_probability(name: str, p: float) -> None:
    with pytest.raises(ValueError, match=f"{name} does not give an \\(H, W, 3\\) uint8 image back"):
        Colour(name=name, p=p)


@pytest.mark.parametrize("name", ["FDA", "ToRGB"])
def test_what_cannot_act_on_one_picture_is_refused(name: str) -> None:
    """FDA wants other images; ToRGB only warns that the image is RGB already."""
    with pytest.raises(ValueError, match=f"{name} with {{}} fails on an image"):
        Colour(name=name)


@pytest.mark.parametrize("colours", [RECIPE, *((Colour(name=name),) for name in RANDOM)], ids=["recipe", *RANDOM])
def test_colours_depend_on_the_generator_alone(colours: Sequence[Colour]) -> None:
    """Neither on the painter nor on what it painted before; and on the generator they do depend."""
    forward, backward = painted(colours, range(12)), painted(colours, range(11, -1, -1))
    assert forward == backward[::-1]
    assert len(set(forward)) == 12


def test_a_painter_draws_from_its_generator_only_once_an_image() -> None:
    """So that a longer pipeline does not move what is drawn after it."""
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    Painter(RECIPE).paint(image(), one)
    Painter(RECIPE[:1]).paint(image(), other)
    assert one.random() == other.random()


@pytest.mark.parametrize("colours", [(), *((Colour(name=name, p=0.0),) for name in RANDOM)], ids=["none", *RANDOM])
def test_no_colours_and_improbable_ones_leave_the_image(colours: Sequence[Colour]) -> None:
    assert set(painted(colours, range(5))) == {image().tobytes()}


def test_a_colour_is_as_frequent_as_its_probability_says() -> None:
    count, p = 400, 0.3
    changed = sum(view != image().tobytes() for view in painted((Colour(name="InvertImg", p=p),), range(count)))
    assert abs(changed / count - p) < 4 * (p * (1 - p) / count) ** 0.5


def test_parameters_reach_the_transform() -> None:
    """A solarisation inverts exactly the pixels from its threshold up (closed form)."""
    colour = Colour(name="Solarize", params={"threshold_range": [0.5, 0.5]})
    seen = Painter([colour]).paint(image(), np.random.default_rng(0))
    assert np.array_equal(seen, np.where(image() < 127.5, image(), 255 - image()))


def test_colours_are_applied_in_their_order() -> None:
    invert, solarise = Colour(name="InvertImg"), Colour(name="Solarize", params={"threshold_range": [0.5, 0.5]})
    inverted = 255 - image()
    expected = np.where(inverted < 127.5, inverted, 255 - inverted)
    assert np.array_equal(Painter([invert, solarise]).paint(image(), np.random.default_rng(0)), expected)


def test_painting_leaves_the_callers_image_alone() -> None:
    given = image()
    Painter(RECIPE).paint(given, np.random.default_rng(0))
    assert np.array_equal(given, image())


def test_colours_that_fail_on_a_crop_are_named_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = Painter([Colour(name="ToGray"), Colour(name="Posterize")])

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("cv2: bad\nargument")

    monkeypatch.setattr("albumentations.Posterize.__call__", broken)
    with pytest.raises(ValueError, match=r"ToGray, Posterize fail on a crop of 20x30: cv2: bad argument"):
        painter.paint(np.zeros((20, 30, 3), np.uint8), np.random.default_rng(0))


def test_picked_colours_are_that_many_of_the_set_each_as_likely_and_applied_in_the_order_drawn() -> None:
    """Inverting and greying in every order, counted by hand."""
    painter = Painter([Colour(name="InvertImg"), Colour(name="ToGray")], pick=(1, 3))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    grey = np.asarray(Colour(name="ToGray").build()(image=pixels)["image"])
    seen = [painter.paint(pixels, np.random.default_rng(seed)) for seed in range(600)]
    plain = sum(np.array_equal(one, pixels) for one in seen)  # inverted twice
    inverted = sum(np.array_equal(one, 255 - pixels) for one in seen)  # once or three times
    greyed = sum(np.array_equal(one, grey) for one in seen)  # grey, and inverted none or twice
    assert plain / 600 == pytest.approx(1 / 3 / 4, abs=0.04)
    assert inverted / 600 == pytest.approx(1 / 3 * (1 / 2 + 1 / 8), abs=0.06)
    assert greyed / 600 == pytest.approx(1 / 3 * (1 / 2 + 1 / 4 + 4 / 8), abs=0.08)


@pytest.mark.parametrize("wrong", [{"pick": [3, 1], "colour": [{"name": "ToGray"}]}, {"pick": [1, 2]}])
def test_a_pick_without_range_or_colours_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pick"):
        validate(StudentPolicy, wrong)


def test_a_pick_beside_the_students_colours_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pick: \[1, 2\], and colour: student takes the student's"):
        validate(Policy, {"colour": "student", "pick": [1, 2]})
    with pytest.raises(ValueError, match="colour"):
        validate(StudentPolicy, {"colour": "student"})
    with pytest.raises(ValueError, match="colour"):
        validate(Policy, {"colour": "teacher"})


def test_colours_taken_from_the_student_are_allowed_and_refused_as_the_students_are() -> None:
    given, none = StudentPolicy(colour=(Colour(name="ToGray"),)), StudentPolicy()
    inherited = Policy(geometry=Geometry(scale=(1, 1)), colour="student")
    with pytest.raises(ValueError, match=r"views\.student\.colour: .*set views\.student\.colour=\[\]"):
        Views(crop=(32, 32), labelled=inherited, student=given).check(3, rgb=False)
    Views(crop=(32, 32), labelled=inherited, student=none).check(3, rgb=False)
    still = Policy(geometry=Geometry(scale=(1, 1)))
    shared = StudentPolicy(geometry="shared")
    Views(crop=(32, 32), labelled=inherited, teacher=still, student=shared, made="device")
    with pytest.raises(ValueError, match="labelled: views are made on the device"):
        Views(
            crop=(32, 32),
            labelled=inherited,
            teacher=still,
            student=replace(shared, colour=given.colour),
            made="device",
        )
