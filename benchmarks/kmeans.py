"""k-means against scikit-learn's MiniBatchKMeans with the settings of HuBERT's recipe: CPU time on one thread.

    python benchmarks/kmeans.py
    python benchmarks/kmeans.py --frames 100000 --rounds 1    # half a minute

Features are the MFCC of real speech from the folder that the environment variable SPEECH_CORPORA names (a million
frames are 2.8 hours); without it, synthetic clusters. Inertia is measured on all frames in float64.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import pyarrow.parquet
import sklearn
import torch
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from hf_ssl_speech.audio import read_audio
from hf_ssl_speech.data.mfcc import MFCC_FEATURES, mfcc_features
from hf_ssl_speech.units.kmeans import fit_kmeans

CLUSTERS = 100


def speech_features(corpora: Path, num_frames: int) -> torch.Tensor:
    batches, count = [], 0
    for shard in sorted(corpora.glob("english-pool/commonvoice-*.parquet")):
        for group in pyarrow.parquet.ParquetFile(shard).iter_batches(32, columns=["audio"]):
            for audio in group["audio"].to_pylist():
                batches.append(mfcc_features(torch.from_numpy(read_audio(audio))))
                count += len(batches[-1])
            if count >= num_frames:
                return torch.cat(batches)[:num_frames].clone()
    return torch.cat(batches)


def synthetic_features(num_frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(300, MFCC_FEATURES, generator=generator)
    owners = torch.randint(len(centres), (num_frames,), generator=generator)
    return centres[owners] + 2 * torch.randn(num_frames, MFCC_FEATURES, generator=generator)


def inertia(features: torch.Tensor, centroids: torch.Tensor) -> float:
    """Mean squared distance to the nearest centroid, in float64 and by nobody's k-means."""
    errors = [
        torch.cdist(chunk.double(), centroids.double()).min(1).values.square().sum() for chunk in features.split(10_000)
    ]
    return float(sum(errors)) / len(features)


def ours(features: torch.Tensor, seed: int) -> torch.Tensor:
    return fit_kmeans(features, CLUSTERS, seed=seed, progress=False).centroids


def theirs(features: torch.Tensor, seed: int) -> torch.Tensor:
    model = MiniBatchKMeans(
        n_clusters=CLUSTERS,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        tol=0.0,
        max_no_improvement=100,
        n_init=20,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=seed,
    )
    return torch.from_numpy(model.fit(features.numpy()).cluster_centers_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=1_000_000, help="frames to cluster")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both, each with another seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    corpora = os.environ.get("SPEECH_CORPORA")
    features = speech_features(Path(corpora), arguments.frames) if corpora else synthetic_features(arguments.frames)
    kind = "MFCC of speech" if corpora else "synthetic features"
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, scikit-learn {sklearn.__version__}"
    )
    print(f"{len(features):,} x {features.shape[1]} {kind}, {CLUSTERS} clusters, one thread, CPU time")
    ratios = []
    with threadpool_limits(1):
        ours(features[:20_000], 0), theirs(features[:20_000], 0)  # warm up
        for seed in range(arguments.rounds):
            times, inertias = [], []
            for fit in (ours, theirs):
                start = time.process_time()
                centroids = fit(features, seed)
                times.append(time.process_time() - start)
                inertias.append(inertia(features, centroids))
            ratios.append(times[1] / times[0])
            print(
                f"seed {seed}: ours {times[0]:.2f} s, inertia {inertias[0]:.2f}; scikit-learn {times[1]:.2f} s, "
                f"inertia {inertias[1]:.2f}: {ratios[-1]:.1f} times as fast, "
                f"inertia {inertias[0] / inertias[1]:.4f} of theirs"
            )
    print(f"median: {statistics.median(ratios):.1f} times as fast")


if __name__ == "__main__":
    main()
