"""Images of any channels: decoded by their own range, moved together, coloured in red, green and blue alone."""

import io
import json
import os
import pickle
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
import trees
import yaml
from PIL import Image
from runs import ONNX, tiny
from safetensors.torch import save_file

import mtseg
from mtseg import cli
from mtseg.colour import Colour, Painter
from mtseg.config import load
from mtseg.data.batch import BatchSizes
from mtseg.data.channels import Channels, Layer, visible
from mtseg.data.damaged import MAX_PIXELS, Damaged
from mtseg.data.decode import header, read_image, read_mask, read_values, size_of
from mtseg.data.source import Splits
from mtseg.data.stream import Stream
from mtseg.doctor.channels import completed
from mtseg.doctor.examine import examine
from mtseg.doctor.machine import Machine
from mtseg.doctor.pictures import of_views
from mtseg.geometry import Geometry, pixels
from mtseg.models.smp import Smp
from mtseg.models.weights import of_channels
from mtseg.randomness import generator
from mtseg.settings.checked import dump, validate
from mtseg.settings.merge import merge
from mtseg.trainer import fit
from mtseg.views import Policy, StudentPolicy, Views
from mtseg.warping import draw_image

HEALTHY = Machine({"torch": "2.6", "torchvision": "0.21"}, "", 2**40, 2**20)
RGBD = {"layers": [{"count": 3}, {"folder": ["images", "depth"], "suffix": ".png", "count": 1, "range": [0, 10000]}]}
NORMAL = {"mean": [0.485, 0.456, 0.406, 0.5], "std": [0.229, 0.224, 0.225, 0.25]}


def drawn(*shape: int, kind: type = np.uint16, seed: int = 0) -> np.ndarray:
    high = 1 if np.issubdtype(kind, np.floating) else np.iinfo(kind).max
    return (np.random.default_rng(seed).random(shape) * high).astype(kind)


def folder(root: Path, **more: object) -> dict:
    pools = {"labelled": {"images": "labelled/images", "masks": "labelled/masks"}, "val": 0.25}
    data = {
        "kind": "folder",
        "root": str(root),
        "classes": ["a", "b", "c"],
        "unlabelled": {"images": "unlabelled/images"},
    }
    return data | pools | {"channels": RGBD} | more


def config_of(root: Path, out: Path, *words: str, data: dict | None = None, views: dict | None = None):
    tree = dump(tiny(out, *words)) | {"data": data or folder(root)}
    return validate(type(tiny(out)), merge(tree, {"views": NORMAL if views is None else views}))


# -- values as they are stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_arrays_and_tiffs_are_read_as_they_were_written(tmp_path, kind, channels):
    values = drawn(6, 8, channels, kind=kind)
    np.save(tmp_path / "a.npy", values)
    how = {"planarconfig": "contig", "photometric": "minisblack"} if channels > 1 else {}
    tifffile.imwrite(tmp_path / "bands.tif", values if channels > 1 else values[..., 0], compression="zlib", **how)
    planes = np.moveaxis(values, -1, 0)
    if channels > 1:
        tifffile.imwrite(tmp_path / "planes.TIFF", planes, planarconfig="separate", photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "pages.tif") as pages:
        for plane in planes:
            pages.write(plane, contiguous=True, photometric="minisblack")
    for name in ("a.npy", "bands.tif", "planes.TIFF", "pages.tif"):
        if channels == 1 and name == "planes.TIFF":
            continue
        read = read_values(tmp_path / name)
        assert read.dtype == kind
        np.testing.assert_array_equal(read, values)
        assert size_of(tmp_path / name) == header(tmp_path / name).size == (6, 8)


def test_a_flat_array_is_one_channel(tmp_path):
    np.save(tmp_path / "a.npy", drawn(6, 8))
    np.testing.assert_array_equal(read_values(tmp_path / "a.npy")[..., 0], drawn(6, 8))


def test_pngs_keep_all_of_their_bits_and_their_alpha(tmp_path):
    grey, colours, four = drawn(6, 8), drawn(6, 8, 3), drawn(6, 8, 4, kind=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    cv2.imwrite(str(tmp_path / "colours.png"), colours[..., ::-1])
    Image.fromarray(four).save(tmp_path / "four.png")
    np.testing.assert_array_equal(read_values(tmp_path / "grey.png")[..., 0], grey)
    np.testing.assert_array_equal(read_values(tmp_path / "colours.png"), colours)
    np.testing.assert_array_equal(read_values(tmp_path / "four.png"), four)


def test_arrays_are_pictures_and_masks_too(tmp_path):
    np.save(tmp_path / "rgb.npy", drawn(6, 8, 3, kind=np.uint8))
    np.save(tmp_path / "grey.npy", drawn(6, 8, kind=np.uint8))
    np.save(tmp_path / "floats.npy", drawn(6, 8, kind=np.float32))
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.npy"), drawn(6, 8, 3, kind=np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.npy"), np.stack([drawn(6, 8, kind=np.uint8)] * 3, 2))
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.npy"), drawn(6, 8, kind=np.uint8))
    with pytest.raises(ValueError, match=r"floats\.npy: float32 of 1 channels; an RGB image is uint8.*data\.channels"):
        read_image(tmp_path / "floats.npy")
    with pytest.raises(ValueError, match=r"floats\.npy.*a mask is \(H, W\) of whole numbers"):
        read_mask(tmp_path / "floats.npy")


class Code:
    def __reduce__(self):
        return os.mkdir, (os.environ["MARK"],)


def test_an_array_of_objects_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    np.save(tmp_path / "a.npy", np.array([[Code()]], object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Code()))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match=f"{name}: not a whole image"):
            read_values(tmp_path / name)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("cut", [0, 7, 100, 0.5, 0.999])
@pytest.mark.parametrize("name", ["a.npy", "plain.tif", "deflated.tif"])
def test_a_file_that_is_cut_off_is_told(tmp_path, name, cut):
    values, path = drawn(40, 50, 6), tmp_path / name
    if name == "a.npy":
        np.save(path, values)
    else:
        how = {"compression": "zlib"} if name == "deflated.tif" else {}
        tifffile.imwrite(path, values, planarconfig="contig", photometric="minisblack", **how)
    size = path.stat().st_size
    os.truncate(path, cut if isinstance(cut, int) else int(cut * size))
    with pytest.raises(Damaged, match=f"{name}: not a whole image"):
        read_values(path)


def test_a_header_of_more_pixels_than_are_decoded_takes_no_memory(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (side, side)})
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(head.getvalue())
        file.truncate(len(head.getvalue()) + side * side)  # a hole, which takes no disk
    with pytest.raises(Damaged, match="million are decoded: cut it into tiles"):
        read_values(tmp_path / "a.npy")


def test_a_header_of_very_many_channels_is_refused_too(tmp_path):
    shape, head = (1000, 1000, 4 * MAX_PIXELS // 10**6 + 1), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(head.getvalue())
        file.truncate(len(head.getvalue()) + int(np.prod(shape)))
    with pytest.raises(Damaged, match="1000 x 1000 pixels of 601 channels; at most"):
        read_values(tmp_path / "a.npy")


def test_a_tiff_with_tiles_that_were_never_written_is_told(tmp_path):
    tiles = [drawn(16, 16, kind=np.uint8), None, drawn(16, 16, kind=np.uint8), drawn(16, 16, kind=np.uint8)]
    how = {"shape": (32, 32), "dtype": np.uint8, "tile": (16, 16), "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), **how)
    with pytest.raises(Damaged, match=r"a\.tif: some of its strips or tiles were never written"):
        read_values(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", iter([tile if tile is not None else tiles[0] for tile in tiles]), **how)
    assert read_values(tmp_path / "a.tif").shape == (32, 32, 1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((2, 3, 4, 5)), r"float64 of shape \(2, 3, 4, 5\); an image is one array of numbers"),
        (np.zeros((0, 3)), r"of shape \(0, 3\)"),
        (np.zeros((2, 3), complex), "complex128"),
        (np.zeros((2, 3), "S3"), r"\|S3"),
    ],
)
def test_an_array_of_anything_but_an_image_is_refused(tmp_path, values, says):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=says):
        read_values(tmp_path / "a.npy")


def test_a_tiff_of_several_bands_says_where_a_picture_is_expected_what_it_is(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", drawn(6, 8, 5), planarconfig="contig", photometric="minisblack")
    with pytest.raises(ValueError, match=r"a\.tif: 5 channels of uint16: say in data\.channels what they hold"):
        read_image(tmp_path / "a.tif")


# -- what values mean -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
def test_the_ends_of_the_range_become_0_and_255_and_nothing_is_clipped(tmp_path, kind):
    values = drawn(6, 8, 4, kind=kind)
    np.save(tmp_path / "a.npy", values)
    low, high = np.quantile(values, [0.1, 0.8]).tolist()
    read = Layer(count=4, range=(low, high)).read(tmp_path / "a.npy")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, (values.astype(np.float64) - low) / (high - low) * 255, rtol=1e-5, atol=1e-3)
    assert read.min() < 0 < 255 < read.max()


def test_channels_are_taken_in_the_order_that_is_said(tmp_path):
    np.save(tmp_path / "a.npy", drawn(6, 8, 5, kind=np.uint8))
    read = Layer(count=5, take=(3, 0, 1)).read(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, drawn(6, 8, 5, kind=np.uint8)[..., [3, 0, 1]])


def test_other_counts_and_types_than_are_said_are_refused_with_the_remedy(tmp_path):
    np.save(tmp_path / "a.npy", drawn(6, 8, 5))
    with pytest.raises(ValueError, match=r"a\.npy: 5 channels of uint16, and data\.channels says 4; mend count.*take"):
        Layer(count=4, range=(0, 1)).read(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy: uint16 from \d+ to \d+;.*say it in range of data\.channels"):
        Layer(count=5).read(tmp_path / "a.npy")


def test_what_is_no_number_is_refused_unless_a_value_takes_its_place(tmp_path):
    values = drawn(6, 8, 2, kind=np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, -np.inf
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=r"a\.npy: 2 values are no finite numbers; say in nan"):
        Layer(count=2, range=(0, 1)).read(tmp_path / "a.npy")
    read = Layer(count=2, range=(0, 2), nan=1.0).read(tmp_path / "a.npy")
    assert read[0, 0, 0] == read[1, 1, 1] == 127.5
    finite = np.isfinite(values)
    np.testing.assert_allclose(read[finite], values[finite] / 2 * 255, rtol=1e-5)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([{"count": 4, "take": [4]}], "take"),
        ([{"count": 4, "take": [1, 1]}], "each once"),
        ([{"count": 4, "range": [1, 1]}], "low < high"),
        ([{"count": 4, "nan": 1.0}], "give the range"),
        ([{"count": 4, "suffix": ".png"}], "the first is the file that folders and lists name"),
        ([{"count": 3}, {"count": 1}], "another file needs another path"),
        ([{"count": 3}, {"count": 1, "folder": ["images", "../x"]}], "is no name"),
        ([{"count": 3}, {"count": 1, "folder": ["images", ".."]}], "is no name"),
        ([{"count": 2}], "rgb: 2 channels cannot hold red, green and blue"),
        ([], "layers"),
    ],
)
def test_layers_that_cannot_be_are_refused(layers, says):
    with pytest.raises(ValueError, match=says):
        validate(Channels, {"layers": layers})


@pytest.mark.parametrize(
    ("layer", "name", "expected"),
    [
        ({"folder": ["images", "depth"]}, "images/images/a.b.png", "images/depth/a.b.png"),
        ({"folder": ["images", "depth"], "suffix": ".tif"}, "x/images/y/a.png", "x/depth/y/a.tif"),
        ({"ending": ["_rgb", "_depth"]}, "rgb/a_rgb_rgb.jpg", "rgb/a_rgb_depth.jpg"),
        ({"suffix": ".npy"}, "a.jpg", "a.npy"),
    ],
)
def test_a_further_file_has_the_path_of_its_image_with_what_is_exchanged(layer, name, expected):
    assert validate(Layer, layer).name_of(name) == expected


def test_an_image_in_which_nothing_can_be_exchanged_is_named():
    with pytest.raises(ValueError, match=r"pictures/a\.png: lies in no folder 'images'"):
        Layer(folder=("images", "depth")).name_of("pictures/a.png")
    with pytest.raises(ValueError, match=r"a_rgb2\.png: its name does not end in '_rgb'|does not end in '_rgb'"):
        Layer(ending=("_rgb", "_d")).name_of("a_rgb2.png")


def test_files_of_one_image_are_equally_large(tmp_path):
    trees.image(tmp_path / "images/a.png", 0)
    np.save(tmp_path / "a.npy", drawn(5, 5))
    trees.mask(tmp_path / "depth/a.png", drawn(5, 9))
    with pytest.raises(ValueError, match=r"depth/a\.png is \(5, 9\) and .*images/a\.png \(66, 96\).*equally large"):
        validate(Channels, RGBD).read(tmp_path / "images/a.png")


def test_a_further_file_that_is_not_there_or_leads_out_is_told_when_the_set_is_opened(tmp_path):
    root = trees.rgbd(tmp_path / "data")
    config = config_of(root, tmp_path / "run")
    assert config.data.build().channels == 4
    (root / "unlabelled/depth/unlabelled_3.png").rename(tmp_path / "away.png")
    with pytest.raises(ValueError, match=r"1 of 8 further files of images \(data\.channels\) are not there: .*_3\.png"):
        config.data.build()
    (root / "unlabelled/depth/unlabelled_3.png").symlink_to(tmp_path / "away.png")
    with pytest.raises(ValueError, match="lies outside of"):
        config.data.build()


# -- views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6, 7, 13])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("scale", [1.3, 0.3])  # the second is averaged down first
def test_every_channel_is_drawn_as_it_would_be_alone(channels, kind, scale):
    image = drawn(60, 80, channels, kind=np.uint8).astype(kind)
    warp = Geometry(scale=(scale, scale), rotation=20).sample(generator(0, "test"), crop=(32, 48), image=(60, 80))
    seen = draw_image(image, warp, (32, 48))
    assert seen.shape == (32, 48, channels)
    assert seen.dtype == kind
    for n in range(channels):
        alone = draw_image(np.repeat(image[..., n : n + 1], 3, axis=2), warp, (32, 48))
        np.testing.assert_array_equal(seen[..., n], alone[..., 0])


def test_values_of_more_than_8_bits_are_drawn_between_their_steps():
    """A plane is drawn as the same plane: bilinear sampling of it is exact, up to the 5 bits of OpenCV's weights."""
    y, x = np.mgrid[:60, :80].astype(np.float32)
    image = np.stack([x, y], 2) / 7
    warp = Geometry(scale=(1.1, 1.1), rotation=10).sample(generator(1, "test"), crop=(20, 20), image=(60, 80))
    seen = draw_image(image, warp, (20, 20))
    v, u = np.mgrid[:20, :20]
    places = np.stack([u.ravel(), v.ravel(), np.ones(400)])
    expected = (pixels((60, 80)) @ warp @ np.linalg.inv(pixels((20, 20))) @ places)[:2] / 7
    np.testing.assert_allclose(seen.reshape(-1, 2).T, expected, atol=2 / 32 / 7)
    assert (seen != np.round(seen)).mean() > 0.9


class Pictures:
    """Red, green, blue, and `more` channels, the first of which is red again."""

    def __init__(self, more: int, kind: type) -> None:
        self.more, self.kind = more, kind

    def __len__(self) -> int:
        return 5

    def name(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> np.ndarray:
        rgb = cv2.GaussianBlur(drawn(50, 70, 3, kind=np.uint8, seed=index), (5, 5), 2)
        return np.concatenate([rgb, *[rgb[..., :1]] * self.more], axis=2).astype(self.kind)

    def label(self, index: int) -> np.ndarray:
        return np.zeros((50, 70), np.uint8)


def stream_of(more: int, kind: type = np.uint8, colours: tuple[Colour, ...] = ()) -> Stream:
    source = Pictures(more, kind)
    splits = Splits(("a",), np.zeros((1, 3), np.uint8), source, source, source, source, channels=3 + more)
    views = validate(
        Views, {"crop": [32, 40], **{n: {"colour": [dump(c) for c in colours]} for n in ("labelled", "student")}}
    )
    return Stream(splits, views=views, sizes=BatchSizes(), students=1, seed=0)


STRONG = (
    Colour(name="ColorJitter", params={"brightness": [0.5, 1.5], "hue": [-0.2, 0.2]}),
    Colour(name="Solarize", p=0.5),
)


def test_geometry_moves_all_channels_and_colours_change_three():
    plain, four = stream_of(0, colours=STRONG), stream_of(1, colours=STRONG)
    for step in range(3):
        one, other = plain[step], four[step]
        for mine, theirs in ((one.labelled, other.labelled), (one.students[0], other.students[0])):
            np.testing.assert_array_equal(mine.image, theirs.image[..., :3])  # to the bit, for images of 8 bits
        untouched = stream_of(1)[step]
        for mine, theirs in ((untouched.labelled, other.labelled), (untouched.students[0], other.students[0])):
            np.testing.assert_array_equal(mine.image[..., 3], theirs.image[..., 3])
            np.testing.assert_array_equal(mine.image[..., 0], mine.image[..., 3])  # where it is red, it moved as red
            assert (mine.image[..., :3] != theirs.image[..., :3]).float().mean() > 0.5


def test_images_of_more_bits_are_coloured_as_those_of_8_bits():
    fine, coarse = stream_of(1, np.float32, STRONG)[0].labelled.image, stream_of(0, colours=STRONG)[0].labelled.image
    assert fine.dtype == torch.float32
    assert (fine[..., :3] - coarse).abs().median() <= 1
    untouched = stream_of(1, np.float32)[0].labelled.image
    assert torch.equal(fine[..., 3], untouched[..., 3])
    assert torch.equal(untouched[..., 0], untouched[..., 3])
    assert (untouched != untouched.round()).any()  # without colours nothing is rounded


def test_painting_with_no_colours_gives_the_image_itself():
    image = drawn(5, 6, 7, kind=np.float32)
    assert Painter(()).paint(image, generator(0, "test")) is image


def test_normalisation_is_that_of_each_channel():
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    views = Views(crop=(16, 16), mean=mean, std=std)
    image = torch.from_numpy(drawn(2, 6, 8, 5, kind=np.float32)) * 300
    expected = (image.double().numpy() / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(views.normalise(image).permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"an image of 3 channels, and views\.mean is of 5"):
        views.normalise(image[..., :3])
    with pytest.raises(ValueError, match="mean has 5 entries and std 3"):
        Views(crop=(16, 16), mean=mean)


def test_what_is_shown_is_red_green_and_blue_or_the_first_channel():
    four = drawn(5, 6, 4, kind=np.float32) * 400 - 50
    np.testing.assert_array_equal(visible(four), np.clip(np.rint(four[..., :3]), 0, 255))
    np.testing.assert_array_equal(visible(four[..., 2:]), np.repeat(visible(four)[..., 2:], 3, axis=2))
    rgb = drawn(5, 6, 3, kind=np.uint8)
    assert visible(rgb) is rgb


# -- networks ---------------------------------------------------------------------------------------------------------

ENCODERS = ["mobilenet_v2", "tu-test_resnet", "resnet18"]


def features(model, images):
    with torch.no_grad():
        return model.eval().network.encoder(images)[1:]


@pytest.fixture(params=ENCODERS)
def pretrained(request, tmp_path):
    """An RGB network with random weights, and the file of its encoder."""
    torch.manual_seed(0)
    model = Smp(arch="unet", encoder=request.param, weights=Path("none")).build(2)
    save_file({k: v.contiguous() for k, v in model.network.encoder.state_dict().items()}, tmp_path / "w.safetensors")
    return model, Smp(arch="unet", encoder=request.param, weights=tmp_path / "w.safetensors")


def test_with_the_further_channels_at_their_mean_the_answer_is_the_rgb_networks(pretrained):
    rgb_model, part = pretrained
    rgb, model = torch.randn(2, 3, 64, 64), part.build(2, channels=5)
    means = torch.cat([rgb, torch.zeros(2, 2, 64, 64)], 1)  # a channel's mean is 0 after normalisation
    for mine, theirs in zip(features(model, means), features(rgb_model, rgb), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    others = torch.cat([rgb, torch.randn(2, 2, 64, 64)], 1)
    assert not torch.allclose(features(model, others)[0], features(rgb_model, rgb)[0])
    grey = torch.randn(2, 1, 64, 64)  # what is in a further channel counts as a third of the same in all three
    within = torch.cat([torch.zeros(2, 3, 64, 64), grey, torch.zeros(2, 1, 64, 64)], 1)
    for mine, theirs in zip(features(model, within), features(rgb_model, grey.repeat(1, 3, 1, 1) / 3), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_without_colours_one_map_in_all_channels_is_answered_as_in_red_green_and_blue(pretrained, channels):
    rgb_model, part = pretrained
    grey, model = torch.randn(2, 1, 64, 64), part.build(2, channels=channels, rgb=False)
    there, here = features(rgb_model, grey.expand(-1, 3, -1, -1)), features(model, grey.expand(-1, channels, -1, -1))
    for mine, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_weights_of_red_green_and_blue_are_left_alone_for_those(pretrained):
    rgb_model, part = pretrained
    weights = rgb_model.network.encoder.state_dict()
    adapted = of_channels(weights, part.build(2, pretrained=False).network.encoder, 3, rgb=True)
    assert all(adapted[name] is weights[name] for name in weights)


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("rgbd")
    config = config_of(trees.rgbd(place / "data"), place / "run")
    fit(config, quiet=True)
    return config


def test_a_run_on_four_channels_trains_is_scored_and_predicts_with_files_and_pixels(trained, capsys):
    out = trained.out
    assert cli.main(["eval", str(out)]) == 0
    model = mtseg.load(out)
    assert next(model.network.parameters()).shape[1] == 4
    path = trained.data.root / "unlabelled/images/unlabelled_0.jpg"
    answer = model.predict(path)
    depth = np.asarray(Image.open(trained.data.root / "unlabelled/depth/unlabelled_0.png")).astype(np.float32)
    whole = np.concatenate([np.asarray(Image.open(path)), depth[..., None] * np.float32(255 / 10000)], 2)
    np.testing.assert_array_equal(answer.classes, model.predict(whole).classes)
    assert (
        model.predict(np.concatenate([whole[..., :3], whole[..., 3:] * 3 - 200], 2)).confidence != answer.confidence
    ).any()
    with pytest.raises(ValueError, match=r"\(66, 96, 3\).*give \(H, W, 4\)"):
        model.predict(np.asarray(Image.open(path)))


def test_pictures_of_four_channels_are_written_and_their_colours_are_the_images(trained, tmp_path, capsys):
    images = trained.data.root / "unlabelled/images"
    words = ["predict", str(trained.out), str(images), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--save", "mask,overlay,confidence"]) == 0
    rgb = np.asarray(Image.open(images / "unlabelled_0.jpg")).astype(int)
    overlay = np.asarray(Image.open(tmp_path / "out/overlay/unlabelled_0.png")).astype(int)
    colours = np.asarray(Image.open(tmp_path / "out/mask/unlabelled_0.png").convert("RGB")).astype(int)
    black = (colours == 0).all(-1)  # the background's: the image itself
    assert np.abs(2 * overlay - rgb - colours)[~black].max(initial=0) <= 1
    assert (overlay == rgb)[black].all()
    assert cli.main([*words[:-1], str(tmp_path / "other"), "--save", "mask,image"]) == 1
    assert "data.channels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "values", "range_", "nan"),
    [
        (np.float16, [0, 60000, -60000], (-60000.0, 60000.0), None),
        (np.float16, [0, 1, np.inf], (0.0, 1.0), 70000.0),
        (np.float64, [0, 1e38, 3e38], (-3e38, 3e38), None),
        (np.float64, [0, 1e300, -1e300], (-1e300, 1e300), None),
        (np.float32, [0, 3e38, -3e38], (-3e38, 3e38), None),
        (np.int32, [0, 2**31 - 1, -(2**31)], (-(2.0**31), 2.0**31), None),
        (np.float64, [1e15, 1e15 + 1, 1e15 + 2], (1e15, 1e15 + 2), None),
        (np.uint32, [2**31, 2**31 + 1, 2**31 + 2], (2.0**31, 2.0**31 + 2), None),
    ],
)
def test_values_of_any_size_are_scaled_as_exact_arithmetic_has_it(tmp_path, kind, values, range_, nan):
    raw = np.array(values, kind).reshape(1, 3, 1).repeat(2, 0)
    np.save(tmp_path / "a.npy", raw)
    read = Layer(count=1, range=range_, nan=nan).read(tmp_path / "a.npy")
    low, high = map(Fraction, range_)
    stored = [Fraction(float(v)) if np.isfinite(v) else Fraction(nan) for v in raw[0, :, 0].tolist()]
    exact = [float((v - low) / (high - low) * 255) for v in stored]
    assert read.dtype == np.float32
    np.testing.assert_allclose(read[0, :, 0], exact, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (0.0, 1e-310)])
def test_a_range_that_nothing_can_be_divided_by_is_refused(ends):
    with pytest.raises(ValueError, match=r"range: .*too narrow or too wide"):
        Layer(count=1, range=ends)


@pytest.mark.parametrize(("kind", "value"), [(np.float64, 1e300), (np.float32, 3e38)])
def test_values_beyond_what_an_image_can_hold_are_refused_with_their_file(tmp_path, kind, value):
    np.save(tmp_path / "a.npy", np.array([[[0.5], [value]]], kind))
    with pytest.raises(ValueError, match=r"a\.npy: .*e\+\d+ is .* the range \[0\.0, 0\.001\]"):
        Layer(count=1, range=(0.0, 0.001)).read(tmp_path / "a.npy")


def test_normalisation_that_is_not_of_the_images_is_refused_before_anything_is_trained(tmp_path):
    root = trees.rgbd(tmp_path / "data")
    config = config_of(root, tmp_path / "run", views={})
    with pytest.raises(ValueError, match=r"views\.mean: 3 entries, and the images have 4 channels.*mtseg doctor"):
        fit(config, quiet=True)


def two_bands(root: Path) -> dict:
    """Arrays of two bands, radar say, and no colours."""
    for pool, count in (("labelled", 6), ("unlabelled", 4)):
        (root / pool / "images").mkdir(parents=True)
        for i in range(count):
            values = np.random.default_rng(i + len(pool)).normal(-15, 5, (*trees.SIZE, 2)).astype(np.float32)
            np.save(root / pool / "images" / f"{i}.npy", values)
            if pool == "labelled":
                trees.mask(root / pool / "masks" / f"{i}.png", trees.blocks([0, 1, 2], i))
    return folder(root, channels={"layers": [{"count": 2, "range": [-30.0, 0.0]}], "rgb": False})


def test_images_without_colours_train_and_what_changes_colours_is_refused_for_them(tmp_path):
    data, views = two_bands(tmp_path / "data"), {"mean": [0.5, 0.5], "std": [0.2, 0.2]}
    grey = views | {"student": {"colour": [{"name": "ToGray"}]}}
    with pytest.raises(ValueError, match=r"views\.student\.colour: ToGray .*set views\.student\.colour=\[\].*Gamma"):
        fit(config_of(tmp_path, tmp_path / "run", data=data, views=grey), quiet=True)
    words = r"set views\.student\.colour=\[\], or colour to what changes any: (\[.*\])"
    with pytest.raises(ValueError, match=words) as refused:
        config_of(tmp_path, tmp_path / "run", data=data, views=grey).views.check(2, rgb=False)
    advised = re.search(words, str(refused.value))[1]
    config = config_of(tmp_path, tmp_path / "run", f"views.student.colour={advised}", data=data, views=views)
    assert [colour.name for colour in config.views.student.colour] == [
        "RandomBrightnessContrast",
        "RandomGamma",
        "GaussianBlur",
    ]
    assert 0 <= fit(config, quiet=True)["teacher"]["mIoU"] <= 1
    path, out = tmp_path / "data/unlabelled/images/0.npy", tmp_path / "predicted"
    trained = mtseg.load(config.out)
    classes = trained.predict(path).classes
    assert classes.shape == trees.SIZE
    assert cli.main(["predict", str(config.out), str(path), "--out", str(out), "--save", "overlay"]) == 0
    (picture,) = out.rglob("*.png")
    off = (np.load(path)[..., :1].astype(np.float64) / 30 + 1 - 0.5) / 0.2  # of a range from -30 to 0
    seen = 127.5 * (1 + np.arcsinh(off) / np.arcsinh(10))
    inks = np.asarray(trained.palette, np.float64)[classes]
    expected = np.where(inks.any(2, keepdims=True), (seen + inks) / 2, seen)  # the first class is black
    assert np.abs(np.asarray(Image.open(picture)) - expected).max() <= 1


def test_a_path_from_which_a_further_file_cannot_be_told_is_answered_with_how_to_name_it(tmp_path, capsys):
    root = trees.rgbd(tmp_path / "data")
    run = tmp_path / "run"
    fit(config_of(root, run), quiet=True)
    elsewhere = tmp_path / "photos/a.jpg"
    trees.image(elsewhere, 3)
    assert cli.main(["predict", str(run), str(elsewhere), "--out", str(tmp_path / "out")]) == 1
    said = json.loads((tmp_path / "out/errors.jsonl").read_text())["error"]
    assert f"{elsewhere}: lies in no folder 'images'" in said
    assert "put it into a folder 'images' beside a folder 'depth', or change folder in data.channels" in said
    with pytest.raises(
        ValueError, match=r"a\.png: does not end in '_rgb'.*rename it to 'a_rgb\.png', or change ending"
    ):
        Layer(ending=("_rgb", "_depth")).name_of("x/a.png")
    (tmp_path / "photos/images").mkdir()
    (tmp_path / "photos/depth").mkdir()
    elsewhere.rename(tmp_path / "photos/images/a.jpg")
    trees.mask(tmp_path / "photos/depth/a.png", np.full(trees.SIZE, 700, np.uint16))
    assert cli.main(["predict", str(run), str(tmp_path / "photos/images/a.jpg"), "--out", str(tmp_path / "out")]) == 0


# -- the doctor -------------------------------------------------------------------------------------------------------


def found(config) -> dict[str, object]:
    return {finding.code: finding for finding in examine(config, HEALTHY, workers=0).findings}


def test_where_no_image_can_be_read_no_normalisation_is_made_up(tmp_path):
    root = trees.rgbd(tmp_path / "data")
    for path in root.glob("*/images/*"):
        path.write_bytes(path.read_bytes()[:40])
    finding = found(config_of(root, tmp_path / "run", views={}))["normalisation"]
    assert finding.suggestion == ""
    assert "are not known, for none could be read" in finding.text
    assert "0.5" not in finding.text


def test_the_doctor_computes_the_normalisation_and_its_line_mends_the_config(tmp_path):
    root = trees.rgbd(tmp_path / "data")
    config = config_of(root, tmp_path / "run", views={})
    findings = found(config)
    finding = findings["normalisation"]
    assert {code for code, other in findings.items() if other.severity == "error"} == {"normalisation"}
    paths = [*root.glob("unlabelled/depth/*.png"), *(root / name for name in training_depths(config))]
    values = np.stack([np.asarray(Image.open(path)) for path in paths]) / 10000
    out = tmp_path / "config.yaml"
    out.write_text(mtseg.settings.strict_yaml.to_yaml(dump(config)))
    mended = load([str(out), finding.suggestion])
    assert mended.views.mean == pytest.approx((0.485, 0.456, 0.406, values.mean()), abs=1e-4)
    assert mended.views.std == pytest.approx((0.229, 0.224, 0.225, values.std()), abs=1e-4)
    assert {code for code, f in found(mended).items() if f.severity != "note"} == set()
    assert f"views: {finding.suggestion.removeprefix('views=')}" in finding.text  # the same in YAML


def test_the_doctor_prints_the_normalisation_of_further_channels_where_the_config_has_it_already(tmp_path, capsys):
    root = trees.rgbd(tmp_path / "data")
    config = config_of(root, tmp_path / "run", views=NORMAL)
    codes = found(config)
    assert not {"normalisation", "normalisation-off"} & codes.keys()
    (tmp_path / "config.yaml").write_text(mtseg.settings.strict_yaml.to_yaml(dump(config)))
    assert cli.main(["doctor", str(tmp_path / "config.yaml")]) == 0
    said = re.search(r"views: (\{mean: \[.*?\], std: \[.*?\]\})", capsys.readouterr().out.replace("\n", " "))
    depths = [np.asarray(Image.open(path)) for path in root.glob("unlabelled/depth/*.png")]
    depths += [np.asarray(Image.open(root / name)) for name in training_depths(config)]
    views = yaml.safe_load(re.sub(r"\s+", " ", said[1]))
    assert views["mean"] == pytest.approx([0.485, 0.456, 0.406, np.stack(depths).mean() / 10000], abs=1e-4)
    assert views["std"] == pytest.approx([0.229, 0.224, 0.225, np.stack(depths).std() / 10000], abs=1e-4)


def training_depths(config) -> list[str]:
    source = config.data.build().labelled
    return [source.channels.names_of(source.name(i))[0] for i in range(len(source))]


def spoil(root: Path, fault: str) -> None:
    depth = root / "unlabelled/depth/unlabelled_0.png"
    if fault == "image-channels":
        trees.image(depth, 0)
    elif fault == "image-unreadable":
        os.truncate(depth, 30)
    elif fault == "channel-constant":
        for path in root.rglob("depth/*.png"):
            trees.mask(path, np.full(trees.SIZE, 5000, np.uint16))
    elif fault == "channel-range":
        values = np.array(Image.open(depth))
        values[0, :9] = 60000
        trees.mask(depth, values)
    elif fault == "normalisation-off":
        for path in root.rglob("depth/*.png"):
            trees.mask(path, (np.asarray(Image.open(path)) // 20).astype(np.uint16))


@pytest.mark.parametrize(
    ("fault", "severity"),
    [
        ("image-channels", "error"),
        ("image-unreadable", "error"),
        ("channel-constant", "warning"),
        ("channel-range", "warning"),
        ("normalisation-off", "warning"),
    ],
)
def test_the_doctor_finds_what_is_wrong_with_channels(tmp_path, fault, severity):
    root = trees.rgbd(tmp_path / "data")
    config = config_of(root, tmp_path / "run")
    assert not [f for f in found(config).values() if f.severity != "note"]
    spoil(root, fault)
    serious = {code: f.severity for code, f in found(config).items() if f.severity != "note"}
    assert serious == {fault: severity}


@pytest.mark.parametrize(("high", "narrow"), [(1500, True), (3000, False)])
def test_the_doctor_says_what_range_holds_values_that_fill_little_of_theirs(tmp_path, high, narrow):
    root = trees.rgbd(tmp_path / "data")  # of 0 to 10000
    for path in root.rglob("depth/*.png"):
        trees.mask(path, np.linspace(300, high, int(np.prod(trees.SIZE))).reshape(trees.SIZE).astype(np.uint16))
    said = [
        finding.text for code, finding in found(config_of(root, tmp_path / "run")).items() if code == "channel-narrow"
    ]
    assert [f"a range of [300, {high}] holds all" in text for text in said] == [True] * narrow


def test_the_doctor_refuses_colours_for_images_without_and_draws_them_all_the_same(tmp_path, capsys):
    data = two_bands(tmp_path / "data")
    views = {"student": {"colour": [{"name": "ToGray"}]}, "labelled": {"colour": [{"name": "InvertImg"}]}}
    config = config_of(tmp_path, tmp_path / "run", data=data, views=views)
    read = examine(config, HEALTHY, workers=0).read
    shown = completed(config, read).views
    assert (shown.student.colour, shown.labelled.colour) == ((), config.views.labelled.colour)
    poor = replace(config, views=replace(shown, mean=(0.9, 0.9), std=(0.001, 0.001), labelled=Policy()))
    (sheet, *_) = of_views(completed(poor, read), read)
    for row in sheet.rows:  # in the light of what is measured, whatever is given
        picture = dict(row.panels)["labelled view"]
        assert 90 < picture.mean() < 165
        assert picture.std() > 20
    findings = found(config)
    assert findings["views"].severity == findings["normalisation"].severity == "error"
    path = tmp_path / "config.yaml"
    path.write_text(mtseg.settings.strict_yaml.to_yaml(dump(config)))
    assert cli.main(["doctor", str(path), "--out", str(tmp_path / "doctor")]) == 1
    assert (tmp_path / "doctor/views-own-geometry.png").is_file()


def test_the_doctors_pictures_show_further_channels_in_the_same_frame(tmp_path):
    root = trees.rgbd(tmp_path / "data")
    for path in root.rglob("images/*.jpg"):  # depth is what red shows
        red = np.asarray(Image.open(path))[..., 0]
        trees.mask(path.parent.parent / "depth" / f"{path.stem}.png", red.astype(np.uint16) * 10)
    config = config_of(root, tmp_path / "run")
    rows = of_views(config, examine(config, HEALTHY, workers=0).read)[0].rows
    for row in rows:
        panels = dict(row.panels)
        red, further = panels["labelled view"][..., 0].astype(float), panels["channel 3"][..., 0].astype(float)
        assert np.corrcoef(red.ravel(), further.ravel())[0, 1] > 0.99


# -- what is made of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", ["hf,torch", "onnx"])
def test_a_network_of_other_channels_is_handed_on_and_answers_as_the_run(tmp_path, formats):
    if "onnx" in formats and not ONNX:
        pytest.skip("needs mtseg[export] and torch 2.7")
    root, out = trees.rgbd(tmp_path / "data"), tmp_path / "run"
    fit(config_of(root, out, "eval.gallery=2"), quiet=True)
    assert cli.main(["export", str(out), "--to", formats]) == 0
    image = mtseg.load(out).channels.read(root / "labelled/images/labelled_0.jpg")
    answer = mtseg.load(out, ["device=cpu"]).answer(torch.tensor(image)[None])
    if "hf" in formats:
        handed = mtseg.load(out / "export/hf", ["device=cpu"])
        assert torch.equal(handed.answer(torch.tensor(image)[None]), answer)
        assert np.array_equal(
            handed.predict(root / "labelled/images/labelled_0.jpg").classes, answer[0].argmax(0).numpy()
        )
        graph = torch.export.load(out / "export/model.pt2").module()(torch.tensor(image)[None])
    else:
        import onnxruntime

        graph = torch.tensor(
            onnxruntime.InferenceSession(str(out / "export/model.onnx")).run(None, {"pixels": image[None]})[0]
        )
    assert torch.allclose(graph, answer, atol=1e-4)


def test_where_no_colour_is_drawn_nothing_is_rounded_or_clipped():
    image = np.linspace(-3, 600, 5 * 6 * 4, dtype=np.float32).reshape(5, 6, 4)
    never = Painter([Colour(name="ToGray", p=0.0)])
    np.testing.assert_array_equal(never.paint(image, generator(0, "test")), image)
    always = Painter([Colour(name="InvertImg", p=1.0)])
    seen = always.paint(image, generator(0, "test"))
    np.testing.assert_array_equal(seen[..., :3], 255 - np.clip(np.round(image[..., :3]), 0, 255))
    np.testing.assert_array_equal(seen[..., 3], image[..., 3])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_without_red_green_and_blue_show_what_is_dim_and_what_is_bright(channels):
    views = Views(crop=(32, 32), mean=(0.02,) * channels, std=(0.005,) * channels)
    off = np.concatenate([np.linspace(-4, 4, 400), np.linspace(4, 12, 100)])  # standard deviations from the mean
    values = (0.02 + 0.005 * off).astype(np.float32)  # of a range that is hardly used
    image = np.repeat(values[:, None, None] * 255, channels, axis=2)
    squeezed = np.log(np.abs(off) + np.sqrt(off**2 + 1)) / np.log(10 + np.sqrt(101))
    expected = np.clip(127.5 * (1 + np.sign(off) * squeezed), 0, 255)[:, None, None]
    shown = views.visible(image, rgb=False)
    assert shown.shape == (500, 1, 3)
    np.testing.assert_allclose(shown, np.broadcast_to(expected, shown.shape), atol=0.51)
    if channels > 2:
        np.testing.assert_array_equal(views.visible(image, rgb=True), visible(image))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_without_red_green_and_blue_all_channels_are_changed_alike_and_not_rounded(channels, kind):
    image = drawn(20, 30, channels, kind=np.uint8).astype(kind)
    image[0, 0], image = 255, image if kind == np.uint8 else image * np.float32(1.3) - 30
    low, wide = (0, 255) if kind == np.uint8 else (image.min(), np.ptp(image))  # beyond both ends of the range
    unit = (image.astype(np.float64) - low) / wide
    expected = {
        "InvertImg": 1 - unit,
        "RandomGamma": unit**2,
        "RandomBrightnessContrast": np.clip(unit * 1.5 + 0.1, 0, 1),
    }
    params = {"RandomGamma": {"gamma_limit": [200, 200]}}
    params["RandomBrightnessContrast"] = {"brightness_limit": [0.1, 0.1], "contrast_limit": [0.5, 0.5]}
    for name, values in expected.items():
        colour = Colour(name=name, params=params.get(name, {}))
        colour.check(channels)
        seen = Painter([colour], rgb=False).paint(image, generator(0, "test"))
        assert seen.dtype == kind
        np.testing.assert_allclose(seen, values * wide + low, atol=1e-3 if kind == np.float32 else 0.501)
        assert Painter([replace(colour, p=0.0)], rgb=False).paint(image, generator(0, "test")) is image


@pytest.mark.parametrize("name", ["ToGray", "HueSaturationValue", "ToSepia", "ISONoise"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_what_changes_red_green_and_blue_does_not_take_channels_that_are_none(name, channels):
    if channels > 1 or name in ("ToGray", "HueSaturationValue"):
        with pytest.raises(ValueError, match=f"{name} does not take {channels} channel"):
            Colour(name=name).check(channels)


@pytest.mark.parametrize("name", ["MedianBlur", "Posterize", "AutoContrast", "ImageCompression", "RandomToneCurve"])
def test_what_works_in_8_bits_or_fails_by_chance_is_refused_where_they_may_hardly_be_used(name):
    for channels in (1, 2, 3):
        with pytest.raises(ValueError, match=f"{name} does not take"):
            Colour(name=name).check(channels)


def test_the_advised_colours_leave_something_of_an_image_that_hardly_uses_its_range():
    student = StudentPolicy(colour=(Colour(name="ToGray"),), pick=(1, 1))
    advised = Views(crop=(32, 32), student=student, mean=(0.5,), std=(0.2,))
    with pytest.raises(ValueError, match=r"colour=\[\] and views\.student\.pick=null, or colour to .*: \[") as refused:
        advised.check(1, rgb=False)
    colours = yaml.safe_load(str(refused.value).rpartition("any: ")[2])
    faint = drawn(48, 48, 1, kind=np.float32) * 5 + 4  # of 255
    for seed in range(60):
        painter = Painter([validate(Colour, colour) for colour in colours], rgb=False)
        seen = painter.paint(faint, generator(seed, "test"))
        assert seen.std() > 0.02 * faint.std()


@pytest.mark.parametrize("factor", [1 / 255, float("nan")])
def test_pixels_that_are_not_scaled_as_files_are_are_refused(factor, trained):
    network = mtseg.load(trained.out)
    pixels = np.random.default_rng(0).uniform(0, 255, (40, 50, network.channels.count)).astype(np.float32)
    assert network.predict(pixels).classes.shape == (40, 50)
    with pytest.raises(ValueError, match=r"0 to 255 is the range .*channels\.read"):
        network.predict(pixels * np.float32(factor))


def test_a_file_is_as_dark_as_it_is(tmp_path, trained):
    """What its range is, the run has said; of an array nobody knows."""
    network = mtseg.load(trained.out)
    layer = Layer(count=4, range=(0, 65535))
    dark = replace(network, channels=Channels(layers=(layer,), rgb=True))
    np.save(tmp_path / "dark.npy", np.random.default_rng(0).integers(0, 200, (40, 50, 4)).astype(np.uint16))
    assert 0 < dark.channels.read(tmp_path / "dark.npy").max() < 1
    assert dark.predict(tmp_path / "dark.npy").classes.shape == (40, 50)
