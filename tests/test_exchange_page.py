"""What the pages on exchange and on continued pretraining tell people to do works."""

import importlib.util
import re
from pathlib import Path

import pytest
from test_pipeline import TOKENS, save_recognizer

from hf_ssl_speech import SSLWav2Vec2ForCTC

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / "exchange.md", DOCS / "continued_pretraining.md"]
EXTRAS = {"add_lora": "peft", "export_onnx": "onnxscript"}
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}", marks=[pytest.mark.slow] if "export_onnx" in block else [])
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL), start=1)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_of_a_page_runs(block, make_tiny, tmp_path):
    for name, module in EXTRAS.items():
        if name in block and importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}")
    model = make_tiny(SSLWav2Vec2ForCTC, vocab_size=len(TOKENS), num_hidden_layers=1)
    save_recognizer(model, tmp_path / "runs" / "ctc")
    exec(compile(block.replace('"runs/', f'"{tmp_path}/runs/'), "a page of docs", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link
