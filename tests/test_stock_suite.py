"""transformers' own model tests over our classes, beside what they say of stock's."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import transformers
from huggingface_hub.constants import HF_HOME

from hf_ssl_speech.markdown import table

RUNNER = Path(__file__).with_name("stock_suite.py")
SUITE = Path("tests", "test_modeling_common.py")

# What fails with our classes and not with stock's is listed here with its reason.
ON_PURPOSE = {
    "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions": "Attention weights asked of an "
    "implementation that computes none are an error here; stock gives None for each layer.",
    "test_model_outputs_equivalence": "The same; and of encoders, the output holds a mask of bools, of which the test "
    "takes differences.",
    "test_model_weights_reload_no_missing_tied_weights": "The test loads a file that lacks all weights but one; here a "
    "file without a layer's weights is refused, since the model would be an untrained one.",
    "test_capture_outputs_decorator": "Skipped: the encoder collects hidden states itself, without the decorator.",
}


@pytest.fixture(scope="module")
def suite() -> Path:
    """The source distribution of the installed transformers: TRANSFORMERS_SOURCE names it, else pip downloads it."""
    pytest.importorskip("parameterized", reason="transformers' tests need the package parameterized")
    if os.environ.get("TRANSFORMERS_SOURCE"):
        return Path(os.environ["TRANSFORMERS_SOURCE"])
    version = transformers.__version__
    cache = Path(HF_HOME) / "hf_ssl_speech"
    source = cache / f"transformers-{version}"
    if not (source / SUITE).exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", str(cache)]
        download = subprocess.run(command, capture_output=True, text=True, check=False)
        if download.returncode:
            pytest.skip(f"pip can't download the source of transformers {version}: {download.stderr.strip()[-300:]}")
        with tarfile.open(cache / f"transformers-{version}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return source


@pytest.mark.slow
@pytest.mark.timeout(1_900)  # pytest would end it after 600 s, which a busy machine needs
def test_our_classes_pass_what_stock_passes_in_the_suite_of_transformers(suite, capsys):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, RUNNER, suite], capture_output=True, text=True, check=True, env=environment, timeout=1800
    )
    outcomes = json.loads(run.stdout)
    kinds = ("passed", "skipped", "failed")
    rows = [
        [name, *(str(sum(outcome.startswith(kind) for outcome in tests.values())) for kind in kinds)]
        for name, tests in outcomes.items()
    ]
    with capsys.disabled():
        print("\n" + table(["class", *kinds], rows))
    ours = [name for name in outcomes if name.startswith("SSL")]
    assert len(ours) == 8
    fell_behind = {}
    for name in ours:
        # Stock has no HuBERT for pretraining.
        stock = outcomes.get(name.removeprefix("SSL"), outcomes["Wav2Vec2ForPreTraining"])
        fell_behind |= {
            (name, test): outcome
            for test, outcome in outcomes[name].items()
            if outcome != "passed" and stock.get(test) == "passed" and test not in ON_PURPOSE
        }
        assert sum(outcome == "passed" for outcome in outcomes[name].values()) > 50
    assert fell_behind == {}
