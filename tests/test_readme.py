"""What the README and the guides say exists; their commands run, at a tiny budget, and so does their Python."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from trees import camvid, own

from mtseg import cli

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_python_of_the_readme_runs(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    short = block.replace('"steps=200"', '"steps=2", "data.val=2", "workers=0", "device=cpu"')
    assert short != block
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    Image.new("RGB", (53, 41), "green").save(tmp_path / "photo.jpg")
    check = "\nassert prediction.classes.shape == prediction.confidence.shape == (41, 53)"
    ran = subprocess.run([sys.executable, "-c", short + check], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert 0 <= float(ran.stdout.splitlines()[-1]) <= 1
    assert (tmp_path / "runs/api/config.yaml").is_file()


# Laid on whatever a guide trains: two steps on small crops, without weights from elsewhere.
SHORT = [
    *("steps=2", "eval.every=2", "eval.gallery=1", "log_every=1", "checkpoint_every=2", "workers=0", "device=cpu"),
    *("model.weights=none", "views.crop=[48, 64]", "batch={labelled: 2, unlabelled: 2}"),
]
TRAINS = ("train", "compare", "doctor")


def commands(guide: Path) -> list[str]:
    """The lines of a guide's blocks that are commands, loops written out."""
    blocks = re.findall(r"(?m)^ *```(?:bash)?\n(.*?)^ *```", guide.read_text(), re.DOTALL)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    found = []
    for line in lines:
        loop = re.fullmatch(r"for (\w+) in (.*?); do (.*); done", line)
        found += [loop[3].replace(f"${loop[1]}", value) for value in loop[2].split()] if loop else [line]
    return [line.removeprefix("srun ") for line in found if re.match(r"(srun )?(python|make|pip|mtseg) ", line)]


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Path:
    """A folder with what the guides' commands expect."""
    for name in ("configs", "tools", "datasets", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    own(tmp_path / "data/own")
    camvid(tmp_path / "PATH")
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
            words = shlex.split(line, comments=True)
            if words[0] == "make":
                assert re.search(rf"(?m)^{words[1]}:", (ROOT / "Makefile").read_text()), line
            elif "torch.distributed.run" in words:
                # Those of one machine, slow as test_torchrun is; SHORT's two images are one for each process.
                if "--nnodes" not in words and len(guides) > 1:
                    here = [*words[1:3], "--local-addr", "127.0.0.1", *words[3:]]
                    subprocess.run([sys.executable, *here, *SHORT, "data.val=2"], cwd=workshop, check=True)
            else:
                tool = re.fullmatch(r"tools/(\w+)\.py", words[1])
                assert tool, line
                scenes = "configs/demo.yaml" in words and "configs/data/own.yaml" not in words
                more = [*SHORT, *(["data.val=2"] if scenes else [])] if tool[1] in TRAINS else []
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


def test_every_method_row_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in (ROOT / "configs/method").glob("*.yaml") if f"`{path.name}`" not in text] == []


def test_the_new_method_of_the_guide_trains_as_it_stands_there(tmp_path):
    """Its part is put into a copy of the package, its row laid on the demo: two steps, and a consistency."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (part,) = re.findall(r"```python\n(@part.*?)```", text, re.DOTALL)
    (row,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len((part + row).splitlines()) < 30
    shutil.copytree(ROOT / "mtseg", tmp_path / "mtseg", ignore=shutil.ignore_patterns("__pycache__"))
    targets = tmp_path / "mtseg" / "targets.py"
    before, union, after = re.split(r"(?m)^(Target = .*\n)", targets.read_text())
    assert set(re.findall(r"\w+", union)) < set(re.findall(r"\w+", part))  # as there, and one more
    targets.write_text(before + part + after)
    (tmp_path / "confident.yaml").write_text(row)
    words = [str(ROOT / "configs/demo.yaml"), "confident.yaml", "steps=2", "data.val=2", "workers=0", "device=cpu"]
    code = f"from mtseg.cli import main; raise SystemExit(main({['train', *words, 'out=run']!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "kind: confident" in (tmp_path / "run/config.yaml").read_text()
