"""A set of discrete units as a model: centroids and where they come from, saved, loaded and pushed like any other."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset, IterableDataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.feature_description import MEMORY_GB, FeatureDescription
from hf_ssl_speech.data.features import FeatureSource, FeatureStream, SpeechFeatures, open_features
from hf_ssl_speech.data.processes import in_several_processes
from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.data.sources import is_hub_id
from hf_ssl_speech.files import as_dataclass, naming_the_file, read_json, write_json
from hf_ssl_speech.models.classes import check_folder
from hf_ssl_speech.models.finite import check_finite
from hf_ssl_speech.units.kmeans import fit_kmeans
from hf_ssl_speech.units.nearest import assign
from hf_ssl_speech.units.remembered import Remembered
from hf_ssl_speech.units.unit_text import unit_tokenizer
from hf_ssl_speech.uploading import Repository

logger = logging.getLogger(__name__)

CENTROIDS_FILE, FACTS_FILE = "kmeans.safetensors", "kmeans.json"
FORMAT = 1
# With fewer frames per unit than this, centroids depend on chance (faiss warns below 39).
FRAMES_A_UNIT = 30
# HuBERT takes a tenth of 960 hours. Smaller data needs a larger share: up to this many hours, all of it.
PUBLISHED_SHARE, ENOUGH_HOURS = 0.1, 20.0
HERE = "."  # the encoder lies beside the units, in the same folder or repository


class KMeansUnits:
    """Discrete units: the number of the nearest centroid (HuBERT, "Learning the Hidden Units").

    Args:
        centroids: `(units, width)` float32.
        counts: Frames of each unit when they were fitted, `(units,)` int64.
        features: Description of the features that the centroids belong to.
        facts: How they were fitted: see `fit`.
    Raises:
        ValueError: If centroids, counts and features do not belong together.
    """

    def __init__(self, centroids: Tensor, counts: Tensor, features: FeatureDescription, facts: Mapping[str, Any]):
        if centroids.dim() != 2 or centroids.shape[1] != features.width or counts.shape != centroids.shape[:1]:
            raise ValueError(
                f"Centroids {tuple(centroids.shape)} and counts {tuple(counts.shape)} do not belong to {features}; "
                f"expected (units, {features.width}) and (units,)."
            )
        self.centroids = centroids.float().cpu().contiguous()
        self.counts = counts.long().cpu().contiguous()
        self.features = features
        self.facts = dict(facts)

    @property
    def num_units(self) -> int:
        """Units in the set, numbered from 0."""
        return len(self.centroids)

    def __repr__(self) -> str:
        hours = self.facts.get("hours")
        fitted = "" if hours is None else f", from {hours:.2f} hours"
        return f"KMeansUnits({self.num_units} units of {self.features}{fitted})"

    @classmethod
    def fit(
        cls,
        dataset: Dataset | IterableDataset,
        source: FeatureSource,
        num_units: int,
        *,
        seed: int = 0,
        share: float | None = None,
        memory_gb: float = MEMORY_GB,
        repeats: np.ndarray | None = None,
        **kmeans,
    ) -> KMeansUnits:
        """Fits units to the features of a dataset, over all processes where torch.distributed is initialised.

        Args:
            dataset: Prepared rows, also streamed ones.
            source: What gives the features.
            num_units: HuBERT takes 100 for MFCC and 500 for hidden layers.
            seed: Decides which utterances are taken, and the centroids' start.
            share: Share of the utterances to take. By default 0.1, as published, or as much as makes 20 hours; a
                stream, whose length is not known, gives 0.1.
            memory_gb: Gigabytes of features that each process keeps in memory; the rest is computed again in each
                pass. An hour takes 56 MB as MFCC and 0.55 GB as a layer of BASE.
            repeats: How often the whole data would take each row, as `Mixture.repeats` tells; by default once.
            kmeans: More arguments of `fit_kmeans`, such as `restarts`, `mini_batch` or `progress`.
        Returns:
            The units, the same in every process. Their `facts` tell `seed`, `share`, `inertia` (mean squared distance
            of a frame to its centroid), `iterations`, `frames`, `utterances`, `hours` and `versions`.
        Raises:
            ValueError: If the share is not one, or the data makes fewer frames than units. A warning tells of fewer
                than 30 frames a unit.
        """
        if share is None:
            share = _default_share(dataset)
        if not 0 < share <= 1:
            raise ValueError(f"The share of the utterances is {share}; expected more than 0 and at most 1 (all).")
        stream = FeatureStream(_choose(dataset, share, seed, repeats), Remembered(source, memory_gb * 1e9))
        found = fit_kmeans(stream, num_units, seed=seed, **kmeans)
        frames = int(found.counts.sum())
        if frames < FRAMES_A_UNIT * num_units:
            logger.warning(
                f"{num_units} units were fitted to {frames:,} frames, {frames / num_units:.1f} for each: with fewer "
                f"than {FRAMES_A_UNIT} they follow single frames rather than sounds. Take more audio (`share`, or more "
                "data), or fewer units."
            )
        facts = {
            "seed": seed,
            "share": share,
            "inertia": found.inertia,
            "iterations": found.iterations,
            "frames": frames,
            "utterances": _over_processes(stream.utterances),
            "hours": frames / source.description.frames_per_second / 3600,
            "versions": {name: version(name) for name in ("hf_ssl_speech", "torch", "transformers")},
        }
        return cls(found.centroids, found.counts, source.description, facts)

    def predict(self, features: Tensor) -> Tensor:
        """Units of frames.

        Args:
            features: `(frames, width)`, of the kind that `self.features` tells.
        Returns:
            `(frames,)` int64, on the device of the features.
        Raises:
            ValueError: If they are of another width, or hold NaN or infinity.
        """
        check_finite(features, "Features")
        return assign(features, self.centroids)[0]

    def predict_rows(self, rows: Sequence[Mapping[str, Any]], source: FeatureSource) -> list[np.ndarray]:
        """Units of prepared rows: `(frames,)` int32 each, none for a row whose audio turns out to be unusable.

        Raises:
            ValueError: If the source computes other features than the units were fitted on, or NaN. The row is named.
        """
        return self.predict_frames(rows, source)[0]

    def predict_frames(
        self, rows: Sequence[Mapping[str, Any]], source: FeatureSource
    ) -> tuple[list[np.ndarray], list[Tensor]]:
        """`predict_rows`, and the features that the units were made of, `(frames, width)` for each row."""
        self.check_features(source.description)
        if not rows:
            return [], []
        features = source.features(rows)
        if not torch.stack([frames.isfinite().all() for frames in features]).all():
            for row, frames in zip(rows, features):
                check_finite(frames, f"The features of row {row['name']}")
        units = self.predict(torch.cat(features)).to("cpu", torch.int32)
        return [part.numpy() for part in units.split([len(frames) for frames in features])], features

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer of these units as text, without repeats, for language models: see `unit_tokenizer`."""
        return unit_tokenizer(self.num_units)

    def open_features(self, **settings) -> SpeechFeatures:
        """The source of the features that these units need; it loads the encoder, if it takes one.

        Args:
            settings: `device`, and for an encoder such as `batch_seconds` or `autocast_dtype`.
        Raises:
            ValueError: If the encoder can't be loaded, or has other weights by now.
        """
        return open_features(self.features, **settings)

    def check_features(self, description: FeatureDescription):
        """Raises a ValueError, in words, if features are of another kind, layer, rate, width or of other weights."""
        differences = self.features.differences(description)
        if differences:
            raise ValueError(
                f"These units were fitted on {self.features}, but {description} came: {'; '.join(differences)}. Take "
                "the features that `units.open_features()` computes, or fit other units."
            )

    def save_pretrained(self, folder: str | os.PathLike):
        """Writes `kmeans.safetensors` and `kmeans.json`, which may lie beside a model's files.

        Beside the encoder that they were made with, they name no folder: encoder and units can be moved, copied and
        pushed as one.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"centroids": self.centroids, "counts": self.counts}
        save_file(tensors, folder / CENTROIDS_FILE, metadata={"format": "pt"})
        features = replace(self.features, encoder=HERE) if self.lies_with_encoder(folder) else self.features
        state = {"format": FORMAT, "num_units": self.num_units, "features": asdict(features), **self.facts}
        write_json(state, folder / FACTS_FILE)

    def lies_with_encoder(self, folder: str | os.PathLike) -> bool:
        """Whether the encoder of these units is the one in this folder."""
        encoder = self.features.encoder
        return encoder is not None and encoder != HERE and Path(encoder).resolve() == Path(folder).resolve()

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | os.PathLike, **download) -> KMeansUnits:
        """Loads a unit set.

        Args:
            folder_or_repo: A folder, or a repository on the Hub.
            download: For the Hub: `revision`, `token`, `cache_dir`, `local_files_only`, ...
        Raises:
            OSError: If there is no unit set.
            ValueError: If it is damaged, or of a newer format.
        """
        check_folder(folder_or_repo)
        path = cached_file(folder_or_repo, FACTS_FILE, **download)
        state = read_json(path, "a unit set")
        file_format, num_units = state.pop("format", None), state.pop("num_units", None)
        if file_format != FORMAT:
            raise ValueError(
                f"{FACTS_FILE} of {folder_or_repo} has format {file_format}, but this version reads {FORMAT}: update "
                "hf_ssl_speech."
            )
        try:
            tensors = load_file(cached_file(folder_or_repo, CENTROIDS_FILE, **download))
        except SafetensorError as error:
            raise ValueError(f"{CENTROIDS_FILE} of {folder_or_repo} is damaged ({error}): get it again.") from error
        with naming_the_file(path, "a unit set"):
            features = as_dataclass(FeatureDescription, state.pop("features"))
            if features.encoder == HERE:
                features = replace(features, encoder=os.fspath(folder_or_repo))
            units = cls(tensors["centroids"], tensors["counts"], features, state)
        if units.num_units != num_units:
            raise ValueError(
                f"{CENTROIDS_FILE} of {folder_or_repo} has {units.num_units} units, but {FACTS_FILE} says "
                f"{num_units}: they belong to different sets. Save the set again."
            )
        return units

    @classmethod
    def from_centroids(cls, path: str | os.PathLike, source: FeatureSource) -> KMeansUnits:
        """A unit set of centroids that another program has found, such as fairseq's k-means.

        fairseq saves a whole scikit-learn object, by pickle. Save its centroids alone, where it was made:
        `numpy.save("km.npy", joblib.load("km.bin").cluster_centers_)`.

        Args:
            path: A NumPy file (`.npy`) with `(units, width)` numbers.
            source: Computes the features that they are centroids of. What the file does not tell must be right here:
                encoder, layer, centring.
        Raises:
            ValueError: If it is no such file, or the width is another.
        """
        try:
            centroids = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path} is no NumPy file of numbers ({error}); nothing is unpickled here.") from error
        if not isinstance(centroids, np.ndarray) or centroids.ndim != 2 or centroids.dtype.kind != "f":
            raise ValueError(f"{path} has no array of centroids; expected floating-point numbers (units, width).")
        centroids = torch.from_numpy(centroids.astype(np.float32))
        check_finite(centroids, f"The centroids in {path}")
        facts = {"source": os.fspath(path)}
        return cls(centroids, torch.zeros(len(centroids)), source.description, facts)

    def for_others(self, encoder: str | None = None) -> KMeansUnits:
        """The set as it may be published: units of a hidden layer name an encoder that others can load, too.

        Args:
            encoder: The repository of the encoder, if the set names a folder of this machine; `.` if they go there
                together.
        Raises:
            ValueError: If the encoder is on this machine only.
        """
        if self.features.kind == "mfcc":
            return self
        encoder = encoder or self.features.encoder
        if encoder != HERE and not is_hub_id(encoder):
            raise ValueError(
                f"These units are made of {encoder}, which nobody else has: push that encoder first, and name its "
                "repository with `encoder`; or save the units beside it, with save_pretrained, and push both."
            )
        return KMeansUnits(self.centroids, self.counts, replace(self.features, encoder=encoder), self.facts)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        encoder: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Adds the unit set to a repository on the Hub, which is created if missing; its other files stay.

        Args:
            repo_id: `name` or `owner/name`.
            encoder: For units of a hidden layer: the repository of the encoder, whose folder only this machine has.
            private: Whether a new repository is; by default as its owner has it.
            token: Instead of the one logged in with.
            revision: Branch to commit to; by default the main one.
            commit_message: Of the commit.
            create_pr: Open a pull request instead.
        Returns:
            The address of the commit.
        Raises:
            ValueError: If `private` is asked of a public repository, or the encoder is on this machine only.
            PushFailed: If the Hub can't be reached or refuses.
        """
        published = self.for_others(encoder)
        repository = Repository(
            repo_id, private=private, token=token, revision=revision, create_pr=create_pr, kept="the unit set"
        )
        with tempfile.TemporaryDirectory() as folder:
            published.save_pretrained(folder)
            message = commit_message or f"Upload {self.num_units} k-means units"
            return repository.commit(folder, [CENTROIDS_FILE, FACTS_FILE], message).commit


def _default_share(dataset: Dataset | IterableDataset) -> float:
    if isinstance(dataset, IterableDataset):
        return PUBLISHED_SHARE
    hours = numbers(dataset, "num_samples").sum() / SAMPLE_RATE / 3600
    return float(min(1.0, max(PUBLISHED_SHARE, ENOUGH_HOURS / hours)))


def _choose(
    dataset: Dataset | IterableDataset, share: float, seed: int, repeats: np.ndarray | None = None
) -> Dataset | IterableDataset:
    """A random share of the rows, chosen by their ids, so that streams and all processes make the same choice.

    With `repeats`, a row is taken as often as its share of them says, rounded up or down at random.
    """
    if share == 1 and repeats is None:
        return dataset

    def times(sample_id: int, wanted: float) -> int:
        digest = hashlib.blake2b(f"{seed} {sample_id}".encode(), digest_size=8).digest()
        return int(wanted) + (int.from_bytes(digest, "little") < wanted % 1 * 2**64)

    if isinstance(dataset, IterableDataset):
        return dataset.filter(lambda sample_id: times(sample_id, share) > 0, input_columns="sample_id")
    wanted = share * (np.ones(len(dataset)) if repeats is None else repeats)
    taken = [times(sample_id, each) for sample_id, each in zip(numbers(dataset, "sample_id").tolist(), wanted.tolist())]
    return dataset.select(np.repeat(np.arange(len(dataset)), taken))


def _over_processes(number: int) -> int:
    numbers = [number]
    if in_several_processes():
        numbers = [0] * dist.get_world_size()
        dist.all_gather_object(numbers, number)
    return sum(numbers)
