"""What the README and the guides say exists; their commands run, at a tiny budget, and so does their Python."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import Program
from smalls import arrays
from test_small import svhn_tree
from trees import camvid, own

from mtseg import cli

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    short = block.replace('"steps=200"', '"steps=2", "data.val=2", "workers=0", "device=cpu"')
    assert short != block
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    Image.new("RGB", (53, 41), "green").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(short, space)
    assert space["prediction"].classes.shape == space["prediction"].confidence.shape == (41, 53)
    assert 0 <= float(capsys.readouterr().out.splitlines()[-1]) <= 1
    assert (tmp_path / "runs/api/config.yaml").is_file()


@pytest.mark.filterwarnings("error")
def test_the_loop_of_the_library_guide_learns(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for steps in (1, 25):
        short = block.replace("step in range(300)", f"step in range({steps})").replace("val=20", "val=4")
        assert short.count(f"step in range({steps})") == short.count("val=4") == 1
        exec(short, {})
    before, after = (float(line.split()[0]) for line in capsys.readouterr().out.splitlines())
    assert after > before + 5


# Laid on whatever a guide trains: two steps on small crops, without weights from elsewhere.
SHORT = [
    *("steps=2", "eval.every=2", "eval.gallery=1", "log_every=1", "checkpoint_every=2", "workers=0", "device=cpu"),
    *("model.weights=none", "views.crop=[48, 64]", "batch={labelled: 2, unlabelled: 2}"),
]
TRAINS = ("train", "compare", "doctor")


# The same for whole images, which are 60 of 32x32.
WHOLE = [
    *("steps=2", "eval.every=2", "eval.gallery=1", "log_every=1", "checkpoint_every=2", "workers=0", "device=cpu"),
    *("data.labels=20", "data.val=10", "model.width=4", "batch.labelled=2", "batch.unlabelled=6"),
]
LOOP = re.compile(r"for (\w+) in ([^;\n]+); do\s((?:(?!\bfor\b|\bdone\b).)*)done", re.DOTALL)  # one without loops in it


def written_out(block: str) -> str:
    """A block of a shell without continued lines, variables and loops; of over three turns of a loop, the first."""
    block = re.sub(r"\\\n\s*", "", block)
    for name, value in re.findall(r'(?m)^([A-Z]+)="([^"\n]*)"$', block):
        block = re.sub(rf"\${name}\b", lambda _, value=value: value, block)
    while loop := LOOP.search(block):
        name, values, work = loop[1], loop[2].split(), loop[3]
        turns = [work.replace(f"${name}", value) for value in (values if len(values) <= 3 else values[:1])]
        block = block[: loop.start()] + "\n".join(turns) + block[loop.end() :]
    return block


def commands(guide: Path) -> list[str]:
    """The lines of a guide's blocks that are commands."""
    fences = re.findall(r"(?m)^ *```(\w*)\n(.*?)^ *```", guide.read_text(), re.DOTALL)
    blocks = [written_out(block) for language, block in fences if language in ("", "bash")]
    lines = [line.strip() for block in blocks for line in re.split(r"\n|; ", block)]
    lines = [line.rstrip(";") for line in lines]
    return [line.removeprefix("srun ") for line in lines if re.match(r"(srun )?(python|make|pip|mtseg) ", line)]


def test_loops_are_written_out():
    block = "for s in 7 8; do a $s; done\nfor s in 7 8 9 6; do for v in x y; do\n  b $s \\\n c$v\ndone; done\nd"
    lines = [line.strip(" ;") for line in re.split(r"\n|; ", written_out(block))]
    assert [line for line in lines if line] == ["a 7", "a 8", "b 7 cx", "b 7 cy", "d"]


def test_variables_are_written_out():
    block = 'AS="x=[1,2] y=3"\nfor s in 7 8; do\n  a $AS $s $ASK\ndone'
    assert [line.strip() for line in written_out(block).splitlines()[1:] if line.strip()] == [
        "a x=[1,2] y=3 7 $ASK",
        "a x=[1,2] y=3 8 $ASK",
    ]


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Path:
    """A folder with what the guides' commands expect."""
    for name in ("configs", "tools", "datasets", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    own(tmp_path / "data/own")
    camvid(tmp_path / "PATH")
    (tmp_path / "data/cifar10").mkdir()
    (x, y), (x_test, y_test) = arrays(60, 0, 32, 10), arrays(10, 1, 32, 10)
    np.savez(tmp_path / "data/cifar10/cifar10.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    np.savez(tmp_path / "data/cifar10/zca.npz", mean=np.zeros(3072, np.float32), matrix=np.eye(3072, dtype=np.float32))
    for side, name in itertools.product(("train", "val"), ("cat", "dog")):
        (folder := tmp_path / "data/classes" / side / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (61, 47), "green").save(folder / f"{number}.png")
    svhn_tree(tmp_path / "data/svhn", {"train": 60, "test": 10, "extra": 30})
    for name in ("photos/a.jpg", "more/b.jpg", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (61, 47), "green").save(tmp_path / name)
    (tmp_path / "list.txt").write_text("c.png\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("guides", [GUIDES[:1], pytest.param(GUIDES, marks=pytest.mark.slow)], ids=["readme", "all"])
def test_every_command_of_the_guides_runs_in_their_order(guides, workshop):
    ran: list[str] = []
    for guide in [guides[0], *([ROOT / "docs/quickstart.md"] if len(guides) > 1 else []), *guides[1:]]:
        for line in (line for line in commands(guide) if line not in ran):
            words = [
                found
                for word in shlex.split(line, comments=True)
                for found in (sorted(map(str, Path().glob(word))) if "*" in word and "/*" in word else [word])
            ]
            if words[0] == "make":
                assert re.search(rf"(?m)^{words[1]}:", (ROOT / "Makefile").read_text()), line
            elif "torch.distributed.run" in words:
                # Those of one machine, slow as test_torchrun is; SHORT's two images are one for each process.
                if "--nnodes" not in words and len(guides) > 1:
                    here = [*words[1:3], "--local-addr", "127.0.0.1", *words[3:]]
                    subprocess.run([sys.executable, *here, *SHORT, "data.val=2"], cwd=workshop, check=True)
            elif prepares := re.fullmatch(r"datasets/(\w+)/prepare\.py", words[1]):
                options = (ROOT / prepares[0]).read_text()  # what it does asks for a connection: test_prepare.py
                assert all(f'"{word}"' in options for word in words[2:] if word.startswith("--")), line
            else:
                tool = re.fullmatch(r"tools/(\w+)\.py", words[1])
                assert tool, line
                scenes = "configs/demo.yaml" in words and not any(
                    "data" in word for word in words if word.endswith(".yaml")
                )
                small = any(re.search(r"recipe/(cifar10|svhn)", word) for word in words)
                more = WHOLE if small else [*SHORT, *(["data.val=2"] if scenes else [])]
                more = more if tool[1] in TRAINS else []
                assert cli.main([tool[1], *words[2:], *more]) == 0, line
            ran.append(line)
    assert (workshop / "exported/hf/model.safetensors").is_file()
    if len(guides) > 1:
        named = {line.split()[1] for line in ran}
        assert named >= {f"tools/{name}.py" for name in cli.COMMANDS if name != "bench"}
        assert (workshop / "runs/choice.html").is_file()


def test_the_notebook_is_whole_shows_pictures_and_runs(tmp_path, monkeypatch, capsys):
    import matplotlib

    text = (ROOT / "docs/demo.ipynb").read_text()
    book = json.loads(text)
    assert (book["nbformat"], {cell["cell_type"] for cell in book["cells"]}) == (4, {"markdown", "code"})
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"]) == 2
    assert not [
        word for word in ("/work", "/home", "/tmp", "Traceback") if word in re.sub(r'"image/png": ".*"', "", text)
    ]
    (tmp_path / "docs").mkdir()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path / "docs")
    matplotlib.use("Agg")
    space: dict = {}
    for cell in code:
        source = "".join(cell["source"])
        exec(source.replace('"steps=400"', '"steps=2", "data.val=3", "workers=0", "device=cpu"'), space)
    assert "mean confidence" in capsys.readouterr().out
    assert (tmp_path / "runs/notebook/report.html").is_file()
    try:
        import nbformat
    except ImportError:
        return
    nbformat.validate(nbformat.reads(text, as_version=4))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_link_of_a_guide_leads_somewhere(guide):
    for target in re.findall(r"\]\(([^)\s]+)\)", guide.read_text()):
        file, _, part = target.partition("#")
        path = (guide.parent / file).resolve() if file else guide
        assert path.exists(), target
        titles = re.findall(r"(?m)^#+ (.*)", path.read_text()) if part else []
        heads = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
        assert not part or part in heads, target


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_file_of_the_project_that_a_guide_names_is_there(guide):
    text = guide.read_text()
    named = re.findall(r"\b((?:mtseg|configs|tools|datasets|docs|tests)/[\w./-]*\w\.(?:py|yaml|md))\b", text)
    missing = [name for name in named if not (ROOT / name).is_file()]
    assert missing == []


def test_the_tour_names_every_module():
    tour = (ROOT / "CONTRIBUTING.md").read_text().partition("## A tour of the files")[2]
    rooms = [path.parent for path in (ROOT / "mtseg").glob("*/__init__.py") if path.parent.name not in ("bench", "cli")]
    modules = [path.name for folder in (ROOT / "mtseg", *rooms) for path in folder.glob("*.py")]
    assert [name for name in modules if not re.search(rf"[`/]{name}`", tour) and name != "__init__.py"] == []


def test_every_method_row_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in (ROOT / "configs/method").glob("*.yaml") if f"`{path.name}`" not in text] == []


def the_package_there(folder: Path, *commands: list[str]) -> None:
    """Run the commands, in a process of their own, with the package as it lies in `folder`."""

    def work() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mtseg"]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        from mtseg import cli

        assert Path(cli.__file__).is_relative_to(folder)
        assert [cli.main(words) for words in commands] == [0] * len(commands)

    program = Program(work, folder)
    assert program.ended() == 0, program.stderr


def test_the_new_method_of_the_guide_trains_as_it_stands_there(tmp_path):
    """Its part is put into a copy of the package, its row laid on the demo: two steps, and a consistency."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    part, _ = re.findall(r"```python\n(@part.*?)```", text, re.DOTALL)
    (row,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len((part + row).splitlines()) < 30
    shutil.copytree(ROOT / "mtseg", tmp_path / "mtseg", ignore=shutil.ignore_patterns("__pycache__"))
    targets = tmp_path / "mtseg" / "targets.py"
    before, union, after = re.split(r"(?m)^(Target = .*\n)", targets.read_text())
    assert set(re.findall(r"\w+", union)) < set(re.findall(r"\w+", part))  # as there, and one more
    targets.write_text(before + part + after)
    (tmp_path / "confident.yaml").write_text(row)
    words = [str(ROOT / "configs/demo.yaml"), "confident.yaml", "steps=2", "data.val=2", "workers=0", "device=cpu"]
    the_package_there(tmp_path, ["train", *words, "out=run"])
    assert "kind: confident" in (tmp_path / "run/config.yaml").read_text()


def test_the_new_network_of_the_guide_is_trained_scored_and_exported(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    _, part = re.findall(r"```python\n(@part.*?)```", text, re.DOTALL)
    (tag,) = re.findall(r"`(Annotated\[.*?\)\])` in the union", text)
    shutil.copytree(ROOT / "mtseg", tmp_path / "mtseg", ignore=shutil.ignore_patterns("__pycache__"))
    names = "from typing import Annotated, ClassVar, Literal\n\nfrom pydantic import Field\nfrom torch import nn\n"
    (tmp_path / "mtseg/models/plain.py").write_text(f"{names}\nfrom mtseg.part import part\n\n\n{part}")
    config = tmp_path / "mtseg/config.py"
    before, union, after = config.read_text().partition("Model = Annotated[\n")
    config.write_text(f"{before}from mtseg.models.plain import Plain\n\n{union}    {tag} | {after.lstrip()}")
    demo = [str(ROOT / "configs/demo.yaml"), "model={kind: plain}", "steps=2", "workers=0", "device=cpu"]
    small = ["data.val=2", "data.test=2", "eval.gallery=0", "out=run"]
    commands = [
        ["train", *demo, *small, "--dry-run"],
        ["train", *demo, *small],
        ["eval", "run"],
        ["export", "run", "--out", "handed", "--to", "torch"],
    ]
    the_package_there(tmp_path, *commands)
    assert (tmp_path / "handed/model.pt2").is_file()
