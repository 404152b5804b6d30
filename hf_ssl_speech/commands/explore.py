"""Makes a page that shows what a HuBERT run has learnt, with its model running in the browser.

    hf-ssl-speech explore runs/hubert --units runs/units-mfcc runs/units-500 --output_dir page \\
        --train_data 'speech/train*.parquet' --validation_data 'speech/validation*.parquet' --credit 'My speech, CC0'
    python -m http.server --directory page

The data needs the columns `text` and `phones`. The page opens from any static server and asks no other host for
anything. Needs the extra `[onnx]`.
"""

from __future__ import annotations

from hf_ssl_speech.commands.command_parser import CommandParser, path_type


def main(argv: list[str]):
    """Writes the folder of the page."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("run", type=path_type, help="Folder of a HuBERT pretraining.")
    parser.add_argument(
        "--units",
        type=path_type,
        nargs="+",
        required=True,
        help="Folders of unit sets in the order of the iterations; the last one holds what the run predicts.",
    )
    parser.add_argument("--train_data", nargs="+", required=True, help="Speech with phones to fit the page's units on.")
    parser.add_argument(
        "--validation_data", nargs="+", required=True, help="Speech with phones that is measured, shown and heard."
    )
    parser.add_argument("--output_dir", type=path_type, required=True, help="Folder to write.")
    parser.add_argument("--credit", required=True, help="Source and licence of the audio, which the page shows.")
    parser.add_argument(
        "--label_efficiency", type=path_type, help="Folder that `label-efficiency` wrote, from this run and scratch."
    )
    parser.add_argument("--wav2vec2", type=path_type, help="Folder of a wav2vec 2.0 pretraining, for its own view.")
    parser.add_argument(
        "--collapsed",
        type=path_type,
        help="Folder of a wav2vec 2.0 pretraining whose codebook collapsed, to be shown beside that of --wav2vec2.",
    )
    parser.add_argument(
        "--recognizer",
        type=path_type,
        help="Folder of a recogniser that `finetune --lora` made from the run: the page transcribes with it.",
    )
    parser.add_argument(
        "--layer", type=int, help="Layer to make units of (default: three quarters of the way up the encoder)."
    )
    parser.add_argument("--hours", type=float, default=0.5, help="Hours to fit on and to measure on (default: 0.5).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of everything random (default: 0).")
    args = parser.parse_args(argv)
    if args.collapsed and not args.wav2vec2:
        parser.error("--collapsed is shown beside --wav2vec2: give that too.")
    from hf_ssl_speech.explorer.page import PageSettings, make_page

    folder = make_page(PageSettings(**vars(args)))
    if not args.wav2vec2:
        print("There is no view of wav2vec 2.0, because no --wav2vec2 was given: the page says so.")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"The page is in {folder} ({size / 1e6:.1f} MB): python -m http.server --directory {folder}")
