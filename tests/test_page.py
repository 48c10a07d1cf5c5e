"""The run's page: its curves, its classes, its gallery; what it may cost a run; how a browser sees it."""

import html
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Page, needs_chromium, widths
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from runs import tiny

from mtseg import cli
from mtseg.config import written
from mtseg.data.source import IGNORE
from mtseg.inference.restored import load, restored
from mtseg.results import run_page, runs_page, seen
from mtseg.results.charts import BOTTOM, HEIGHT, TOP, Curve, chart, short, thinned, ticks, told_apart
from mtseg.results.confusing import confusing
from mtseg.results.gallery import gallery
from mtseg.results.page import share
from mtseg.run.checkpoint import load_newest
from mtseg.run.logged import read
from mtseg.trainer import fit

SHOWING = ("eval.gallery=2", "data.val=5", "method.weight=1.0")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny(out, *SHOWING), quiet=True)
    return out


# -- curves ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(26.38, 26.45), (0, 1000), (-1e-4, 3e-4), (1e6, 1e6 + 3), (0.1, 99)])
def test_ticks_that_differ_are_told_apart(low, high):
    found = ticks(low, high)
    said = told_apart(found)
    assert len(set(said)) == len(found) > 1
    assert [float(text) for text in said] == pytest.approx(found, abs=(high - low) / 100)
    alike = len({short(value) for value in found}) < len(found)
    assert alike or said == [short(value) for value in found]


def test_a_score_that_hardly_moves_does_not_fill_its_chart():
    picture = chart("mIoU", [Curve("teacher", [(0, 0.26), (1, 0.2605)])], percent=True)
    (start, end) = (float(y) for y in re.search(r'd="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)"', picture).groups())
    assert 0 < start - end < 0.05 * (HEIGHT - TOP - BOTTOM)  # 0.05 points of two


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_within_the_range(low, width):
    high = low + max(width, abs(low) * 1e-6)
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    gap = (found[1] - found[0]) / 10 ** math.floor(math.log10(found[1] - found[0]) + 1e-6)
    assert min(abs(gap - nice) for nice in (1, 2, 5, 10)) < 1e-2
    room = 1e-6 * (high - low)
    assert all(low - room <= value <= high + room for value in found)


def test_a_long_curve_keeps_its_extremes_and_its_order_in_few_points():
    values = np.random.default_rng(0).normal(size=20_000)
    values[12_345], values[777] = 50, -40
    kept = thinned([(step, float(value)) for step, value in enumerate(values)])
    assert len(kept) <= 400
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert {(12_345, 50.0), (777, -40.0)} <= set(kept)
    assert all(value == values[step] for step, value in kept)


def test_a_curve_is_broken_where_a_value_is_missing_and_absent_where_all_are():
    points = [(0, 1.0), (1, 2.0), (2, None), (3, 4.0), (4, 5.0)]
    assert chart("x", [Curve("a", points)]).count("<path") == 2
    assert chart("x", [Curve("a", [(0, None)])]) == ""
    assert "-infinity" not in chart("one", [Curve("a", [(3, 0.0)])])


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 1.0],
        [1.0, 1.0, 1.0],
        [0.0],
        [0.97, 0.99],
        [0.001, 0.002],
        [0.999, 1.0000001],
        [0.2, 0.9],
        [2.5, 2.6],
        [-3.0],
    ],
)
def test_an_axis_in_percent_stays_within_0_and_100_and_so_do_its_curves(values):
    drawn = chart("x, %", [Curve("a", list(enumerate(values)), values, values)], percent=True)
    shown = [float(text) for text in re.findall(r'text-anchor="end">([-\d.e+]+)</text>', drawn)][: drawn.count("<line")]
    assert all(0 <= value <= 100 for value in shown)
    heights = [
        float(y) for path in re.findall(r' d="([^"]+)"', drawn) for y in re.findall(r"[ML][\d.]+ (-?[\d.]+)", path)
    ]
    assert len(heights) >= 1
    assert all(TOP - 0.06 <= y <= HEIGHT - BOTTOM + 0.06 for y in heights)


@pytest.mark.parametrize(("value", "width"), [(0.0, 0.0), (0.5, 50.0), (1.0, 100.0), (1.2, 100.0), (-0.1, 0.0)])
def test_a_bar_is_never_longer_than_its_track_and_its_number_is_what_it_is(value, width):
    cell = share(value)
    assert f"width: {width:.1f}%" in cell
    assert f"{100 * value:.2f} %" in cell


@pytest.mark.parametrize("classes", [1, 3, 8])
def test_the_effective_number_of_equally_frequent_classes_is_their_number(classes):
    assert run_page._spread([1 / classes] * classes + [0.0] * 4) == pytest.approx(classes)


# -- the page of a run -------------------------------------------------------------------------------------------------


def test_the_page_has_the_last_scores_and_asks_for_nothing_from_elsewhere(run):
    text = (run / "report.html").read_text()
    page, last = Page(text), read(run)[-1]
    assert page.open == []
    assert len(page.links) == 2 * 6  # a gallery of two
    assert all(link.startswith("data:image/") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not [word for word in ("http:", "https:", "url(", "@import") if word in text]
    for network in ("student", "teacher"):
        assert f"{100 * last[f'val_{network}']['mIoU']:.2f} %" in page.text
        for value in last[f"val_{network}"]["IoU"].values():
            assert ("absent" if value is None else f"{100 * value:.2f} %") in page.text
    for said in ("weight of the consistency", "EMA decay", "learning rate", "steps: 4", "torch", "worst images"):
        assert said in page.text
    assert json.loads((run / "splits.json").read_text())["val"]["sha256"][:12] in page.text


def test_the_page_is_called_as_its_folder_and_the_one_that_holds_it(run, tmp_path):
    """The runs of all comparisons have the same names."""
    shutil.copytree(run, tmp_path / "of <two>/method")
    shown = run_page.page(tmp_path / "of <two>/method")
    assert "<title>mtseg: of &lt;two&gt;/method</title>" in shown
    assert "<h1>of &lt;two&gt;/method</h1>" in shown


def test_the_gallery_has_the_images_whose_teacher_is_worst_and_what_the_networks_say(run):
    _, splits, _, step = restored(run)
    scored = {}
    for index in range(len(splits.val)):
        said, label = load(run).predict(splits.val.image(index)).classes, splits.val.label(index)
        ious = []
        for k in range(len(splits.classes)):
            union = ((said == k) | (label == k))[label != IGNORE].sum()
            if union:
                ious.append(((said == k) & (label == k))[label != IGNORE].sum() / union)
        scored[splits.val.name(index)] = float(np.mean(ious))
    found = seen.kept(run)
    assert found["step"] == step
    worst = sorted(scored, key=lambda name: scored[name])[:2]
    assert [row["name"] for row in found["gallery"]] == worst
    assert [row["teacher"] for row in found["gallery"]] == pytest.approx([scored[name] for name in worst])
    assert np.sum(found["confusion"]["teacher"]) == sum((splits.val.label(n) != IGNORE).sum() for n in range(5))


def test_panels_show_where_the_networks_differ(run):
    config, splits, networks, _ = restored(run, ["eval.gallery=1"])
    row = seen._panels(config, splits, splits.val, 0, networks)
    image, label = splits.val.image(0), splits.val.label(0)
    student, teacher = (load(run, network=name).predict(image).classes for name in ("student", "teacher"))
    differ = (row[seen.DIFFER] == seen.MARK).all(-1)
    assert (differ == ((student != teacher) & (label != IGNORE))).all()
    assert (row["teacher"] == splits.palette[teacher]).all()


def test_what_is_drawn_changes_nothing_of_the_run(run, tmp_path):
    fit(tiny(tmp_path / "plain", *SHOWING, "eval.gallery=0"), quiet=True)
    assert (tmp_path / "plain/metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    ours, theirs = (load_newest(folder / "checkpoints")[0].teacher for folder in (run, tmp_path / "plain"))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert "Where the teacher is worst" not in (tmp_path / "plain/report.html").read_text()


@pytest.mark.parametrize(("module", "what"), [(seen, "gallery"), (seen, "keep"), (run_page, "page")])
def test_a_page_that_cannot_be_drawn_is_said_once_and_the_run_ends_well(module, what, tmp_path, monkeypatch, capsys):
    def refuse(*args, **more):
        raise RuntimeError("no ink")

    monkeypatch.setattr(module, what, refuse)
    assert fit(tiny(tmp_path / "run", "eval.gallery=1"))["teacher"]["mIoU"] is not None
    assert capsys.readouterr().out.count("no ink") == 1
    assert load_newest(tmp_path / "run/checkpoints")[0].step == 4


def test_the_page_is_refreshed_at_each_evaluation_and_when_the_run_is_stopped(tmp_path, monkeypatch):
    drawn = []
    refresh = run_page.refresh
    monkeypatch.setattr(run_page, "refresh", lambda *args: (refresh(*args), drawn.append(read(args[0])[-1]["step"])))
    fit(tiny(tmp_path / "run", "steps=5", "eval.every=2"), quiet=True)
    assert drawn == [2, 4, 5]
    out, batches = tmp_path / "stopped", []
    monkeypatch.setattr(run_page, "refresh", refresh)
    from mtseg import trainer

    whole = trainer._batches
    monkeypatch.setattr(trainer, "_batches", lambda *a, **m: (batches.append(b) or b for b in whole(*a, **m)))

    def stop(*_: object) -> None:
        if batches:
            raise ValueError("stop")

    monkeypatch.setattr(trainer, "stop_if_asked", stop)
    with pytest.raises(ValueError, match="stop"):
        fit(tiny(out), quiet=True)
    assert "1 of 4" in (out / "report.html").read_text()


def test_a_pages_file_that_is_damaged_leaves_its_part_out(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for name in (seen.FILE, "timings.jsonl", "versions.json", "splits.json"):
        (copy / name).write_bytes(b"[[[\xff")
    assert cli.main(["report", str(copy)]) == 0
    page = Page((copy / "report.html").read_text())
    assert "mIoU on val" in page.text
    assert "worst images" not in page.text
    assert page.links == []


HARD = ("method.target={kind: hard, threshold: 0.99}", "method.distance={kind: cross_entropy}")


ALONE = ("method.branches=[]",)  # nothing to look at


@pytest.mark.parametrize("words", [ALONE, (), HARD, (*HARD, "steps=24", "eval.every=4", "optimizer.lr=0.5")], ids=len)
def test_the_page_says_what_the_trainer_said_to_look_at_and_when(words, tmp_path, capsys):
    fit(tiny(tmp_path / "run", *words))
    told, step = [], 0
    for line in capsys.readouterr().out.splitlines():
        step = int(line.partition("/")[0].removeprefix("step ")) if line.startswith("step ") else step
        if line.startswith("look: "):
            told.append((step, line.removeprefix("look: ")))
    text = (tmp_path / "run" / "report.html").read_text()
    shown = re.findall(r"<b>look</b>, at step (\d+): (.*?)</p>", text)
    assert [(int(at), html.unescape(sentence)) for at, sentence in shown] == told
    assert bool(told) == (words != ALONE)


def test_what_is_not_finite_on_the_way_hides_nothing_that_is_looked_at(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    lines = [line | {"train/kept": 0.0} if "train/kept" in line else line for line in read(copy)]
    lines[0]["train/loss_cons"] = None
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["report", str(copy)]) == 0
    assert "at step 4: under 1 % of the pixels are kept" in (copy / "report.html").read_text()


def test_the_classes_shares_of_recent_targets_and_labels_are_all_of_them_though_steps_kept_nothing(tmp_path):
    folder = Path(made(tmp_path / "run", 0, [0.1] * 6))
    nothing = {"train/kept": 0.0, "train/target_share": [0.0] * 3}
    lines = [line | (nothing if "train/kept" in line and line["step"] % 20 else {}) for line in read(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["report", str(folder)]) == 0
    table = (folder / "report.html").read_text().partition("of recent labels")[2].partition("</table>")[0]
    cells = [[float(v) for v in re.findall(r"([\d.]+) %", row)] for row in table.split("<tr>")[1:]]
    assert len(cells) == 3
    assert np.sum(cells, axis=0)[-2:] == pytest.approx([100, 100], abs=0.02)


def test_what_eval_scored_is_in_the_page_with_all_it_depends_on(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert "eval_test" not in (copy / "report.html").read_text()
    assert cli.main(["eval", str(copy), "eval.split=test"]) == 0
    assert cli.main(["eval", str(copy), "--network", "student", "--at", "2"]) == 0
    text = (copy / "report.html").read_text()
    for name, networks in (("eval_test.json", ("teacher", "student")), ("eval_val_2_student.json", ("student",))):
        found = json.loads((copy / name).read_text())
        said = text.partition(f"<th>mIoU on {found['split']}, {name}</th><td>")[2].partition("</td>")[0]
        assert all(f"{network} {100 * found[network]['mIoU']:.2f} %" in said for network in networks)
        assert ("teacher" in said) == ("teacher" in networks)
        assert f"step {found['step']} ({found['at']}), {found['images']} {found['split']} images" in said
        assert found["sha256"][:12] in said
        assert "trained on since" not in said
    assert cli.main(["train", str(copy / "config.yaml"), f"out={copy}", "steps=6", "accept_changes=[steps]"]) == 0
    text = (copy / "report.html").read_text()
    assert "; the run has trained on since" in text.partition("eval_test.json</th><td>")[2].partition("</td>")[0]
    assert "trained on since" not in text.partition("eval_val_2_student.json</th><td>")[2].partition("</td>")[0]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"student": {"mIoU": "x"}, "step": 1}', '{"teacher": 3}', "\ud800"]
)
def test_a_damaged_file_of_scores_is_left_out_of_the_page(content, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "eval_test.json").write_bytes(content.encode(errors="surrogatepass"))
    assert cli.main(["report", str(copy)]) == 0
    assert "eval_test" not in (copy / "report.html").read_text()


def test_shares_of_the_matrix_are_of_the_labelled_pixels_and_the_costliest_pair_is_first():
    text = "".join(confusing([[6, 2, 0], [30, 60, 10], [0, 0, 0]], ["<b>", "b", "c"]))
    table, pairs = text.split("<h3>The pairs that cost most pixels</h3>")
    assert re.findall(r">(\d+)</td>", table) == ["75", "25", "30", "60", "10"]
    assert "<b>" not in text
    rows = [row.count("<td") for row in pairs.split("<tr>")[2:]]
    assert rows == [3, 3, 3]
    assert "Sorted by the number of pixels, the most first" in Page(pairs).text
    assert Page(pairs).text.index("30.00 %") < Page(pairs).text.index("10.00 %")


# -- several runs ------------------------------------------------------------------------------------------------------


def made(folder: Path, seed: int, teacher: list[float], *words: str, classes: int = 3) -> str:
    """A run's folder as it would be after these evaluations."""
    folder.mkdir(parents=True)
    config = tiny(folder, f"seed={seed}", f"data.seed={seed}", f"steps={10 * len(teacher)}", "eval.every=10", *words)
    (folder / "config.yaml").write_text(written(config))
    names = [f"class {n} <i>" for n in range(classes)]
    draw = np.random.default_rng(seed)
    lines = []
    for n, value in enumerate(teacher, 1):
        shares = {f"train/{key}_share": draw.dirichlet(np.ones(classes)).tolist() for key in ("target", "label")}
        lines.append({"step": 10 * n, "train/loss": 1 / n, "train/loss_sup": 0.5 / n, "train/kept": 0.5, **shares})
        each = dict.fromkeys(names, value)
        scores = {"mIoU": value, "IoU": each, "accuracy": each, "ECE": 0.1}
        mious = {f"val_{network}/mIoU": value for network in ("student", "teacher")}
        lines.append({"step": 10 * n, **mious, "val_student": scores, "val_teacher": scores})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    colours = [bytes(draw.integers(0, 256, 3, dtype=np.uint8)).hex() for _ in names]
    (folder / "classes.json").write_text(json.dumps({"classes": names, "palette": colours}))
    counts = draw.integers(0, 1000, (classes, classes)).tolist()
    (folder / seen.FILE).write_text(json.dumps({"confusion": {"teacher": counts}, "gallery": []}))
    return str(folder)


def test_several_runs_have_their_mean_and_sample_deviation_over_seeds_and_what_differs(tmp_path):
    last = [0.50, 0.53, 0.61]
    runs = [made(tmp_path / "ours" / str(seed), seed, [0.2, 0.9, value]) for seed, value in enumerate(last)]
    other = made(tmp_path / "other" / "0", 0, [0.3, 0.4, 0.35], "method.weight=9.0")
    assert cli.main(["report", *runs, other]) == 0
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert f"{100 * np.mean(last):.1f} +- {100 * np.std(last, ddof=1):.1f}" in page.text
    assert "90.00 at 20" in page.text
    assert "method.weight: 2.0 -> 9.0" in page.text
    assert "other/0" in page.text
    teacher = text.split("mIoU of the teacher, %</h3>")[1].split("</figure>")[0]
    assert (teacher.count("<path"), teacher.count("<polygon")) == (2, 1)  # three seeds are a mean in a band


def test_runs_on_other_images_are_not_meaned_and_the_first_of_equal_scores_is_the_best(tmp_path):
    runs = [made(tmp_path / str(seed), seed, [0.5, 0.6, 0.6], "data.seed=0") for seed in (0, 1)]
    assert cli.main(["report", *runs, "--out", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text()
    assert "Mean and sample deviation over seeds" in page
    assert "60.00 at 20" in page
    for run, images in zip(runs, ("a", "b"), strict=True):
        (Path(run) / "splits.json").write_text(json.dumps({"name": "own", "val": {"sha256": 64 * images}}))
    assert cli.main(["report", *runs, "--out", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text()
    assert "Mean and sample deviation over seeds" not in page
    assert "images of val: aaaaaaaaaaaa" in page


def test_runs_that_are_not_finished_and_seeds_that_are_there_twice_are_not_meaned(tmp_path):
    """One stopped at the first of three scores, another of three seeds; and two of one seed."""
    runs = [made(tmp_path / "ours" / str(seed), seed, [0.2, 0.3, value]) for seed, value in enumerate([0.5, 0.7, 0.9])]
    stopped = Path(runs[2]) / "metrics.jsonl"
    stopped.write_text(stopped.read_text().splitlines()[0] + "\n")
    assert cli.main(["report", *runs, "--out", str(tmp_path / "stopped.html")]) == 0
    text = Page((tmp_path / "stopped.html").read_text()).text
    assert f"60.0 +- {np.std([50, 70], ddof=1):.1f}" in text
    assert "Without runs that are not finished" in text
    again = made(tmp_path / "again" / "0", 0, [0.2, 0.3, 0.9])
    assert cli.main(["report", *runs[:2], again, "--out", str(tmp_path / "twice.html")]) == 0
    text = Page((tmp_path / "twice.html").read_text()).text
    assert "+-" not in text
    assert "of which a seed is there twice" in text


def test_runs_of_one_seed_say_that_their_data_have_others(tmp_path):
    words = {"a": ["data.seed=0"], "b": ["data.seed=5", "method.weight=9.0"]}
    runs = [made(tmp_path / name, 0, [0.5], *said) for name, said in words.items()]
    assert cli.main(["report", *runs, "--out", str(tmp_path / "both.html")]) == 0
    assert "data.seed: 0 -> 5" in Page((tmp_path / "both.html").read_text()).text


def test_a_run_beside_the_root_of_the_disk_has_a_name_of_its_own(tmp_path, monkeypatch):
    places = {Path(made(tmp_path / name, 0, [0.5])): Path(place) for name, place in (("a", "/one"), ("b", "/data/two"))}
    monkeypatch.setattr(Path, "resolve", lambda self: places[self])
    page = runs_page.page(list(places))
    assert all(f">{name}<" in page for name in ("one", "data/two"))


@pytest.mark.parametrize(
    ("out", "page"),
    [
        ("pages", "pages/report.html"),
        ("a/b.c", "a/b.c/report.html"),
        ("a/all.html", "a/all.html"),
        (".", "report.html"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_out_is_a_folder_as_elsewhere_unless_it_ends_as_a_page_does(
    several, out, page, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    runs = [str(run)]
    if several:
        runs.append(str(shutil.copytree(run, tmp_path / "runs/other")))
    assert cli.main(["report", *runs, "--out", out]) == 0
    assert capsys.readouterr().out == f"written to {page}\n"
    assert (tmp_path / page).read_text().startswith("<!doctype html>")


def test_a_run_named_twice_is_not_compared_with_itself(tmp_path, capsys):
    folder = made(tmp_path / "a", 0, [0.5])
    assert cli.main(["report", folder, f"{folder}/../a"]) == 1
    assert "named twice" in capsys.readouterr().err


# -- in a browser ------------------------------------------------------------------------------------------------------


def test_a_page_of_200_evaluations_and_150_classes_stays_small(tmp_path):
    folder = made(tmp_path / "run", 0, (np.linspace(0.1, 0.6, 200)).tolist(), classes=150)
    assert cli.main(["report", folder]) == 0
    assert (tmp_path / "run/report.html").stat().st_size < 400_000
    assert "class 149 <i>" in Page((tmp_path / "run/report.html").read_text()).text


@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_pages_within_the_window_and_has_nothing_to_say(width, run, tmp_path):
    large = made(tmp_path / "large", 0, (np.linspace(0.1, 0.6, 200)).tolist(), classes=150)
    small = made(tmp_path / "small", 1, [0.1, 0.2])
    assert cli.main(["report", large]) == 0
    assert cli.main(["report", large, small, "--out", str(tmp_path / "both.html")]) == 0
    assert CHROMIUM is not None
    for path in (run / "report.html", tmp_path / "large/report.html", tmp_path / "both.html"):
        wide, broken, said = widths(path, width, tmp_path)
        assert (wide, broken, said) == (width, 0, []), path


# -- the picture of a comparison ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [False, True])
def test_the_picture_names_its_images_and_explains_white_where_there_is_any(ignored, run, tmp_path, monkeypatch):
    config, splits, networks, _ = restored(run)
    names = ["short.png", f"{'long/' * 20}end.png"]
    label = np.where(splits.val.label(0) == IGNORE, 0, splits.val.label(0))
    label[:3] = IGNORE if ignored else 0

    class Pool:
        def __len__(self) -> int:
            return 2

        def name(self, index: int) -> str:
            return names[index]

        def image(self, index: int) -> np.ndarray:
            return splits.val.image(0)

        def label(self, index: int) -> np.ndarray:
            return label

    drawn = []
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda canvas, path: drawn.append(canvas.figure))
    gallery(tmp_path / "a.png", splits, Pool(), networks=networks, views=config.views)
    (figure,) = drawn
    said = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert said[0] == names[0]
    assert said[1].startswith("...")
    assert names[1].endswith(said[1].removeprefix("..."))
    assert len(said[1]) < len(names[1])
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == [*splits.classes, *(["no class"] if ignored else [])]


def test_each_row_of_the_picture_is_as_high_as_its_image(run, tmp_path, monkeypatch):
    config, splits, networks, _ = restored(run)
    sizes = [(96, 32), (32, 96), (64, 64)]

    class Pool:
        def __len__(self) -> int:
            return len(sizes)

        def name(self, index: int) -> str:
            return str(index)

        def image(self, index: int) -> np.ndarray:
            return np.zeros((*sizes[index], 3), np.uint8)

        def label(self, index: int) -> np.ndarray:
            return np.zeros(sizes[index], np.uint8)

    drawn = []
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda canvas, path: drawn.append(canvas))
    gallery(tmp_path / "a.png", splits, Pool(), networks=networks, views=config.views)
    drawn[0].draw()
    figure = drawn[0].figure
    cells = np.array([axis.get_position(original=True).size for axis in figure.axes]) * figure.get_size_inches()
    by_row = cells.reshape(len(sizes), -1, 2)
    for (height, width), row in zip(sizes, by_row, strict=True):
        assert row[:, 1] / row[:, 0] == pytest.approx(height / width, rel=0.2)
