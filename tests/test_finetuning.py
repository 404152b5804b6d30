"""Fine-tuning runs: exact on any number of processes and across the thaw, resumed, scored, recorded."""

import json
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import load_file
from test_exactness import largest_difference
from test_launch import finish, start
from train_tiny import train_in_processes
from train_tiny_ctc import CHARACTERS, FINETUNING, make_trainer, train
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    AutoProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    Wav2Vec2Processor,
)

from hf_ssl_speech import (
    SpeechCTCTrainer,
    SpeechCTCTrainingArguments,
    SSLHubertModel,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2Model,
    TextNormalization,
    add_labels,
    make_processor,
    prepare_speech,
)
from hf_ssl_speech.commands.ending import tidy_errors
from hf_ssl_speech.recipes.finetuning import Transcripts, make_recognizer
from hf_ssl_speech.recipes.inputs import SpeechCTCModelArguments
from hf_ssl_speech.recognition.metrics import show_edits
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training.blank import BLANK_COSTS, cheapest
from hf_ssl_speech.training.ctc_trainer import edit_statistics
from hf_ssl_speech.training.record_keeper import panels_of

ROOT = Path(__file__).parents[1]
SMALL = (
    "--preset", "tiny", "--batch_seconds", "4", "--max_seconds", "2", "--min_seconds", "0.5", "--max_steps", "4",
    "--logging_steps", "1", "--eval_steps", "2", "--save_steps", "2", "--use_cpu", "--dataloader_num_workers", "0",
    "--disable_tqdm", "true", "--config", json.dumps(dict(
        hidden_size=32, num_hidden_layers=2, intermediate_size=64, conv_dim=[16] * 7, num_conv_pos_embeddings=16,
        mask_feature_prob=0.2, mask_feature_length=4, layerdrop=0.2,
    )),
)  # fmt: skip


@pytest.fixture(scope="module")
def save_rows(tmp_path_factory):
    """`save_rows(seconds)`: a folder of rows with labels, noise of these lengths."""

    def save(seconds: list[float]) -> str:
        generator = np.random.default_rng(0)
        rows = []
        for index, length in enumerate(seconds):
            wave = generator.normal(size=int(length * 16_000)) / 8
            text = "".join(generator.choice(list(CHARACTERS + " "), 2 + int(4 * length)))
            rows.append({"id": f"{index}", "audio": {"array": wave, "sampling_rate": 16_000}, "text": f"a{text}"})
        prepared, _ = prepare_speech(Dataset.from_list(rows), min_seconds=0.5, cache=True, keep=["text"])
        tokenizer = make_processor([CHARACTERS]).tokenizer
        folder = str(tmp_path_factory.mktemp("rows"))
        add_labels(prepared, tokenizer, TextNormalization(), SSLWav2Vec2Config())[0].save_to_disk(folder)
        return folder

    return save


# Exactness -------------------------------------------------------------------------------------------------------

THAW = {"freeze_transformer_updates": 2, "max_steps": 4}


def test_one_batch_accumulation_and_two_ranks_give_the_same_weights_across_the_thaw(save_rows, tmp_path):
    rows = save_rows([2.0] * 4)
    train(rows, str(tmp_path / "1x4"), {"batch_seconds": 8, **THAW}, {})
    train(
        rows,
        str(tmp_path / "accumulated"),
        {"batch_seconds": 2, "max_seconds": 2, "gradient_accumulation_steps": 4, **THAW},
        {},
    )
    train_in_processes(2, rows, tmp_path / "2x2", {"batch_seconds": 4, **THAW}, train=train)
    assert largest_difference(tmp_path / "1x4", tmp_path / "accumulated") < 1e-10
    assert largest_difference(tmp_path / "1x4", tmp_path / "2x2") < 1e-10


def test_padding_changes_no_weight(save_rows, tmp_path):
    rows = save_rows([1.5, 3.9, 2.0, 2.7])
    train(rows, str(tmp_path / "padded"), {"batch_seconds": 16}, {})
    train(rows, str(tmp_path / "alone"), {"batch_seconds": 4, "gradient_accumulation_steps": 3}, {})
    assert largest_difference(tmp_path / "padded", tmp_path / "alone") < 1e-10


def test_an_interrupted_run_ends_with_the_very_weights_of_an_uninterrupted_one(save_rows, tmp_path):
    rows = save_rows([1.2, 1.9, 2.3, 2.4, 3.1, 3.3, 3.8])
    config = {"layerdrop": 0.3, "hidden_dropout": 0.1, "activation_dropout": 0.1}
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "batch_seconds": 4, "save_total_limit": 9}
    settings |= {"freeze_transformer_updates": 3, "tri_stage": [0.2, 0.3, 0.5]}
    train(rows, str(tmp_path / "whole"), settings, config)
    for update in (2, 4):  # before the thaw, and after
        output = tmp_path / f"resumed-{update}"
        train(rows, str(output), settings, config, resume=str(tmp_path / "whole" / f"checkpoint-{update}"))
        assert largest_difference(tmp_path / "whole", output) == 0.0


def test_the_encoder_may_rest_for_a_share_of_the_updates_of_whole_epochs(save_rows, tmp_path):
    settings = {"freeze_transformer_updates": 0.5, "max_steps": -1, "num_train_epochs": 2, "batch_seconds": 4}
    trainer = make_trainer(str(tmp_path), settings, {}, load_from_disk(save_rows([2.0] * 4)))
    trainer.train()
    assert trainer.state.max_steps == 4
    assert trainer.model.thaw_update == 2


def test_frozen_weights_stay_and_the_others_learn(save_rows, tmp_path):
    trainer = make_trainer(
        str(tmp_path), {"freeze_transformer_updates": 2, "max_steps": 2}, {}, load_from_disk(save_rows([2.0] * 4))
    )
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {"lm_head.weight", "lm_head.bias"}
    trainer.args.max_steps = 4
    trainer.train()
    moved = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if "feature_extractor" not in name}


# Schedule, evaluation, best checkpoint ---------------------------------------------------------------------------


def test_the_learning_rate_in_the_log_is_that_of_the_three_stages(save_rows, tmp_path):
    rows = load_from_disk(save_rows([2.0] * 4))
    settings = {"max_steps": 10, "tri_stage": [0.2, 0.3, 0.5], "learning_rate": 1e-3}
    trainer = make_trainer(str(tmp_path), settings, {}, rows)
    trainer.train()
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    warm, decay = [1e-5, 1e-5 + 0.99e-3 / 2], [1e-3 * 0.05 ** (step / 5) for step in range(5)]
    assert rates == pytest.approx([*warm, 1e-3, 1e-3, 1e-3, *decay], rel=1e-6)


def test_error_rates_are_those_of_jiwer_whatever_the_batches(save_rows, tmp_path):
    rows = load_from_disk(save_rows([1.2, 1.9, 2.3, 2.4]))
    metrics = []
    for seconds in (4, 12):
        trainer = make_trainer(str(tmp_path), {"batch_seconds": seconds}, {}, evaluation=rows)
        metrics.append(trainer.evaluate())
    names = {f"eval_{name}" for name in (*trainer.model.metric_names, *trainer.own_metrics)}
    assert metrics[0].keys() - {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "epoch"} == names
    for name in ("eval_loss", "eval_wer", "eval_cer"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-5)
    model, heard = trainer.model.eval(), []
    for row in rows:
        batch = trainer.evaluation_collator([row])
        tokens = model(batch["input_values"]).logits.argmax(-1)[0]
        heard.append(" ".join(trainer.processing_class.tokenizer.decode(tokens).replace("<unk>", "").split()))
    assert metrics[0]["eval_wer"] == pytest.approx(jiwer.wer(list(rows["text"]), heard))
    assert metrics[0]["eval_cer"] == pytest.approx(jiwer.cer(list(rows["text"]), heard))


def test_edits_are_counted_by_words_and_characters():
    rows = [("the cat sat", ("the hat sat on", "the cat")), ("one", ("", "one"))]
    counts = edit_statistics(rows, 2, torch.device("cpu"))
    assert {name: count.tolist() for name, count in counts.items()} == {
        "word_edits": [3, 1], "words": 4, "character_edits": [7, 4], "characters": 14,
    }  # fmt: skip
    assert show_edits("the cat", "the hat") == "REF: the cat\nHYP: the hat\n           S"


CALIBRATED = dict(calibrate_blank=True, metric_for_best_model="cer", eval_strategy="steps", eval_steps=1)


def shy(trainer):
    """The trainer, whose model writes an `a` in every frame once the blank costs more than 0.6, and else nothing."""
    head, tokenizer = trainer.model.lm_head, trainer.processing_class.tokenizer
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[trainer.model.config.pad_token_id] = 1.6
        head.bias[tokenizer.convert_tokens_to_ids("a")] = 1
    return trainer


def test_an_evaluation_tells_the_fewest_errors_over_the_blanks_costs(save_rows, tmp_path):
    rows = load_from_disk(save_rows([1.2, 1.9, 2.3]))  # every transcript begins with an `a`
    trainer = make_trainer(str(tmp_path), CALIBRATED, {}, evaluation=rows)
    blank, cer = trainer.model.config.pad_token_id, {}
    for cost in BLANK_COSTS:
        heard = []
        for row in rows:
            logits = trainer.model.eval()(trainer.evaluation_collator([row])["input_values"]).logits[0].clone()
            logits[:, blank] -= cost
            text = trainer.processing_class.tokenizer.decode(logits.argmax(-1))
            heard.append(" ".join(text.replace("<unk>", "").split()))
        cer[cost] = jiwer.cer(list(rows["text"]), heard)
    found = trainer.evaluate()
    assert found["eval_cer"] == pytest.approx(min(cer.values())) == pytest.approx(cer[found["eval_blank_cost"]])
    assert shy(trainer).evaluate()["eval_blank_cost"] == 0.75
    assert cheapest([3, 2, 2]) == 1


@pytest.mark.parametrize("several", [False, True])
def test_the_saved_head_has_the_blanks_cost_of_the_kept_evaluation(several, save_rows, tmp_path):
    rows = load_from_disk(save_rows([2.0] * 4))
    settings = CALIBRATED | dict(
        save_strategy="steps", save_steps=1, max_steps=2, load_best_model_at_end=True, learning_rate=1e-12
    )
    if several:
        settings["metric_for_best_model"] = "eval_far_cer"
    trainer = shy(make_trainer(str(tmp_path), settings, {}, rows, {"near": rows, "far": rows} if several else rows))
    trainer.train()
    assert trainer.kept_update == 1
    kept = load_file(tmp_path / "checkpoint-1" / "model.safetensors")["lm_head.bias"]
    blank = trainer.model.config.pad_token_id
    change = kept - trainer.model.lm_head.bias.detach()
    assert change[blank] == pytest.approx(0.75) and change.count_nonzero() == 1
    entry = next(each for each in trainer.state.log_history if "eval_far_cer" in each or "eval_cer" in each)
    again = trainer.evaluate(rows)
    assert again["eval_blank_cost"] == 0.0
    assert again["eval_cer"] == entry["eval_far_cer" if several else "eval_cer"] < 1


def test_the_best_checkpoint_is_the_one_that_is_left_and_a_hopeless_run_stops_early(save_rows, tmp_path):
    rows = load_from_disk(save_rows([2.0] * 4))
    settings = dict(
        eval_strategy="steps", save_strategy="steps", eval_steps=1, save_steps=1, max_steps=20,
        load_best_model_at_end=True, early_stopping_patience=2, learning_rate=1e-12,
    )  # fmt: skip
    trainer = make_trainer(str(tmp_path), settings, {}, rows, rows)
    trainer.train()
    assert trainer.state.best_global_step == 1 and trainer.state.global_step == 3
    assert trainer.is_complete


def test_settings_that_contradict_each_other_are_errors(tmp_path):
    for settings, message in (
        ({"tri_stage": [0.5, 0.5]}, "give three stages"),
        ({"warmup_steps": 10}, "first stage of tri_stage is the warm-up"),
    ):
        with pytest.raises(ValueError, match=message):
            SpeechCTCTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_fine_tuning_goes_on_from_a_head_without_outputs_for_its_tokenizers_special_tokens(make_tiny, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "|": 2, "[UNK]": 3, "[PAD]": 4}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), unk_token="[UNK]", pad_token="[PAD]")
    processor = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer)
    head = make_tiny(SSLWav2Vec2ForCTC, vocab_size=5, pad_token_id=4)
    head.save_pretrained(tmp_path / "old")
    transcripts = Transcripts(processor, TextNormalization(), {})
    model = make_recognizer(SpeechCTCModelArguments(model_name_or_path=str(tmp_path / "old")), transcripts)
    assert (model.config.vocab_size, model.config.pad_token_id, len(tokenizer)) == (5, 4, 7)
    assert torch.equal(model.lm_head.weight, head.lm_head.weight)
    SpeechCTCTrainer(model, SpeechCTCTrainingArguments(output_dir=str(tmp_path / "new"), **FINETUNING, use_cpu=True),
                     processing_class=processor, normalization=TextNormalization())  # fmt: skip


def test_a_tokenizer_of_another_size_or_with_another_blank_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match=r"The tokenizer has 7 tokens, .* but the head has 9 outputs"):
        make_trainer(str(tmp_path), {}, {"vocab_size": 9})
    with pytest.raises(ValueError, match=r"pad token has the id 0, but the model's blank is config\.pad_token_id = 1"):
        make_trainer(str(tmp_path), {}, {"pad_token_id": 1})


# The script ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A Parquet file of noise with transcripts, one of them empty."""
    folder = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(24):
        soundfile.write(folder / "one.wav", generator.normal(size=12_000 + 500 * index) / 8, 16_000)
        text = "Two words, ONE!" if index % 2 else "été"
        rows.append({"id": f"row-{index}", "audio": (folder / "one.wav").read_bytes(), "text": text if index else ""})
    Dataset.from_list(rows).to_parquet(folder / "speech.parquet")
    return folder / "speech.parquet"


def arguments_for(speech, output, *arguments) -> list[str]:
    data = ["--train_data", str(speech), "--validation_data", str(speech), "--output_dir", str(output)]
    return [*data, *SMALL, *map(str, arguments)]


@pytest.fixture
def finetune(speech, tmp_path, monkeypatch, caplog):
    """`finetune("run", *arguments)`: the script in this process, into a folder of that name; gives its log."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import finetune_ctc

    from hf_ssl_speech.recipes import finetuning

    recipe = finetuning.finetune

    def finetune(model, args, *rest):
        before = vars(args).copy()
        recipe(model, args, *rest)
        assert vars(args) == before, "the caller's arguments are not changed"

    monkeypatch.setattr(finetuning, "finetune", finetune)

    def run(name, *arguments) -> str:
        caplog.clear()
        with caplog.at_level("INFO"), tidy_errors():
            finetune_ctc.main(arguments_for(speech, tmp_path / name, *arguments))
        return caplog.text

    return run


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_script_leaves_a_recogniser_with_its_vocabulary_and_a_record(processes, speech, finetune, tmp_path):
    encoder = SSLWav2Vec2Model.config_class.preset("tiny", **json.loads(SMALL[-1]))
    SSLWav2Vec2Model(encoder).save_pretrained(tmp_path / "encoder")
    start_there = ("--model_name_or_path", tmp_path / "encoder", "--freeze_transformer_updates", 2)
    if processes == 1:
        output = finetune("run", *start_there)
    else:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        script = [str(ROOT / "examples" / "finetune_ctc.py"), *arguments_for(speech, tmp_path / "run", *start_there)]
        output = finish(start([*launcher, *script]))
    assert "1 without text: row-0" in output and "REF: " in output and "HYP: " in output

    record = read_record(tmp_path / "run")
    assert (record["task"], record["status"], record["updates"]) == ("ctc", "complete", 4)
    assert record["start"] == {"source": str(tmp_path / "encoder"), "record": None}
    assert record["text"]["skipped"] == {"without text": 1}
    assert set("two words one été") - {" "} <= set(record["text"]["vocabulary"])
    assert record["data"]["train"]["rows"] == 23
    assert record["recipe"]["freeze_transformer_updates"] == 2
    assert sum("eval_wer" in point and "eval_cer" in point for point in record["curves"]) == 2
    rates = {point["step"]: point["eval_wer"] for point in record["curves"] if "eval_wer" in point}
    assert record["kept_update"] == min(rates, key=rates.get)
    assert (tmp_path / "run" / "training.png").exists()
    assert panels_of(record["curves"])["Error rate"] == ["wer", "cer"]

    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    model = AutoModelForCTC.from_pretrained(tmp_path / "run")
    inputs = processor(np.zeros(16_000, np.float32), sampling_rate=16_000, return_tensors="pt")
    assert model(**inputs).logits.shape == (1, 49, len(processor.tokenizer))
    assert TextNormalization.from_pretrained(tmp_path / "run").case == "lower"

    # Another recipe is another run; a CTC model to start from brings its vocabulary, and its size is checked.
    with pytest.raises(SystemExit, match="freeze_transformer_updates: 2 there, 0 here"):
        finetune("run", *start_there[:2])
    assert "Transcripts are normalised with {" in finetune("onward", "--model_name_or_path", tmp_path / "run")
    assert read_record(tmp_path / "onward")["start"]["record"]["task"] == "ctc"
    with pytest.raises(SystemExit, match=r"expects transcripts normalised with .*'case': 'lower'.* ask for .*'upper'"):
        finetune("shouting", "--model_name_or_path", tmp_path / "run", "--case", "upper")
    make_processor(["abc"]).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit, match=r"The head of .*run has another vocabulary\. The tokenizer has 6"):
        finetune("third", "--model_name_or_path", tmp_path / "run", "--processor", tmp_path / "other")


def test_preflight_only_checks_transcripts_and_whether_a_few_rows_can_be_learnt(finetune, tmp_path, capsys):
    finetune("run", "--preflight_only")
    assert not (tmp_path / "run").exists()
    shown = capsys.readouterr().out.splitlines()
    for check in ("train", "validation", "transcripts", "masks", "memory", "overfit"):
        assert any(line.startswith(f"{check} ") for line in shown), check
    assert not any(line.endswith("error") for line in shown)


def test_preflight_only_shows_too_many_lost_rows_among_its_other_findings(finetune, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"4\.2% of the train rows can't be used, more than max_skipped_share=0\.0%"):
        finetune("run", "--preflight_only", "--max_skipped_share", "0")
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("train ") and line.endswith("error") for line in shown)
    assert any(line.startswith("masks ") and not line.endswith("error") for line in shown)


def test_hubert_is_fine_tuned_too_and_fresh_weights_are_not_frozen(finetune, tmp_path):
    assert "Fresh weights: nothing is frozen." in finetune("run", "--objective", "hubert")
    assert AutoConfig.from_pretrained(tmp_path / "run").model_type == SSLHubertModel.config_class.model_type
    record = read_record(tmp_path / "run")
    assert record["start"] == {"source": None, "record": None}
    assert record["data"]["validation"]["shared_with_training"] == 24  # they are the training rows


def test_a_stock_checkpoint_is_fine_tuned_too(finetune, make_tiny, tmp_path):
    stock = make_tiny(Wav2Vec2Model)
    stock.save_pretrained(tmp_path / "stock")
    start_there = ("--model_name_or_path", tmp_path / "stock", "--config", '{"layerdrop": 0.1}')
    log = finetune("run", *start_there, "--freeze_transformer_updates", 9)
    assert log.count("lm_head") == log.count("stock has no weights for lm_head: they start fresh.") == 1
    ours = AutoModelForCTC.from_pretrained(tmp_path / "run")
    for name, weight in stock.state_dict().items():
        assert torch.equal(ours.base_model.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max_skipped_share", "0"), "4.2% of the train rows can't be used, more than max_skipped_share=0.0%"),
        (("--text_column", "sentence"), r"no columns \['sentence'\]; there are"),
        (("--streaming",), "they can't be streamed"),
        (("--model_name_or_path", "nowhere/at-all"), "There is no model at nowhere/at-all"),
        (("--min_character_count", "99"), "no character 99 times"),
    ],
)
def test_bad_input_ends_the_script_in_words(arguments, message, finetune, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it is asked again and again
    with pytest.raises(SystemExit, match=message):
        finetune("run", *arguments)


def test_the_head_learns_at_its_own_rate_exactly_across_a_resume(save_rows, tmp_path):
    rows = save_rows([1.2, 1.9, 2.3, 2.4, 3.1])
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 9, "weight_decay": 0.1}
    settings |= {"batch_seconds": 8, "learning_rate": 1e-4, "head_learning_rate": 1e-2, "tri_stage": [0, 0.5, 0.5]}
    whole = train(rows, str(tmp_path / "whole"), settings, {"layerdrop": 0.3})
    on = train(rows, str(tmp_path / "on"), settings, {"layerdrop": 0.3}, resume=str(tmp_path / "whole/checkpoint-2"))
    assert largest_difference(tmp_path / "whole", tmp_path / "on") == 0.0
    heads = [[id(weight) for weight in group["params"]] for group in on.optimizer.param_groups]
    assert {id(weight) for weight in on.model.lm_head.parameters()} == {*heads[2], *heads[3]}
    assert sum(map(len, heads)) == len({one for group in heads for one in group})  # each weight once
    assert [group["weight_decay"] for group in on.optimizer.param_groups] == [0.1, 0.0, 0.1, 0.0]
    for log in whole.state.log_history:
        if "learning_rate" in log:
            assert log["head_learning_rate"] == pytest.approx(100 * log["learning_rate"])
    encoder, _, *head = [group["lr"] for group in on.optimizer.param_groups]
    assert head == pytest.approx([100 * encoder] * 2)


def test_a_new_vocabulary_starts_a_fresh_head_on_the_encoder_of_a_recogniser(finetune, make_tiny, tmp_path):
    stock = make_tiny(Wav2Vec2ForCTC, vocab_size=8, layerdrop=0.0)
    stock.save_pretrained(tmp_path / "stock")
    make_processor(["abcde"]).save_pretrained(tmp_path / "stock")
    start_there = ("--model_name_or_path", tmp_path / "stock", "--config", "{}", "--freeze_transformer_updates", 9)
    with pytest.raises(SystemExit, match=r"The vocabulary is that of .*stock: set `new_vocabulary` for another"):
        finetune("old", *start_there)
    finetune("new", *start_there, "--new_vocabulary", "true")
    ours, processor = AutoModelForCTC.from_pretrained(tmp_path / "new"), AutoProcessor.from_pretrained(tmp_path / "new")
    assert ours.config.vocab_size == len(processor.tokenizer) == len(ours.lm_head.weight) > 8
    assert "é" in processor.tokenizer.get_vocab()
    for name, weight in stock.base_model.state_dict().items():
        assert torch.equal(ours.base_model.state_dict()[name], weight), name
    record = read_record(tmp_path / "new")
    assert record["text"]["new_vocabulary"] and record["identity"]["new_vocabulary"]
