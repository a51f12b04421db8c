"""Pictures and training steps of every option, as the code made them when they were recorded.

`python tests/golden/recorded.py` records anew; `--bits` compares with what lies there, bit for bit,
which holds on one kind of processor. `tests/test_recorded.py` compares within rounding.
"""

import argparse
import sys
import tempfile
import zlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_mdm
from keras_mdm import LevelSpec, build_nested_unet

HERE = Path(__file__).parent
FILE = HERE / "recorded.npz"


def random_weights(model):
    """Values that do not depend on initializers; nothing is zero, or adapters would hide a lot."""
    for variable in model.unet.weights:
        rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
        values = rng.standard_normal(tuple(variable.shape)).astype("float32")
        fan = max(1, int(np.prod(variable.shape[:-1])))
        variable.assign(values / np.sqrt(fan) if len(variable.shape) > 1 else 0.2 * values)
    model.refresh()  # averages begin anew
    for number, ema in enumerate(model.averages.by_name.values()):
        for variable, average in zip(ema.variables, ema.averages, strict=True):
            average.assign(np.asarray(variable) * (0.9 + 0.02 * number))
    model.averages.mark()


def network(*levels, **options):
    keras.utils.set_random_seed(0)
    common = {"channels": (32, 32), "blocks": (1, 1), "attention": (0, 1), "heads": 2}
    levels = [LevelSpec(*level, **common) for level in levels]
    return build_nested_unet(levels, time_width=64, **options)


def picture_model(**options):
    unet = network((8,), (16,), num_classes=3, text_width=8, text_projection=8, text_blocks=1)
    rng = np.random.default_rng(5)
    null = {"null_text": rng.standard_normal((1, 8)).astype("float32")}
    model = keras_mdm.MatryoshkaDiffusion(unet, power_emas=(0.1,), **null, **options)
    random_weights(model)
    return model


def clip_model(**options):
    model = keras_mdm.MatryoshkaDiffusion(network((8,), (8, 2), (16, 2)), **options)
    random_weights(model)
    return model


def conditions():
    rng = np.random.default_rng(3)
    text = rng.standard_normal((2, 3, 8)).astype("float32")
    mask = np.array([[1, 1, 1], [1, 1, 0]], "float32")
    return {"text": text, "text_mask": mask, "label": np.array([0, 2])}


def picture(seed, *shape):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape).astype("float32")


def mask_of(*shape):
    mask = np.zeros(shape, bool)
    mask[..., 3:9, 5:12] = True
    return mask


def sampling_cases(model):
    """(name, arguments of `generate`) of one model with text and classes."""
    cases = {"default": {}}
    for name in keras_mdm.diffusion.samplers.NAMES:
        cases[f"sampler_{name}"] = {"sampler": name}
    cases |= {f"grid_{g}": {"grid": g} for g in ("release", "logsnr", "karras")}
    cases |= {f"threshold_{t}": {"threshold": t} for t in ("static", "dynamic_if", "none")}
    init, mask = picture(1, 2, 16, 16, 3), mask_of(16, 16)
    negative = {"text": picture(9, 2, 2, 8), "text_mask": np.ones((2, 2), "float32")}
    cases |= {
        "ddim_eta": {"eta": 0.7},
        "ddim_renewed_unguided": {"eta": 1.0, "guidance_scale": 1.0},
        "unguided": {"guidance_scale": 1.0},
        "unconditional": {"guidance_scale": 0.0},
        "by_level": {"guidance_scale": {"8": 3.0, "16": 1.5}},
        "interval": {"guidance_interval": (0.2, 0.7)},
        "interval_unipc": {"guidance_interval": (0.2, 0.7), "sampler": "unipc"},
        "rescale": {"guidance_rescale": 0.7},
        "split": {"split_guidance": True},
        "split_rescale": {"split_guidance": True, "guidance_rescale": 0.5},
        "autoguidance": {"autoguidance": "raw"},
        "autoguidance_power": {"autoguidance": "ema_0.1", "guidance_scale": 3.0},
        "negative": {"negative_prompts": negative},
        "negative_split": {"negative_prompts": negative, "split_guidance": True},
        "raw": {"weights": "raw"},
        "power": {"weights": "ema_0.1"},
        "stop_at": {"stop_at": "8"},
        "stop_at_heun": {"stop_at": "8", "sampler": "heun"},
        "init_image": {"init_image": init},
        "init_image_ddpm": {"init_image": init, "strength": 0.5, "sampler": "ddpm"},
        "mask": {"init_image": init, "mask": mask},
        "mask_reconstruction": {"init_image": init, "mask": mask, "reconstruction": 2.0},
        "mask_interval_heun": {
            "init_image": init,
            "mask": mask,
            "sampler": "heun",
            "guidance_interval": (0.0, 0.6),
        },
        "hold": {"hold": {"8": picture(2, 2, 8, 8, 3)}},
        "hold_reconstruction": {
            "hold": {"8": picture(2, 2, 8, 8, 3)},
            "reconstruction": 1.0,
            "guidance_rescale": 0.3,
            "sampler": "dpmpp_2m_sde",
        },
        "noise": {"noise": model.noise_between(3, 4, 2)},
        "seeds": {"seed": [7, 8]},
        "copies": {"num_images_per_prompt": 2},
        "return_steps": {"return_steps": 2},
        "jit": {"jit_compile": True},
    }
    return cases


def pictures(chosen=None):
    """Recorded pictures, float32 by name; those of all options unless some are chosen."""
    found = {}

    def record(name, model, given, **options):
        options = {"steps": 5, "seed": 1, "output": "float32", "progress": False} | options
        images = model.generate(given, **options)
        if isinstance(images, tuple):
            images, steps = images
            found.update({f"{name}/steps/{k}": v for k, v in steps.items()})
        found.update({f"{name}/{level}": value for level, value in images.items()})

    model = picture_model()
    for name, options in sampling_cases(model).items():
        if chosen is None or name in chosen:
            record(f"pictures/{name}", model, conditions(), **options)
    if chosen is not None:
        return found
    others = {
        "residual": {"residual": {"16": 0.3}},
        "residual_threshold": {"residual": {"16": 0.3}, "threshold": "dynamic_if"},
        "signal_scale": {"signal_scale": {"16": 2.0}},
        "output_limit": {"output_limit": 1.5},
        "guidance_shares": {"guidance_shares": {"16": 0.0}},
        "eps": {"prediction": "eps"},
        "x0": {"prediction": "x0", "downsample": "bilinear"},
        "linear": {"schedule": "linear", "shift_power": 1.0},
    }
    for name, options in others.items():
        model = picture_model(**options)
        record(f"models/{name}", model, conditions())
        record(
            f"models/{name}_mask",
            model,
            conditions(),
            init_image=picture(1, 16, 16, 3),
            mask=mask_of(16, 16),
            sampler="ddpm",
        )
    clips = clip_model(frame="middle")
    record("clips/default", clips, None, num_images=2)
    clip = picture(4, 2, 2, 16, 16, 3)
    hold = {"8": picture(5, 2, 8, 8, 3)}
    record("clips/hold", clips, None, num_images=2, hold=hold, reconstruction=1.0)
    record("clips/mask", clips, None, num_images=2, init_image=clip, mask=mask_of(2, 16, 16))
    unet = network((8,), (16,), in_channels=6)
    upsampler = keras_mdm.MatryoshkaDiffusion(unet)
    random_weights(upsampler)
    record("low_res", upsampler, None, low_res=picture(6, 2, 8, 8, 3))
    with tempfile.TemporaryDirectory() as folder:
        model = picture_model()
        keras_mdm.export_saved_model(model, Path(folder) / "saved", sampler="dpmpp_2m")
        served = tf.saved_model.load(Path(folder) / "saved" / "1")
        found.update(exported(served))
    return found


def exported(served, steps=4):
    """Pictures of an exported `picture_model`."""
    function = served.signatures["scalars"]
    given = {k: tf.constant(v) for k, v in conditions().items()}
    given |= {"seed": tf.constant(1, tf.int64), "steps": tf.constant(steps)}
    given["guidance_scale"] = tf.constant(3.0)
    wanted = function.structured_input_signature[1]
    given = {k: tf.cast(v, wanted[k].dtype) for k, v in given.items() if k in wanted}
    return {f"exported/{k}": v.numpy().astype("float32") for k, v in function(**given).items()}


def training():
    """Losses and a summary of the weights after a few steps, by name."""
    found = {}
    cases = {
        "plain": {},
        "weights": {"level_weights": {"8": 0.5}, "cond_dropout": {"text": 0.5, "label": 0.3}},
        "vdm": {"loss_weighting": "vdm"},
        "min_snr": {"loss_weighting": {"kind": "min_snr", "gamma": 5.0}},
        "stratified": {"times": "stratified", "loss_weighting": "sigmoid"},
        "target": {"loss_target": "x0"},
        "eps": {"prediction": "eps"},
        "residual": {"residual": {"16": 0.3}},
        "signal_scale": {"signal_scale": {"16": 2.0}, "output_limit": 2.0},
        "progress": {"level_weights": lambda progress: {"8": 1.0 - 0.5 * progress}},
    }
    mixed = {
        "8": {**conditions(), "image": picture(7, 2, 8, 8, 3)},
        "16": {**conditions(), "image": picture(8, 2, 16, 16, 3)},
    }
    for name, options in cases.items():
        model = picture_model(**options)
        model.compile(keras_mdm.optimizers.Adam(1e-3), micro_batches=2 if name == "plain" else 1)
        batch = {**conditions(), "image": picture(7, 2, 16, 16, 3)}
        for step in range(2):
            logs = model.train_on_batch(mixed if step else batch, return_dict=True)
            found |= {f"training/{name}/{step}/{k}": np.float32(v) for k, v in logs.items()}
        logs = model.test_on_batch(mixed, return_dict=True)
        found |= {f"training/{name}/test/{k}": np.float32(v) for k, v in logs.items()}
        parts = [float(np.sum(np.abs(np.asarray(v, "float64")))) for v in model.unet.weights]
        found[f"training/{name}/weights"] = np.array(parts)
    return found


def everything():
    return pictures() | training()


def differences(found, recorded):
    """Names of what differs in any bit, with the largest difference."""
    lines = [f"missing: {name}" for name in sorted(recorded.keys() ^ found.keys())]
    for name in sorted(recorded.keys() & found.keys()):
        ours, theirs = np.asarray(found[name]), recorded[name]
        if not np.array_equal(ours, theirs, equal_nan=True):
            lines.append(f"{name}: {np.max(np.abs(ours.astype('float64') - theirs)):.3g}")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", action="store_true", help="compare instead of recording")
    given = parser.parse_args()
    if given.bits:
        with np.load(FILE) as recorded:
            lines = differences(everything(), dict(recorded))
        print("\n".join(lines) or "all bits are the same")
        sys.exit(bool(lines))
    np.savez_compressed(FILE, **everything())
