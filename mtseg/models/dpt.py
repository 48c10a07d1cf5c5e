"""DPT (Ranftl et al. 2021) on vision transformers of any patch size, as on DINOv2's of 14 pixels.

The library's own decoder halves and doubles the grid of patches to a quarter and so on of the image, which is whole
only for patches of a power of two. Of others, the grid is taken for that of the nearest power, 16 for 14, and the
answer is scaled to the image in the end.
"""

import math
from typing import Any

from torch import nn


def fits(network: Any) -> bool:
    """Whether the library's own decoder fits the patches of `network`, one of its DPTs."""
    patch = int(network.encoder.output_stride)
    return patch == _power(patch)


def fitted(network: Any) -> int:
    """Fits the decoder of smp's DPT to its encoder's patches; returns what an image's sides must be divisible by."""
    patch = int(network.encoder.output_stride)
    power = _power(patch)
    if power != patch:
        from segmentation_models_pytorch.base.initialization import initialize_decoder

        blocks = network.decoder.reassemble_blocks
        for index, block in enumerate(blocks):
            blocks[index] = _like(block, power / 2 ** (index + 2))
        initialize_decoder(blocks)
        network.segmentation_head.upsampling_factor *= patch / power
    return 2 * patch  # the decoder halves the grid once more


def _power(patch: int) -> int:
    """The power of two nearest to it."""
    return int(2 ** round(math.log2(patch)))


def _like(block: Any, factor: float) -> nn.Module:
    """The `block`, for maps that grow by another `factor`."""
    from segmentation_models_pytorch.decoders.dpt.decoder import ReassembleBlock

    inside, out = block.project_to_out_channel, block.project_to_feature_dim
    made: nn.Module = ReassembleBlock(inside.in_channels, inside.out_channels, out.out_channels, factor)
    return made
