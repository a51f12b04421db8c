"""Third-party artwork and weights: a pinned table, and the only way to fetch its assets."""

from keras_mdm.assets.cache import cache_root
from keras_mdm.assets.fetch import fetch, is_fetched, path
from keras_mdm.assets.table import ASSETS, Asset, Source, asset

__all__ = ["ASSETS", "Asset", "Source", "asset", "cache_root", "fetch", "is_fetched", "path"]
