"""Features and labels of audio: in float32 and bf16, beside transformers row by row; all layers in one pass or many.

    python benchmarks/labelling.py --output_file docs/measured/labelling.json

Rows are 16-bit samples of noise, as a cache of decoded audio has them. Of one encoder with random weights, transformers
computes each row alone, all layers of it, as scripts that dump features do. CPU time of one thread. In float32 the
features are compared before the clock starts; of bf16 the share of equal labels is told.
"""

from functools import partial

import numpy as np
import torch
from measuring import arguments, machine, side_by_side, write_results
from transformers import HubertModel

from hf_ssl_speech import HiddenFeatures, MfccFeatures, SSLHubertConfig, SSLHubertModel
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.hub.exchange import to_transformers
from hf_ssl_speech.units.layers import EveryLayer
from hf_ssl_speech.units.nearest import assign

UNITS = 100
ROWS = {"tiny": 24, "small": 12, "base": 6}
SECONDS = (2, 16)
LARGEST_DIFFERENCE = 2e-4


def make_rows(number: int, longest: float) -> list[dict]:
    """Rows between two seconds and the longest, in random order."""
    generator = np.random.default_rng(0)
    lengths = generator.permutation(np.linspace(min(SECONDS[0], longest), longest, number) * SAMPLE_RATE).astype(int)
    return [
        {"name": str(row), "sample_id": row, "num_samples": int(length), "samples": noise}
        for row, length in enumerate(lengths)
        for noise in [(generator.normal(size=length) * 3000).astype(np.int16)]
    ]


@torch.no_grad()
def stock_features(model: HubertModel, layer: int, rows: list[dict]) -> list[torch.Tensor]:
    """One row at a time, normalised as the feature extractor does it."""
    found = []
    for row in rows:
        waveform = torch.from_numpy(row_waveform(row))
        waveform = (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-7).sqrt()
        found.append(model(waveform[None], output_hidden_states=True).hidden_states[layer][0])
    return found


def equal_labels(features: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The share of frames with the same label, for centroids drawn from the first features."""
    one, other = torch.cat(features), torch.cat(others)
    centroids = one[torch.randperm(len(one), generator=torch.Generator().manual_seed(0))[:UNITS]]
    return (assign(one, centroids)[0] == assign(other, centroids)[0]).float().mean().item()


def measure(size: str, rows: list[dict], rounds: int) -> list[dict]:
    """The features of the middle layer, and of all layers."""
    torch.manual_seed(0)
    model = SSLHubertModel(SSLHubertConfig.preset(size)).eval()
    layers = model.config.num_hidden_layers
    stock = to_transformers(model).eval()
    make = partial(HiddenFeatures, model, normalize=True)
    exact, rough = make(layer=layers // 2), make(layer=layers // 2, autocast_dtype=torch.bfloat16)
    plain = exact.features(rows)
    expected = stock_features(stock, layers // 2, rows)
    difference = max(float((one - other).abs().max()) for one, other in zip(plain, expected))
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"The features differ by {difference:.1e}.")

    audio = {"audio_seconds": sum(row["num_samples"] for row in rows) / SAMPLE_RATE}
    of_stock = {"transformers": lambda: stock_features(stock, layers // 2, rows)}
    facts = audio | {"largest_difference": difference}
    cases = [side_by_side(f"{size}, float32", {"ours": lambda: exact.features(rows)} | of_stock, rounds, 1, **facts)]
    facts = audio | {"equal_labels": equal_labels(plain, rough.features(rows))}
    cases.append(side_by_side(f"{size}, bf16", {"ours": lambda: rough.features(rows)} | of_stock, rounds, 1, **facts))
    every, each = EveryLayer(model, normalize=True), [make(layer=layer) for layer in range(1, layers + 1)]
    passes = {
        "ours": lambda: every.features(rows),
        "a pass for each layer": lambda: [source.features(rows) for source in each],
    }
    return [*cases, side_by_side(f"{size}, all {layers} layers", passes, 1, 0, **audio)]


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv, __doc__, 3, sizes=dict(nargs="+", default=list(ROWS), choices=list(ROWS), help="sizes of the encoder")
    )
    longest = SECONDS[1]
    if args.quick:
        args.rounds, args.sizes, longest = 1, ["tiny"], 1
    rows = make_rows(4 if args.quick else ROWS["tiny"], longest)
    audio = {"audio_seconds": sum(row["num_samples"] for row in rows) / SAMPLE_RATE}
    cases = [side_by_side("MFCC", {"ours": lambda: MfccFeatures().features(rows)}, args.rounds, 1, **audio)]
    for size in args.sizes:
        cases += measure(size, rows[: ROWS[size]], args.rounds)
    settings = {"rows": len(rows), "longest_seconds": longest, "batch_seconds": 12}
    write_results(args.output_file, {"machine": machine("transformers"), "settings": settings, "cases": cases})


if __name__ == "__main__":
    main()
