"""Transcribes audio with a CTC model in ONNX form. Needs NumPy, soundfile and onnxruntime, but no torch.

python -c "from hf_ssl_speech import export_onnx; export_onnx('runs/ctc-digits', 'ctc.onnx')"
python examples/onnx_transcribe.py ctc.onnx one.wav two.flac
"""

import json
import sys

import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map
tokens, blank = json.loads(facts["tokens"]), int(facts["blank"])
for path in sys.argv[2:]:
    waveform, rate = soundfile.read(path, dtype="float32")
    assert waveform.ndim == 1 and rate == int(facts["sampling_rate"]), f"{path}: one channel at 16 kHz is needed"
    if json.loads(facts["normalize"]):
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    inputs = {"input_values": waveform[None], "attention_mask": np.ones((1, len(waveform)), np.int64)}
    best = session.run(["logits"], inputs)[0][0].argmax(-1)
    changes = best[np.diff(best, prepend=-1) != 0]  # what is repeated counts once
    print("".join(tokens[token] for token in changes if token != blank).replace(facts["word_delimiter"], " "))
