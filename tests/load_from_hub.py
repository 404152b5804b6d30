"""Run by a test in a process of its own: loads what lies on the Hub that HF_ENDPOINT names, and saves what came."""

import json
import re
import sys

import numpy as np
import torch
from huggingface_hub import ModelCard, hf_hub_download
from transformers import AutoModel, AutoModelForCTC, AutoProcessor

waveform = np.random.default_rng(0).standard_normal(8_000).astype(np.float32)
found = {"waveform": waveform}
audio = torch.from_numpy(waveform)[None]


def run_card(repo_id: str):
    card = ModelCard.load(repo_id).content
    for code in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL):
        exec(compile(code, repo_id, "exec"), {})


with torch.no_grad():
    # Stock forms need nothing of ours.
    found["encoder_stock"] = AutoModel.from_pretrained("me/encoder-stock").eval()(audio).last_hidden_state
    found["ctc_stock"] = AutoModelForCTC.from_pretrained("me/ctc-stock").eval()(audio).logits
    run_card("me/encoder-stock")
    run_card("me/ctc-stock")
    assert not any(name.startswith("hf_ssl_speech") for name in sys.modules)
    found["encoder"] = AutoModel.from_pretrained("me/encoder", trust_remote_code=True).eval()(audio).last_hidden_state

    import hf_ssl_speech

    found["ctc"] = AutoModelForCTC.from_pretrained("me/ctc").eval()(audio).logits
    hf_ssl_speech.SSLHubertModel.from_pretrained("me/bare")
for repo_id in ("me/encoder", "me/ctc", "me/units"):
    run_card(repo_id)
found["centroids"] = hf_ssl_speech.KMeansUnits.from_pretrained("me/units").centroids
found["bare_centroids"] = hf_ssl_speech.KMeansUnits.from_pretrained("me/bare-units").centroids
found["vocabulary"] = json.dumps(AutoProcessor.from_pretrained("me/processor").tokenizer.get_vocab())
try:
    hf_hub_download("me/ctc", "config.json", token=False, cache_dir=f"{sys.argv[1]}.cache")
except OSError:
    np.savez(sys.argv[1], **found)
else:
    raise AssertionError("a private repository was read without a token")
