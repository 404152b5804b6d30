"""transformers' own model tests, from its source distribution, over our classes and their stock counterparts.

`python tests/stock_suite.py FOLDER` runs them: FOLDER holds `tests/test_modeling_common.py` of the installed version.
Nothing of the suite is copied: it is imported from there.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
import unittest
from pathlib import Path

import torch
import transformers
from transformers.models.wav2vec2.modeling_wav2vec2 import _sample_negative_indices

import hf_ssl_speech

FAMILIES = {"Wav2Vec2": hf_ssl_speech.SSLWav2Vec2Config, "Hubert": hf_ssl_speech.SSLHubertConfig}
HEADS = ("Model", "ForPreTraining", "ForCTC", "ForSequenceClassification")
SIZES = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=20,
    hidden_dropout=0.1,
    layerdrop=0.0,
    feat_extract_norm="group",
    conv_dim=(32, 32, 32),
    conv_stride=(4, 4, 4),
    conv_kernel=(8, 8, 8),
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
    mask_time_length=2,
    mask_time_prob=0.5,
    vocab_size=32,
)
ROWS, SAMPLES, FRAMES = 13, 1024, 14


def import_suite(folder: str | Path):
    """The module `tests.test_modeling_common` of a source distribution.

    It names two neighbours that the distribution leaves out, of tests that are not about these models.
    """
    for name, contents in {
        "exporters": (),
        "exporters.test_export": ("ExportTesterMixin",),
        "generation": (),
        "generation.test_utils": ("GenerationTesterMixin",),
    }.items():
        module = types.ModuleType(f"tests.{name}")
        module.__path__ = []
        for each in contents:
            setattr(module, each, type(each, (), {}))
        sys.modules[f"tests.{name}"] = module
    package = types.ModuleType("tests")
    package.__path__ = [str(Path(folder, "tests"))]
    sys.modules["tests"] = package
    suite = importlib.import_module("tests.test_modeling_common")
    for config_class in FAMILIES.values():
        ours = config_class.auto_classes()
        suite.MODEL_MAPPING_NAMES[config_class.model_type] = ours["AutoModel"]
        suite.MODEL_FOR_CTC_MAPPING_NAMES[config_class.model_type] = ours["AutoModelForCTC"]
        suite.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES[config_class.model_type] = ours[
            "AutoModelForAudioClassification"
        ]
    return suite


class ModelTester:
    """What the suite asks of a model under test: its configuration and a batch."""

    batch_size, seq_length, encoder_seq_length = ROWS, SAMPLES, FRAMES
    hidden_size, num_hidden_layers, num_attention_heads = 16, 2, 2
    is_training = True

    def __init__(self, parent: unittest.TestCase, model_class: type):
        self.parent, self.model_class = parent, model_class

    def get_config(self):
        return self.model_class.config_class(**SIZES)

    def prepare_config_and_inputs_for_common(self):
        generator = torch.Generator().manual_seed(0)
        waveforms = torch.randn(ROWS, SAMPLES, generator=generator)
        return self.get_config(), {"input_values": waveforms, "attention_mask": torch.ones(ROWS, SAMPLES).long()}


def pretraining_inputs(model_class: type) -> dict[str, torch.Tensor]:
    """What a loss of pretraining needs: frames 2 to 5 of each row are hidden, each a negative of the others."""
    hidden = torch.arange(2, 6).expand(ROWS, -1)
    mask = torch.zeros(ROWS, FRAMES, dtype=torch.bool).scatter(1, hidden, True)
    if model_class is transformers.Wav2Vec2ForPreTraining:
        negatives = torch.from_numpy(_sample_negative_indices((ROWS, FRAMES), 3, mask.numpy())).long()
        return {"mask_time_indices": mask, "sampled_negative_indices": negatives}
    inputs = {"mask_time_indices": mask, "masked_positions": hidden, "labels": torch.where(mask, 0, -100)}
    if model_class is hf_ssl_speech.SSLWav2Vec2ForPreTraining:
        others = [[other for other in range(4) if other != own] for own in range(4)]
        inputs["sampled_negative_indices"] = torch.tensor(others).expand(ROWS, -1, -1)
    return inputs


def test_case(suite, model_class: type) -> type[unittest.TestCase]:
    """The suite as a test case of one class."""

    class Case(suite.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (model_class,)
        test_resize_embeddings = False
        is_encoder_decoder = False

        def setUp(self):
            self.model_tester = ModelTester(self, model_class)

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            pretrains = return_labels and model_class.__name__.endswith("ForPreTraining")
            return inputs | (pretraining_inputs(model_class) if pretrains else {})

    return type(model_class.__name__, (Case,), {})


def run(suite, model_class: type) -> dict[str, str]:
    """What became of each test: `passed`, or the reason why it was skipped or failed."""
    result = Outcomes()
    unittest.defaultTestLoader.loadTestsFromTestCase(test_case(suite, model_class)).run(result)
    return result.outcomes


class Outcomes(unittest.TestResult):
    """A result that keeps the outcome of each test by its name."""

    def __init__(self):
        super().__init__()
        self.outcomes: dict[str, str] = {}

    @staticmethod
    def name(test) -> str:
        """Without the class, and without the part of the test."""
        return test.id().split()[0].rpartition(".")[2]

    def note(self, test, outcome: str):
        self.outcomes[self.name(test)] = outcome

    def addSuccess(self, test):
        self.outcomes.setdefault(self.name(test), "passed")

    def addSkip(self, test, reason):
        self.note(test, f"skipped: {reason}")

    def addError(self, test, error):
        lines = str(error[1]).strip().splitlines() or [""]
        self.note(test, f"failed: {error[0].__name__}: {lines[0]}")

    addFailure = addError

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addError(test, error)


if __name__ == "__main__":
    suite = import_suite(sys.argv[1])
    only = sys.argv[2:]
    found = {}
    for family in FAMILIES:
        for head in HEADS:
            for name, home in ((f"{family}{head}", transformers), (f"SSL{family}{head}", hf_ssl_speech)):
                if hasattr(home, name) and (not only or name in only):
                    found[name] = run(suite, getattr(home, name))
    print(json.dumps(found, indent=1))
