"""Unit sets as models, labels as a column of a dataset, and the pictures of both."""

import io
import json
import logging
from datetime import timedelta
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
import torch.distributed as dist
from conftest import tiny_model
from datasets import Dataset, concatenate_datasets
from PIL import Image
from safetensors.torch import load_file
from transformers import Wav2Vec2FeatureExtractor

from hf_ssl_speech import HubertPretrainingCollator, SSLHubertForPreTraining, SSLHubertModel
from hf_ssl_speech.data.features import HiddenFeatures, MfccFeatures
from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.units import kmeans_units
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.labelling import add_units
from hf_ssl_speech.units.pictures import draw_phone_unit_matrix, draw_units

NUM_ROWS = 12


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def encode(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="FLAC")
    return file.getvalue()


def noise(index: int) -> np.ndarray:
    """Noise whose colour changes at every tenth of a second."""
    generator = np.random.default_rng(index)
    pieces = [generator.normal(0, 0.1, 1_600).cumsum() * generator.uniform(0.01, 0.2) for _ in range(4 + index)]
    return np.concatenate(pieces).clip(-1, 1)[: -37 * index or None]


@pytest.fixture
def speech_file(tmp_path) -> str:
    audio = [{"bytes": encode(noise(index)), "path": None} for index in range(NUM_ROWS)]
    names = [f"utterance {index}" for index in range(NUM_ROWS)]
    Dataset.from_dict({"id": names, "audio": audio, "text": names}).to_parquet(tmp_path / "speech.parquet")
    return str(tmp_path / "speech.parquet")


@pytest.fixture
def dataset(speech_file) -> Dataset:
    """Rows decoded into a cache on disk, in the format of `prepare_speech`."""
    return prepare_speech(load_speech(speech_file), min_seconds=0.1, cache=True)[0]


@pytest.fixture
def hidden(make_tiny) -> HiddenFeatures:
    return HiddenFeatures(make_tiny(SSLHubertModel), 2, normalize=False, batch_seconds=4)


@pytest.fixture
def mfcc_units(dataset) -> KMeansUnits:
    return KMeansUnits.fit(dataset, MfccFeatures(), 10, progress=False)


def naive_units(row, source, units) -> list[int]:
    (features,) = source.features([row])
    return torch.cdist(features.double(), units.centroids.double()).argmin(1).tolist()


def test_a_unit_set_knows_where_it_comes_from(dataset, mfcc_units):
    facts = mfcc_units.facts
    frames = sum(MfccFeatures().description.num_frames(length) for length in dataset["num_samples"])
    assert mfcc_units.counts.sum() == facts["frames"] == frames
    assert (facts["utterances"], facts["seed"], facts["share"]) == (NUM_ROWS, 0, 1.0)
    assert facts["hours"] == pytest.approx(frames / 50 / 3600)
    features = torch.cat(MfccFeatures().features(list(dataset)))
    distances = torch.cdist(features.double(), mfcc_units.centroids.double()).square().min(1).values
    assert facts["inertia"] == pytest.approx(distances.mean().item(), rel=1e-5)
    assert "10 units of MFCC" in repr(mfcc_units)


def test_a_share_of_the_utterances_is_drawn_by_the_seed_alike_in_rows_and_streams(dataset):
    chosen = [kmeans_units._choose(dataset, 0.5, seed)["sample_id"][:] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert 2 <= len(chosen[0]) <= 10
    stream = kmeans_units._choose(dataset.with_format(None).to_iterable_dataset(), 0.5, 0)
    assert [row["sample_id"] for row in stream] == chosen[0]
    units = KMeansUnits.fit(dataset, MfccFeatures(), 5, share=0.5, progress=False)
    assert units.facts["utterances"] == len(chosen[0])
    with pytest.raises(ValueError, match="at most 1"):
        KMeansUnits.fit(dataset, MfccFeatures(), 5, share=10)


@pytest.mark.parametrize("memory_gb", [0.0, 1e-5, 4.0])
def test_features_are_computed_once_for_all_passes_where_memory_holds_them(dataset, memory_gb, monkeypatch):
    source, computed = MfccFeatures(), []
    compute = source.features

    def features(rows):
        computed.extend(row["sample_id"] for row in rows)
        return compute(rows)

    monkeypatch.setattr(source, "features", features)
    units = KMeansUnits.fit(dataset, source, 5, memory_gb=memory_gb, progress=False)
    plain = KMeansUnits.fit(dataset, MfccFeatures(), 5, memory_gb=0, progress=False)
    assert torch.equal(units.centroids, plain.centroids)
    if memory_gb == 4.0:
        assert sorted(computed) == sorted(dataset["sample_id"])
    else:
        assert len(computed) > 2 * len(dataset)


def test_a_tenth_of_much_audio_is_taken_and_all_of_little():
    def share(hours: float) -> float:
        return kmeans_units._default_share(Dataset.from_dict({"num_samples": [int(hours / 4 * 3600 * 16_000)] * 4}))

    assert [share(0.5), share(20), share(960)] == [1.0, 1.0, 0.1]
    assert share(40) == pytest.approx(0.5)


def test_saved_and_loaded_units_are_the_same(tmp_path, mfcc_units):
    mfcc_units.save_pretrained(tmp_path / "units")
    loaded = KMeansUnits.from_pretrained(tmp_path / "units")
    assert torch.equal(loaded.centroids, mfcc_units.centroids)
    assert torch.equal(loaded.counts, mfcc_units.counts)
    assert (loaded.features, loaded.facts) == (mfcc_units.features, mfcc_units.facts)
    assert sorted(file.name for file in (tmp_path / "units").iterdir()) == ["kmeans.json", "kmeans.safetensors"]
    tensors = load_file(tmp_path / "units" / "kmeans.safetensors")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "centroids": torch.float32, "counts": torch.int64,
    }  # fmt: skip


def test_damaged_newer_and_mixed_up_files_are_refused_in_words(tmp_path, mfcc_units):
    with pytest.raises(OSError, match=r"kmeans\.json"):
        KMeansUnits.from_pretrained(tmp_path)
    mfcc_units.save_pretrained(tmp_path)
    state = json.loads((tmp_path / "kmeans.json").read_text())
    (tmp_path / "kmeans.json").write_text(json.dumps(state | {"num_units": 11}))
    with pytest.raises(ValueError, match=r"has 10 units.*says 11"):
        KMeansUnits.from_pretrained(tmp_path)
    (tmp_path / "kmeans.json").write_text(json.dumps(state | {"format": 2}))
    with pytest.raises(ValueError, match=r"format 2.*update"):
        KMeansUnits.from_pretrained(tmp_path)
    (tmp_path / "kmeans.json").write_text(json.dumps(state))
    weights = (tmp_path / "kmeans.safetensors").read_bytes()
    (tmp_path / "kmeans.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ValueError, match="damaged"):
        KMeansUnits.from_pretrained(tmp_path)


def test_features_of_another_kind_rate_layer_or_width_are_refused_in_words(dataset, hidden, mfcc_units, make_tiny):
    with pytest.raises(ValueError, match=r"fitted on MFCC.*kind hidden instead of mfcc"):
        add_units(dataset, mfcc_units, source=hidden)
    with pytest.raises(ValueError, match=r"every 10 ms\) came: hop_samples 160 instead of 320"):
        mfcc_units.predict_rows(list(dataset), MfccFeatures(every=1))
    with pytest.raises(ValueError, match=r"need \(frames, 39\)"):
        mfcc_units.predict(torch.zeros(5, 32))
    units = KMeansUnits.fit(dataset, hidden, 6, progress=False)
    with pytest.raises(ValueError, match="layer 1 instead of 2"):
        units.check_features(HiddenFeatures(hidden.model, 1, normalize=False).description)
    with pytest.raises(ValueError, match="normalize True instead of False"):
        units.check_features(HiddenFeatures(hidden.model, 2, normalize=True).description)
    with pytest.raises(ValueError, match="do not belong"):
        KMeansUnits(torch.zeros(4, 32), torch.zeros(4), MfccFeatures().description, {})


def test_an_encoder_with_other_weights_is_refused(dataset, hidden, make_tiny):
    units = KMeansUnits.fit(dataset, hidden, 6, progress=False)
    units.check_features(HiddenFeatures(make_tiny(SSLHubertModel), 2, normalize=False).description)
    other = make_tiny(SSLHubertModel, seed=1)
    with pytest.raises(ValueError, match="made with other weights"):
        add_units(dataset, units, source=HiddenFeatures(other, 2, normalize=False))


def test_units_of_a_layer_find_their_encoder_again(tmp_path, dataset, make_tiny):
    make_tiny(SSLHubertForPreTraining).save_pretrained(tmp_path / "encoder")
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path / "encoder")
    source = HiddenFeatures.from_pretrained(tmp_path / "encoder", 2, device="cpu")
    units = KMeansUnits.fit(dataset, source, 6, progress=False)
    units.save_pretrained(tmp_path / "units")
    labelled = add_units(dataset, KMeansUnits.from_pretrained(tmp_path / "units"))
    assert labelled["units"][:] == add_units(dataset, units, source=source)["units"][:]


@pytest.mark.parametrize("kind", ["mfcc", "hidden"])
@pytest.mark.parametrize("cached", [True, False])
def test_labels_are_the_nearest_centroids_of_each_row_alone_one_per_encoder_frame(
    kind, cached, dataset, speech_file, hidden
):
    source = MfccFeatures() if kind == "mfcc" else hidden
    units = KMeansUnits.fit(dataset, source, 6, progress=False)
    if not cached:
        dataset = prepare_speech(load_speech(speech_file), min_seconds=0.1, keep=["text"])[0]
    labelled = add_units(dataset, units, source=source)
    assert labelled.column_names == [*dataset.column_names, "units"]
    assert labelled.format["type"] == dataset.format["type"]
    for before, row in zip(dataset, labelled):
        assert row["units"] == naive_units(before, source, units)
        assert len(row["units"]) == hidden.model.num_frames(row["num_samples"])
        if cached:
            assert isinstance(row["samples"], np.ndarray)
            assert np.array_equal(row["samples"], before["samples"])


def test_a_stream_gets_the_labels_of_the_rows_on_disk(speech_file, dataset, mfcc_units):
    stream = prepare_stream(load_speech(speech_file, streaming=True), min_seconds=0.1)
    streamed = list(add_units(stream, mfcc_units))
    labelled = add_units(dataset, mfcc_units)
    assert [list(row["units"]) for row in streamed] == labelled["units"][:]
    assert [row["num_samples"] for row in streamed] == dataset["num_samples"][:]
    rows = add_units(dataset.with_format(None).to_iterable_dataset(), mfcc_units, column="more")
    assert [list(row["more"]) for row in rows] == labelled["units"][:]


def test_labels_are_made_once_and_anew_for_other_centroids_or_rows(dataset, mfcc_units, monkeypatch):
    computed = []
    compute = MfccFeatures.compute
    monkeypatch.setattr(MfccFeatures, "compute", lambda self, audio: computed.extend(audio) or compute(self, audio))
    first = add_units(dataset, mfcc_units)
    assert len(computed) == NUM_ROWS
    again = add_units(dataset, mfcc_units)
    assert len(computed) == NUM_ROWS, "the second call did not find the first one's labels"
    assert again["units"][:] == first["units"][:]

    moved = KMeansUnits(mfcc_units.centroids.flip(0), mfcc_units.counts, mfcc_units.features, mfcc_units.facts)
    assert add_units(dataset, moved)["units"][0] == [9 - unit for unit in first["units"][0]]
    assert add_units(dataset.select([3, 1]), mfcc_units)["units"][:] == [first["units"][row] for row in (3, 1)]
    assert len(computed) == 2 * NUM_ROWS + 2


def test_labels_keep_to_the_format_of_the_rows(dataset, mfcc_units):
    plain = add_units(dataset.with_format(None), mfcc_units)
    assert set(add_units(plain, mfcc_units, column="more")[0]) == {*dataset.column_names, "units", "more"}
    arrays = add_units(dataset.with_format("numpy", columns=["num_samples"]), mfcc_units)[0]
    assert set(arrays) == {"num_samples", "units"}
    assert arrays["units"].tolist() == plain[0]["units"]


def test_rows_in_a_row_of_a_choice_get_units_in_several_tables(dataset, mfcc_units):
    """As those of a small held-out part are, from a folder of Parquet files."""
    tables = concatenate_datasets([dataset.select([0, 1]).flatten_indices(), dataset.select([2, 3]).flatten_indices()])
    chosen = tables.select([0, 2, 3]).select([1, 2])
    assert add_units(chosen, mfcc_units)["units"][:] == add_units(dataset.select([2, 3]), mfcc_units)["units"][:]


@pytest.mark.parametrize("cached", [True, False])
def test_a_choice_of_rows_is_labelled_where_it_lies(cached, tmp_path, mfcc_units):
    """Neither is its audio copied, nor do the numbers beside it change."""
    generator = np.random.default_rng(0)
    audio = [encode(generator.normal(0, 0.1, length)) for length in (16_000, 1_000, 50_000, 20_000)]
    Dataset.from_dict({"audio": [{"bytes": each, "path": None} for each in audio]}).to_parquet(
        tmp_path / "some.parquet"
    )
    dataset = prepare_speech(load_speech(str(tmp_path / "some.parquet")), min_seconds=0.1, cache=cached)[0]
    dataset = dataset.select([2, 0, 1])
    labelled = add_units(dataset, mfcc_units)
    assert labelled["num_samples"][:] == [20_000, 16_000, 50_000]
    assert [row["units"] for row in labelled] == [naive_units(row, MfccFeatures(), mfcc_units) for row in dataset]
    assert {file["filename"] for file in dataset.cache_files} <= {file["filename"] for file in labelled.cache_files}


def test_rows_that_are_not_prepared_are_refused(speech_file, mfcc_units):
    with pytest.raises(ValueError, match="pass them through prepare_speech"):
        add_units(load_speech(speech_file), mfcc_units)


def test_several_processes_make_the_same_labels(dataset, mfcc_units):
    alone = add_units(dataset.select(range(NUM_ROWS)), mfcc_units, column="alone")
    shared = add_units(dataset, mfcc_units, num_proc=2)
    assert shared["units"][:] == alone["alone"][:]
    with pytest.raises(ValueError, match="num_proc=2"):
        add_units(dataset.with_format(None).to_iterable_dataset(), mfcc_units, num_proc=2)


def test_rows_whose_audio_is_unusable_are_left_out_and_named(speech_file, mfcc_units, caplog):
    dataset, _ = prepare_speech(load_speech(speech_file), min_seconds=0.1)
    silent = {"audio": {"bytes": encode(np.zeros(8_000)), "path": None}, "num_samples": 8_000}
    rows = [row | silent if row["name"] == "utterance 4" else row for row in dataset]
    dataset = Dataset.from_list(rows)
    with caplog.at_level(logging.WARNING):
        labelled = add_units(dataset, mfcc_units)
    assert labelled["sample_id"][:] == [row for row in range(NUM_ROWS) if row != 4]
    assert "utterance 4" in caplog.text and "silent" in caplog.text
    assert len(list(add_units(dataset.to_iterable_dataset(), mfcc_units))) == NUM_ROWS - 1


def test_two_unit_sets_side_by_side_are_what_the_collator_takes(dataset, mfcc_units, hidden, make_tiny):
    hidden_units = KMeansUnits.fit(dataset, hidden, 6, progress=False)
    labelled = add_units(add_units(dataset, mfcc_units), hidden_units, column="hidden_units", source=hidden)
    with pytest.raises(ValueError, match="already"):
        add_units(labelled, mfcc_units)
    config = make_tiny(SSLHubertForPreTraining, num_units=[10, 6]).config
    config.unmasked_loss_weight = 1.0
    collator = HubertPretrainingCollator(config, unit_columns=("units", "hidden_units"), normalize=False)
    batch = collator([labelled[7], labelled[2]])
    row = labelled[2]
    expected = torch.tensor([row["units"], row["hidden_units"]]).T
    assert torch.equal(batch["labels"][1, : len(expected)], expected)
    assert (batch["labels"][1, len(expected) :] == -100).all()


class Nearly(MfccFeatures):
    """MFCC that count the audio they are made of, and fail where they are told to."""

    def __init__(self, fails: bool):
        super().__init__()
        self.fails, self.computed = fails, 0

    def compute(self, waveforms):
        self.computed += len(waveforms)
        if self.fails:
            raise OSError("the disk is gone")
        return super().compute(waveforms)


def label_in_two_processes(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    rows, units = datasets.load_from_disk(f"{folder}/rows"), KMeansUnits.from_pretrained(folder)
    source = Nearly(fails=False)
    labelled = add_units(rows, units, source=source, together=True)
    few = add_units(rows.select([5]), units, together=True)  # fewer rows than processes
    try:
        add_units(rows, units, column="more", source=Nearly(fails=rank == 1), together=True)
    except RuntimeError as error:
        Path(folder, f"{rank}.json").write_text(
            json.dumps([labelled["units"][:], labelled["name"][:], few["units"][:], source.computed, str(error)])
        )
    dist.destroy_process_group()


def test_two_processes_share_the_labelling_get_what_one_gets_and_fail_together(tmp_path, dataset, mfcc_units):
    dataset.save_to_disk(tmp_path / "rows")
    mfcc_units.save_pretrained(tmp_path)
    torch.multiprocessing.start_processes(label_in_two_processes, (str(tmp_path),), nprocs=2, start_method="forkserver")
    alone = add_units(dataset, mfcc_units, together=True)["units"][:]
    for rank in range(2):
        units, names, few, computed, error = json.loads((tmp_path / f"{rank}.json").read_text())
        assert units == alone
        assert names == dataset["name"][:]
        assert few == [alone[5]]
        assert computed == NUM_ROWS // 2, "the other half comes from the other process"
        assert error == "In process 1: OSError: the disk is gone"


def hidden_layer(batch_seconds=4.0) -> HiddenFeatures:
    return HiddenFeatures(tiny_model(SSLHubertModel), 2, normalize=False, batch_seconds=batch_seconds)


# Far fewer frames than there are: so it matters which ones are drawn.
FEW = dict(sample_frames=60, restarts=1, iterations=3, progress=False)


def fit_in_two_processes(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    rows = datasets.load_from_disk(f"{folder}/rows")
    KMeansUnits.fit(rows, MfccFeatures(), 10, progress=False).save_pretrained(f"{folder}/{rank}")
    KMeansUnits.fit(rows, hidden_layer(), 6, **FEW).save_pretrained(f"{folder}/{rank}-hidden")
    dist.destroy_process_group()


def test_two_processes_fit_the_units_that_one_does(tmp_path, dataset, mfcc_units):
    """Of a hidden layer too, whose frames differ in the last bits with the rows beside them in a batch."""
    dataset.save_to_disk(tmp_path / "rows")
    torch.multiprocessing.start_processes(fit_in_two_processes, (str(tmp_path),), nprocs=2, start_method="forkserver")
    hidden_units = KMeansUnits.fit(dataset, hidden_layer(), 6, **FEW)
    for rank in range(2):
        for name, alone in ((f"{rank}", mfcc_units), (f"{rank}-hidden", hidden_units)):
            units = KMeansUnits.from_pretrained(tmp_path / name)
            torch.testing.assert_close(units.centroids, alone.centroids, rtol=0, atol=1e-4)
            assert units.facts["utterances"] == NUM_ROWS
            assert torch.equal(units.counts, alone.counts)


def test_the_units_of_a_hidden_layer_do_not_depend_on_its_batches(dataset):
    whole = KMeansUnits.fit(dataset, hidden_layer(), 6, **FEW)
    for batch_seconds in (0.1, 1.5, 60):
        units = KMeansUnits.fit(dataset, hidden_layer(batch_seconds), 6, **FEW)
        torch.testing.assert_close(units.centroids, whole.centroids, rtol=0, atol=1e-4)


def test_pictures_of_units_and_phones_are_drawn(tmp_path, dataset, mfcc_units):
    row = add_units(dataset, mfcc_units)[NUM_ROWS - 1]
    phones = [{"phone": "SIL", "start": 0.0, "end": 0.2}, {"phone": "AH", "start": 0.2, "end": 5.0}]
    draw_units(row, row["units"], phones, tmp_path / "units.png")
    draw_units(row, row["units"], [], tmp_path / "late.png", start=0.5, seconds=0.5)
    frame_phones = ["SIL" if unit < 3 else "AH" for unit in row["units"]]
    draw_phone_unit_matrix(row["units"], frame_phones, tmp_path / "phones.png")
    for name in ("units", "late", "phones"):
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert min(picture.shape) > 200 and picture.std() > 20


def test_the_script_makes_units_and_tells_their_quality(tmp_path, corpora, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import make_units

    source = load_speech(f"{corpora}/librispeech-mini/validation*.parquet").select(range(8))
    source.to_parquet(tmp_path / "few.parquet")
    data = str(tmp_path / "few.parquet")
    arguments = ["--train_data", data, "--validation_data", data, "--output_dir", str(tmp_path / "units")]
    make_units.main([*arguments, "--num_units", "20"])
    record = json.loads((tmp_path / "units" / "run.json").read_text())
    assert 0.1 < record["quality"]["pnmi"] < 0.9
    assert record["units"]["utterances"] == record["data"]["train"]["rows"] == 8
    assert record["data"]["validation"]["shared_with_training"] == 8
    assert KMeansUnits.from_pretrained(tmp_path / "units").num_units == 20
    assert {"units.png", "phones.png"} <= {file.name for file in (tmp_path / "units").iterdir()}


def test_the_script_leaves_finished_units_alone_and_refuses_to_overwrite_them_with_others(
    tmp_path, speech_file, monkeypatch, caplog
):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import make_units

    arguments = ["--train_data", speech_file, "--output_dir", str(tmp_path / "units"), "--min_seconds", "0.1"]
    arguments += ["--num_units", "5"]
    make_units.main([*arguments, "--kmeans_share", "1.0"])
    before = {file.name: file.read_bytes() for file in (tmp_path / "units").iterdir()}
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(KMeansUnits, "fit", None)
        make_units.main([*arguments, "--kmeans_share", "1.0"])
    assert f"The units in {tmp_path / 'units'} are complete" in caplog.text
    for changed, named in [
        (["--num_units", "6"], "num_units: 5 there, 6 here"),
        (["--kmeans_share", "0.5"], "kmeans_share: 1.0 there, 0.5 here"),
        (["--center", "true"], "features.center: False there, True here"),
        (["--validation_data", speech_file], "data.validation: None there"),
    ]:
        with pytest.raises(ValueError, match=named):
            make_units.main([*arguments, "--kmeans_share", "1.0", *changed])
    (tmp_path / "units" / "run.json").write_text('{"status": "complete"}')
    with pytest.raises(ValueError, match="does not say with which settings"):
        make_units.main(arguments)
    (tmp_path / "units" / "run.json").write_bytes(before["run.json"])
    assert {file.name: file.read_bytes() for file in (tmp_path / "units").iterdir()} == before


def test_too_few_frames_for_the_units_are_told(speech_file, caplog):
    rows, source = prepare_speech(load_speech(speech_file), min_seconds=0.1)[0], MfccFeatures()
    frames = int(KMeansUnits.fit(rows, source, 2).counts.sum())
    assert "for each: with fewer than 30" not in caplog.text
    KMeansUnits.fit(rows, source, frames // 29)
    assert "for each: with fewer than 30" in caplog.text


class Broken(MfccFeatures):
    """Gives NaN in one frame of each row but the first."""

    def features(self, rows):
        found = super().features(rows)
        for frames in found[1:]:
            frames[2, 0] = float("nan")
        return found


def test_features_that_are_no_numbers_become_no_units(dataset, mfcc_units):
    rows = list(dataset)[:2]
    with pytest.raises(ValueError, match=f"The features of row {rows[1]['name']} hold NaN or infinity in 1 of"):
        mfcc_units.predict_rows(rows, Broken())
    for value in ("nan", "inf", "-inf"):
        with pytest.raises(ValueError, match="Features hold NaN or infinity in 1 of 2 frames"):
            mfcc_units.predict(torch.tensor([[0.0] * 39, [float(value)] * 39]))


def test_no_rows_have_no_units_and_units_without_facts_can_be_shown(mfcc_units):
    assert mfcc_units.predict_rows([], MfccFeatures()) == []
    bare = KMeansUnits(torch.zeros(4, 39), torch.zeros(4), MfccFeatures().description, {})
    assert repr(bare) == f"KMeansUnits(4 units of {bare.features})"
