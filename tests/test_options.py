"""Settings that are written as other commands write options: what the command answers is what it takes."""

import shlex
from pathlib import Path

import pytest
import yaml
from runs import TINY

from mtseg import cli

COMMANDS = {
    "train": ["train", "{config}", "out={out}", "--dry-run"],
    "compare": ["compare", "{config}", "out={out}", "--dry-run"],
    "doctor": ["doctor", "{config}"],
    "eval": ["eval", "{out}"],
    "export": ["export", "{out}"],
    "split": ["split", "{config}", "--labels", "1/2", "--out", "{out}"],
    "predict": ["predict", "{out}", "--out", "{out}/made", "--pool", "val"],
    "bench": ["bench", "step"],
}


@pytest.fixture
def words(tmp_path: Path) -> dict[str, list[str]]:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    return {name: [word.format(config=config, out=tmp_path / "out") for word in of] for name, of in COMMANDS.items()}


def answered(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that is printed for `arguments` that are refused."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--steps", "60"], "steps=60"),
        (["--steps=60"], "steps=60"),
        (["--weight", "2"], "method.weight=2"),
        (["--method.weight", "2"], "method.weight=2"),
        (["--num-workers=0"], "workers=0"),
        (["--log-every", "5"], "log_every=5"),
        (["--lr", "0.5", "--clip=2"], "optimizer.lr=0.5 or clip=2"),
        (["--views.crop", "[64, 64]"], "'views.crop=[64, 64]'"),
    ],
)
def test_a_setting_like_an_option_is_answered_with_its_word_which_the_command_takes(given, meant, words, capsys):
    command = words["train"]
    said = answered([*command, *given], capsys)
    assert said.endswith(f"unrecognized arguments: {' '.join(given)}; settings are words without dashes: {meant}")
    assert cli.main([*command, *shlex.split(meant.replace(" or ", " "))]) == 0


def test_a_key_of_several_parts_is_answered_with_each(words, capsys):
    said = answered([*words["train"], "--split", "test"], capsys)
    assert said.endswith(": data.split=test or eval.split=test")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_takes_settings_answers_so(command, words, capsys):
    said = answered([*words[command], "--workers", "0"], capsys)
    assert said.endswith("--set workers=0" if command == "predict" else "dashes: workers=0")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_is_no_setting_is_refused_without_advice(command, words, capsys):
    assert answered([*words[command], "--nonsense"], capsys).endswith("unrecognized arguments: --nonsense")


def test_a_key_apart_from_its_value_is_answered_with_the_word_that_the_command_takes(words, capsys):
    command = [*words["train"], "log_every", "5"]
    assert cli.main(command) == 1
    said = capsys.readouterr().err.strip()
    assert said.endswith("; a key and its value are one word, as in log_every=5")
    assert cli.main([*words["train"], said.rpartition(" ")[2]]) == 0
