"""Weights that an encoder starts from: files of tensors, downloads, and their fit to an encoder and its channels."""

import difflib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from mtseg.models.whole import Whole


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name from a .safetensors file, or from a .pt/.pth file without executing anything in it."""
    if path.is_dir():
        raise ValueError(
            f"model.weights: {path} is a folder, and an encoder starts from a file; a run begins as the network of "
            f"another one with load_from.run={path}"
        )
    if not path.is_file():
        near = difflib.get_close_matches(str(path), ["none", "imagenet"], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"model.weights: no file {path}; {hint}give 'none', 'imagenet' or a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"model.weights: {path} is not a readable file of tensors ({type(error).__name__})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model.weights: {path} holds no plain state dict of tensors; save model.state_dict()")
    return state


def of_channels(
    weights: Mapping[str, Tensor], encoder: nn.Module, channels: int, *, rgb: bool, whole: Whole | None = None
) -> Mapping[str, Tensor]:
    """`weights` of an RGB encoder for images of so many `channels`: its convolutions of the image are made anew.

    With `rgb` the first three channels keep their filters and each further one gets the mean of the three, so that
    where these channels are at their mean (0 after normalisation) the answer is the RGB network's. Without, all get
    that mean times 3 / channels: the same map in all channels is answered as the same in three by the RGB network.
    """
    own = nn.Module.state_dict(encoder)
    adapted = dict(weights)
    for inside, name in _names_in(weights, encoder, whole).items():
        there, weight = own[inside], weights[name]
        if channels == 3 or weight.ndim != 4 or there.shape == weight.shape:
            continue
        if weight.shape[1] == 3 and there.shape == (len(weight), channels, *weight.shape[2:]):
            mean = weight.mean(1, keepdim=True)
            further = mean.expand(-1, channels - 3 if rgb else channels, -1, -1)
            adapted[name] = torch.cat([weight, further], 1) if rgb else further * (3 / channels)
    return adapted


def load_encoder(
    encoder: nn.Module, weights: Mapping[str, Tensor], *, source: str, whole: Whole | None = None, hint: str = ""
) -> None:
    """Copy `weights` into `encoder`; extra tensors (a classifier's head, stages that were cut) are left.

    `whole` is the network that the encoder is cut from: weights may have its names, and with more blocks or fewer they
    are those of another network. Raises ValueError for these, and for missing tensors. `hint`: what to say besides, of
    a file of other names.
    """
    own = nn.Module.state_dict(encoder)
    found = {name: weights[key] for name, key in _names_in(weights, encoder, whole).items()}
    plain = whole.plain if whole is not None else str
    needed = {name: plain(name) for name in own if not name.endswith("num_batches_tracked")}
    missing = [needed[name] for name in needed if name not in found]
    misshapen = [needed[name] for name in needed if name in found and found[name].shape != own[name].shape]
    if missing or misshapen:
        remedy = "use the weights of this encoder"
        forms = [{_unwrapped(called(name)): own[name] for name in needed} for called in (plain, str)]
        if before := _before(forms[0], weights) or _before(forms[1], weights):
            remedy = f"its names begin with {before!r}: save them without it"
        elif missing and weights:
            names = [name for name in weights if not name.endswith("num_batches_tracked")]
            remedy += f"; the file has {names[:3]}{hint}"
        raise ValueError(
            f"model.weights: {source} does not fit the encoder: {len(missing)} of {len(needed)} tensors are missing "
            f"{missing[:3]}, {len(misshapen)} have another shape {misshapen[:3]}; {remedy}"
        )
    if whole is not None:
        _refuse_others(whole, weights, source)
    # nn.Module's own: encoders override load_state_dict to drop keys by name.
    nn.Module.load_state_dict(encoder, {name: found.get(name, own[name]) for name in own})


def _names_in(weights: Mapping[str, Tensor], encoder: nn.Module, whole: Whole | None) -> dict[str, str]:
    """What `weights` call the tensors of `encoder`: as it does, without smp's `model.`, or as the `whole` network."""
    found: dict[str, str] = {}
    for name in nn.Module.state_dict(encoder):
        names = (name, _unwrapped(name), whole.plain(name) if whole is not None else name)
        found.update((name, known) for known in reversed(names) if known in weights)
    return found


def _unwrapped(name: str) -> str:
    return name.removeprefix("model.")


def _refuse_others(whole: Whole, names: Iterable[str], source: str) -> None:
    if foreign := whole.foreign(names):
        what = f"has {len(foreign)} tensors that {whole.name} has no place for, such as {foreign[0]}"
    elif lacking := whole.lacking(names):
        what = f"lacks {len(lacking)} tensors of {whole.name}, such as {lacking[0]}"
    else:
        return
    raise ValueError(
        f"model.weights: {source} {what}: weights of another, {'larger' if foreign else 'smaller'} network; name the "
        f"network they were made for, or the file of {whole.name}"
    )


def _before(needed: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What all `needed` tensors, of their shapes, have before their names in `weights`: `module.`; empty: nothing."""
    first = next(iter(needed))
    for name in weights:
        before = name.removesuffix(first) if name.endswith(f".{first}") else ""
        there = [weights.get(before + other) for other in needed] if before else [None]
        if all(a is not None and a.shape == b.shape for a, b in zip(there, needed.values(), strict=False)):
            return before
    return ""


def of_timm(name: str) -> str:
    """Where timm's weights of a network are: `huggingface.co/timm/resnet50.a1_in1k`; empty where it does not say."""
    import timm

    found = timm.get_pretrained_cfg(name)
    return f"huggingface.co/{found.hf_hub_id}" if found is not None and found.hf_hub_id else ""


def downloaded(name: str, make: Callable[[], nn.Module], *, origin: str) -> Mapping[str, Tensor]:
    """The tensors of what `make` builds with ImageNet weights of `name`, which are at `origin`.

    Raises ValueError, with what to do, where they cannot be had.
    """
    try:
        with _without_retries():
            donor = make()
    except Exception as error:
        raise ValueError(
            f"model.weights: the ImageNet weights of {name!r} could not be downloaded ({type(error).__name__}); "
            f"go online once, or fetch model.safetensors from {origin or 'where its authors keep it'}, and name it: "
            "model.weights=FILE.safetensors (model.weights=none starts from random weights)"
        ) from error
    return nn.Module.state_dict(donor)


@contextmanager
def _without_retries() -> Iterator[None]:
    """Where the hub cannot be reached, let its client look in its cache only; it would retry for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    host = urlsplit(constants.ENDPOINT).hostname
    try:
        if not getproxies():
            socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
