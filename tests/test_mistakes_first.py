"""Mistakes in the model's settings are found before any time is spent on the data, and told in words."""

from pathlib import Path

import pytest
from conftest import tiny_model

from hf_ssl_speech import SSLHubertForPreTraining
from hf_ssl_speech.commands.ending import tidy_errors

SCRIPTS = ("pretrain", "finetune_ctc", "hubert_iterations")
COMMON = {
    "--heads": (("--config", '{"num_attention_heads": 5}'), "hidden_size 192 does not split into 5 heads"),
    "--masks": (("--config", '{"mask_time_prob": 65}'), "mask_time_prob is 65, which hides 100%: it is a share"),
    "--dropped": (("--config", '{"layerdrop": 1}'), "layerdrop is 1: nothing passes through"),
    "--drop": (("--config", '{"layerdrop": 1.5}'), "layerdrop is 1.5; expected"),
    "--field": (("--config", '{"hiden_size": 192}'), "no field hiden_size. Did you mean hidden_size?"),
    "--json": (("--config", '{"hidden_size": '), "not a JSON object .*: write it like"),
    "--preset": (("--preset", "huge"), "no preset 'huge': choose one of tiny, tiny-mel, small, base, large"),
    "--attention": (("--attn_implementation", "flush"), "flush"),
    "--start": (("--model_name_or_path", "./nowhere"), "nowhere"),
    "--objective": (("--objective", "data2vec"), "invalid choice: 'data2vec'"),
}
EVALUATED = ("--eval_strategy", "steps")
OWN = [
    ("pretrain", ("--objective", "hubert"), "HuBERT needs either `units`"),
    ("finetune_ctc", ("--processor", "./nowhere"), "nowhere has no processor"),
    ("pretrain", ("--config", '{"mask_time_prob": 0}'), "mask_time_prob is 0: nothing would be hidden"),
    ("pretrain", ("--config", '{"apply_spec_augment": false}'), "apply_spec_augment is False: nothing would be hidden"),
    ("pretrain", ("--config", '{"num_negatives": 0}'), "num_negatives is 0; expected 1 to"),
    ("pretrain", ("--config", '{"mask_feature_prob": 0.5}'), "channels are hidden in fine-tuning only"),
    ("pretrain", ("--config", '{"num_codevectors_per_group": 1}'), "num_codevectors_per_group is .*nothing to choose"),
    ("hubert_iterations", ("--config", '{"num_units": [1]}'), "num_units is .*nothing to choose among"),
    ("hubert_iterations", ("--num_units", "100", "1"), "num_units is .*nothing to predict"),
    ("hubert_iterations", ("--updates", "5", "--num_train_epochs", "2"), "both set the length of a training"),
    ("finetune_ctc", ("--config", '{"mask_feature_prob": 50}'), "mask_feature_prob is 50, which hides 100%"),
    ("hubert_iterations", ("--layers", "1", "9"), "the models have 4 layers"),
    ("hubert_iterations", ("--teacher", "./nowhere"), "No encoder can be loaded from ./nowhere"),
]
OWN += [
    ("pretrain", (*EVALUATED, "--metric_for_best_model", "wer"), "'wer', which no evaluation here tells: .*accuracy"),
    (
        "hubert_iterations",
        (*EVALUATED, "--metric_for_best_model", "wer"),
        "no evaluation here tells: .*masked_accuracy",
    ),
    ("finetune_ctc", ("--metric_for_best_model", "changed"), "'changed', which no evaluation here tells: .*wer, cer"),
    ("pretrain", (*EVALUATED, "--validation_data", ""), "nothing to evaluate on: give validation_data or"),
]
CASES = [(script, *case) for script in SCRIPTS for case in COMMON.values()] + OWN


@pytest.mark.parametrize(("script", "arguments", "message"), CASES)
def test_a_mistake_in_the_model_is_told_before_the_data_is_looked_at(script, arguments, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    monkeypatch.setattr(
        "hf_ssl_speech.recipes.splits.load_speech", lambda *_, **__: pytest.fail("the data is prepared already")
    )
    main = __import__(script).main
    command = ["--preset", "tiny", "--train_data", "speech", "--validation_data", "speech", "--use_cpu"]
    with pytest.raises(SystemExit, match=message) as told, tidy_errors():
        main([*command, "--output_dir", str(tmp_path), *arguments])
    assert "Traceback" not in str(told.value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_field_is_told_where_a_checkpoint_is_started_from_too(script, tmp_path, monkeypatch):
    tiny_model(SSLHubertForPreTraining).save_pretrained(tmp_path / "start")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    command = ["--train_data", "speech", "--validation_data", "speech", "--use_cpu", "--objective", "hubert"]
    command += ["--output_dir", str(tmp_path), "--model_name_or_path", str(tmp_path / "start")]
    command += ["--unit_columns", "units"] if script == "pretrain" else []
    with pytest.raises(SystemExit, match=r"no field hiden_size\. Did you mean hidden_size"), tidy_errors():
        __import__(script).main([*command, "--config", '{"hiden_size": 192}'])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_stepps: 5", r"settings\.yaml.*There is no argument --max_stepps\. Did you mean --max_steps?"),
        ("max_steps: [5", r"settings\.yaml does not hold YAML settings .*line 2, column 11: expected ',' or ']'"),
        ("max_steps: 5\nmax_steps: 6", "max_steps is given twice"),
        ("- max_steps\n---\n", "line 2, column 1: but found another document"),
        ("max_steps: many", "'many' is not a whole number"),
        ("config:\n  hiden_size: 192", "no field hiden_size. Did you mean hidden_size?"),
    ],
)
def test_a_mistake_in_the_yaml_is_told_with_what_may_have_been_meant(text, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    path = tmp_path / "settings.yaml"
    path.write_text(f"{text}\ntrain_data: speech\noutput_dir: {tmp_path}\nuse_cpu: true\n")
    with pytest.raises(SystemExit, match=message), tidy_errors():
        __import__("pretrain").main([str(path)])
