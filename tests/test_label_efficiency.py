"""Label efficiency: amounts of labels drawn fairly, cells that go on where they stopped, and what labels are worth."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import save_encoder
from datasets import Dataset

from hf_ssl_speech import SSLHubertForCTC, SSLHubertForPreTraining, create_model_card
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.recipes.label_efficiency import count_within, nested_order
from hf_ssl_speech.recipes.label_efficiency_report import draw_curves, equal_minutes, mean_rate, summarize
from hf_ssl_speech.recognition.transcription import load_processor
from hf_ssl_speech.records import read_record

SHORT = (
    "--config", json.dumps(dict(mask_feature_prob=0.2, mask_feature_length=4)), "--min_seconds", "0.5",
    "--max_seconds", "2", "--batch_seconds", "4", "--max_steps", "2", "--eval_steps", "1", "--save_steps", "1",
    "--logging_steps", "1", "--use_cpu", "--dataloader_num_workers", "0", "--disable_tqdm", "true",
    "--freeze_transformer_updates", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """40 rows of noise for training and 5 for testing, with words and two speakers."""
    folder, generator = tmp_path_factory.mktemp("words"), np.random.default_rng(0)
    for split, number in (("train", 40), ("test", 5)):
        (folder / split).mkdir()
        lines = ["file_name,text,speaker"]
        for row in range(number):
            wave = generator.normal(size=int(16_000 * generator.uniform(0.6, 1.0))) / 8
            soundfile.write(folder / split / f"{row}.wav", wave, 16_000)
            lines.append(f"{row}.wav,{generator.choice(['ab', 'ba ab', 'a'])},{row % 2}")
        (folder / split / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"), SSLHubertForPreTraining)


def compare(words: Path, encoder: Path, output: Path, *more: str):
    run("label-efficiency", [
        "--starts", "scratch", f"mine={encoder}", "--minutes", "0.1", "0.3", "--seeds", "0",
        "--train_data", str(words), "--output_dir", str(output), *SHORT, *more,
    ])  # fmt: skip


# Amounts of labels -------------------------------------------------------------------------------------------------


def test_every_beginning_has_all_speakers_and_lengths_alike():
    generator = np.random.default_rng(1)
    seconds, speakers = generator.uniform(1, 15, 600), generator.choice(list("abcdef"), 600)
    for seed in range(5):
        order = nested_order(seconds, speakers, seed)
        assert sorted(order) == list(range(600))
        for count in (12, 60, 240):
            first = order[:count]
            numbers = np.unique(speakers[first], return_counts=True)[1]
            assert len(numbers) == 6 and numbers.max() - numbers.min() <= 1
            # Of so many rows chosen at random, the mean would be as near in less than a third of all draws.
            assert abs(seconds[first].mean() - seconds.mean()) < 1.5 / np.sqrt(count) * seconds.std()
        assert set(order[:60]) != set(nested_order(seconds, speakers, seed + 1)[:60])


def test_an_amount_of_labels_is_never_more_than_was_asked_for():
    seconds = np.array([20.0, 30.0, 15.0, 40.0])
    assert [count_within(seconds, each) for each in ("0.4", "1", "1.75", "all")] == [1, 2, 4, 4]
    with pytest.raises(ValueError, match=r"There are 1\.8 minutes .* but minutes asks for 2"):
        count_within(seconds, "2")
    with pytest.raises(ValueError, match=r"more than the 0\.1 minutes"):
        count_within(seconds, "0.1")


# What labels are worth ---------------------------------------------------------------------------------------------


def test_minutes_that_scratch_needs_are_interpolated_and_bounds_are_told():
    curve = [(1.0, 0.8), (10.0, 0.4), (100.0, 0.2)]
    assert equal_minutes(curve, 0.6) == {"minutes": pytest.approx(10**0.5), "is": "about"}
    assert equal_minutes(curve, 0.4) == {"minutes": pytest.approx(10.0), "is": "about"}
    assert equal_minutes(curve, 0.9) == {"minutes": 1.0, "is": "at most"}
    assert equal_minutes(curve, 0.1) == {"minutes": 100.0, "is": "more than"}


def test_the_interval_holds_what_differs_among_rows_and_among_seeds():
    lengths = np.ones(100, int)
    same = np.zeros((3, 100), int)
    same[:, :30] = 1
    different = np.zeros((3, 100), int)
    different[0, :90] = 1
    narrow, wide = mean_rate(same, lengths), mean_rate(different, lengths)
    assert narrow["value"] == wide["value"] == pytest.approx(0.3)
    assert narrow["low"] < 0.3 < narrow["high"] and wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_the_curve_can_be_drawn_of_starts_that_are_not_all_there_yet(tmp_path):
    lengths = {"words": np.array([2, 3]), "characters": np.array([5, 7])}
    errors = {"words": [1, 1], "characters": [2, 0]}
    cells = [
        {"start": start, "minutes": minutes, "minutes_used": float(minutes), "seed": 0, "errors": errors}
        for start, minutes in (("scratch", "1"), ("scratch", "5"), ("mine", "1"))
    ]
    points = summarize(cells, lengths)
    assert points[2]["scratch_minutes_wer"] == {"minutes": 1.0, "is": "at most"}
    draw_curves(points, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


# Cells ---------------------------------------------------------------------------------------------------------------


def test_finished_cells_are_read_back_and_a_broken_one_goes_on(words, encoder, tmp_path, caplog):
    caplog.set_level("INFO")
    compare(words, encoder, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    cells = {(cell["start"], cell["minutes"], cell["seed"]): cell for cell in results["cells"]}
    assert len(cells) == 4 and all(cell["minutes_used"] <= float(cell["minutes"]) for cell in cells.values())
    assert results["data"]["test"]["rows"] == 5
    vocabularies = {tuple(read_record(tmp_path / cell["folder"])["text"]["vocabulary"]) for cell in cells.values()}
    assert len(vocabularies) == 1
    assert "| mine |" in (tmp_path / "report.md").read_text() and (tmp_path / "curve.png").exists()
    assert not list(tmp_path.rglob("checkpoint-*"))

    card = str(create_model_card(tmp_path / cells["mine", "0.3", 0]["folder"]))
    assert f"{100 * cells['mine', '0.3', 0]['wer']:.2f} [" in card

    # Fresh weights have the architecture of the checkpoint.
    shapes = []
    for start in ("scratch", "mine"):
        model = SSLHubertForCTC.from_pretrained(tmp_path / cells[start, "0.1", 0]["folder"])
        shapes.append({name: weight.shape for name, weight in model.state_dict().items()})
    assert shapes[0] == shapes[1]

    broken = tmp_path / cells["mine", "0.3", 0]["folder"]
    for file in ("run.json", "model.safetensors"):
        (broken / file).unlink()
    caplog.clear()
    compare(words, encoder, tmp_path)
    assert sum("is finished" in message for message in caplog.messages) == 3
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["curves"] == results["curves"] and (broken / "model.safetensors").exists()

    with pytest.raises(ValueError, match="learning_rate"):
        compare(words, encoder, tmp_path, "--learning_rate", "1e-4")


def test_a_curve_on_phones_counts_phones_and_starts_at_several_checkpoints_of_a_run(encoder, tmp_path):
    generator, names = np.random.default_rng(0), ["AA", "TCH", "S", "AY"]
    for split, number in (("train", 40), ("test", 5)):
        waves = [generator.normal(size=int(16_000 * generator.uniform(0.6, 1.0))) / 8 for _ in range(number)]
        spoken = [[{"phone": "SIL"}, *({"phone": each} for each in generator.choice(names, 3))] for _ in waves]
        audio = [{"array": wave, "sampling_rate": 16_000} for wave in waves]
        Dataset.from_dict({"audio": audio, "phones": spoken}).to_parquet(tmp_path / "data" / f"{split}.parquet")
    at = [f"{each}={encoder}" for each in ("hubert@5h", "hubert@20h")]
    compare(
        tmp_path / "data", encoder, tmp_path / "curve",
        "--starts", *at, "--text_column", "phones", "--minutes", "0.1",
    )  # fmt: skip
    results = json.loads((tmp_path / "curve" / "results.json").read_text())
    assert {cell["folder"] for cell in results["cells"]} == {
        f"{each}/0.1min/seed-0" for each in ("hubert@5h", "hubert@20h")
    }
    assert all("per" in cell and "cer" not in cell for cell in results["cells"])
    folder = tmp_path / "curve" / "hubert@5h" / "0.1min" / "seed-0"
    assert read_record(folder)["text"]["vocabulary"] == ["<pad>", "<unk>", "AA", "AY", "S", "TCH"]
    assert set(" ".join(read_record(folder)["test"]["references"]).split()) <= set(names)
    assert "PER, %" in (tmp_path / "curve" / "report.md").read_text()
    assert load_processor(folder).tokenizer.decode([2, 0, 5]) == "AA TCH"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--minutes", "9"), "but minutes asks for 9"),
        (("--minutes", "few"), "minutes holds 'few'"),
        (("--starts", "scratch", "scratch"), "starts names one start twice"),
        (("--text_column", "words"), "words"),
        (("--train_split", "test"), "would be those to learn from, the split 'test'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(words, encoder, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        compare(words, encoder, tmp_path, *more)
    assert not list(tmp_path.rglob("run.json"))
