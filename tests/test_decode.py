"""Image and mask files are read exactly, or refused with the file, the rule and the remedy."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from mtseg.data import decode
from mtseg.data.damaged import MAX_PIXELS
from mtseg.data.decode import read_image, read_mask, read_values, size_of, turned

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def png_of_size(path: Path, width: int, height: int) -> Path:
    """A PNG whose header says this size, with hardly any data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    return path


# Images ---------------------------------------------------------------------------------------------------------------


def test_rgb_grey_one_bit_and_palette_images_are_read_exactly(tmp_path):
    palette = Image.fromarray(GREY)
    palette.putpalette([c for i in range(256) for c in (i, 255 - i, i // 2)])
    inks = np.array([(i, 255 - i, i // 2) for i in range(256)], np.uint8)
    bits = Image.fromarray(GREY > 127)
    for picture, wanted in (
        (Image.fromarray(PIXELS), PIXELS),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=2)),
        (palette, inks[GREY]),
        (bits, np.repeat((GREY > 127)[..., None], 3, axis=2) * np.uint8(255)),
    ):
        found = read_image(saved(tmp_path / "image.png", picture))
        assert found.dtype == np.uint8
        assert found.flags.writeable
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_off_anywhere_is_refused_by_name(progressive, tmp_path):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    path = saved(tmp_path / "image.jpg", Image.fromarray(smooth), quality=90, progressive=progressive)
    whole = path.read_bytes()
    for length in [0, 1, 10, *range(100, len(whole) - 2, 97), len(whole) - 20]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{path}: not a whole image"):
            read_image(path)


def test_a_process_that_accepts_truncated_files_is_stopped(tmp_path, monkeypatch):
    path = saved(tmp_path / "image.jpg", Image.fromarray(PIXELS))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES = False"):
        read_image(path)


def test_a_png_cut_off_anywhere_is_refused_by_name(tmp_path):
    path = saved(tmp_path / "image.png", Image.fromarray(PIXELS))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 40, 50):
        path.write_bytes(whole[:length])
        for read in (read_image, read_mask):
            with pytest.raises(ValueError, match=f"{path}: not a whole image"):
                read(path)


def test_a_damaged_png_a_text_and_a_missing_file_are_refused_by_name(tmp_path):
    path = saved(tmp_path / "image.png", Image.fromarray(PIXELS))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=f"{path}: not a whole image"):
        read_image(path)
    path.write_text("no image")
    with pytest.raises(ValueError, match=f"{path}: not a whole image"):
        read_image(path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path}: no such file"):
        read_image(path)


@pytest.mark.parametrize("side", [12300, 13000, 60000])
def test_a_file_that_says_it_is_huge_is_refused_from_its_header(side, tmp_path):
    path = png_of_size(tmp_path / "bomb.png", side, side)
    assert side * side > MAX_PIXELS
    for read in (read_image, read_mask, size_of):
        with pytest.raises(ValueError, match=f"{path}: .*150 million are decoded: cut it into tiles"):
            read(path)


def test_a_size_under_the_cap_is_read_without_a_warning(tmp_path):
    assert size_of(png_of_size(tmp_path / "large.png", 10_000, 12_000)) == (12_000, 10_000)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_grey_of_more_than_8_bits_is_refused_and_not_clipped_to_white(dtype, tmp_path):
    deep = (GREY.astype(np.uint16) * 200).astype(dtype)
    path = saved(tmp_path / "deep.tif", Image.fromarray(deep))
    with pytest.raises(ValueError, match=f"{path}: a grey image of more than 8 bits .*save it with 8 bits"):
        read_image(path)
    png = saved(tmp_path / "deep.png", Image.fromarray(deep.astype(np.uint16)))
    with pytest.raises(ValueError, match=f"{png}: a grey image of more than 8 bits"):
        read_image(png)


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    for pixels in (PIXELS, GREY[..., None]):
        opaque = np.concatenate([pixels, np.full((12, 20, 1), 255, np.uint8)], axis=2)
        assert np.array_equal(
            read_image(saved(tmp_path / "a.png", Image.fromarray(opaque))), pixels + np.zeros((1, 1, 3), np.uint8)
        )
        opaque[3, 4, -1] = 200
        path = saved(tmp_path / "b.png", Image.fromarray(opaque))
        with pytest.raises(ValueError, match=f"{path}: has transparent pixels .alpha down to 200"):
            read_image(path)
    keyed = saved(tmp_path / "c.png", Image.fromarray(GREY), transparency=int(GREY[0, 0]))
    with pytest.raises(ValueError, match="transparent"):
        read_image(keyed)


def test_other_colour_models_are_refused(tmp_path):
    path = saved(tmp_path / "print.jpg", Image.fromarray(PIXELS).convert("CMYK"))
    with pytest.raises(ValueError, match=f"{path}: its colours are CMYK.*convert it to RGB"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_neither_images_nor_masks(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for read, pixels in ((read_image, PIXELS), (read_mask, GREY)):
        path = saved(tmp_path / "turned.png", Image.fromarray(pixels), exif=exif)
        assert np.array_equal(read(path), pixels)
        assert size_of(path) == (12, 20)
        assert turned(path) == (orientation >= 5)


# Masks ----------------------------------------------------------------------------------------------------------------


def test_masks_keep_their_raw_values(tmp_path):
    palette = Image.fromarray(GREY)
    palette.putpalette([255 - c for c in range(256) for _ in range(3)])
    deep = GREY.astype(np.uint16) * 257
    for picture, wanted in (
        (palette, GREY),
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(deep), deep),
        (Image.fromarray(GREY > 127), (GREY > 127).astype(np.uint8)),
        (Image.fromarray(PIXELS), PIXELS),
        (Image.fromarray(np.stack([GREY, np.full_like(GREY, 255)], axis=2)), GREY),
    ):
        found = read_mask(saved(tmp_path / "mask.png", picture))
        assert np.issubdtype(found.dtype, np.integer)
        assert np.array_equal(found, wanted)


def test_a_palette_of_few_bits_gives_indices(tmp_path):
    few = Image.fromarray(GREY % 4)
    few.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    assert np.array_equal(read_mask(saved(tmp_path / "few.png", few, bits=2)), GREY % 4)


def test_a_jpeg_and_a_transparent_or_float_mask_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mask\.jpg: JPEG changes the values of a mask"):
        read_mask(saved(tmp_path / "mask.jpg", Image.fromarray(GREY)))
    with pytest.raises(ValueError, match="transparent"):
        read_mask(saved(tmp_path / "mask.png", Image.fromarray(np.stack([GREY, GREY], axis=2))))
    with pytest.raises(ValueError, match=r"mask\.tif: a mask is grey, palette or RGB, this is F"):
        read_mask(saved(tmp_path / "mask.tif", Image.fromarray(GREY.astype(np.float32))))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_high_images_are_read_in_strips_without_a_seam(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "AT_ONCE", 1000)
    shape = (5000, 3, 3) if mode == "RGB" else (5000, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "high.png")
    assert (read_image(tmp_path / "high.png") == (pixels if mode == "RGB" else pixels[..., None])).all()


@pytest.mark.parametrize(
    "how",
    [
        {"quality": 92},
        {"quality": 50, "progressive": True},
        {"quality": 90, "subsampling": 0},
        {"quality": 75, "subsampling": 1, "optimize": True},
        {"quality": 90, "keep_rgb": True},
    ],
)
def test_a_photographs_pixels_are_opencvs_to_the_bit(how, tmp_path):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (9, 11, 3)).astype(np.uint8), (131, 67), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / "image.jpg"
    Image.fromarray(smooth).save(path, **how)
    assert np.array_equal(read_image(path), cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))


def packed_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of 2 or 4 bits, written chunk by chunk, as PIL writes none."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    h, w = values.shape
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = b"".join(b"\0" + np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in spread)
    head = struct.pack(">IIBBBBB", w, h, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [2, 4])
def test_masks_of_few_bits_hold_the_values_that_were_stored(bits, tmp_path):
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7), dtype=np.uint8)
    packed_png(tmp_path / "mask.png", values, bits)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), values)
    assert np.array_equal(read_values(tmp_path / "mask.png")[..., 0], values)


@pytest.mark.parametrize("kind", [np.uint8, np.bool_])
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_masks_in_tiff_hold_what_was_stored_whatever_is_white(kind, photometric, tmp_path):
    values = np.random.default_rng(0).integers(0, 2 if kind is np.bool_ else 256, (6, 16)).astype(kind)
    tifffile.imwrite(tmp_path / "mask.tif", values, photometric=photometric)
    assert np.array_equal(read_mask(tmp_path / "mask.tif"), values.astype(np.uint8))


@pytest.mark.parametrize(("name", "options"), [("mask.tif", {"compression": "jpeg"}), ("mask.webp", {"quality": 90})])
def test_compressions_that_change_a_mask_are_refused_in_any_file(name, options, tmp_path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / name, **options)
    with pytest.raises(ValueError, match="changes the values of a mask"):
        read_mask(tmp_path / name)
    Image.fromarray(np.full((16, 16, 3), 9, np.uint8)).save(tmp_path / "whole.webp", lossless=True)
    assert (read_mask(tmp_path / "whole.webp") == 9).all()


@pytest.mark.parametrize("read", [read_mask, read_image])
@pytest.mark.parametrize("name", ["pages.tif", "moving.png", "moving.webp"])
def test_files_of_several_pages_are_refused_with_their_number_and_not_taken_for_the_first(read, name, tmp_path):
    pages = [Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (1, 2, 3)]
    pages[0].save(
        tmp_path / name, save_all=True, append_images=pages[1:], **({} if "tif" in name else {"lossless": True})
    )
    with pytest.raises(ValueError, match=rf"{name}: holds 3 pages.*save the one that is meant"):
        read(tmp_path / name)


def test_a_tiff_with_smaller_copies_of_itself_is_one_page(tmp_path):
    whole = np.random.default_rng(0).integers(0, 5, (64, 96), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(whole, photometric="minisblack")
        for times in (2, 4):
            file.write(whole[::times, ::times], subfiletype=1, photometric="minisblack")
    assert np.array_equal(read_mask(tmp_path / "a.tif"), whole)
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.repeat(whole[..., None], 3, 2))


def test_a_cameras_jpeg_with_a_second_picture_in_it_is_its_first(tmp_path):
    first, second = (Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (10, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - 10).max() <= 2
