"""Reading of clips: against a bare PyAV loop over the same files, and memory over many clips.

    python benchmarks/video.py                     # 8 files like WebVid's: 596 x 336, 20 s, 25/s
    python benchmarks/video.py --clips 10000       # also memory while 10000 clips are read

The bare loop is told which frames to decode; it seeks, decodes and resizes, in as many threads as
there are cores, and does nothing else. The pipeline finds the frames by itself, crops, mirrors,
batches, and yields tensors in order. Both read the same frames; repetitions alternate.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"
FILES, SECONDS, RATE, WIDTH, HEIGHT = 8, 20, 25, 596, 336


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clips", type=int, default=0, help="read this many and watch the memory")
    arguments = parser.parse_args()
    from step import machine

    from keras_mdm.data import ClipRule, find_videos, prepare_clips

    result = {"machine": machine(), "speed": [], "memory": []}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        videos = find_videos(folder, captions="names")
        print(f"{'size':>5} {'bare clips/s':>13} {'pipeline':>9} {'ratio':>6} {'shards':>8}")
        for size in arguments.sizes:
            rule = ClipRule(size)
            shards = prepare_clips(videos, f"{folder}/shards-{size}", rule=rule, progress=False)
            rows = speed(videos, shards, rule, arguments.repeats)
            result["speed"].append({"size": size, **rows})
            print(
                f"{size:>5} {rows['bare']:>13.1f} {rows['pipeline']:>9.1f} "
                f"{rows['ratio']:>6.2f} {rows['shards']:>8.1f}"
            )
        if arguments.clips:
            result["memory"] = memory(videos, ClipRule(64), arguments.clips)
    target = RESULTS / "video.json"
    if not arguments.clips and target.is_file():  # keep that part from another run
        result["memory"] = json.loads(target.read_text())["memory"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "video.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {RESULTS / 'video.json'}")


def write_files(folder: Path) -> None:
    """Videos of moving coarse and fine texture, with grain, in the coder's usual setting."""
    import av

    for number in tqdm(range(FILES), desc="writing videos", file=sys.stderr):
        rng = np.random.default_rng(number)
        layers = [
            np.kron(rng.integers(0, 255, (40 * s, 60 * s, 3)), np.ones((20 // s, 20 // s, 1)))
            for s in (1, 4)
        ]
        scene = np.mean(layers, axis=0)
        grain = rng.normal(0, 4, (4, HEIGHT, WIDTH, 1))
        with av.open(str(folder / f"{number:03d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for index in range(SECONDS * RATE):
                left, top = index % 500, (index * (1 + number % 3) // 2) % 400
                picture = scene[top : top + HEIGHT, left : left + WIDTH] + grain[index % 4]
                picture = np.clip(picture, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def speed(videos, shards, rule, repeats: int) -> dict[str, float]:
    """Clips per second of the bare loop, of the pipeline, and of prepared shards."""
    from keras_mdm.data import clip_dataset
    from keras_mdm.data.clips.reader import fixed_place

    count, batch = 48, 8
    plans = []
    for row in range(len(videos)):
        wanted = rule.wanted(SECONDS * RATE, fixed_place(videos.key(row)))
        plans.append((str(videos.root / videos.files[row]), wanted[0], wanted[-1]))

    def bare() -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda plan: bare_clip(*plan, rule), plans * (count // FILES)))
        return time.perf_counter() - start

    def pipeline(source) -> float:
        batches = iter(clip_dataset(source, rule, batch_size=batch, seed=0))
        for _ in range(3):
            next(batches)  # until it has read ahead as much as at the end
        start = time.perf_counter()
        for _ in range(count // batch):
            next(batches)
        return time.perf_counter() - start

    runs = {"bare": bare, "pipeline": lambda: pipeline(videos), "shards": lambda: pipeline(shards)}
    taken = {name: [] for name in runs}
    for run in runs.values():
        run()  # files into the page cache, and traces
    for _ in range(repeats):
        for name, run in runs.items():
            taken[name].append(run())
    found = {name: count / statistics.median(values) for name, values in taken.items()}
    return {**found, "ratio": found["pipeline"] / found["bare"], "seconds": taken}


def bare_clip(file: str, first: int, last: int, rule) -> list[np.ndarray]:
    """Seek, decode, convert: the steps that every reader needs."""
    import av

    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = int(1 / (RATE * stream.time_base))
        wanted = {number * step for number in range(first, last + 1, rule.stride)}
        container.seek(first * step, stream=stream)
        width = round(WIDTH * rule.size / HEIGHT)
        frames = []
        for frame in container.decode(stream):
            if frame.pts in wanted:
                small = frame.reformat(width, rule.size, "rgb24", interpolation="AREA")
                frames.append(small.to_ndarray())
            if frame.pts >= last * step:
                return frames
    raise RuntimeError(f"{file} ended early")


def memory(videos, rule, clips: int) -> list[dict[str, float]]:
    """Resident memory at ten points while clips are read."""
    from keras_mdm.data import clip_dataset

    batch, found = 16, []
    steps = -(-clips // batch)
    bar = tqdm(total=steps * batch, desc="reading clips", unit="clip", file=sys.stderr)
    for step, _ in enumerate(clip_dataset(videos, rule, batch_size=batch, seed=0).take(steps), 1):
        bar.update(batch)
        if step % max(1, steps // 10) == 0:
            status = Path("/proc/self/status").read_text()
            resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
            found.append({"clips": step * batch, "resident_mb": round(resident, 1)})
            print(f"{step * batch:>7} clips  {resident:>8.1f} MB", flush=True)
    bar.close()
    return found


if __name__ == "__main__":
    main()
