"""Puts a pretrained encoder, a CTC model or a unit set on the Hub, with a card made from its records.

    hf auth login
    hf-ssl-speech push runs/wav2vec2-tiny me/wav2vec2-tiny --license apache-2.0 --language en \\
        --datasets openslr/librispeech_asr=cc-by-4.0
    hf-ssl-speech push runs/wav2vec2-tiny me/wav2vec2-tiny-stock --stock      (loads without this package)
    hf-ssl-speech push runs/wav2vec2-tiny me/wav2vec2-tiny --card             (only prints the card)
"""

from __future__ import annotations

from hf_ssl_speech.commands.card import add_metadata, card_metadata, pairs
from hf_ssl_speech.commands.command_parser import CommandParser, path_type
from hf_ssl_speech.commands.talking import log_on_the_first_process


def main(argv: list[str]):
    """Makes the card, lists the files, uploads them, and prints where they are.

    There is no option for the token, since shells store commands in their history.
    """
    parser = CommandParser(about=__doc__)
    parser.add_argument("folder", type=path_type, help="Folder of the model, or of the unit set.")
    parser.add_argument("repo_id", help="Repository, `name` or `owner/name`; created if missing.")
    parser.add_argument("--stock", action="store_true", help="Push transformers' own form instead of ours.")
    parser.add_argument("--encoder", help="For units of a hidden layer: the repository of their encoder.")
    parser.add_argument("--private", action="store_true", default=None, help="Make a new repository private.")
    add_metadata(parser)
    parser.add_argument(
        "--benchmarks", nargs="+", default=[], metavar="DATASET=TASK", help="Leaderboards to put the error rates on."
    )
    parser.add_argument("--revision", help="Branch to push to; created if missing.")
    parser.add_argument("--commit_message", help="Message of the commit.")
    parser.add_argument("--create_pr", action="store_true", help="Open a pull request in an existing repository.")
    parser.add_argument("--replace_card", action="store_true", help="Replace a card that was edited on the Hub.")
    parser.add_argument("--card", action="store_true", help="Print the card and push nothing.")
    args = parser.parse_args(argv)
    from hf_ssl_speech.hub.cards import create_model_card
    from hf_ssl_speech.hub.publishing import push_to_hub

    if args.card:
        print(create_model_card(args.folder, repo_id=args.repo_id, **card_metadata(args)))
        return
    log_on_the_first_process()  # which files are pushed and which are not
    pushed = push_to_hub(
        args.folder,
        args.repo_id,
        stock=args.stock,
        encoder=args.encoder,
        private=args.private,
        revision=args.revision,
        commit_message=args.commit_message,
        create_pr=args.create_pr,
        replace_card=args.replace_card,
        benchmarks=dict(pairs(args.benchmarks)),
        **card_metadata(args),
    )
    print(f"{len(pushed.files)} files were pushed.")
    if pushed.removed:
        print(f"Removed files of an earlier push: {', '.join(pushed.removed)}.")
    print(f"{pushed.repository}\n{pushed.commit}")
