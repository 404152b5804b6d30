"""Computes the update again at which a run went wrong, and tells where the first value that is not finite appears.

    hf-ssl-speech replay runs/hubert/failed-step

A run whose gradient is not finite ends before that update, and keeps weights, batches and random states of it in
`failed-step`. On a CPU all updates are looked at; elsewhere only with `--keep_failed_step true`.
"""

from __future__ import annotations

from hf_ssl_speech.commands.command_parser import CommandParser, path_type


def main(argv: list[str]):
    """The update again, what came out, and where it goes wrong."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("folder", type=path_type, help="The folder `failed-step` of a run.")
    parser.add_argument("--rank", type=int, default=0, help="Process whose part of the update is computed.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...: the kind that the run used.")
    args = parser.parse_args(argv)
    from hf_ssl_speech.training.failed_step import replay

    found = replay(args.folder, args.rank, args.device)
    for number, (now, then) in enumerate(zip(found.losses, found.kept_losses), 1):
        print(f"loss of batch {number}: {now:.9g}; in the run {then:.9g}")
    print(
        f"norm of the gradient: {found.norm:.9g}"
        + ("" if found.kept_norm is None else f"; in the run {found.kept_norm:.9g}")
    )
    print("All is as it was in the run." if found.is_exact else "Not all is as it was in the run, to the last bit.")
    print(f"The first output that is not finite: {found.first or 'none'}")
    if found.weights:
        more = f" and {len(found.weights) - 5} more" if len(found.weights) > 5 else ""
        print(f"Weights whose gradient is not finite: {', '.join(found.weights[:5])}{more}")
