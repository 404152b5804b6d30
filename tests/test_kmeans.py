"""k-means: against naive formulas and scikit-learn, over streams, in several processes, and its errors."""

from datetime import timedelta
from itertools import count, pairwise

import pytest
import torch
import torch.distributed as dist
from tqdm.auto import tqdm

from hf_ssl_speech.units.kmeans import _Passes, fit_kmeans
from hf_ssl_speech.units.nearest import assign
from hf_ssl_speech.units.sampling import draw_sample

CLUSTERS, DIMS = 8, 5


def blobs(num_frames=4_000, spread=1.0, seed=0):
    """Frames around eight centres, far from the origin; and the centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = 100 + 10 * torch.randn(CLUSTERS, DIMS, generator=generator)
    owners = torch.randint(CLUSTERS, (num_frames,), generator=generator)
    return centres[owners] + spread * torch.randn(num_frames, DIMS, generator=generator), centres


def overlapping(num_frames=6_000, seed=0):
    """Frames in which k-means has many local optima."""
    return torch.randn(num_frames, DIMS, generator=torch.Generator().manual_seed(seed)).cumsum(1)


def with_ids(frames):
    """Frames and their ids, 100 frames an utterance."""
    places = torch.arange(len(frames))
    return frames, torch.stack([places // 100, places % 100], dim=1)


def of_frames(*batches):
    return lambda: list(batches)


def fit(frames, num_clusters=CLUSTERS, **options):
    return fit_kmeans(frames, num_clusters, progress=False, **options)


def naive_error(frames, centroids):
    """Mean squared distance to the nearest centroid, in float64."""
    return torch.cdist(frames.double(), centroids.double()).square().min(1).values.mean().item()


def distance_between(centroids, others):
    """The largest distance from a centroid to the nearest of the others."""
    return torch.cdist(centroids.double(), others.double()).min(1).values.max().item()


@pytest.mark.parametrize("seeding", ["k-means++", "k-means||"])
def test_clusters_that_lie_apart_are_found(seeding):
    frames, centres = blobs()
    assert distance_between(centres, fit(frames, seeding=seeding).centroids) < 0.3


def test_inertia_and_counts_are_those_of_the_returned_centroids():
    frames = overlapping()
    found = fit(frames, iterations=3)
    nearest = torch.cdist(frames.double(), found.centroids.double()).argmin(1)
    assert found.inertia == pytest.approx(naive_error(frames, found.centroids), rel=1e-6)
    assert found.counts.tolist() == torch.bincount(nearest, minlength=CLUSTERS).tolist()
    assert found.inertia == found.history[-1]
    assert found.iterations == len(found.history) <= 3


def test_at_the_end_every_centroid_is_the_mean_of_its_frames():
    frames, _ = blobs()
    found = fit(frames, tolerance=0.0)
    labels = assign(frames, found.centroids)[0]
    means = torch.stack([frames[labels == cluster].mean(0) for cluster in range(CLUSTERS)])
    assert torch.allclose(found.centroids, means, atol=1e-3)


def test_every_pass_lowers_the_inertia():
    history = fit(overlapping(), num_clusters=40, tolerance=0.0, sample_frames=200, iterations=20).history
    assert len(history) > 3
    assert all(later <= earlier for earlier, later in pairwise(history))


def test_the_inertia_is_as_low_as_that_of_scikit_learn():
    from sklearn.cluster import KMeans  # here, so that the processes started below need not load it

    frames = overlapping()
    theirs = KMeans(30, n_init=3, random_state=0).fit(frames.numpy()).inertia_ / len(frames)
    assert fit(frames, num_clusters=30).inertia < 1.01 * theirs


def test_neither_order_nor_batches_nor_last_bits_change_the_centroids_of_frames_with_ids():
    frames, ids = with_ids(overlapping())
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(1))
    nearly = frames * (1 + 1e-7 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(2)))
    whole = fit(lambda: [(frames, ids)], sample_frames=1_000, iterations=4)
    for other in (frames, nearly):
        batches = zip(other[order].split(777), ids[order].split(777))
        streamed = fit(of_frames(*batches), sample_frames=1_000, iterations=4)
        assert torch.allclose(whole.centroids, streamed.centroids, rtol=0, atol=1e-4)
        assert whole.inertia == pytest.approx(streamed.inertia)


def test_batches_do_not_change_the_centroids_of_frames_without_ids():
    frames = overlapping()
    whole = fit(frames, sample_frames=1_000, iterations=4)
    streamed = fit(lambda: frames.split(777), sample_frames=1_000, iterations=4)
    assert torch.allclose(whole.centroids, streamed.centroids, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seeding", ["k-means++", "k-means||"])
def test_clusters_are_found_beside_many_equal_frames(seeding):
    """Nineteen of twenty frames are digital silence: it gets one centroid, and the speech has all the others."""
    frames, centres = blobs()
    silence = torch.zeros(19 * len(frames), DIMS)
    everything = torch.cat([silence, frames])[torch.randperm(20 * len(frames))]
    found = fit(everything, num_clusters=CLUSTERS + 1, seeding=seeding)
    assert distance_between(centres, found.centroids) < 0.3
    assert found.counts.max() == len(silence)


def test_the_seed_decides_the_result():
    frames = overlapping()
    assert torch.equal(fit(frames, seed=3).centroids, fit(frames, seed=3).centroids)
    assert not torch.equal(fit(frames, seed=3).centroids, fit(frames, seed=4).centroids)


def test_more_restarts_lower_the_inertia_on_average():
    data = [overlapping(3_000, seed) for seed in range(5)]
    total = {
        restarts: sum(
            fit(frames, num_clusters=20, seed=seed, restarts=restarts).inertia for frames in data for seed in range(8)
        )
        for restarts in (1, 8)
    }
    assert total[8] < total[1]


def test_an_empty_cluster_starts_anew_at_a_frame_explained_badly():
    frames, centres = blobs()
    start = centres.clone()
    start[3] = 1e4  # no frame is near, so those of the third centre belong to others
    passes = _Passes(lambda: iter([frames]), len(frames), frames, torch.float32, False, tqdm(disable=True))
    found = passes.lloyd(start, 50, 1e-4)
    assert found.reseeded == 1
    assert found.counts.min() > 0
    assert distance_between(centres, found.centroids) < 0.3


@pytest.mark.parametrize("size", [50, 1_000])
def test_mini_batches_come_near_the_inertia_of_full_passes(size):
    frames = overlapping()
    full = fit(frames, sample_frames=500, tolerance=0.0)
    found = fit(lambda: frames.split(333), sample_frames=500, mini_batch=size, iterations=4)
    assert found.inertia < 1.03 * full.inertia
    assert found.inertia == pytest.approx(naive_error(frames, found.centroids), rel=1e-6)
    assert found.counts.sum() == len(frames)
    assert found.iterations <= 4


def test_mini_batches_improve_on_a_start_from_a_small_sample():
    frames = overlapping()
    start = fit(frames, num_clusters=40, sample_frames=100, iterations=1)
    found = fit(frames, num_clusters=40, sample_frames=100, iterations=2, mini_batch=500)
    assert found.inertia < 0.95 * start.inertia


def test_bfloat16_distances_cost_little_inertia():
    frames, _ = blobs(spread=5)
    assert fit(frames, distance_dtype=torch.bfloat16).inertia < 1.02 * fit(frames).inertia


def test_assigning_is_the_nearest_centroid_and_its_squared_distance():
    frames, centres = blobs(num_frames=150_000, spread=20)  # more than one block
    distances = torch.cdist(frames.double(), centres.double()).square()
    labels, squared_distances = assign(frames, centres)
    chosen = distances.gather(1, labels[:, None])[:, 0]
    assert (chosen <= distances.min(1).values + 0.1).all()  # what rounding makes alike may go either way
    assert (labels == distances.argmin(1)).double().mean() > 0.999
    assert torch.allclose(squared_distances.double(), distances.min(1).values, rtol=1e-3, atol=0.1)


def exact_distances(frames, centroids):
    return torch.cdist(frames.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


@pytest.mark.parametrize("place", ["everywhere", "in one channel", "two groups", "one centroid far away"])
def test_assigning_is_exact_wherever_the_frames_lie(place):
    generator = torch.Generator().manual_seed(0)
    centroids = 0.5 * torch.randn(50, 64, generator=generator)
    owners = torch.randint(50, (4_000,), generator=generator)
    shift = torch.zeros_like(centroids)
    if place == "everywhere":
        shift[:] = 3_000
    elif place == "in one channel":
        shift[:, 0] = 3_000
    elif place == "two groups":
        shift[:25], shift[25:] = 2_000, -2_000
    else:
        shift[0] = 1e6
    frames = centroids[owners] + shift[owners] + 0.3 * torch.randn(4_000, 64, generator=generator)
    centroids = centroids + shift
    labels, distances = assign(frames, centroids)
    expected = exact_distances(frames, centroids)
    assert torch.equal(labels, expected.argmin(1))
    # Differences of neighbouring numbers are exact, so that only squares and their sum are rounded: 66 times 2^-24.
    torch.testing.assert_close(distances.double(), expected.amin(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("seeding", ["k-means++", "k-means||"])
def test_groups_of_clusters_far_apart_are_fitted_as_well_as_each_alone(seeding):
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(16, 32, generator=generator)
    centres[8:] += 50_000  # in float32, norms of 10^10 and more know nothing of distances of 300
    frames = centres.repeat(60, 1) + 0.1 * torch.randn(960, 32, generator=generator)
    result = fit_kmeans(frames, 16, seeding=seeding, progress=False)
    distances = exact_distances(frames, result.centroids)
    assert sorted(exact_distances(centres, result.centroids).argmin(1).tolist()) == list(range(16))
    assert result.inertia == pytest.approx(float(distances.amin(1).mean()), rel=1e-3)


def test_assigning_keeps_float32_under_autocast():
    frames, centres = blobs(spread=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        labels = assign(frames, centres)[0]
    assert torch.equal(labels, assign(frames, centres)[0])


def test_a_sample_has_every_frame_with_the_same_chance_and_no_id_twice():
    frames, ids = with_ids(torch.arange(8_000, dtype=torch.float32)[:, None])
    again = [(frames[:500], ids[:500])] * 3
    sample, num_frames = draw_sample(lambda: [(frames, ids), *again], size=2_000, seed=0)
    assert num_frames == 9_500
    assert len(sample.unique()) == 2_000
    per_quarter = torch.histc(sample, 4, 0, 8_000)
    assert (per_quarter - 500).abs().max() < 60  # three standard deviations
    assert not torch.equal(sample, sample.sort(0).values)


def test_the_bar_shows_pass_and_inertia(capfd):
    fit_kmeans(blobs()[0], CLUSTERS)
    last = capfd.readouterr().err.rstrip().split("\r")[-1]
    assert "4.00k/4.00k" in last and "pass " in last and "inertia " in last


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (of_frames(torch.randn(7, 3)), "8 clusters need .* 7 frames came"),
        (of_frames(torch.ones(90, 3)), "90 frames came, .* only 1 are different.*constant"),
        (of_frames(), "no frames"),
        (of_frames(torch.randn(9, 3), torch.full((9, 3), torch.nan)), "Batch 1 has NaN .* in 9 of its 9 frames"),
        (of_frames(torch.randn(9, 3), torch.tensor([[0, torch.inf, 1]])), "Batch 1 .* in 1 of its 1 frames"),
        (of_frames(torch.randn(9, 3), torch.tensor([[0, 1e25, 1]])), "Batch 1 .* squares are infinite, in 1 of its 1"),
        (of_frames(torch.randn(9, 3), torch.randn(9, 4)), r"Batch 1 has shape \(9, 4\), but expected \(frames, 3\)"),
        (of_frames((torch.randn(9, 3), torch.zeros(9))), r"Batch 0 .* ids of shape \(9,\) .* int64 \(9, 2\)"),
        (of_frames(torch.randn(2, 9, 3)), r"Batch 0 has shape \(2, 9, 3\)"),
    ],
)
def test_unusable_features_are_errors_that_say_what_came(batches, message):
    with pytest.raises(ValueError, match=message):
        fit(batches)


def test_a_stream_that_cannot_start_afresh_is_an_error():
    once = iter(blobs()[0].split(100))
    with pytest.raises(ValueError, match="4,000 frames the first time and 0 in a later pass"):
        fit(lambda: once)


def test_a_list_of_batches_is_an_error_with_the_way_out():
    with pytest.raises(TypeError, match="lambda: batches"):
        fit([torch.randn(100, 3)])


def test_unknown_options_are_errors():
    with pytest.raises(ValueError, match=r"k-means\+\+"):
        fit(blobs()[0], seeding="random")
    with pytest.raises(ValueError, match="1 to 32,768 clusters"):
        fit(blobs()[0], num_clusters=0)
    with pytest.raises(ValueError, match="restarts is 0"):
        fit(blobs()[0], restarts=0)


def test_features_of_another_width_than_the_centroids_are_an_error():
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(8, 5\)"):
        assign(torch.zeros(4, 6), torch.zeros(8, 5))


def failing_in_pass(number, frames, problem):
    """A stream that can be read so often, and then breaks after its first batch."""
    passes = count(1)

    def stream():
        yield frames[:100]
        if next(passes) == number:
            raise problem
        yield from frames[100:].split(500)

    return stream


def fit_in_two_processes(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    frames, ids = with_ids(overlapping())
    own = torch.arange(len(frames)) % 3 == 0  # uneven parts
    few = dict(sample_frames=1_000, iterations=6, tolerance=0.0)
    part, part_ids = (all_of[own if rank == 0 else ~own] for all_of in (frames, ids))
    results = {
        "full": fit(of_frames(*zip(part.split(500), part_ids.split(500))), **few),
        "mini-batch": fit(part, sample_frames=1_000, iterations=2, mini_batch=300),
    }
    for name, breaking_rank, batches, options in [
        ("first pass", 1, part * torch.nan, {}),
        ("third pass", 0, failing_in_pass(3, part, ValueError("silence")), few),
        ("last mini-batch", 1, failing_in_pass(2, part, OSError("no such file")), few | {"mini_batch": 300}),
    ]:
        try:
            fit(batches if rank == breaking_rank else part, **options)
        except (ValueError, RuntimeError) as error:
            results[name] = f"{type(error).__name__}: {error}"
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_find_what_one_does_and_fail_together(tmp_path):
    torch.multiprocessing.start_processes(fit_in_two_processes, (str(tmp_path),), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    alone = fit(lambda: [with_ids(overlapping())], sample_frames=1_000, iterations=6, tolerance=0.0)
    assert torch.allclose(first["full"].centroids, alone.centroids, rtol=0, atol=1e-4)
    assert first["full"].counts.tolist() == alone.counts.tolist()
    assert first["full"].inertia == pytest.approx(alone.inertia)
    for kind in ("full", "mini-batch"):
        assert torch.equal(first[kind].centroids, second[kind].centroids)
        assert first[kind].counts.sum() == 6_000
    for name, message in [
        ("first pass", "ValueError: In process 1: Batch 0 has NaN"),
        ("third pass", "ValueError: In process 0: silence"),
        ("last mini-batch", "RuntimeError: In process 1: OSError: no such file"),
    ]:
        assert first[name] == second[name]
        assert first[name].startswith(message)
