"""GeoTIFF: bands are the whole image's however it is stored, predictions keep the georeference, any size is bounded."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from runs import tiny

from mtseg import cli
from mtseg.config import Config, load
from mtseg.data import geotiff
from mtseg.data.channels import PLAIN, Channels, Layer
from mtseg.data.geotiff import georeference, in_bands
from mtseg.data.source import IGNORE
from mtseg.inference import answering, rasters
from mtseg.inference.rows import Rows
from mtseg.settings.checked import dump, validate
from mtseg.settings.words import gather
from mtseg.trainer import fit

ROOT = Path(__file__).parent.parent
# UTM zone 32 N at 0.5 m a pixel, as GDAL writes it; and, what belongs to the source's values alone, a "no data" of 0.
SCALE, TIE = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 690_000.0, 5_334_000.0, 0.0)
KEYS = (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 1026, 34737, 22, 0, 3072, 0, 1, 32632)
NAMED = "WGS 84 / UTM zone 32N|"
GEO = [
    (33550, 12, 3, SCALE, True),
    (33922, 12, 6, TIE, True),
    (34735, 3, len(KEYS), KEYS, True),
    (34737, 2, 0, NAMED, True),
]
OF_THE_SOURCE = [(42112, 2, 0, "<GDALMetadata><Item>height</Item></GDALMetadata>", True), (42113, 2, 0, "0", True)]
LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "strips, deflated": {"rowsperstrip": 16, "compression": "zlib"},
    "tiles": {"tile": (32, 16)},
    "tiles, deflated, predicted": {"tile": (16, 48), "compression": "zlib", "predictor": True},
    "bands apart": {"planarconfig": "separate"},
    "bands apart, tiles, deflated": {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"},
    "big-endian": {"byteorder": ">"},
    "big-endian, deflated": {"byteorder": ">", "compression": "zlib", "rowsperstrip": 5},
}


def written(path: Path, values: np.ndarray, tags: list[Any] = GEO, **layout: Any) -> Path:
    """A TIFF of values (H, W, C); colours where those are three bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    separate = layout.get("planarconfig") == "separate"
    coloured = values.shape[2] == 3 and values.dtype == np.uint8
    layout = {"planarconfig": "contig" if values.shape[2] > 1 else None, **layout}
    tifffile.imwrite(
        path,
        np.ascontiguousarray(values.transpose(2, 0, 1)) if separate else values,
        photometric="rgb" if coloured else "minisblack",
        extratags=tags,
        metadata=None,
        **layout,
    )
    return path


def noise(h: int, w: int, c: int = 3, kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).random((h, w, c))
    return (drawn if np.issubdtype(kind, np.floating) else drawn * np.iinfo(kind).max).astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_windows_in_any_order_are_those_of_the_whole_however_it_is_stored(layout, kind, tmp_path):
    if kind is np.float32 and layout.get("predictor"):
        layout = {**layout, "predictor": None}
    values = noise(75, 53, 4, kind)
    path = written(tmp_path / "x.tif", values, **layout)
    span = None if kind is np.uint8 else (0.0, 1.0 if kind is np.float32 else 65535.0)
    layer = Layer(count=4, take=(2, 0, 3), range=span)
    expected = torch.from_numpy(Channels(layers=(layer,)).read(path))
    draw = np.random.default_rng(1)
    with in_bands(path, Channels(layers=(layer,)), 1) as bands:
        assert bands is not None
        assert tuple(bands.shape) == (1, 75, 53, 3)
        in_turn = [(top, min(top + 32, 75)) for top in range(0, 75, 20)]
        anywhere = [tuple(sorted(draw.choice(76, 2, replace=False))) for _ in range(20)]
        for top, bottom in [*in_turn, *anywhere]:
            left = int(draw.integers(0, 40))
            assert torch.equal(bands[:, top:bottom, left : left + 20][0], expected[top:bottom, left : left + 20])
        assert torch.equal(bands[:, :, :][0], expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_going_down_an_image_decodes_each_strip_and_tile_once_and_holds_no_more_than_a_window_needs(
    layout, tmp_path, monkeypatch
):
    path = written(tmp_path / "x.tif", noise(96, 64), **layout)
    decoded: list[int] = []
    whole = geotiff._segment
    monkeypatch.setattr(geotiff, "_segment", lambda page, index: decoded.append(index) or whole(page, index))
    with in_bands(path, PLAIN, 1) as bands:
        assert bands is not None
        decoded.clear()  # the first is tried
        for top in range(0, 72, 24):
            for left in range(0, 64, 32):
                bands[:, top : top + 32, left : left + 32]
            unit = 1 if bands._plain else layout["tile"][0] if "tile" in layout else layout["rowsperstrip"]
            assert len(bands._band) <= 32 + 2 * (unit - 1)
    assert len(decoded) == len(set(decoded))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny(out), quiet=True)
    return out


def asked(*words: object) -> int:
    return cli.main(["predict", *map(str, words)])


def tags_of(path: Path) -> dict[int, Any]:
    """The tags of a TIFF as PIL reads them."""
    with Image.open(path) as image:
        return dict(image.tag_v2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("least", [1, 10**9], ids=["in bands", "at once"])
def test_predictions_of_a_geotiff_are_those_of_its_pixels_and_lie_where_it_lies(least, run, tmp_path, monkeypatch):
    """In windows both times, so that the answers are to the same pixels."""
    monkeypatch.setattr(answering, "LARGE", least)
    values = noise(300, 290)
    written(tmp_path / "in/field.tif", values, [*GEO, *OF_THE_SOURCE], tile=(64, 64), compression="zlib")
    Image.fromarray(values).save(tmp_path / "in/plain.png")
    how = ["--save", "mask,overlay,confidence,image", "--set", "eval.predictor={kind: slide, window: [48, 64]}"]
    assert asked(run, tmp_path / "in", "--out", tmp_path / "out", *how) == 0
    for kind in ("mask", "overlay", "confidence", "image"):
        path = tmp_path / f"out/{kind}/field.tif"
        with Image.open(path) as ours, Image.open(tmp_path / f"out/{kind}/plain.png") as plain:
            assert np.array_equal(np.array(ours), np.array(plain))
            assert np.array_equal(np.array(ours.convert("RGB")), np.array(plain.convert("RGB")))  # by the palette
        found = tags_of(path)
        assert (found[33550], found[33922], found[34735]) == (SCALE, TIE, KEYS)
        assert found[34737].rstrip("\0") == NAMED
        assert 42112 not in found
        assert found.get(42113, "").rstrip("\0") == (str(IGNORE) if kind == "mask" else "")
        assert georeference(path) == georeference(tmp_path / "in/field.tif")
    assert not list((tmp_path / "out").rglob(".tmp*"))


@pytest.mark.parametrize("least", [1, answering.LARGE], ids=["in bands", "as a whole"])
@pytest.mark.parametrize(("declared", "empty"), [("7", 7), ("-9999", None), ("nan", None), ("a word", None)])
def test_pixels_that_the_source_declares_as_none_have_no_class(declared, empty, least, run, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "LARGE", least)
    monkeypatch.setattr(answering, "WINDOW", (32, 48))
    values = np.random.default_rng(3).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    values[:40, 20:] = 7
    values[50, 60] = (7, 7, 8)  # of which one channel is something
    source = written(tmp_path / "a.tif", values, [*GEO, (42113, 2, 0, declared, True)], tile=(32, 16))
    plain = written(tmp_path / "plain/a.tif", values, GEO, tile=(32, 16))
    found = {}
    for name, path in (("one", source), ("other", plain)):
        words = ["predict", str(run), str(path), "--out", str(tmp_path / name), "--save", "mask,confidence", "--rank"]
        assert cli.main(words) == 0
        found[name] = [tifffile.imread(tmp_path / name / kind / "a.tif") for kind in ("mask", "confidence")]
    none = (values == 7).all(2) if empty is not None else np.zeros((70, 90), bool)
    assert none.sum() == (0 if empty is None else 40 * 70)
    for one, other, nothing in zip(found["one"], found["other"], (IGNORE, 0), strict=True):
        np.testing.assert_array_equal(one, np.where(none, nothing, other))
    line = json.loads((tmp_path / "one/predictions.jsonl").read_text())
    mask, confidence = found["other"]
    assert line["shares"] == [float((mask[~none] == k).sum() / mask.size) for k in range(len(line["shares"]))]
    assert line["uncertainty"] == pytest.approx(1 - (confidence[~none] / 255).mean(), abs=2e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "channels", "declared", "expected"),
    [
        (np.uint8, PLAIN, "0.0", [0, 0, 0]),
        (np.uint8, PLAIN, "300", None),
        (np.float32, Channels(layers=(Layer(count=3, range=(0, 100)),)), "-9999", [-9999 * 2.55] * 3),
        (np.float32, Channels(layers=(Layer(count=3, range=(0, 100)),)), "0.1", [0.255] * 3),
        (np.float32, Channels(layers=(Layer(count=3, range=(0, 1)),)), "-1.79769313486231570e+308", None),
        (np.float32, Channels(layers=(Layer(count=3, range=(0, 1), nan=0.0),)), "nan", None),
        (np.uint16, Channels(layers=(Layer(count=3, range=(0, 255)),)), "65535", [65535] * 3),
    ],
)
def test_what_is_declared_is_found_as_it_is_read_and_nothing_is_printed(
    kind, channels, declared, expected, tmp_path, capfd
):
    path = written(tmp_path / "a.tif", np.ones((4, 5, 3), kind), [*GEO, (42113, 2, 0, declared, True)])
    found = geotiff.no_data(path, channels)
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    channels.read(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("photometric", ["palette", "miniswhite"])
def test_of_colours_that_are_not_as_stored_none_is_declared(photometric, tmp_path):
    colours = {"colormap": np.full((3, 256), 2**15, np.uint16)} if photometric == "palette" else {}
    tags = [*GEO, (42113, 2, 0, "0", True)]
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((4, 5), np.uint8),
        photometric=photometric,
        extratags=tags,
        metadata=None,
        **colours,
    )
    assert PLAIN.read(tmp_path / "a.tif").min() > 0
    assert geotiff.no_data(tmp_path / "a.tif", PLAIN) is None


def test_an_image_of_nothing_is_predicted_as_that(run, tmp_path):
    nothing = written(tmp_path / "a.tif", np.zeros((20, 30, 3), np.uint8), [*GEO, *OF_THE_SOURCE])
    assert cli.main(["predict", str(run), str(nothing), "--out", str(tmp_path / "out")]) == 0
    assert (tifffile.imread(tmp_path / "out/mask/a.tif") == IGNORE).all()


def test_what_is_there_and_whole_is_kept_and_a_damaged_tile_is_made_again(run, tmp_path, capsys):
    written(tmp_path / "x.tif", noise(300, 280))
    words = [run, tmp_path / "x.tif", "--out", tmp_path / "out"]
    assert asked(*words) == asked(*words) == 0
    assert "1 there already" in capsys.readouterr().out
    mask = tmp_path / "out/mask/x.tif"
    before = mask.read_bytes()
    with tifffile.TiffFile(mask) as file:
        middle = file.pages.first.dataoffsets[0] + file.pages.first.databytecounts[0] // 2
    mask.write_bytes(before[:middle] + bytes([before[middle] ^ 255]) + before[middle + 1 :])
    assert asked(*words) == 0
    assert "1 predicted" in capsys.readouterr().out
    assert mask.read_bytes() == before


def test_pseudo_labels_of_georeferenced_images_are_a_data_set_too(run, tmp_path, capsys):
    for n in range(3):
        written(tmp_path / f"in/{n}.tif", noise(64, 96, seed=n), GEO)
    how = ["--save", "mask,image", "--min-confidence", "0.01"]
    assert asked(run, tmp_path / "in", "--out", tmp_path / "out", *how) == 0
    assert "3 pseudo-labels" in capsys.readouterr().out
    splits = load([str(ROOT / "configs/demo.yaml"), str(tmp_path / "out/data.yaml"), "out=x"]).data.build()
    assert (len(splits.labelled) + len(splits.val), len(splits.unlabelled)) == (3, 3)
    for pool in (splits.labelled, splits.val):
        for i in range(len(pool)):
            name = Path(pool.name(i)).name
            assert np.array_equal(pool.image(i), np.array(Image.open(tmp_path / "in" / name)))
            assert np.array_equal(pool.label(i), np.array(Image.open(tmp_path / "out/mask" / name)))


def test_other_tiffs_are_predicted_as_pictures(run, tmp_path):
    written(tmp_path / "x.tif", noise(40, 50), [])
    assert asked(run, tmp_path / "x.tif", "--out", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out/mask").iterdir()] == ["x.png"]


def test_a_cut_off_geotiff_is_listed_and_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "LARGE", 1)
    path = written(tmp_path / "x.tif", noise(200, 200), rowsperstrip=8, compression="zlib")
    with tifffile.TiffFile(path) as file:
        last = file.pages.first.dataoffsets[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[:last] + bytes(20) + whole[last + 20 :])
    assert asked(run, path, "--out", tmp_path / "out") == 1
    (line,) = map(json.loads, (tmp_path / "out/errors.jsonl").read_text().splitlines())
    assert "x.tif: not a whole image" in line["error"]
    assert not list((tmp_path / "out").rglob("*.tif"))


@pytest.mark.parametrize(
    ("values", "channels", "options"),
    [
        (noise(20, 20, 3), Channels(layers=(Layer(), Layer(suffix=".npy", count=1))), {}),
        (noise(20, 20, 4), PLAIN, {}),
        (noise(20, 20, 3, np.uint16), PLAIN, {}),
    ],
    ids=["another file", "other bands", "more bits"],
)
def test_what_must_be_read_as_a_whole_is_not_read_in_bands(values, channels, options, tmp_path):
    with in_bands(written(tmp_path / "x.tif", values, **options), channels, 1) as bands:
        assert bands is None


def test_images_of_a_runs_own_pool_keep_their_georeference_too(tmp_path):
    for pool, count in (("labelled/images", 5), ("unlabelled", 2)):
        for n in range(count):
            written(tmp_path / f"data/{pool}/{n}.tif", noise(64, 64, seed=n))
    for n in range(5):
        path = tmp_path / f"data/labelled/masks/{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(64, 64, 1, seed=n)[..., 0] % 2).save(path)
    data = (
        f"data={{kind: folder, root: {tmp_path / 'data'}, classes: [a, b], val: 0.25, "
        "labelled: {images: labelled/images, masks: labelled/masks}, unlabelled: {images: unlabelled}}"
    )
    config = validate(Config, dump(tiny(tmp_path / "run", "steps=2")) | gather([data]))
    fit(config, quiet=True)
    assert asked(config.out, "--pool", "unlabelled", "--out", tmp_path / "out") == 0
    paths = sorted((tmp_path / "out/mask").rglob("*.tif"))
    assert len(paths) == 2
    assert all(tags_of(path)[34735] == KEYS for path in paths)


@pytest.mark.parametrize("least", [0, 2**26], ids=["on the disk", "in memory"])
def test_rows_come_back_as_they_went_with_what_is_around_them(least, tmp_path, monkeypatch):
    monkeypatch.setattr("mtseg.inference.rows.IN_MEMORY", least)
    values = noise(600, 90, 1)[..., 0]
    rows = Rows(100, tmp_path)
    for top in range(0, 600, 37):
        rows.add(values[top : top + 37], top=top + 300, left=4, around=7)
    rows.end(1000, around=7)
    expected = np.full((1000, 100), 7, np.uint8)
    expected[300:900, 4:94] = values
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(rows.strips())), expected)
    assert list(tmp_path.iterdir()) == []


def test_a_raster_that_fails_half_way_leaves_nothing(tmp_path):
    def strips():
        yield np.zeros((256, 10), np.uint8)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        rasters.write(tmp_path / "x.tif", strips(), (300, 10), ())
    assert list(tmp_path.iterdir()) == []


def test_gdal_finds_the_same_system_and_place(run, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "height": 80, "width": 70, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    place = rasterio.Affine(0.25, 0.1, 690_000, 0.05, -0.25, 5_334_000)  # turned, so that it is a matrix
    for name, crs, transform in (
        ("utm", "EPSG:32632", rasterio.transform.from_origin(690_000, 5_334_000, 0.5, 0.5)),
        ("swiss", "EPSG:2056", rasterio.transform.from_origin(2_600_000, 1_200_000, 0.1, 0.1)),
        ("turned", "EPSG:32632", place),
        ("own", "+proj=laea +lat_0=12.5 +lon_0=33.25 +datum=WGS84 +units=m", place),
    ):
        path = tmp_path / f"{name}.tif"
        with rasterio.open(path, "w", **profile, crs=crs, transform=transform, compress="deflate", nodata=0) as file:
            file.write(noise(80, 70).transpose(2, 0, 1))
        assert asked(run, path, "--out", tmp_path / name, "--save", "mask,overlay,confidence") == 0
        with rasterio.open(path) as source:
            for kind in ("mask", "overlay", "confidence"):
                with rasterio.open(tmp_path / name / kind / f"{name}.tif") as made:
                    assert made.crs == source.crs
                    assert made.transform == source.transform
                    assert made.bounds == source.bounds
                    assert made.nodata == (IGNORE if kind == "mask" else None)


@pytest.mark.slow
def test_a_geotiff_of_400_million_pixels_is_predicted_within_2_gigabytes(run, tmp_path):
    """More than is ever decoded at once; mask and overlay, in a process of its own."""
    side, tile = 20_000, 512
    tiles = (noise(tile, tile, seed=n % 5) for n in range((-(-side // tile)) ** 2))
    with tifffile.TiffWriter(tmp_path / "large.tif", bigtiff=True) as file:
        options = {"photometric": "rgb", "tile": (tile, tile), "compression": "zlib", "compressionargs": {"level": 1}}
        file.write(tiles, shape=(side, side, 3), dtype=np.uint8, extratags=GEO, metadata=None, **options)
    code = (
        "import sys\nfrom pathlib import Path\nfrom mtseg import cli\nassert cli.main(sys.argv[1:]) == 0\n"
        "print(Path('/proc/self/status').read_text())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "predict", run, tmp_path / "large.tif", "--out", tmp_path / "out", "--save",
         "mask,overlay"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    peak = re.search(r"VmHWM:\s+(\d+) kB", ran.stdout)
    assert peak is not None
    print(ran.stdout.splitlines()[0], "peak", int(peak[1]) * 1024)
    assert int(peak[1]) * 1024 < 2e9
    with tifffile.TiffFile(tmp_path / "out/mask/large.tif") as file:
        assert file.pages.first.shape == (side, side)
