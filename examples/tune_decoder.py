"""Finds the weights of a beam search on validation data, and keeps them in `decoder.json`.

    python examples/tune_decoder.py --model runs/ctc --data librispeech/validation --language_model runs/lm.arpa \\
        --output_dir runs/ctc

The recogniser runs once; then every pair of weights decodes its logits. Prints the word error rate of each pair.
`evaluate_asr.py --decoder runs/ctc/decoder.json` scores with what was found, `make_ngram.py` makes a language model,
and `--limit 100` takes so many rows, chosen at random.

The command `hf-ssl-speech tune-decoder` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "tune-decoder")

if __name__ == "__main__":
    start("tune-decoder")
