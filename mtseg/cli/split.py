"""Choose labelled images by a seed and write lists of them: nested, so that each rung lies in the next."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import answer, one_of, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="split", description=__doc__)
    parser.add_argument("words", nargs="+", help="a data set, such as configs/data/camvid.yaml data.root=PATH")
    parser.add_argument("--labels", required=True, help="the rungs, numbers of images or shares, as in 1/16,1/8,400")
    parser.add_argument(
        "--how", type=one_of("random", "balanced", "sequence"), metavar="{random,balanced,sequence}", default="random",
        help="what is drawn",
    )  # fmt: skip
    parser.add_argument("--sequence", default=r"(.*)/", help="regular expression whose group names an image's sequence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="the folder that gets a folder of lists for each rung")
    parsed = read(parser, arguments)
    return answer(lambda: _split(parsed))


def _split(parsed: argparse.Namespace) -> None:
    import shlex
    from pathlib import Path

    from mtseg.data.divide import divide
    from mtseg.data.kinds import training_data

    splits, out = training_data(parsed.words).build(), Path(parsed.out)
    rungs = parsed.labels.split(",")
    said = divide(splits, rungs, out, how=parsed.how, seed=parsed.seed, pattern=parsed.sequence)
    for rung, facts in zip(rungs, said, strict=True):
        place = shlex.quote(f"data.split={(out / rung.replace('/', '_')).resolve()}")
        # Recipes may ask for a share.
        print(f"{place} data.labels=all: {facts['labelled']['images']} images (SHA-256 {facts['labelled']['sha256']})")
