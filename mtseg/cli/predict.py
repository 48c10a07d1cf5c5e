"""Predict images with a run's teacher, in their own size: masks, overlays, confidence, classes, what to label next."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtseg.cli.common import add_choice, answer, read

if TYPE_CHECKING:
    from pathlib import Path

    from mtseg.data.source import Splits
    from mtseg.inference.predict import Wishes
    from mtseg.inference.trained import Trained


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="predict", description=__doc__)
    parser.add_argument("run", help="the run's folder (its out=)")
    parser.add_argument("images", nargs="*", help="files, folders, globs, lists (.txt)")
    parser.add_argument(
        "--pool", choices=("labelled", "unlabelled", "val", "test"), help="images of the run's own data"
    )
    parser.add_argument("--out", required=True, help="the folder that gets them; what is there already is kept")
    parser.add_argument("--save", help="some of mask,overlay,confidence,image (default mask), or none")
    parser.add_argument("--min-confidence", type=float, default=0.0, metavar="P", help="no class where less sure (255)")
    parser.add_argument("--rank", action="store_true", help="ranking.csv: the images, least sure first")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="the i-th of n parts of the images (1/1)")
    parser.add_argument("--set", nargs="+", default=[], metavar="WORD", help="settings, such as device=cpu")
    add_choice(parser)
    parsed = read(parser, arguments, before="--set ")
    return answer(lambda: _predict(parsed))


def _predict(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.config import splits_of
    from mtseg.inference import hub, pseudo
    from mtseg.inference.inputs import items, lying, passed_over, pool_items, shard
    from mtseg.inference.predict import Wishes, predict
    from mtseg.inference.restored import configured, load, weights_of

    run, out = Path(parsed.run), Path(parsed.out)
    if bool(parsed.images) == bool(parsed.pool):
        raise ValueError("name images (files, folders, globs, lists), or a --pool of the run's data; not both")
    if hub.holds(run) and parsed.pool:
        raise ValueError("--pool: an exported folder knows no data; name images: files, folders, globs or lists")
    trained = load(run, parsed.set, at=parsed.at, network=parsed.network)
    wanted_of_each = parsed.save or ("mask" if trained.dense else "none")
    save = () if wanted_of_each == "none" else tuple(wanted_of_each.split(","))
    wishes = Wishes(save, parsed.min_confidence, parsed.rank, parsed.shard)
    pool = parsed.pool
    round_goes_on = pool == "unlabelled" or pseudo.has_labels(out)
    labels = trained.dense and wishes.min_confidence > 0 and round_goes_on  # are to be beside
    splits = splits_of(configured(run, parsed.set)) if pool or labels else None
    wanted = pool_items(splits, pool) if splits is not None and pool else items(parsed.images, out, trained.channels)
    outcome = predict(trained, wanted, out, wishes, weights=weights_of(run, trained.step, parsed.network))
    print(f"{out}: {outcome.done} predicted, {outcome.kept} there already, {outcome.failed} failed")
    for said in (passed_over(parsed.images), lying(shard(wanted, wishes.part))):
        if said:
            print(said)
    if wishes.min_confidence > 0 and trained.dense:
        _next_round(trained, out, splits if labels else None, wishes)
    if outcome.failed:
        raise ValueError(
            f"{outcome.failed} images failed, the first for: {outcome.why}; {out}/errors*.jsonl has all; the same "
            "command tries again"
        )


def _next_round(trained: "Trained", out: "Path", splits: "Splits | None", wishes: "Wishes") -> None:
    """Say how much is kept, and make a data set of it where its images are there too."""
    from mtseg.inference import pseudo

    kept = pseudo.share_kept(out)
    shares = pseudo.classes_kept(out, trained.classes) if kept > 0 and "mask" in wishes.save else {}
    of_them = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0)
    said = f"{100 * kept:.1f} % of the pixels are kept, sure to {wishes.min_confidence} or more"
    print(f"{said}: {of_them}" if of_them else said)
    if kept == 0:
        print("look: no pixel has a class; lower --min-confidence, in another --out")
    elif missing := [name for name, share in shares.items() if share == 0]:
        print(
            f"look: {len(missing)} of {len(shares)} classes have no pixel ({', '.join(missing)}): beside these labels "
            "they would be rare; lower --min-confidence, in another --out, and compare with a run without this round"
        )
    if {"mask", "image"} <= set(wishes.save) and (kept > 0 or splits is not None):
        made, file = pseudo.write(trained, out, splits), out / "data.yaml"
        print(f"{file}: {made}" + (f"; name it last: tools/train.py RECIPE.yaml [WORDS] {file}" if kept > 0 else ""))
