"""The autoencoder of latent diffusion, factor 4 or 8: on emoji at 64, or on your pictures at 256.

    python recipes/autoencoder.py
    python recipes/autoencoder.py --factor 8
    python recipes/autoencoder.py --data my_pictures

The paper takes published autoencoders (appendix D.2), which keras_mdm.latents.load_codec reads
from their files; recipes/latent.py trains on the codes of either. This recipe trains one of the
same form: L1 and 1e-6 times the divergence of the codes from a standard normal. The published ones
also have a perceptual and an adversarial loss, without which reconstructions are smoother. It ends
with what is lost on held-out pictures, and with the scale of the codes, measured on training ones.

                    without arguments                   with --data SOURCE
    pictures        64                                  256
    codes           16 x 16 x 3; 8 x 8 x 4              64 x 64 x 3; 32 x 32 x 4
    width           16, times 1 2 4; 1 2 4 4            128, times 1 2 4; 1 2 4 4 (as published)
    blocks          1 per resolution                    2 per resolution
    batch           16                                  8
    steps           600                                 177K; 247K (as published)
    data            1,753 Twemoji drawings              a folder, shards, or what else
                    (CC BY 4.0), 165 held out           keras-mdm data reads; 1 in 20 held out, of
                                                        10,000 and more 1 in 1000
    optimizer       Muon, clip 2; the rate falls        Adam, 1e-4, 1000 steps of warm-up, clip 2
                    along half a cosine
    hardware        2 CPU cores                         not run here
    hours           not run; 150 steps: 3 minutes on    not run here
                    a core that other work shared
    published       -                                   PSNR 27.53, FID 0.27 for factor 4; 24.19,
                                                        0.90 for 8 (the authors, on ImageNet)

--data with --scale small trains the left network on your pictures. recipes/README.md has the
figures and times of what was run.
"""

import keras_mdm as mdm
from shared import autoencoding, options
from shared.autoencoding import AutoencoderScale
from shared.training import run

# Groups of the normalisations divide the narrowest feature maps.
NARROW = {"width": 16, "blocks": 1, "groups": 8}
SMALL = {
    factor: AutoencoderScale(
        size=64,
        steps=600,
        batch_size=16,
        network={"factor": factor, **NARROW},
        learning_rate=3e-3,
        warmup_steps=20,
        final_learning_rate=0.05,
        optimizer=mdm.optimizers.Muon,
    )
    for factor in (4, 8)
}
# Width, multipliers, blocks and channels of the codes are the defaults of KLAutoencoder.
PAPER = {
    factor: AutoencoderScale(
        size=256,
        steps=steps,
        batch_size=8,
        network={"factor": factor},
        learning_rate=1e-4,
        warmup_steps=1000,
        checkpoint_every=1000,
    )
    for factor, steps in ((4, 177_000), (8, 247_000))
}


def main() -> None:
    parser = options.autoencoder_parser(__doc__, run_dir="runs/autoencoder_f4")
    parser.add_argument(
        "--factor", type=int, choices=(4, 8), default=4, help="side of a code's place (%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.run_dir == parser.get_default("run_dir"):
        arguments.run_dir = f"runs/autoencoder_f{arguments.factor}"
    if arguments.data is None:
        options.require_files(parser, arguments)
        if arguments.scale == "paper":
            parser.error("--scale paper needs pictures: pass --data SOURCE")
    small = arguments.scale == "small" or arguments.data is None
    scale = (SMALL if small else PAPER)[arguments.factor].changed(arguments)
    autoencoding.train(arguments, scale)


if __name__ == "__main__":
    run(main)
