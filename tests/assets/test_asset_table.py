"""The table is complete, the cache directory follows the environment, the command works."""

import argparse
import json
import re
from pathlib import Path

import pytest

from keras_mdm import assets
from keras_mdm.cli import assets as command

from . import wheels


def parse(*words):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["assets", *words])


@pytest.mark.parametrize("record", assets.ASSETS.values(), ids=lambda record: record.name)
def test_every_source_is_pinned_and_every_asset_attributed(record):
    assert assets.asset(record.name) is record
    assert record.licence and record.author and record.attribution
    hashes = [source.sha256 for source in record.sources] + list(record.contents.values())
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes)
    assert len({source.sha256 for source in record.sources}) == len(record.sources)
    # Bytes from a second source can only be trusted to be the same if single files are pinned.
    assert len(record.sources) == 1 or record.contents


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"KERAS_MDM_CACHE": "/k", "XDG_CACHE_HOME": "/x"}, "/k"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/keras_mdm"),
        ({"KERAS_MDM_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/keras_mdm"),
    ],
)
def test_cache_directory_by_precedence(monkeypatch, environment, expected):
    for name in ("KERAS_MDM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert assets.cache_root() == Path(expected)
    assert assets.cache_root("/given") == Path("/given")


def test_command_lists_fetches_and_locates(tmp_path, monkeypatch, capsys):
    wheel = wheels.make_wheel(tmp_path / "shelf", "some-drawings", {"a.svg": b"<svg/>"})
    record = wheels.record_of(wheels.source_of(wheel, "some-drawings"))
    monkeypatch.setitem(assets.ASSETS, "drawings", record)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    cache = ["--cache-dir", str(tmp_path / "cache")]

    assert command.run(parse(*cache, "path", "drawings")) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "keras-mdm assets fetch drawings" in printed.err

    def state():
        assert command.run(parse(*cache, "list")) == 0
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if line.startswith("drawings")).split()

    assert "no" in state()
    assert command.run(parse(*cache, "fetch", "drawings", "--quiet")) == 0
    directory = str(tmp_path / "cache" / "assets" / "drawings")
    assert capsys.readouterr().out.split() == [directory]
    assert "yes" in state()
    assert command.run(parse(*cache, "list", "--json")) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)["assets"]}
    assert listed["drawings"]["fetched"] is True and listed["drawings"]["bytes"] == record.size
    assert command.run(parse(*cache, "path", "drawings")) == 0
    assert capsys.readouterr().out.split() == [directory]
