"""What setup.cfg cannot say: the recipes lie beside the package and are installed inside it."""

from setuptools import find_packages, setup

RECIPES = tuple(
    f"keras_mdm.recipes{room}" for room in ("", ".experiments", ".shared", ".shared.experiments")
)

setup(
    packages=[*find_packages(include=["keras_mdm*"]), *RECIPES],
    package_dir={"keras_mdm.recipes": "recipes"},
    package_data={
        "keras_mdm": ["py.typed"],
        "keras_mdm.serving": ["page/*"],
        "keras_mdm.recipes.shared": ["*.txt"],
    },
)
