"""Writes a model in a form that loads without this package.

    hf-ssl-speech export runs/ctc runs/ctc-stock
    hf-ssl-speech export runs/ctc ctc.onnx --format onnx

`stock` is a folder with transformers' own Wav2Vec2 or HuBERT model, which has the same outputs, and with its feature
extractor and tokenizer. transformers has no class for HuBERT's pretraining: only the encoder is written. `onnx` is one
file for onnxruntime, which takes audio of any length (extra `[onnx]`).
"""

from __future__ import annotations

from hf_ssl_speech.commands.command_parser import CommandParser, path_type

FORMATS = ("stock", "onnx")


def main(argv: list[str]):
    """Writes the folder or file."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("folder", type=path_type, help="Folder of the model.")
    parser.add_argument("output", type=path_type, help="Folder (stock) or file (onnx) to write.")
    parser.add_argument("--format", choices=FORMATS, default="stock", help="Form to write (default: stock).")
    args = parser.parse_args(argv)
    if args.format == "onnx":
        from hf_ssl_speech.hub.onnx_export import export_onnx

        print(f"The model is in {export_onnx(args.folder, args.output)}")
        return
    from hf_ssl_speech.hub.publishing import export_stock

    files = sorted(path.name for path in export_stock(args.folder, args.output).iterdir())
    print(f"{len(files)} files in {args.output}: {', '.join(files)}")
