"""Diffusion over the codes of an autoencoder: the same levels, over another space.

A level's pictures may be codes: `build_nested_unet([8, 16], in_channels=48, out_channels=48)` is a
network over 16 x 16 codes of 48 channels and their 8 x 8 averages. Everything else stays the same:
batches hold codes as `image` (float32), and `generate(..., threshold="none", output="float32")`
returns them. A `Codec` makes the codes: `SpaceToDepth`, a `KLAutoencoder` of your own or from the
authors' files, or the autoencoder of keras-hub's Stable Diffusion, a `HubAutoencoder`. `to_codes`
turns batches of pictures into batches of codes, and a `LatentDiffusion` is a model of codes with
its codec: it draws pictures, and is saved, evaluated, exported and sampled like any model.

Reference: Rombach et al. 2022 (arXiv 2112.10752); Gu et al. 2023 (arXiv 2310.15111), section 4.1
and appendix D.2.
"""

from keras_mdm.latents.autoencoder import KLAutoencoder
from keras_mdm.latents.codecs import (
    Codec,
    SpaceToDepth,
    check_codec,
    identity_of,
    to_codes,
    to_pictures,
)
from keras_mdm.latents.hub import HubAutoencoder
from keras_mdm.latents.latent_diffusion import LatentDiffusion
from keras_mdm.latents.loading import load_codec

__all__ = [
    "Codec",
    "HubAutoencoder",
    "KLAutoencoder",
    "LatentDiffusion",
    "SpaceToDepth",
    "check_codec",
    "identity_of",
    "load_codec",
    "to_codes",
    "to_pictures",
]
