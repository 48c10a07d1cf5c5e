"""What follows from a config before anything is trained: the facts that `--dry-run` prints."""

from mtseg.config import Config, Model, splits_of
from mtseg.data.provenance import Provenance, provenance, refuse_others
from mtseg.data.source import Splits
from mtseg.device import pick_device
from mtseg.fits import refuse_uneven, refuse_useless
from mtseg.idle import idle
from mtseg.models.classifiers import Timm
from mtseg.models.smp import Smp
from mtseg.run.boards import refuse_missing
from mtseg.run.duration import on_cpu
from mtseg.run.estimate import estimate
from mtseg.run.lock import refuse_unwritable
from mtseg.run.resume import standing
from mtseg.torchrun import launched
from mtseg.warm_start import tried
from mtseg.whiten import refuse_another


def facts(config: Config) -> dict[str, str]:
    """What follows from a config: counts of images, passes, parameters.

    Reads the data set's lists, a few images and labels, and a weights file; writes nothing but what `data.cache` keeps.
    Raises ValueError for data, batches and folders that `fit` would refuse (but for one that a run writes to now), for
    weights that cannot be used, and where there is no image to evaluate on.
    """
    refuse_uneven(config, processes=launched())
    refuse_unwritable(config.out)
    refuse_missing(config.boards)
    splits = splits_of(config)
    refuse_useless(config, splits)
    config.views.check(splits.channels, rgb=splits.rgb)
    begun = tried(config, splits) if standing(config).saved is None else []
    read_here = config.load_from is None and not config.fetches
    network = config.model.build(len(splits.classes), channels=splits.channels, rgb=splits.rgb, pretrained=read_here)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    labelled, unlabelled = len(splits.labelled), len(splits.unlabelled)
    branches, crops = len(config.method.branches), config.crops[0]
    data, duration = provenance(splits), on_cpu(config, network, len(splits.classes), channels=splits.channels)
    return {
        "data": data.sentence(),
        **({"channels": f"{splits.channels}"} if splits.channels != 3 else {}),
        "classes": f"{len(splits.classes)}: {', '.join(splits.classes)}",
        "labelled images": f"{labelled}, {config.batch.labelled} a step, "
        f"{config.steps * config.batch.labelled / labelled:.1f} passes"
        if config.batch.labelled
        else f"{labelled}, seen among the unlabelled ones",
        "unlabelled images": f"{unlabelled}, {config.batch.unlabelled} a step, "
        f"{config.steps * config.batch.unlabelled / unlabelled:.1f} passes"
        if branches
        else "not used",
        "val, test images": f"{len(splits.val)}, {len(splits.test)}",
        **({"consistency weight": _weights(config)} if branches else {}),
        **({"weights": _fetched(config.model)} if config.fetches else {}),
        **({"weights": "; ".join(begun)} if begun else {}),
        "parameters": f"{parameters / 1e6:.2f} million",
        "student forward": f"{crops} crops of {config.views.crop[0]}x{config.views.crop[1]} a step"
        + (", of each of two students" if config.students == 2 else ""),
        "memory in a step": estimate(config, network, len(splits.classes), unlabelled, processes=launched()).sentence(),
        **({"time": f"{duration.sentence()}, on this CPU"} if duration else {}),
        **({"without effect": "; ".join(found)} if (found := idle(config)) else {}),
        "steps": f"{config.steps}, evaluated every {config.eval.every} on {config.eval.split}",
        "device": str(pick_device(config.device)),
        "folder": _folder(config, splits, data),
    }


def _folder(config: Config, splits: Splits, data: Provenance) -> str:
    """What is in the run's folder. Raises ValueError where that is another run, or one on other images."""
    found = standing(config)
    if found.saved is None:
        return "; ".join(found.sentences) or f"{config.out}, a new run"
    refuse_others(config.out, splits, data)
    refuse_another(config.out, config.views.standard)
    done = () if found.saved.step < config.steps else (f"{config.out} is finished already",)
    return "; ".join([*found.sentences, *done])


def _fetched(model: Model) -> str:
    known = model.origin() if isinstance(model, Smp | Timm) else ""
    return f"ImageNet's, fetched at the start from {known or 'its authors'} where they are not cached"


def _weights(config: Config) -> str:
    """The consistency weight at the first step, halfway and at the last, and whether its ramp comes to its end."""
    steps, method = config.steps, config.method
    first, half, last = (f"{method.weight_at(step, steps):.2g}" for step in (0, steps // 2, steps - 1))
    unfinished = method.unfinished(steps)
    return f"{first} at first, {half} halfway, {last} at last" + (f"; {unfinished}" if unfinished else "")
