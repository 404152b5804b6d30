"""Writes a model in a form that loads without this package.

    hf-ssl-speech export runs/ctc runs/ctc-stock

`stock`, the form so far, is transformers' own Wav2Vec2 or HuBERT model with the same outputs, and with whatever reads
audio and writes text beside it. Stock has no class for HuBERT's pretraining: its encoder is written.
"""

from __future__ import annotations

from pathlib import Path

from hf_ssl_speech.commands.command_parser import CommandParser

FORMATS = ("stock",)


def main(argv: list[str]):
    """Writes the folder."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("folder", type=Path, help="Folder of the model.")
    parser.add_argument("output_dir", type=Path, help="Folder to write; made if it is not there.")
    parser.add_argument("--format", choices=FORMATS, default="stock", help="Form to write (default: stock).")
    args = parser.parse_args(argv)
    from hf_ssl_speech.hub.publishing import export_stock

    files = export_stock(args.folder, args.output_dir)
    print(f"{len(files)} files in {args.output_dir}: {', '.join(files)}")
