"""Training and sampling of Matryoshka diffusion models."""

from keras_mdm.training.diffusion_model import MatryoshkaDiffusion

__all__ = ["MatryoshkaDiffusion"]
