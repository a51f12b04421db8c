"""Text to image at 1024 on CC12M with three or five levels, or in small on emoji.

The phase at 1024 always begins with the trained 256 model (appendix B): the run trains that first,
or takes it from --start, a model, run or checkpoint of cc12m_256.py.

                    without arguments                   with --data SOURCE
    levels          16, 32, 64; with --levels 5         64, 256, 1024; with --levels 5
                    8, 16, 32, 64, 128                  64, 128, 256, 512, 1024 (appendix A)
    phases          16 / 16, 32 / all;                  64 / 64, 256 / all;
                    8 / 8 to 32 / all                   64 / 64 to 256 / all
    batches         32, 18, 12                          2048, 1024, 768
    steps           800, 300, 200                       500K, 500K, 100K
    data            251 Twemoji drawings (CC BY 4.0)    CC12M, prepared with --size 1024
    text            all-MiniLM-L6-v2, 32 tokens         FLAN-T5 XL with --text-encoder DIR, else
                                                        all-MiniLM-L6-v2; 128 tokens
    optimizer       Adam (0.9, 0.99), clip 2; rates     Adam (0.9, 0.99), 1e-4, 30K steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DPM-Solver++ 2M, 16 steps,          DDPM, 250 steps, guidance 7, dynamic
                    guidance 3 at the innermost two     threshold (appendices C and F)
                    levels, static threshold
    hardware        2 CPU cores                         32 A100 in the paper; not run here
    hours           9 to 11 minutes                     not given in the paper, not run here
    paper's metric  -                                   none: samples only (figures 6, 16, 17)

Figures and times of what was run: recipes/README.md.
"""

import keras_mdm as mdm
from shared import common, image_scales, image_training, options, rehearsal, text_to_image

INNER = text_to_image.INNER
INNERMOST = mdm.LevelSpec(
    8, channels=(128, 256), blocks=(1, 1), attention=(1, 1), heads=4, attention_ffn=False
)
small_level = image_scales.small_level
SMALL_LEVELS = {
    3: [INNER, small_level(32, 16, 32), small_level(64, 32)],
    5: [
        INNERMOST,
        small_level(16, 8, 64),
        small_level(32, 16, 32),
        small_level(64, 32),
        small_level(128, 64),
    ],
}
PRESETS = {3: "mdm_s64s256s1024", 5: "mdm_s64s128s256s512s1024"}
# Levels of every phase: those up to 64, 256 and 1024.
STAGES = {3: (1, 2, 3), 5: (1, 3, 5)}


def scales(levels: int) -> tuple[common.Scale, common.Scale]:
    """The small and the paper's scale with so many levels."""
    stages = STAGES[levels]
    phases = image_scales.small_phases(SMALL_LEVELS[levels], stages, (800, 300, 200), (32, 18, 12))
    paper = image_scales.paper(
        PRESETS[levels], stages, (2048, 1024, 768), (500_000, 500_000, 100_000)
    )
    return image_scales.small(phases, guided_levels=2), paper


def main() -> None:
    parser = image_training.parser(__doc__, run_dir="runs/cc12m_1024")
    common.add_text(parser)
    options.add_start(parser, "phases whose levels it has are left out")
    rehearsal.add(parser)
    parser.add_argument(
        "--levels", type=int, choices=(3, 5), default=3, help="number of levels (%(default)s)"
    )
    arguments = parser.parse_args()
    scale = image_scales.choose(parser, arguments, *scales(arguments.levels))
    start = options.start_model(arguments)
    if start is not None:
        scale = image_scales.left_after(scale, start.unet.levels)
    image_training.train(arguments, scale, start=start)


if __name__ == "__main__":
    common.run(main)
