"""Third-party artwork and weights: a pinned table, and the one way to fetch what it names."""

from keras_mdm.assets.cache import cache_root
from keras_mdm.assets.fetch import fetch, is_fetched, path
from keras_mdm.assets.table import ASSETS, Asset, Source, asset

__all__ = ["ASSETS", "Asset", "Source", "asset", "cache_root", "fetch", "is_fetched", "path"]
