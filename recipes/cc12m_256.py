"""Text to image at 256 on CC12M with two or three levels, or in small on emoji.

Phase 1 trains 64 alone, phase 2 all levels jointly on mixed-resolution batches: with three levels
two of them are added at once, as stages of training need not be levels (appendix B). One of a
thousand pairs is left for validation (appendix E).

                    without arguments                   with --data SOURCE
    levels          16, 64; with --levels 3             64, 256; with --levels 3
                    16, 32, 64                          64, 128, 256 (appendix A)
    batches         32, 18                              2048, 1024
    steps           900, 400                            500K, 500K
    data            251 Twemoji drawings (CC BY 4.0)    CC12M: tar shards of img2dataset, or what
                                                        `keras-mdm prepare` made of them
    text            all-MiniLM-L6-v2, 32 tokens         FLAN-T5 XL with --text-encoder DIR, else
                                                        all-MiniLM-L6-v2; 128 tokens
    optimizer       Adam (0.9, 0.99), clip 2; rates     Adam (0.9, 0.99), 1e-4, 30K steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DPM-Solver++ 2M, 16 steps,          DDPM, 250 steps, guidance 7, dynamic
                    guidance 3 at 16, static            threshold (appendices C and F)
                    threshold
    hardware        2 CPU cores                         32 A100 in the paper; not run here
    hours           10 to 12 minutes                    not given in the paper, not run here
    paper's metric  -                                   zero-shot COCO FID-30K 18.35, 13.43 with
                                                        guidance 1.35

Encode the captions once, before: keras-mdm embed SOURCE EMBEDDINGS, then --embeddings EMBEDDINGS.
Figures and times of what was run: recipes/README.md.
"""

from shared import common, image_scales, image_training, options, rehearsal, text_to_image

INNER = text_to_image.INNER
SMALL_LEVELS = {
    2: [INNER, image_scales.small_level(64, 16)],
    3: [INNER, image_scales.small_level(32, 16, 32), image_scales.small_level(64, 32)],
}
PRESETS = {2: "mdm_s64s256", 3: "mdm_s64s128s256"}


def scales(levels: int) -> tuple[common.Scale, common.Scale]:
    """The small and the paper's scale with so many levels."""
    stages = (1, levels)
    phases = image_scales.small_phases(SMALL_LEVELS[levels], stages, (900, 400), (32, 18))
    paper = image_scales.paper(PRESETS[levels], stages, (2048, 1024), (500_000, 500_000))
    return image_scales.small(phases), paper


def main() -> None:
    parser = image_training.parser(__doc__, run_dir="runs/cc12m_256")
    common.add_text(parser)
    options.add_start(parser)
    rehearsal.add(parser)
    parser.add_argument(
        "--levels", type=int, choices=(2, 3), default=2, help="number of levels (%(default)s)"
    )
    arguments = parser.parse_args()
    scale = image_scales.choose(parser, arguments, *scales(arguments.levels))
    image_training.train(arguments, scale)


if __name__ == "__main__":
    common.run(main)
