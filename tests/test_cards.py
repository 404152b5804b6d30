"""A card tells what the records tell, and no more."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from hub_folders import SPLIT, make_ctc, make_encoder, make_units, run_record, score
from huggingface_hub import ModelCard
from transformers import Wav2Vec2ForAudioFrameClassification

from hf_ssl_speech import (
    SpeechCTCTrainingArguments,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForCTC,
    SSLWav2Vec2Config,
    create_model_card,
    to_transformers,
)
from hf_ssl_speech.commands.parsing import as_tokens, parse_arguments
from hf_ssl_speech.markdown import code, plain, table
from hf_ssl_speech.models import installing
from hf_ssl_speech.models.classes import CONFIGS
from hf_ssl_speech.recipes.inputs import (
    SpeechCTCModelArguments,
    SpeechDataArguments,
    SpeechModelArguments,
    SpeechPreTrainingDataArguments,
    SpeechTextArguments,
)
from hf_ssl_speech.records import read_record, write_record
from hf_ssl_speech.training.paper_settings import SETTINGS, compare_with_paper
from hf_ssl_speech.training.recipe import settings_of
from hf_ssl_speech.training.resume import run_identity

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("named_corpora")


def tables(card: ModelCard) -> dict[str, list[str]]:
    """The rows of all tables of a card, by their first cells."""
    rows = [line[2:-2].split(" | ") for line in card.text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_figures_of_an_encoders_card_are_those_of_its_record(tmp_path):
    folder = make_encoder(tmp_path / "encoder")
    record = json.loads((folder / "run.json").read_text())
    card = create_model_card(folder, repo_id="me/encoder", language=["en", "de"])
    rows = tables(card)
    assert rows["train"] == ["`openslr/librispeech_asr`", "1,234", "5.68", "6"]
    assert rows["validation"][1:3] == ["98", "0.43"]
    assert rows["updates"][0] == "321"
    assert rows["audio seen"] == ["3.21 hours, 0.6 times the data"]
    assert rows["effective batch"] == ["36.0 s of audio on average, at most 36 s x 1 accumulated x 2 processes"]
    assert rows["accuracy"] == ["23.4%", "11.1%"]
    assert rows["chance"] == ["1.0%", "not measured"]
    assert "A device, 2 processes. Time: 2.13 hours (7,654 s), 4.25 device hours." in card.text
    assert f"{record['parameters'] / 1e6:.1f} M parameters" in card.text
    assert "![Curves of the training](training.png)" in card.text
    assert "units.png" not in card.text
    assert card.data.language == ["en", "de"]
    assert card.data.pipeline_tag == "feature-extraction"


def test_a_card_follows_its_record(tmp_path):
    folder = make_encoder(tmp_path / "encoder")
    first = create_model_card(folder).content
    changes = dict(updates=99_123, hours_seen=88.25, train_seconds=3 * 3600.0, seconds_per_update=71.4)
    write_record(json.loads((folder / "run.json").read_text()) | changes, folder)
    second = create_model_card(folder).content
    for figure in ("99,123", "88.25 hours", "3.00 hours (10,800 s)", "71.4 s"):
        assert figure in second
        assert figure not in first


def test_error_rates_come_with_intervals_and_the_exact_evaluation(tmp_path):
    groups = {"speaker": {"121": {"wer": 0.3, "low": 0.2, "high": 0.4, "reference_length": 1000},
                          "237": {"wer": 0.5, "low": 0.4, "high": 0.6, "reference_length": 900}}}  # fmt: skip
    folder = make_ctc(tmp_path / "ctc", scores=[score(groups=groups)])
    card = create_model_card(folder, repo_id="me/ctc")
    rows = tables(card)
    assert rows["`openslr/librispeech_asr`, test.clean"] == [
        "2,620", "5.40", "12.35 [11.51, 13.22]", "4.56 [4.11, 4.99]", "kind beam, beam_size 50", "0.0271",
    ]  # fmt: skip
    for fact in ("fedcba9876543210", "unicode_form NFKC", "95%", "examples/evaluate_asr.py", "jiwer 4.0.0"):
        assert fact in card.text
    assert card.text.index("| 237 | 50.00 [40.00, 60.00] | 900 |") < card.text.index("| 121 | 30.00")
    assert rows["word error rate"] == ["22.2%", "not measured"]
    assert rows["train, pretraining"][2] == "960.00"
    assert rows["words"] == ["4,321"]
    assert rows["vocabulary"] == [r"`<pad> \| a b`"]
    assert "starting from me/encoder" in card.text
    mine = create_model_card(make_ctc(tmp_path / "mine", start={"source": "/home/me/runs/encoder", "record": None}))
    assert "starting from an encoder that is not on the Hub" in mine.text and mine.data.base_model is None


def test_a_record_of_an_earlier_version_is_read_in_todays_form(tmp_path):
    units = {"processes": 3, "units": {"versions": {"torch": "2.9"}}, "identity": {"data": {"validation": "abc"}}}
    write_record({"start": {"record": {"train_seconds": 5.0}}, "train_seconds": 7.0} | units, tmp_path)
    record = read_record(tmp_path)
    assert (record["seconds"], record["start"]["record"]["seconds"]) == (7.0, 5.0)
    assert record["machine"] == {"device": None, "processes": 3, "threads": None}
    assert record["versions"] == {"torch": "2.9"}
    assert [each["fingerprint"] for each in record["data"].values()] == [None, "abc"]
    assert record["data"]["train"]["units"]["sets"] == record["curves"] == []


@pytest.mark.parametrize("changes", [{"data": 5}, {"data": {"train": "x"}}, {"curves": {}}, {"machine": [1]}])
def test_a_record_with_something_else_in_a_fields_place_is_refused_with_its_file(changes, tmp_path):
    write_record(changes, tmp_path)
    with pytest.raises(ValueError, match=r"run\.json does not hold a run's record"):
        read_record(tmp_path)


def test_the_card_tells_of_the_model_that_was_kept_not_of_the_last_one(tmp_path):
    curves = [{"step": step, "eval_wer": rate} for step, rate in ((100, 0.4), (200, 0.3), (300, 0.5))]
    card = create_model_card(make_ctc(tmp_path / "best", curves=curves, kept_update=200))
    assert tables(card)["word error rate"] == ["30.0%", "not measured"]
    assert "validation, update 200" in card.text
    rows = tables(create_model_card(make_ctc(tmp_path / "last", curves=curves)))
    assert rows["word error rate"] == ["50.0%", "not measured"]


def test_groups_of_speakers_are_pointed_to_only_where_they_were_measured(tmp_path):
    assert "see the breakdown" not in create_model_card(make_ctc(tmp_path / "ctc", scores=[score()])).text


def test_the_metadata_comes_back_as_it_was_written(tmp_path):
    scores = [score(), score(data=score()["data"] | {"source": "$DATA/my speech/*.parquet", "split": "test"})]
    folder = make_ctc(tmp_path / "ctc", scores=scores)
    card = create_model_card(
        folder, repo_id="me/ctc", license="apache-2.0", language="en", datasets={"me/data": "cc-by-4.0", "tapes": None}
    )
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md").data
    assert loaded.to_dict() == card.data.to_dict()
    assert loaded.license == "apache-2.0"
    assert loaded.datasets == ["me/data"], "only an id can be linked"
    assert loaded.base_model == "me/encoder"
    results = loaded.eval_results
    assert [(each.dataset_type, each.metric_type) for each in results] == [
        (source, metric)
        for source in ("openslr/librispeech_asr", "DATA-my-speech-.parquet")
        for metric in ("wer", "cer")
    ]
    assert results[0].metric_value == pytest.approx(100 * scores[0]["wer"]["value"], abs=0.01)
    assert results[0].metric_args["low"] == 11.51
    assert results[0].metric_args["decoder"] == {"kind": "beam", "beam_size": 50}
    assert results[0].dataset_split == "test.clean"
    assert {"me/data", "tapes"} <= set(tables(card))


@pytest.mark.parametrize("make", [make_encoder, make_ctc, make_units])
def test_what_no_record_tells_was_not_measured(make, tmp_path):
    folder = make(tmp_path / "folder")
    (folder / "run.json").unlink()
    card = create_model_card(folder)
    rows = tables(card)
    assert rows["train"] == ["not recorded", *["not measured"] * 3]
    assert "A device that was not recorded. Time: not measured. Versions: not recorded." in card.text
    assert "not stated" in card.text
    if make is make_units:
        assert rows["PNMI"] == ["not measured"]
    else:
        assert rows["updates"] == rows["audio seen"] == ["not measured"]
        assert "How it departs from the paper: the recipe was not recorded." in card.text
    if make is make_ctc:
        assert set(rows["not measured"]) == {"not measured"}
        assert "model-index" not in card.data.to_dict()


def test_a_units_card_tells_what_they_are_made_of_and_how_good_they_are(tmp_path):
    card = create_model_card(make_units(tmp_path / "units"), repo_id="me/units")
    rows = tables(card)
    assert "8 discrete units of speech: k-means centroids of MFCC" in card.text
    assert rows["PNMI"] == ["0.432"]
    assert rows["dead"] == ["2"]
    assert rows["frames"] == ["5,000"]
    assert rows["inertia (mean squared distance)"] == ["12.34"]
    assert rows["number of units"] == ["8", "100"]
    assert "share of the utterances" not in [row for row, cells in rows.items() if len(cells) == 2]


@pytest.mark.parametrize("make", [make_encoder, make_ctc, make_units])
def test_a_card_names_an_install_command_that_exists(make, tmp_path, monkeypatch):
    assert f"```bash\n{installing.install_command()}\n```" in create_model_card(make(tmp_path / "model")).text
    assert "./hf_ssl_speech" in installing.install_command()  # a checkout, as long as there is nothing else
    monkeypatch.setattr(installing, "REPOSITORY", "https://example.org/speech.git")
    command = 'pip install "hf_ssl_speech @ git+https://example.org/speech.git"'
    assert f"```bash\n{command}\n```" in create_model_card(tmp_path / "model").text


def test_a_model_in_transformers_own_form_is_used_without_this_package(tmp_path, make_tiny):
    to_transformers(make_tiny(SSLHubertForCTC)).save_pretrained(tmp_path)
    code = re.findall(r"```python\n(.*?)```", create_model_card(tmp_path).text, flags=re.DOTALL)
    assert "hf_ssl_speech" not in "".join(code)
    assert "pip install" not in create_model_card(tmp_path).text


@pytest.mark.parametrize("name", ["wav2vec2_base", "wav2vec2_large", "hubert_base", "hubert_large"])
def test_the_published_configurations_depart_in_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LIBRILIGHT", "somewhere")
    kinds = (SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechPreTrainingArguments)
    options = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"]
    model_args, _, args = parse_arguments([str(ROOT / f"examples/configs/{name}.yaml"), *options], *kinds)
    fields = {"num_units": [500]} if name == "hubert_large" else {}
    config = CONFIGS[model_args.objective or "wav2vec2"].preset(model_args.preset, **fields)
    record = {
        "identity": run_identity(config, {}, args),
        "recipe": settings_of(args),
        "machine": {"processes": args.world_size},
    }
    comparison = compare_with_paper(json.loads(json.dumps(record, default=str)))
    size = name.split("_")[1].upper()
    assert size in comparison.published
    assert comparison.departures == ()
    assert {"updates", "seconds of audio per update, at most", "layers"} <= set(comparison.as_published)

    record["recipe"]["weight_decay"], record["identity"]["config"]["mask_time_length"] = 0.5, 7
    changed = compare_with_paper(record)
    assert changed.departures == (("mask span, frames", "7", "10"), ("weight decay", "0.5", "0.01"))


CTC_CONFIGS = {"ctc_10min": 1 / 6, "ctc_1h": 1, "ctc_10h": 10, "ctc_100h": 100, "ctc_960h": 960}
COMPARED_IN_CTC = {
    SETTINGS[name]
    for name in (
        "max_steps", "learning_rate", "lr_scheduler_type", "tri_stage", "seconds_per_update", "mask_time_prob",
        "mask_time_length", "mask_feature_prob", "mask_feature_length", "layerdrop", "hidden_dropout",
        "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout", "weight_decay",
        "max_grad_norm", "freeze_transformer_updates",
    )
}  # fmt: skip


def ctc_record(file: Path, folder: Path, config_class=SSLWav2Vec2Config, size="base", **changes) -> dict:
    """What a run with a configuration file would record, with some of its settings changed."""
    kinds = (SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments)
    fields = {name: changes.pop(name) for name in list(changes) if hasattr(config_class, name)}
    options = [token for name, value in changes.items() for token in as_tokens(name, value)]
    options += ["--output_dir", str(folder), "--use_cpu", "--bf16", "false"]
    model_args, _, _, args = parse_arguments([str(file), *options], *kinds)
    config = config_class.preset(size, **model_args.config | fields)
    record = {
        "task": "ctc",
        "identity": run_identity(config, {}, args),
        "recipe": settings_of(args),
        "data": {"train": {"hours": CTC_CONFIGS[file.stem]}},
        "machine": {"processes": args.world_size},
    }
    return json.loads(json.dumps(record, default=str))


@pytest.mark.parametrize("size", ["base", "large"])
@pytest.mark.parametrize("name", CTC_CONFIGS)
def test_the_published_fine_tuning_departs_in_nothing(name, size, tmp_path):
    """As the files stand for BASE, and for LARGE with the changes that their comments name."""
    file = ROOT / f"examples/configs/{name}.yaml"
    hint = file.read_text().partition("# LARGE: ")[2].partition("\nmodel_name_or_path")[0]
    named = re.findall(r"([a-z_]+) (\d[\d.e-]*\d|\d)(?=[,.]| \()", hint)
    changes = {key: int(value) if value.isdigit() else float(value) for key, value in named}
    assert "batch_seconds" in changes
    comparison = compare_with_paper(ctc_record(file, tmp_path, size=size, **changes if size == "large" else {}))
    assert f"{size.upper()} fine-tuned on" in comparison.published
    assert comparison.departures == ()
    assert set(comparison.as_published) >= COMPARED_IN_CTC


def test_huberts_ten_hours_have_a_schedule_of_their_own(tmp_path):
    file = ROOT / "examples/configs/ctc_10h.yaml"
    changes = dict(tri_stage=[8000, 0, 72000], hours_per_update=200 / 3600, max_steps=25_000, learning_rate=2e-5)
    changes |= dict(mask_time_prob=0.75, layerdrop=0.1, freeze_transformer_updates=10_000)
    comparison = compare_with_paper(ctc_record(file, tmp_path, SSLHubertConfig, **changes))
    assert comparison.published == "HuBERT BASE fine-tuned on 10 hours"
    assert comparison.departures == ()
    of_wav2vec2 = compare_with_paper(ctc_record(file, tmp_path, SSLHubertConfig))
    assert ("seconds of audio per update, at most", "1,600", "200") in of_wav2vec2.departures
    assert SETTINGS["tri_stage"] in {name for name, *_ in of_wav2vec2.departures}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hidden_dropout", 0.1), ("attention_dropout", 0.1), ("feat_proj_dropout", 0.1), ("final_dropout", 0.1),
        ("mask_time_length", 5), ("weight_decay", 0.01), ("max_grad_norm", 1.0), ("lr_scheduler_type", "linear"),
        ("batch_seconds", 100.0),
    ],
)  # fmt: skip
def test_no_setting_of_fine_tuning_departs_unnoticed(setting, value, tmp_path):
    record = ctc_record(ROOT / "examples/configs/ctc_10h.yaml", tmp_path)
    (record["identity"]["config"] if hasattr(SSLWav2Vec2Config, setting) else record["recipe"])[setting] = value
    assert len(compare_with_paper(record).departures) == 1


def test_ctc_is_compared_with_the_nearest_hours_of_transcripts(tmp_path, make_tiny):
    record = run_record(make_tiny(SSLHubertForCTC), tmp_path, task="ctc")
    assert compare_with_paper(record).published == "HuBERT BASE fine-tuned on 10 hours"
    record["identity"]["model_type"] = "ssl-wav2vec2"
    assert compare_with_paper(record).published == "wav2vec 2.0 BASE fine-tuned on 10 hours"
    record["data"]["train"] = SPLIT | {"hours": 0.2}
    record["identity"]["config"] |= dict(hidden_size=1024)
    record["recipe"] |= dict(learning_rate=1e-4)
    comparison = compare_with_paper(record)
    assert comparison.published == "wav2vec 2.0 LARGE fine-tuned on 10 minutes"
    assert "peak learning rate" in comparison.as_published
    assert ("updates", "321", "13,000") in comparison.departures


def test_what_is_no_model_and_what_the_hub_would_refuse_is_told_in_words(tmp_path, make_tiny):
    with pytest.raises(ValueError, match=r"neither config.json nor kmeans.json"):
        create_model_card(tmp_path)
    make_tiny(Wav2Vec2ForAudioFrameClassification).save_pretrained(tmp_path / "frames")
    with pytest.raises(ValueError, match="holds Wav2Vec2ForAudioFrameClassification"):
        create_model_card(tmp_path / "frames")
    units = make_units(tmp_path / "units")
    with pytest.raises(ValueError, match="English: the Hub takes languages as ISO 639 codes"):
        create_model_card(units, language="English")
    with pytest.raises(ValueError, match=r"'Apache 2.0': the Hub takes licences such as"):
        create_model_card(units, license="Apache 2.0")
    with pytest.raises(ValueError, match=r"'apache2': .* Did you mean apache-2\.0"):
        create_model_card(units, license="apache2")
    assert create_model_card(units, license="openrail++").data.license == "openrail++"


def test_a_wheel_holds_every_folder_of_the_package():
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "hf_ssl_speech").rglob("__init__.py")}
    beside = {"hf_ssl_speech.model_cards", "hf_ssl_speech.configs", "hf_ssl_speech.configs.accelerate"}
    assert packages == {".".join(folder.parts) for folder in folders} | beside


def test_what_names_and_sources_hold_of_markup_is_shown_and_not_followed(tmp_path):
    hostile = {
        "data": {"train": SPLIT | {"source": ["a|b`c", "<script>alert(1)</script>"]}},
        "machine": {"device": "<b>[x](y)</b>", "processes": 1, "threads": 1},
        "command": "x.py --name 'a|b' --other `c`",
    }
    groups = {"speaker": {"[x](y)<i>": {"wer": 0.5, "low": 0.4, "high": 0.6, "reference_length": 10}}}
    folder = make_ctc(tmp_path / 'a"b<i>', scores=[score(groups=groups, device="a | b")], **hostile)
    text = str(create_model_card(folder))
    prose = re.sub(r"^```.*?^```", "", text.split("\n---\n", 1)[1], flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"(`+).*?\1", "", prose)
    assert not re.search(r"(?<!\\)<(?!!--)", prose), "an unescaped tag"
    assert not re.search(r"(?<!\\|!)\[[^\]]*\]\(", prose), "an unescaped link"
    for rows in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1, "a table's rows differ"
    code = re.search(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)[1]
    compile(code, "card", "exec")


def test_folders_of_this_machine_and_secrets_stay_out_of_a_card(tmp_path):
    data = {"train": SPLIT | {"source": ["/home/anna/corpora/mini/train-*.parquet", "https://me:pw@host/x?token=zyx"]}}
    command = "/home/anna/env/bin/x.py --train_data=/home/anna/corpora/mini --token hf_aaaaaaaaaaaaaaaaaaaaaaaa"
    start = {"source": "/home/anna/runs/encoder", "record": None}
    folder = make_ctc(tmp_path / "ctc", scores=[score(command=command)], data=data, command=command, start=start)
    text = str(create_model_card(folder))
    for secret in ("anna", "pw@", "zyx", "hf_aaa", str(tmp_path)):
        assert secret not in text
    assert "…/mini/train-*.parquet" in text and "https://me:...@host/x?token=..." in text


def test_one_function_writes_cells_that_no_bar_and_no_line_break_ends():
    for text in ("a|b", "a\nb", "a\r\n\nb", "a\u2028b", "a\\|b", "a\\\\|b", "|", "\\", "a\x85b"):
        for made in (text, plain(text), code(text)):
            for aligned in (False, True):
                lines = table(["x", made], [[made, "y"], ["z", made]], aligned=aligned).split("\n")
                assert len(lines) == 4 and all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in lines)
                assert len("\n".join(lines).splitlines()) == 4
    assert table(["a"], [["b|c"]], aligned=True).splitlines()[-1] == "| b\\|c |"


def test_a_row_without_an_interval_has_none_in_the_card(tmp_path):
    rate = {"value": 1.0, "low": None, "high": None, "confidence": 0.95}
    card = create_model_card(make_ctc(tmp_path / "ctc", scores=[score(wer=rate, cer=rate)]))
    assert "100.00 (one row, no interval)" in card.text
    assert "low" not in card.data.eval_results[0].metric_args


def test_licences_and_departures_of_units_keep_their_tables_whole(tmp_path):
    names = {"a|b\nc": "x|y", "<b>": None}
    for make in (make_units, make_encoder):
        text = create_model_card(make(tmp_path / make.__name__), datasets=names).text
        for rows in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1
        assert "a\\|b c" in text and "\\<b\\>" in text
