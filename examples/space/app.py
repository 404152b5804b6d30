"""A page that transcribes speech with any CTC model and shows when each word was said: a Hugging Face Space.

    MODEL_ID=me/recogniser python examples/space/app.py

With `MODEL_ID` the page uses this model only; without it, visitors name one. See docs/publishing.md.
"""

import os
from functools import lru_cache

import gradio
import numpy as np
from matplotlib.figure import Figure

from hf_ssl_speech import load_recognizer, read_audio, transcribe
from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio
from hf_ssl_speech.commands.transcribe import PIECE_SECONDS
from hf_ssl_speech.data.pieces import cut_at_pauses, is_recording

LINE_SECONDS, DRAWN_LINES = 10, 12
HOP_SAMPLES = SAMPLE_RATE // 100
COLUMNS = ["word", "start (s)", "end (s)"]

load_once = lru_cache(maxsize=1)(load_recognizer)


def find_words(name: str, waveform: np.ndarray) -> list[tuple[str, float, float]]:
    """The words of a waveform at 16 kHz, `(samples,)`, each with its start and end in seconds."""
    longest = PIECE_SECONDS * SAMPLE_RATE
    pieces = list(cut_at_pauses([waveform], longest)) if is_recording(len(waveform), longest) else [waveform]
    starts = np.cumsum([0, *map(len, pieces)]) / SAMPLE_RATE
    rows = [
        {"name": f"{start:.2f} s", "num_samples": len(piece), "audio": {"array": piece, "sampling_rate": SAMPLE_RATE}}
        for start, piece in zip(starts, pieces)
    ]
    return [
        (word.text, round(float(start + word.start), 2), round(float(start + word.end), 2))
        for start, transcript in zip(starts, transcribe(*load_once(name), rows))
        for word in transcript.words
    ]


def draw(waveform: np.ndarray, words: list[tuple[str, float, float]]) -> Figure:
    """The waveform in lines of ten seconds, each with its words below; two minutes at most."""
    seconds = len(waveform) / SAMPLE_RATE
    lines = min(DRAWN_LINES, int(np.ceil(seconds / LINE_SECONDS)))
    figure = Figure(figsize=(12, 1.8 * lines), layout="constrained")
    hops = np.pad(waveform, (0, -len(waveform) % HOP_SAMPLES)).reshape(-1, HOP_SAMPLES)
    times, top = np.arange(len(hops)) * HOP_SAMPLES / SAMPLE_RATE, np.abs(waveform).max()
    for line, axes in enumerate(figure.subplots(lines, squeeze=False)[:, 0]):
        begin, end = line * LINE_SECONDS, (line + 1) * LINE_SECONDS
        axes.fill_between(times, hops.min(1) / top, hops.max(1) / top, linewidth=0.5)
        for number, (text, first, last) in enumerate(word for word in words if begin <= word[1] < end):
            axes.axvspan(first, last, alpha=0.15)
            axes.text((first + last) / 2, -1.3 - 0.5 * (number % 2), text, ha="center", va="top", clip_on=True)
        axes.set(xlim=(begin, end), ylim=(-2.4, 1.1), yticks=[])
    axes.set_xlabel("seconds")
    return figure


def listen(model_id: str, file: str | None) -> tuple[str, Figure, list[tuple[str, float, float]]]:
    """Text, picture and table of a recording; whatever is wrong with the input is told in the page."""
    model_id = os.environ.get("MODEL_ID") or (model_id or "").strip()
    if not model_id:
        raise problem("Name a model: the id of a recogniser with a CTC head on the Hub, such as me/recogniser.")
    if not file:
        raise problem("There is no audio yet: record something or choose a file.")
    try:
        waveform = read_audio(file)
    except BadAudio as error:
        raise problem(f"This recording can't be used: {error}.") from error
    try:
        words = find_words(model_id, waveform)
    except (ValueError, OSError) as error:
        raise problem(f"This model can't be used. {error}") from error
    if not words:
        raise problem("The model recognised no words in this recording: speak closer, or try another model.")
    return " ".join(text for text, _, _ in words), draw(waveform, words), words


def problem(message: str) -> gradio.Error:
    """A message that stays in the page until it is closed."""
    return gradio.Error(message, duration=None, print_exception=False)


def make_page() -> gradio.Blocks:
    """The page."""
    fixed = os.environ.get("MODEL_ID")
    with gradio.Blocks(title="Speech to text with word times") as page:
        gradio.Markdown(f"# Speech to text with word times\n{f'Model: `{fixed}`' if fixed else ''}")
        model_id = gradio.Textbox(label="Model on the Hub", placeholder="me/recogniser", visible=not fixed)
        audio = gradio.Audio(sources=["microphone", "upload"], type="filepath", label="Recording")
        button = gradio.Button("Transcribe", variant="primary")
        text = gradio.Textbox(label="Text")
        picture = gradio.Plot(label="Waveform and words (the first two minutes)")
        table = gradio.Dataframe(headers=COLUMNS, label="Words")
        button.click(listen, [model_id, audio], [text, picture, table], api_name="transcribe")
    return page


if __name__ == "__main__":
    make_page().launch()
