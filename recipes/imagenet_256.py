"""Class-conditional ImageNet at 256, or in small on emoji: pictures of a class.

Two levels, 64 and 256; the label is added to the time embedding, there is no cross-attention
(appendix E). Phase 1 trains 64 alone, phase 2 both jointly on mixed-resolution batches.

                    without arguments                   with --data SOURCE
    levels          16, 64                              64, 256 (appendix A)
    batches         32, 18                              512, 256
    steps           500, 500                            300K, 500K
    data            251 Twemoji drawings (CC BY 4.0),   ImageNet: a folder per class, shards of
                    each of them a class                `keras-mdm prepare`, or tfds:imagenet2012
    optimizer       Adam (0.9, 0.99), clip 2; rates     Adam (0.9, 0.99), 1e-4, 30K steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DPM-Solver++ 2M, 16 steps,          DDPM, 250 steps, guidance 2.5, dynamic
                    guidance 3 at 16, static            threshold (appendix C, figure 12)
                    threshold
    hardware        2 CPU cores                         8 A100 in the paper; not run here
    hours           9 minutes                           not given in the paper, not run here
    paper's metric  -                                   FID-50K 8.92, 6.62 with guidance 1.2

The paper contradicts itself: its text says that labels were not dropped in training (appendix E),
and its table 1 and figures 12 to 14 use classifier-free guidance, which needs a model that was
trained without labels as well. Here 10 % of labels are dropped; --exact drops none, and then
samples are drawn without guidance.
Figures and times of what was run: recipes/README.md.
"""

from shared import common, image_scales, image_training, options, rehearsal, text_to_image

LEVELS = [text_to_image.INNER, image_scales.small_level(64, 16)]
SMALL = image_scales.small(
    image_scales.small_phases(LEVELS, (1, 2), (500, 500), (32, 18)), network={}, tokens=0
)
PAPER = image_scales.paper(
    "mdm_s64s256",
    (1, 2),
    (512, 256),
    (300_000, 500_000),
    sampling={**common.PAPER_SAMPLING, "guidance_scale": 2.5},
    tokens=0,
)


def main() -> None:
    parser = image_training.parser(__doc__, run_dir="runs/imagenet_256")
    options.add_start(parser)
    rehearsal.add(parser)
    parser.add_argument("--exact", action="store_true", help="drop no labels, as the text has it")
    arguments = parser.parse_args()
    if arguments.exact and arguments.guidance not in (None, 1.0):
        parser.error(
            f"--exact drops no labels, and without that there is no guidance (got --guidance "
            f"{arguments.guidance}): leave one of the two out"
        )
    scale = image_scales.choose(parser, arguments, SMALL, PAPER, kind="class")
    process = {**scale.process, "cond_dropout": 0.0 if arguments.exact else 0.1}
    scale = image_scales.changed(scale, process=process)
    image_training.train(arguments, scale, condition="class")


if __name__ == "__main__":
    common.run(main)
