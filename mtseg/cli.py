"""Commands: train, eval, compare, table, split, doctor, bench. Heavy libraries are imported where used."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtseg.config import Config

WORDS = "YAML files, merged in order, then key.sub=value words (strings, numbers, [lists], {maps: as in YAML})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: `mtseg train|eval|compare|table|split|doctor|bench ...`. Returns the exit code."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "train": train,
        "eval": evaluate,
        "compare": compare,
        "table": table,
        "split": split,
        "doctor": doctor,
        "bench": bench,
    }
    parser = argparse.ArgumentParser(prog="mtseg", description="Semi-supervised semantic segmentation.")
    parser.add_argument("command", choices=commands, help="what to do; `mtseg COMMAND --help` says how")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its words")
    parsed = parser.parse_args(arguments)
    return commands[parsed.command](parsed.rest)


def train(arguments: Sequence[str] | None = None) -> int:
    """Train one run, or continue the run in its folder."""
    parser = argparse.ArgumentParser(prog="train", description=train.__doc__)
    parser.add_argument("words", nargs="+", help=WORDS)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and what follows from it")
    parsed = parser.parse_intermixed_args(arguments)
    return _answer(lambda: _train(parsed.words, parsed.dry_run))


def evaluate(arguments: Sequence[str] | None = None) -> int:
    """Score student and teacher of a run: per-class IoU, mIoU and pixel accuracy, as a table and a JSON file."""
    parser = argparse.ArgumentParser(prog="eval", description=evaluate.__doc__)
    parser.add_argument("run", help="the run's folder (its out=)")
    parser.add_argument("words", nargs="*", help="settings to change, such as eval.split=test or data.root=PATH")
    parsed = parser.parse_args(arguments)
    return _answer(lambda: _evaluate(parsed.run, parsed.words))


def compare(arguments: Sequence[str] | None = None) -> int:
    """Train supervised-only, then the method, on the same labels, model and steps; end with a table and a picture."""
    parser = argparse.ArgumentParser(prog="compare", description=compare.__doc__)
    parser.add_argument("words", nargs="+", help=WORDS)
    parsed = parser.parse_args(arguments)
    return _answer(lambda: _compare(parsed.words))


def table(arguments: Sequence[str] | None = None) -> int:
    """Print one Markdown table over finished comparisons that differ in their seed."""
    parser = argparse.ArgumentParser(prog="table", description=table.__doc__)
    parser.add_argument("folders", nargs="+", help="folders of comparisons (their out=)")
    parsed = parser.parse_args(arguments)
    return _answer(lambda: _table(parsed.folders))


def split(arguments: Sequence[str] | None = None) -> int:
    """Choose labelled images by a seed and write lists of them: nested, so that each rung lies in the next."""
    parser = argparse.ArgumentParser(prog="split", description=split.__doc__)
    parser.add_argument("words", nargs="+", help="a data set, such as configs/data/camvid.yaml data.root=PATH")
    parser.add_argument("--labels", required=True, help="the rungs, numbers of images or shares, as in 1/16,1/8,400")
    parser.add_argument("--how", choices=("random", "balanced", "sequence"), default="random", help="what is drawn")
    parser.add_argument("--sequence", default=r"(.*)/", help="regular expression whose group names an image's sequence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="the folder that gets a folder of lists for each rung")
    parsed = parser.parse_intermixed_args(arguments)
    return _answer(lambda: _split(parsed))


def doctor(arguments: Sequence[str] | None = None) -> int:
    """Read every file of a config's data set and say what is wrong with it; exit code 1 where there are errors."""
    parser = argparse.ArgumentParser(prog="doctor", description=doctor.__doc__)
    parser.add_argument("words", nargs="+", help=f"{WORDS}; as for train, but out= may be left out")
    parser.add_argument("--json", action="store_true", help="print all findings, with all files, as JSON")
    parser.add_argument("--out", metavar="DIR", help="write doctor.html, findings.json and the pictures there")
    parsed = parser.parse_intermixed_args(arguments)
    return _answer(lambda: _doctor(parsed))


def bench(arguments: Sequence[str] | None = None) -> int:
    """Measure a part of the program against a baseline of the same run."""
    parser = argparse.ArgumentParser(prog="bench", description=bench.__doc__)
    parser.add_argument("what", help="what is measured: names (opening and holding long lists of files)")
    parser.add_argument("--size", type=int, help="how much of it, such as the number of names")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    return _answer(lambda: _bench(parsed.what, parsed.size, parsed.json))


def _answer(work: Callable[[], int | None]) -> int:
    """Run `work`; its exit code, 0 for None. What a user or the machine got wrong becomes one message and exit code 1.

    A run that was asked to stop is saved and ends with RESUMABLE.
    """
    from mtseg.signals import RESUMABLE, Stopped

    try:
        return work() or 0
    except (ValueError, OSError) as error:
        print(f"mtseg: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"mtseg: {stop}", file=sys.stderr)
        return RESUMABLE
    except KeyboardInterrupt:
        print("mtseg: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _train(words: Sequence[str], dry_run: bool) -> None:
    from mtseg.config import load, written
    from mtseg.report import facts
    from mtseg.trainer import fit

    config = load(words)
    if dry_run:
        print(written(config))
        print("\n".join(f"{key:>22}: {value}" for key, value in facts(config).items()))
        return
    _share_cores(config)
    fit(config)
    print(f"done; score it with: python tools/eval.py {config.out}")


def _evaluate(run: str, words: Sequence[str]) -> None:
    from pathlib import Path

    from mtseg.checkpoint import write_whole
    from mtseg.report import print_table, score_run

    config, found = score_run(Path(run), words)
    print_table(found, title=f"{run}: {config.eval.split}, whole images, in percent, step {found['step']}")
    path = Path(run) / f"eval_{config.eval.split}.json"
    write_whole(path, json.dumps(found, indent=1))
    print(f"written to {path}")


def _compare(words: Sequence[str]) -> None:
    from mtseg.compare import compare as run_both
    from mtseg.config import load

    config = load(words)
    _share_cores(config)
    run_both(config)


def _table(folders: Sequence[str]) -> None:
    from pathlib import Path

    from mtseg.compare import table as over_seeds

    print(over_seeds([Path(folder) for folder in folders]))


def _split(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.config import training_data
    from mtseg.data.divide import divide

    splits, out = training_data(parsed.words).build(), Path(parsed.out)
    rungs = parsed.labels.split(",")
    said = divide(splits, rungs, out, how=parsed.how, seed=parsed.seed, pattern=parsed.sequence)
    for rung, facts in zip(rungs, said, strict=True):
        print(f"data.split={(out / rung.replace('/', '_')).resolve()}: {facts['labelled']}")


def _doctor(parsed: argparse.Namespace) -> int:
    from mtseg.doctor.machine import machine

    here = machine()  # before anything that a broken installation would break
    try:
        from mtseg.doctor.show import answer
    except Exception as error:
        from mtseg.doctor.machine import of_installation

        said = [finding.text for finding in of_installation(here)]
        raise ValueError("\n".join([f"the installation is broken: {type(error).__name__}: {error}", *said])) from error
    return answer(parsed.words, here, to_json=parsed.json, out=parsed.out)


def _bench(what: str, size: int | None, as_json: bool) -> None:
    from mtseg.bench import BENCHES, SIZES

    if what not in BENCHES:
        raise ValueError(f"bench: {what!r} is not measured; choose from {', '.join(BENCHES)}")
    if size is not None and size < 1:
        raise ValueError(f"bench: --size {size}; give at least 1")
    facts = BENCHES[what](size or SIZES[what])
    print(json.dumps(facts, indent=1) if as_json else "\n".join(f"{key:>32}: {value}" for key, value in facts.items()))


def _share_cores(config: "Config") -> None:
    """On a CPU, leave a core to each loading process, unless OMP_NUM_THREADS says otherwise."""
    import torch

    from mtseg.state import pick_device

    if pick_device(config.device).type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores - config.workers))
