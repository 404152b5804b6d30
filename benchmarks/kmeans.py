"""k-means beside scikit-learn's mini-batches, with the settings of HuBERT's recipe, and faiss: CPU time of one thread.

    python benchmarks/kmeans.py --output_file docs/measured/kmeans.json
    python benchmarks/kmeans.py --frames 100000 --rounds 1 --no_growth    # half a minute

Features are the MFCC of real speech from the folder that the environment variable SPEECH_CORPORA names (a million
frames are 2.8 hours); without it, synthetic clusters. Inertia is measured on all frames in float64, and must be no
worse than that of scikit-learn.
"""

import os
from pathlib import Path

import faiss
import pyarrow.parquet
import torch
from measuring import arguments, machine, side_by_side, write_results
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from hf_ssl_speech.audio import read_audio
from hf_ssl_speech.data.mfcc import MFCC_FEATURES, mfcc_features
from hf_ssl_speech.units.kmeans import fit_kmeans

CLUSTERS = 100
RECIPE = dict(init="k-means++", max_iter=100, batch_size=10_000, tol=0.0, max_no_improvement=100, n_init=20)
RECIPE |= dict(reassignment_ratio=0.0, compute_labels=False)
FAISS = dict(niter=25, nredo=1)  # its defaults, but for the sample: it takes all frames


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


def ours(features: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    return fit_kmeans(features, clusters, seed=seed, progress=False).centroids


def of_scikit_learn(features: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    model = MiniBatchKMeans(n_clusters=clusters, random_state=seed, **RECIPE)
    return torch.from_numpy(model.fit(features.numpy()).cluster_centers_)


def of_faiss(features: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    kmeans = faiss.Kmeans(features.shape[1], clusters, seed=seed, max_points_per_centroid=len(features), **FAISS)
    kmeans.train(features.numpy())
    return torch.from_numpy(kmeans.centroids)


FITS = {"ours": ours, "scikit-learn": of_scikit_learn, "faiss": of_faiss}


def measure(features: torch.Tensor, clusters: int, rounds: int) -> dict:
    """All three on the same frames, each round with another seed."""
    found: dict[str, list[float]] = {name: [] for name in FITS}

    def fit(name: str):
        found[name].append(FITS[name](features, clusters, len(found[name])))

    work = f"{len(features):,} frames, {clusters} clusters"
    case = side_by_side(work, {name: lambda name=name: fit(name) for name in FITS}, rounds, warm_up=0)
    inertias = {name: sum(inertia(features, each) for each in centroids) / rounds for name, centroids in found.items()}
    print(f"inertia: {inertias}", flush=True)
    if inertias["ours"] > 1.002 * inertias["scikit-learn"]:
        raise SystemExit("Our inertia is worse than scikit-learn's.")
    return case | {"frames": len(features), "clusters": clusters, "inertia": inertias}


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv,
        __doc__,
        3,
        frames=dict(type=int, default=1_000_000, help="frames to cluster (default: a million)"),
        no_growth=dict(action="store_true", help="leave out fewer frames and other numbers of clusters"),
    )
    if args.quick:
        args.frames, args.rounds = 20_000, 1
    corpora = os.environ.get("SPEECH_CORPORA")
    is_speech = bool(corpora) and not args.quick
    features = speech_features(Path(corpora), args.frames) if is_speech else synthetic_features(args.frames)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        for fit in FITS.values():
            fit(features[:20_000], 10, 0)  # warm up
        cases = [measure(features, CLUSTERS, args.rounds)]
        if not args.no_growth:
            cases += [measure(features[: len(features) // share], CLUSTERS, 1) for share in (4, 2, 8)]
            eighth = features[: len(features) // 8]
            cases += [measure(eighth, clusters, 1) for clusters in (50, 200) if not args.quick]
    settings = {"features": "MFCC of speech" if is_speech else "synthetic", "scikit-learn": RECIPE, "faiss": FAISS}
    write_results(
        args.output_file,
        {"machine": machine("scikit-learn", "faiss-cpu"), "settings": settings, "cases": cases},
    )


if __name__ == "__main__":
    main()
