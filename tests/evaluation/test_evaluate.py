"""One sampling pass, kept on disk: the same report however it was stopped; bad input is refused."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import Colours

from keras_mdm.evaluation import Request, evaluate, inception_score, moments, report
from keras_mdm.evaluation.picture_sets import GRAIN, enlarged, grain_of
from keras_mdm.evaluation.samples import draw, weights_digest


class Model:
    """Draws noise that depends on the seed of each picture and on the prompt."""

    def __init__(self, weight=1.0, levels=("8", "16"), channels=3, fail_after=None):
        self.unet = SimpleNamespace(
            levels=levels,
            weights=[np.full(3, weight)],
            spec=SimpleNamespace(out_channels=channels),
        )
        self.ema = SimpleNamespace(averages=[])
        self.calls, self.fail_after = [], fail_after

    def generate(self, prompts=None, *, seed, labels=None, num_images=None, **options):
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append((prompts, list(seed), options))
        found = {}
        for level in self.unet.levels:
            size = int(level)
            found[level] = np.stack(
                [
                    np.random.default_rng([number, size]).integers(0, 256, (size, size, 3))
                    for number in seed
                ]
            ).astype("uint8")
        return found


def real(count=120, size=8, seed=9):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype("uint8")


REFERENCE = {"8": real(), "16": real(size=16)}
OPTIONS = {"features": Colours(), "progress": False}
PROMPTS = [f"prompt {number}" for number in range(110)]


def test_a_stopped_evaluation_gives_the_same_numbers(tmp_path):
    request = Request(110, prompts=PROMPTS, seed=4, batch_size=32, options={"steps": 2})
    whole = evaluate(Model(), REFERENCE, request=request, directory=tmp_path / "a", **OPTIONS)
    stopped = Model(fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped, REFERENCE, request=request, directory=tmp_path / "b", **OPTIONS)
    again = Model()
    found = evaluate(again, REFERENCE, request=request, directory=tmp_path / "b", **OPTIONS)
    assert len(again.calls) == 2 and again.calls[0][0] == PROMPTS[64:96]
    assert found.rows == whole.rows and found.about == whole.about
    # Other batches are the same pictures.
    other = Request(110, prompts=PROMPTS, seed=4, batch_size=50, options={"steps": 2})
    found = evaluate(Model(), REFERENCE, request=other, directory=tmp_path / "c", **OPTIONS)
    assert found.about == whole.about
    # More pictures later draw the missing ones only.
    more = Request(120, prompts=[*PROMPTS, *PROMPTS[:10]], seed=4, options={"steps": 2})
    model = Model()
    evaluate(model, REFERENCE, request=more, directory=tmp_path / "a", **OPTIONS)
    assert [len(seeds) for _, seeds, _ in model.calls] == [24]


@pytest.mark.parametrize(
    ("model", "request_", "word"),
    [
        (Model(2.0), Request(110, prompts=PROMPTS), "model"),
        (Model(), Request(110, prompts=PROMPTS[::-1]), "prompts"),
        (Model(), Request(110, prompts=PROMPTS, seed=1), "seed"),
        (Model(), Request(110, prompts=PROMPTS, options={"steps": 3}), "options"),
    ],
)
def test_pictures_of_another_request_are_refused(tmp_path, model, request_, word):
    list(draw(Model(), Request(4, prompts=PROMPTS), tmp_path / "a", progress=False))
    with pytest.raises(ValueError, match=rf"another model or with other options.*\['{word}'\]"):
        draw(model, request_, tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(ValueError, match="must be new"):
        draw(model, request_, tmp_path / "full")


def test_weights_and_averages_are_told_apart():
    changed = Model()
    changed.ema.averages.append(np.ones(2))
    assert len({weights_digest(m) for m in (Model(), Model(1.5), changed)}) == 3


def test_rows_are_those_of_the_sets(tmp_path):
    request = Request(100, seed=4)
    measures = ("kernel", "frechet", "precision", "coverage")
    found = evaluate(
        Model(),
        REFERENCE,
        request=request,
        directory=tmp_path / "a",
        measures=measures,
        few=True,
        **OPTIONS,
    )
    subjects = {row.subject for row in found.rows}
    assert subjects == {"8", "16", "8 enlarged to 16"}
    drawn = Model().generate(num_images=100, seed=range(4, 104))
    alone = evaluate({"16": drawn["16"]}, REFERENCE, measures=measures, few=True, **OPTIONS)
    pairs = zip((r for r in found.rows if r.subject == "16"), alone.rows, strict=True)
    for one, other in pairs:
        assert one.measure == other.measure and one.value == pytest.approx(other.value)
    large = enlarged(drawn["8"], 16, 16)
    alone = evaluate({"16": large}, REFERENCE, measures=measures, few=True, **OPTIONS)
    pairs = zip((r for r in found.rows if "enlarged" in r.subject), alone.rows, strict=True)
    for one, other in pairs:
        assert one.measure == other.measure and one.value == pytest.approx(other.value)
    assert found.value("16", GRAIN) == pytest.approx(grain_of(drawn["16"]).mean())
    # Networks that are not the published one do not get its names.
    assert {row.measure for row in found.rows} == {
        "kernel distance x 1000",
        "Frechet distance",
        "precision",
        "coverage",
        GRAIN,
    }
    text = json.loads(found.to_json())
    assert len(text["rows"]) == len(found.rows) and text["about"]["features"] == "quarters"
    assert text["rows"][1]["error"] is None


def test_a_level_that_is_worse_than_the_enlargement_is_called_so(tmp_path):
    class Blurry(Model):
        """Level 8 is real; level 16 is grey."""

        def generate(self, *args, seed, **options):
            rows = [number % 120 for number in seed]
            return {"8": REFERENCE["8"][rows], "16": np.full((len(rows), 16, 16, 3), 10, "uint8")}

    reference = {"8": REFERENCE["8"], "16": enlarged(real(seed=2), 16, 16)}
    given = {"request": Request(100), "directory": tmp_path / "a"}
    found = evaluate(Blurry(), reference, **given, **OPTIONS)
    (verdict,) = found.verdicts
    assert "level 16 makes the picture worse" in verdict and verdict in str(found)


def test_the_published_names_are_for_the_published_network():
    published = SimpleNamespace(measures={"frechet": "FID", "kernel": "KID"})
    assert report.name_of("frechet", published) == "FID"
    assert report.name_of("kernel", published) == "KID x 1000"
    assert report.name_of("frechet", Colours()) == "Frechet distance"


class Classes(Colours):
    measures = {report.CLASSES: "IS"}

    def classify_features(self, features):
        power = np.exp(features.astype("float64"))
        return power / power.sum(axis=1, keepdims=True)


def test_the_inception_score_is_that_of_all_drawn_pictures_in_order(tmp_path):
    network = Classes()
    given = {"features": network, "measures": (report.CLASSES, "kernel"), "few": True}
    found = evaluate(
        Model(), REFERENCE, request=Request(110), directory=tmp_path, progress=False, **given
    )
    for level, size in (("8", 8), ("16", 16)):
        drawn = Model(levels=(level,)).generate(seed=range(110))[level]
        wanted = inception_score(network.classify_features(network(drawn)))
        (row,) = (r for r in found.rows if (r.subject, r.measure) == (level, "IS"))
        assert row.value == pytest.approx(wanted.value)
        assert row.error == pytest.approx(wanted.standard_deviation)
        truth = inception_score(network.classify_features(network(REFERENCE[level])))
        assert row.floor == pytest.approx(truth.value) and drawn.shape[1] == size
    # Statistics hold no classes, and a network without classes has no score.
    known = moments.of_pictures(network, real(seed=1))
    found = evaluate({"8": real()}, {"8": known}, **given)
    assert math.isnan(next(row for row in found.rows if row.measure == "IS").floor)
    assert report.name_of(report.CLASSES, Colours()) == "class score"
    model = Model()
    with pytest.raises(ValueError, match="a feature network with classes"):
        evaluate(
            model,
            REFERENCE,
            request=Request(110),
            directory=tmp_path / "new",
            **{**given, "features": Colours()},
        )
    assert not model.calls
    with pytest.raises(ValueError, match="needs at least 5000 pictures"):
        evaluate({"8": real()}, REFERENCE, **{**given, "few": False})


def test_halves_of_one_set_are_the_floor():
    half = evaluate({"8": real(600, seed=3)}, {"8": real(600, seed=4)}, **OPTIONS)
    (row,) = (row for row in half.rows if row.measure.startswith("kernel"))
    assert abs(row.value) < 4 * row.error and abs(row.floor) < 8 * row.error
    assert math.isfinite(row.error)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drawn": {"8": real(20)}}, "needs at least 100 pictures"),
        ({"drawn": {"8": real()}, "measures": ("frechet",)}, "needs at least 2048 pictures"),
        ({"drawn": {"8": real()}, "measures": ("fid",)}, "measures"),
        ({"drawn": {"8": real()}, "measures": ()}, "at least one"),
        ({"drawn": {"32": real()}}, "real pictures of at least one level"),
        ({"drawn": {"8": real()[..., :1]}}, "uint8"),
        ({"drawn": Model()}, "a request and a directory"),
        ({"drawn": Model(channels=4), "request": Request(200)}, "RGB"),
        ({"drawn": Model(), "request": Request(50)}, "needs at least 100 pictures"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_drawn(tmp_path, given, message):
    if "request" in given:
        given = {**given, "directory": tmp_path / "new"}
    drawn = given.pop("drawn")
    with pytest.raises(ValueError, match=rf"(?s){message}.*Received: .*To fix it: "):
        evaluate(drawn, REFERENCE, **{**OPTIONS, **given})
    assert not (tmp_path / "new").exists()
    if isinstance(drawn, Model):
        assert not drawn.calls


def test_statistics_of_mean_and_covariance_serve_the_frechet_distance_only():
    whole = moments.of_pictures(Colours(), real(), keep=0)
    options = {**OPTIONS, "few": True}
    evaluate({"8": real(seed=1)}, {"8": whole}, measures=("frechet",), **options)
    with pytest.raises(ValueError, match="only the Frechet distance"):
        evaluate({"8": real(seed=1)}, {"8": whole}, measures=("kernel",), **options)
    with pytest.raises(ValueError, match="prompts"):
        Request(3, prompts=["one"])
