"""Commands: train, eval, predict and others. Heavy libraries are imported where used: --help answers at once."""

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
    """The console script: `mtseg train|eval|predict|compare|table|split ...`. Returns the exit code."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "train": train,
        "eval": evaluate,
        "predict": predict,
        "compare": compare,
        "table": table,
        "split": split,
    }
    parser = argparse.ArgumentParser(prog="mtseg", description="Semi-supervised semantic segmentation.")
    parser.add_argument("command", choices=commands, help="what to do; `mtseg COMMAND --help` says how")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its words")
    parsed = parser.parse_args(arguments)
    return commands[parsed.command](parsed.rest)


def train(arguments: Sequence[str] | None = None) -> int:
    """Train one run, or continue the run in its folder; or take a captured step again."""
    parser = argparse.ArgumentParser(prog="train", description=train.__doc__)
    parser.add_argument("words", nargs="*", help=WORDS)
    parser.add_argument("--replay", metavar="FILE", help="take the step in a run's capture-STEP.pt again, and report")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and what follows from it")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.replay is not None:
        return _answer(lambda: _replay(parsed.replay, parsed.words))
    if not parsed.words:
        parser.error("the following arguments are required: words")
    return _answer(lambda: _train(parsed.words, parsed.dry_run))


def evaluate(arguments: Sequence[str] | None = None) -> int:
    """Score student and teacher of a run by class and in the mean: a table, a JSON file and a CSV file."""
    parser = argparse.ArgumentParser(prog="eval", description=evaluate.__doc__)
    parser.add_argument("run", help="the run's folder (its out=)")
    parser.add_argument("words", nargs="*", help="settings to change, such as eval.split=test or data.root=PATH")
    _add_choice(parser, both="both")
    parser.add_argument(
        "--boundary", nargs="?", type=float, const=0.02, metavar="RATIO", help="boundary IoU too, within RATIO (0.02) "
        "of the diagonal"
    )  # fmt: skip
    parser.add_argument("--images", action="store_true", help="each image's mIoU, and a 95 %% interval over images")
    parsed = parser.parse_intermixed_args(arguments)
    return _answer(lambda: _evaluate(parsed))


def predict(arguments: Sequence[str] | None = None) -> int:
    """Predict images with a run's teacher, in their own size: masks, overlays, confidence, what to label next."""
    parser = argparse.ArgumentParser(prog="predict", description=predict.__doc__)
    parser.add_argument("run", help="the run's folder (its out=)")
    parser.add_argument("images", nargs="*", help="files, folders, globs, lists (.txt)")
    parser.add_argument(
        "--pool", choices=("labelled", "unlabelled", "val", "test"), help="images of the run's own data"
    )
    parser.add_argument("--out", required=True, help="the folder that gets them; what is there already is kept")
    parser.add_argument("--save", default="mask", help="some of mask,overlay,confidence,image (default mask), or none")
    parser.add_argument("--min-confidence", type=float, default=0.0, metavar="P", help="masks are 255 where less sure")
    parser.add_argument("--rank", action="store_true", help="ranking.csv: the images, least sure first")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="the i-th of n parts of the images (1/1)")
    parser.add_argument("--set", nargs="+", default=[], metavar="WORD", help="settings, such as device=cpu")
    _add_choice(parser)
    parsed = parser.parse_intermixed_args(arguments)
    return _answer(lambda: _predict(parsed))


def _add_choice(parser: argparse.ArgumentParser, **more: str) -> None:
    """Which checkpoint, and which network of it."""
    parser.add_argument(
        "--at", default="last", help="last (default), best (of the evaluations while it trained), or a step"
    )
    names = ["student", "teacher", *more.values()]
    parser.add_argument("--network", choices=names, default=next(iter(more.values()), "teacher"))


def compare(arguments: Sequence[str] | None = None) -> int:
    """Train supervised-only, then the method, on the same labels, model and steps; end with a table and a picture."""
    parser = argparse.ArgumentParser(prog="compare", description=compare.__doc__)
    parser.add_argument("words", nargs="+", help=WORDS)
    parsed = parser.parse_args(arguments)
    return _answer(lambda: _compare(parsed.words))


def table(arguments: Sequence[str] | None = None) -> int:
    """Print one Markdown table over finished comparisons that differ in their seed, or over runs of several methods."""
    parser = argparse.ArgumentParser(prog="table", description=table.__doc__)
    parser.add_argument("folders", nargs="+", help="folders of comparisons, or of runs named METHOD/SEED (their out=)")
    parser.add_argument("--baseline", default="supervised", help="the METHOD that the others are compared with")
    parser.add_argument("--full", default="supervised_all", help="the METHOD with all labels, where there is one")
    parsed = parser.parse_args(arguments)
    return _answer(lambda: _table(parsed))


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


def _answer(work: Callable[[], None]) -> int:
    """Run `work`; what a user or the machine got wrong becomes one message and exit code 1.

    A run that was asked to stop is saved and ends with RESUMABLE.
    """
    from mtseg.signals import RESUMABLE, Stopped

    try:
        work()
    except (ValueError, OSError) as error:
        print(f"mtseg: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"mtseg: {stop}", file=sys.stderr)
        return RESUMABLE
    except KeyboardInterrupt:
        print("mtseg: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _train(words: Sequence[str], dry_run: bool) -> None:
    from mtseg.config import load, rate_for, written
    from mtseg.report import facts
    from mtseg.trainer import fit

    config = load(words)
    if sentence := rate_for(words):
        print(sentence)
    if dry_run:
        print(written(config))
        print("\n".join(f"{key:>22}: {value}" for key, value in facts(config).items()))
        return
    _share_cores(config)
    fit(config)
    print(f"done; score it with: python tools/eval.py {config.out}")


def _replay(file: str, words: Sequence[str]) -> None:
    from pathlib import Path

    from mtseg.replay import replay

    print("\n".join(replay(Path(file), words)))


def _evaluate(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.checkpoint import write_whole
    from mtseg.evaluate import Also
    from mtseg.scoring import Wanted, images_csv, print_table, score_run, table_csv

    if parsed.boundary is not None and not 0 < parsed.boundary <= 1:
        raise ValueError(f"--boundary: {parsed.boundary} is no share of the diagonal; give one in (0, 1], such as 0.02")
    networks = ("student", "teacher") if parsed.network == "both" else (parsed.network,)
    wanted = Wanted(parsed.at, networks, Also(parsed.boundary, parsed.images))
    found = score_run(Path(parsed.run), parsed.words, wanted)
    print_table(found)
    name = f"eval_{found['split']}" + ("" if parsed.at == "last" else f"_{parsed.at}")
    texts = {f"{name}.json": json.dumps(found, indent=1), f"{name}.csv": table_csv(found)}
    if parsed.images:
        texts[f"{name}_images.csv"] = images_csv(found)
    for file, text in texts.items():
        write_whole(Path(parsed.run) / file, text)
    print(f"written to {parsed.run}: {', '.join(texts)}")


def _predict(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.inputs import items, pool_items
    from mtseg.predict import Wishes, predict
    from mtseg.trained import configured, load, weights_of

    run, out = Path(parsed.run), Path(parsed.out)
    if bool(parsed.images) == bool(parsed.pool):
        raise ValueError("name images (files, folders, globs, lists), or a --pool of the run's data; not both")
    save = () if parsed.save == "none" else tuple(parsed.save.split(","))
    wishes = Wishes(save, parsed.min_confidence, parsed.rank, parsed.shard)
    trained = load(run, parsed.set, at=parsed.at, network=parsed.network)
    pool = parsed.pool
    wanted = pool_items(configured(run, parsed.set).data.build(), pool) if pool else items(parsed.images, out)
    outcome = predict(trained, wanted, out, wishes, weights=weights_of(run, trained.step, parsed.network))
    print(f"{out}: {outcome.done} predicted, {outcome.kept} there already, {outcome.failed} failed")
    if outcome.failed:
        raise ValueError(f"{outcome.failed} images failed; {out}/errors*.jsonl says why; the same command tries again")


def _compare(words: Sequence[str]) -> None:
    from mtseg.compare import compare as run_both
    from mtseg.config import load

    config = load(words)
    _share_cores(config)
    run_both(config)


def _table(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.tables import of_methods, over_seeds

    folders = [Path(folder) for folder in parsed.folders]
    runs = all((folder / "metrics.jsonl").exists() for folder in folders)
    print(of_methods(folders, baseline=parsed.baseline, full=parsed.full) if runs else over_seeds(folders))


def _split(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.config import training_data
    from mtseg.data.divide import divide

    splits, out = training_data(parsed.words).build(), Path(parsed.out)
    rungs = parsed.labels.split(",")
    said = divide(splits, rungs, out, how=parsed.how, seed=parsed.seed, pattern=parsed.sequence)
    for rung, facts in zip(rungs, said, strict=True):
        print(f"data.split={(out / rung.replace('/', '_')).resolve()}: {facts['labelled']}")


def _share_cores(config: "Config") -> None:
    """On a CPU, leave a core to each loading process, unless OMP_NUM_THREADS says otherwise."""
    import torch

    from mtseg.state import pick_device

    if pick_device(config.device).type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores - config.workers))
