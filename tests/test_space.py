"""The Space of examples/space, asked by Gradio's own client: words with their times, and plain messages."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conftest import save_encoder, tiny_model
from test_pipeline import TOKENS, save_recognizer

from hf_ssl_speech import SSLHubertForCTC, SSLHubertModel

SPACE = Path(__file__).parents[1] / "examples" / "space"


def test_the_head_of_the_space_names_its_program():
    head = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert head["sdk"] == "gradio" and (SPACE / head["app_file"]).is_file()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    model = tiny_model(SSLHubertForCTC, vocab_size=len(TOKENS), feat_extract_norm="layer", do_stable_layer_norm=True)
    save_recognizer(model, folder / "recogniser")
    save_encoder(folder / "encoder", SSLHubertModel)
    rng = np.random.default_rng(0)
    for name, seconds in [("short", 2), ("long", 65)]:
        soundfile.write(folder / f"{name}.wav", rng.standard_normal(seconds * 16_000) / 10, 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF, but no more")
    return folder


@pytest.fixture(scope="module")
def ask(folder):
    pytest.importorskip("gradio", reason="gradio is not installed")
    client = pytest.importorskip("gradio_client", reason="gradio_client is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.delenv("MODEL_ID", raising=False)
        spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
        app = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(app)
        page = app.make_page()
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
        asker = client.Client(url, verbose=False)

        def ask(model: str, audio: str | None):
            file = client.handle_file(folder / audio) if audio else None
            return asker.predict(str(folder / model) if model else "", file, api_name="/transcribe")

        yield ask
        page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("audio", "seconds"), [("short.wav", 2), ("long.wav", 65)])
def test_words_come_in_order_with_their_times(ask, audio, seconds):
    text, picture, table = ask("recogniser", audio)
    words, starts, ends = zip(*table["data"])
    assert " ".join(words) == text and picture["plot"].startswith("data:image")
    assert all(0 <= start < end <= seconds for start, end in zip(starts, ends))
    assert list(starts) == sorted(starts) and ends[-1] > seconds - 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "audio", "message"),
    [
        ("recogniser", None, "no audio yet"),
        ("recogniser", "broken.wav", "recording can.t be used"),
        ("recogniser", "silent.wav", "silent"),
        ("encoder", "short.wav", "without a CTC head"),
        ("nowhere", "short.wav", "No recogniser can be loaded"),
        ("", "short.wav", "Name a model"),
    ],
)
def test_bad_input_gives_a_plain_message(ask, model, audio, message):
    with pytest.raises(Exception, match=message):
        ask(model, audio)
